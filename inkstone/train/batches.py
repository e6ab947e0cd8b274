"""Rows and batches: which tokens a step sees, as a pure function of (seed, step).

A source of rows answers `row(epoch, index)`; `step_rows` turns a step into the rows of all ranks. Neither depends on
the number of ranks, on micro-batches or on what ran before, so exact resume, elastic world size and reproducibility are
one property.

Row and batch fields: `tokens`; `positions` inside the document; `document_ids` inside the row; `weights`, which belong
to the token being predicted (0: not supervised).
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from inkstone.errors import InputError
from inkstone.tokenizer import TokenShards


class Row(NamedTuple):
    """One row of T tokens."""

    tokens: NDArray[np.int64]
    positions: NDArray[np.int64]
    document_ids: NDArray[np.int64]
    weights: NDArray[np.float32]


class Rows(Protocol):
    """A source of training rows."""

    rows_per_epoch: int

    def row(self, epoch: int, index: int) -> Row: ...


@dataclass(frozen=True)
class Batch:
    """Stacked rows: four tensors [B, T]."""

    tokens: Tensor
    positions: Tensor
    document_ids: Tensor
    weights: Tensor

    @classmethod
    def stack(cls, rows: list[Row], device: str = "cpu") -> "Batch":
        return cls(*(torch.from_numpy(np.stack(field)).to(device) for field in zip(*rows, strict=True)))

    @property
    def supervised(self) -> int:
        """Number of predicted tokens; column 0 is never predicted."""
        return int((self.weights[:, 1:] != 0).sum())


def step_rows(rows: Rows, step: int, rows_per_step: int) -> list[tuple[int, int]]:
    """(epoch, index) of the rows of `step`, for all ranks together."""
    first = step * rows_per_step
    return [divmod(number, rows.rows_per_epoch) for number in range(first, first + rows_per_step)]


class PackedCorpus:
    """Documents in a new order each epoch, laid end to end and cut into rows of `sequence_length` tokens.

    Every token is used but the last part row of an epoch, which falls on other documents each time. A document that
    is cut goes on in the next row, where it sees only its own part. `documents` restricts it to some of them, `rows`
    to that many rows from anywhere in them, the same in the same order every epoch.
    """

    def __init__(
        self,
        shards: TokenShards,
        sequence_length: int,
        seed: int,
        documents: NDArray[np.int64] | None = None,
        rows: int | None = None,
    ) -> None:
        self.shards, self.sequence_length, self.seed, self.documents = shards, sequence_length, seed, documents
        tokens = int((shards.lengths if documents is None else shards.lengths[documents]).sum())
        self.rows_per_epoch = tokens // sequence_length
        if not self.rows_per_epoch:
            raise InputError(
                f"the corpus has {tokens} tokens, fewer than one row of sequence_length = {sequence_length}: "
                "add text or set a smaller sequence_length"
            )
        self._chosen: NDArray[np.int64] | None = None
        if rows is not None and rows < self.rows_per_epoch:
            self._chosen = np.random.default_rng((seed, 0, rows)).permutation(self.rows_per_epoch)[:rows]
            self.rows_per_epoch = rows
        self._epoch = -1
        self._order: NDArray[np.int64] = np.empty(0, np.int64)
        self._ends: NDArray[np.int64] = np.empty(0, np.int64)

    def row(self, epoch: int, index: int) -> Row:
        if self._chosen is not None:
            epoch, index = 0, int(self._chosen[index])
        self._lay_out(epoch)
        start, stop = index * self.sequence_length, (index + 1) * self.sequence_length
        tokens, positions, ids = (np.empty(self.sequence_length, np.int64) for _ in range(3))
        weights = np.ones(self.sequence_length, np.float32)
        place = int(np.searchsorted(self._ends, start, side="right"))
        filled = 0
        while filled < self.sequence_length:
            document = self.shards.document(int(self._order[place]))
            begin = start + filled - (int(self._ends[place]) - len(document))
            piece = document[begin : begin + stop - start - filled]
            span = slice(filled, filled + len(piece))
            tokens[span], positions[span], ids[span] = piece, np.arange(len(piece)), place
            weights[filled] = 0.0
            filled += len(piece)
            place += 1
        return Row(tokens, positions, ids - ids[0], weights)

    def _lay_out(self, epoch: int) -> None:
        if epoch != self._epoch:
            chosen = len(self.shards) if self.documents is None else self.documents
            self._order = np.random.default_rng((self.seed, epoch)).permutation(chosen)
            self._ends = np.cumsum(self.shards.lengths[self._order])
            self._epoch = epoch
