"""Pack conversations into rows without cross-document attention: best-fit decreasing, then shuffled per epoch.

Rows are filled up with padding of weight zero; the length of a conversation is the caller's business (`chat.fit`).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from inkstone.errors import InputError
from inkstone.train import Row


@dataclass(frozen=True)
class EncodedChat:
    """Ids of a conversation and the loss weight of each."""

    ids: list[int]
    weights: list[float]


class PackedChats:
    """A source of training rows over encoded conversations."""

    def __init__(self, chats: list[EncodedChat], sequence_length: int, seed: int, pad_id: int) -> None:
        if not chats:
            raise InputError("no conversation is left to train on: give [sft] inputs more, or a longer sequence_length")
        self.chats, self.sequence_length, self.seed, self.pad_id = chats, sequence_length, seed, pad_id
        self.bins = best_fit_decreasing([len(chat.ids) for chat in chats], sequence_length)
        self.rows_per_epoch = len(self.bins)
        self._epoch = -1
        self._order: NDArray[np.int64] = np.empty(0, np.int64)

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
        for number in self.bins[int(self._order[index])]:
            chat = self.chats[number]
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
