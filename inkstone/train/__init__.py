"""Training: one loop for every objective, with its batches, loss, optimizer, checkpoints and parallelism.

    result = train(model, rows, settings, scratch, progress)

The walk: `batches` (which tokens) -> `loop` (a step) -> `loss` (its gradient) -> `optimizer`; `checkpoint` and
`interrupt` make it resumable, `arithmetic` picks device, dtype and compiler, `parallel` sums over ranks.
"""

from inkstone.train.batches import Batch, PackedCorpus, Row, Rows
from inkstone.train.loop import TrainResult, next_token_objective, train
from inkstone.train.settings import TrainSettings
from inkstone.train.stage import finish, new_model, pretrain

__all__ = [
    "Batch",
    "PackedCorpus",
    "Row",
    "Rows",
    "TrainResult",
    "TrainSettings",
    "finish",
    "new_model",
    "next_token_objective",
    "pretrain",
    "train",
]
