"""Pack conversations into rows without cross-document attention: best-fit decreasing, then shuffled per epoch.

Rows are filled up with padding of weight zero; the length of a conversation is the caller's business (`chat.fit`).
A conversation may be encoded anew in every epoch (BPE-dropout): rows then keep room for the longer encodings, and one
that is too long for its row all the same is taken as it was packed.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from inkstone.errors import InputError
from inkstone.train import Row
from inkstone.tune.encoded import EncodedChat, EncodedChats

Redraw = Callable[[int, np.random.Generator], EncodedChat]
"""Conversation number and draws to another encoding of it."""


class PackedChats:
    """A source of training rows over encoded conversations; with `redraw` each epoch sees other encodings."""

    def __init__(
        self, chats: Sequence[EncodedChat], sequence_length: int, seed: int, pad_id: int, redraw: Redraw | None = None
    ) -> None:
        if not chats:
            raise InputError("no conversation is left to train on: give [sft] inputs more, or a longer sequence_length")
        self.chats, self.sequence_length, self.seed, self.pad_id = chats, sequence_length, seed, pad_id
        self.redraw = redraw
        self.lengths = (
            chats.lengths if isinstance(chats, EncodedChats) else np.array([len(chat.ids) for chat in chats], np.int64)
        )
        expected = [self._expected_length(number) for number in range(len(chats))] if redraw else self.lengths
        self.bins = best_fit_decreasing(expected, sequence_length)
        self.rows_per_epoch = len(self.bins)
        self._epoch = -1
        self._order: NDArray[np.int64] = np.empty(0, np.int64)

    def _expected_length(self, number: int) -> int:
        plain = int(self.lengths[number])
        if self.redraw is None:
            return plain
        drawn = len(self.redraw(number, np.random.default_rng((self.seed, number))).ids)
        return min(max(plain, drawn), self.sequence_length)

    def _chat(self, epoch: int, number: int, room: int) -> EncodedChat:
        """The conversation as this epoch sees it, in at most `room` tokens."""
        if self.redraw is not None:
            drawn = self.redraw(number, np.random.default_rng((self.seed, epoch, number)))
            if len(drawn.ids) <= room:
                return drawn
        return self.chats[number]

    def row(self, epoch: int, index: int) -> Row:
        if epoch != self._epoch:
            self._order = np.random.default_rng((self.seed, epoch)).permutation(len(self.bins))
            self._epoch = epoch
        length = self.sequence_length
        tokens = np.full(length, self.pad_id, np.int64)
        positions = np.arange(length)
        # Padding is a document of its own, so that no attention row is empty.
        ids = np.full(length, len(self.chats), np.int64)
        weights = np.zeros(length, np.float32)
        filled = 0
        members = self.bins[int(self._order[index])]
        waiting = int(self.lengths[members].sum())
        for number in members:
            waiting -= int(self.lengths[number])
            chat = self._chat(epoch, number, length - filled - waiting)
            span = slice(filled, filled + len(chat.ids))
            tokens[span], weights[span], ids[span] = chat.ids, chat.weights, number
            positions[span] = np.arange(len(chat.ids))
            weights[filled] = 0.0
            filled += len(chat.ids)
        return Row(tokens, positions, ids, weights)

    @property
    def fill(self) -> float:
        """Share of the rows' tokens that is not padding."""
        return int(self.lengths.sum()) / (self.rows_per_epoch * self.sequence_length)


class Bins(Sequence[list[int]]):
    """The members of each bin, as two arrays: a million examples are no million objects."""

    def __init__(self, members: NDArray[np.int64], starts: NDArray[np.int64]) -> None:
        self.members, self.starts = members, starts

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, number: int) -> list[int]:  # type: ignore[override]
        if not 0 <= number < len(self):
            raise IndexError(number)
        found: list[int] = self.members[self.starts[number] : self.starts[number + 1]].tolist()
        return found


def best_fit_decreasing(lengths: Sequence[int] | NDArray[np.int64], capacity: int) -> Bins:
    """Bins of indices whose lengths sum to at most `capacity`; longest first, each into the fullest bin with room.

    A set of bits says which rooms some bin has, so the fullest that does is the lowest bit from `length` on.
    """
    sizes = np.asarray(lengths, np.int64)
    order = np.argsort(-sizes, kind="stable")
    with_room: list[list[int]] = [[] for _ in range(capacity + 1)]
    rooms = bins = 0
    chosen = np.empty(len(sizes), np.int64)
    for place, length in enumerate(sizes[order].tolist()):
        enough = rooms >> length
        if enough:
            room = length + (enough & -enough).bit_length() - 1
            number = with_room[room].pop()
            rooms ^= 0 if with_room[room] else 1 << room
        else:
            room, number, bins = capacity, bins, bins + 1
        chosen[place] = number
        with_room[room - length].append(number)
        rooms |= 1 << (room - length)
    starts = np.append(0, np.cumsum(np.bincount(chosen, minlength=bins)))
    return Bins(order[np.argsort(chosen, kind="stable")], starts)
