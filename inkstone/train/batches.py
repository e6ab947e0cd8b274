"""Rows and batches: which tokens a step sees, as a pure function of the seed and of how many rows are behind it.

A `Rows` answers `row(epoch, index)`; `next_rows` says the numbers of a step's rows. Neither depends on the number of
ranks, on micro-batches or on what ran before, so exact resume, elastic world size and reproducibility are one property.

Row and batch fields: `tokens`; `positions` inside the document; `document_ids`; `weights`, which belong to the token
being predicted (0: not supervised); `columns`, numbers that belong to the documents (a reward, the partner in a pair)
or to the supervised tokens (an advantage), in their order.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from inkstone.errors import InputError
from inkstone.model import PackedContext
from inkstone.tokenizer import TokenShards


class Row(NamedTuple):
    """One row of T tokens. A document lies in one piece; ids tell it from its neighbours, padding from both.

    `columns` have one number for each document of the row, in order, padding included, or for each supervised token.
    """

    tokens: NDArray[np.int64]
    positions: NDArray[np.int64]
    document_ids: NDArray[np.int64]
    weights: NDArray[np.float32]
    columns: Mapping[str, NDArray[np.float32]] = {}


class Rows(Protocol):
    """A finite set of training rows, in an order for each epoch."""

    rows_per_epoch: int

    def row(self, epoch: int, index: int) -> Row: ...


@dataclass(frozen=True)
class Batch:
    """Stacked rows: four tensors [B, T]. Documents are numbered 0 ... n-1 over the whole batch.

    `starts` [n + 1] int32 says where each begins in the rows laid end to end, with the end after the last; `longest` is
    the tokens of the longest. Both are made on the CPU, so that no GPU has to wait to learn them. `columns`: [n] each,
    or one number for each supervised token.
    """

    tokens: Tensor
    positions: Tensor
    document_ids: Tensor
    weights: Tensor
    starts: Tensor
    longest: int
    columns: Mapping[str, Tensor]

    @classmethod
    def stack(cls, rows: Sequence[Row]) -> "Batch":
        ids = np.stack([row.document_ids for row in rows])
        begins = np.ones(ids.shape, bool)
        begins[:, 1:] = ids[:, 1:] != ids[:, :-1]
        starts = np.append(np.flatnonzero(begins), begins.size)
        return cls(
            torch.from_numpy(np.stack([row.tokens for row in rows])),
            torch.from_numpy(np.stack([row.positions for row in rows])),
            torch.from_numpy(np.cumsum(begins).reshape(ids.shape) - 1),
            torch.from_numpy(np.stack([row.weights for row in rows])),
            torch.from_numpy(starts.astype(np.int32)),
            int(np.diff(starts).max()),
            {name: torch.from_numpy(np.concatenate([row.columns[name] for row in rows])) for name in rows[0].columns},
        )

    def to(self, device: torch.device | str) -> "Batch":
        return replace(
            self,
            tokens=self.tokens.to(device),
            positions=self.positions.to(device),
            document_ids=self.document_ids.to(device),
            weights=self.weights.to(device),
            starts=self.starts.to(device),
            columns={name: column.to(device) for name, column in self.columns.items()},
        )

    def context(self) -> PackedContext:
        """What each token may look at: those before it in its document."""
        return PackedContext.documents(self.positions, self.document_ids, self.starts, self.longest)

    @property
    def supervised(self) -> float:
        """The loss weights of the predicted tokens, added up; column 0 is never predicted."""
        return float(self.weights[:, 1:].sum(dtype=torch.float64))


def next_rows(behind: int, count: int, skipped: Sequence[Sequence[int]] = ()) -> list[int]:
    """Numbers of the next `count` rows of the endless order (epoch after epoch), of which `behind` are behind the run.

    Rows of the `skipped` ranges [first, end) are passed over: a run that was set back leaves out what broke it.
    """
    numbers: list[int] = []
    while len(numbers) < count:
        jump = next((end for first, end in skipped if first <= behind < end), None)
        if jump is None:
            numbers.append(behind)
        behind = behind + 1 if jump is None else jump
    return numbers


class PackedCorpus:
    """Documents in a new order each epoch, laid end to end, cut into rows of `sequence_length` tokens, which are mixed.

    In their own order the rows of a book would be all that a small batch sees for hundreds of steps (docs/log.md,
    2026-12-01). Every token is used but the last part row of an epoch, which falls on other documents each time. A
    document that is cut goes on in another row, where it sees only its own part. `documents` restricts it to some of
    them, `rows` to that many rows from anywhere in them, the same in the same order every epoch.
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
        self._rows_in_all = self.rows_per_epoch
        self._chosen: NDArray[np.int64] | None = None
        if rows is not None and rows < self.rows_per_epoch:
            self._chosen = np.random.default_rng((seed, 0, rows)).permutation(self.rows_per_epoch)[:rows]
            self.rows_per_epoch = rows
        self._epoch = -1
        self._order: NDArray[np.int64] = np.empty(0, np.int64)
        self._rows: NDArray[np.int64] = np.empty(0, np.int64)
        self._ends: NDArray[np.int64] = np.empty(0, np.int64)

    def row(self, epoch: int, index: int) -> Row:
        if self._chosen is not None:
            epoch, index = 0, int(self._chosen[index])
        self._lay_out(epoch)
        start = int(self._rows[index]) * self.sequence_length
        stop = start + self.sequence_length
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
            draw = np.random.default_rng((self.seed, epoch))
            self._order = draw.permutation(chosen)
            self._rows = draw.permutation(self._rows_in_all)
            self._ends = np.cumsum(self.shards.lengths[self._order])
            self._epoch = epoch
