"""Pack conversations into rows without cross-document attention: best-fit decreasing, then shuffled per epoch.

Rows are filled up with padding of weight zero; the length of a conversation is the caller's business (`chat.fit`).
A conversation may be encoded anew in every epoch (BPE-dropout): rows then keep room for the longer encodings, and one
that is too long for its row all the same is taken as it was packed.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from inkstone.chat import Segment
from inkstone.errors import InputError
from inkstone.train import Row


@dataclass(frozen=True)
class EncodedChat:
    """Ids of a conversation, the loss weight of each, and the segments they were made of."""

    ids: list[int]
    weights: list[float]
    segments: list[Segment] = field(default_factory=list)


Redraw = Callable[[int, np.random.Generator], EncodedChat]
"""Conversation number and draws to another encoding of it."""


class PackedChats:
    """A source of training rows over encoded conversations; with `redraw` each epoch sees other encodings."""

    def __init__(
        self, chats: list[EncodedChat], sequence_length: int, seed: int, pad_id: int, redraw: Redraw | None = None
    ) -> None:
        if not chats:
            raise InputError("no conversation is left to train on: give [sft] inputs more, or a longer sequence_length")
        self.chats, self.sequence_length, self.seed, self.pad_id = chats, sequence_length, seed, pad_id
        self.redraw = redraw
        self.bins = best_fit_decreasing(
            [self._expected_length(number) for number in range(len(chats))], sequence_length
        )
        self.rows_per_epoch = len(self.bins)
        self._epoch = -1
        self._order: NDArray[np.int64] = np.empty(0, np.int64)

    def _expected_length(self, number: int) -> int:
        plain = len(self.chats[number].ids)
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
        waiting = sum(len(self.chats[number].ids) for number in members)
        for number in members:
            waiting -= len(self.chats[number].ids)
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
        return sum(len(chat.ids) for chat in self.chats) / (self.rows_per_epoch * self.sequence_length)


def best_fit_decreasing(lengths: list[int], capacity: int) -> list[list[int]]:
    """Bins of indices whose lengths sum to at most `capacity`; longest first, each into the fullest bin with room.

    Bins are searched by remaining room, so the cost is O(n x capacity) at worst and near linear in practice.
    """
    open_bins: dict[int, list[list[int]]] = {}
    bins: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        length = lengths[index]
        room = next((room for room in sorted(open_bins) if room >= length and open_bins[room]), None)
        if room is None:
            chosen: list[int] = []
            bins.append(chosen)
            room = capacity
        else:
            chosen = open_bins[room].pop()
        chosen.append(index)
        open_bins.setdefault(room - length, []).append(chosen)
    return bins
