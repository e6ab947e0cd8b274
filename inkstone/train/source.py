"""Where a step's micro-batches come from: the contract of a source, and the plain one that takes rows in order.

    source = InOrder(PackedCorpus(shards, 256, seed=1))
    batches = source.draw(next_rows(behind, 32), micro_rows=8, mesh=Mesh())

The loop asks a source for the batches of a step, tells it what became of them, and keeps its state in the checkpoint.
"""

from collections.abc import Sequence
from typing import Protocol

from inkstone.train.batches import Batch, Rows
from inkstone.train.mesh import Mesh

SourceState = dict[str, list[float] | list[int] | int | float]
"""What JSON holds; empty where a source has none."""


class Source(Protocol):
    """Deals the micro-batches of each step, and may learn from their losses.

    What it deals to all ranks together must depend on the numbers and its state alone, not on the mesh or micro_rows.
    """

    rows_per_epoch: int

    def draw(self, numbers: Sequence[int], micro_rows: int, mesh: Mesh) -> list[Batch]:
        """This data rank's share of the rows `numbers`, in batches of at most `micro_rows` rows.

        Raises InputError when there is nothing for some rank.
        """

    def learn(self, losses: Sequence[float], units: Sequence[float], mesh: Mesh) -> None:
        """The summed loss and the units of each batch that `draw` gave this rank in the step that is now done."""

    def figures(self) -> dict[str, float]:
        """What metrics.jsonl shall say of it."""

    def state(self) -> SourceState: ...

    def restore(self, state: SourceState) -> None: ...


class InOrder:
    """Rows one after the other, epoch after epoch; it has nothing to learn and no state."""

    def __init__(self, rows: Rows) -> None:
        self.rows, self.rows_per_epoch = rows, rows.rows_per_epoch

    def draw(self, numbers: Sequence[int], micro_rows: int, mesh: Mesh) -> list[Batch]:
        mine = [self.rows.row(*divmod(n, self.rows_per_epoch)) for n in numbers[mesh.data_rank :: mesh.data_size]]
        return [Batch.stack(mine[start : start + micro_rows]) for start in range(0, len(mine), micro_rows)]

    def learn(self, losses: Sequence[float], units: Sequence[float], mesh: Mesh) -> None: ...

    def figures(self) -> dict[str, float]:
        return {}

    def state(self) -> SourceState:
        return {}

    def restore(self, state: SourceState) -> None: ...
