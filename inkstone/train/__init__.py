"""Training: one loop for every objective, with its batches, loss, optimizer, checkpoints and parallelism.

    result = train(model, rows, settings, scratch, progress)

The walk: `batches` (which tokens; `mixed` by a mixture's weights, which `online` moves) -> `loop` (a step) -> `loss`
(its gradient) -> `optimizer`; `checkpoint` and `interrupt` make it resumable, `arithmetic` picks device, dtype and
compiler, `mesh` sums over ranks.
"""

from inkstone.train.batches import Batch, PackedCorpus, Row, Rows
from inkstone.train.loop import TrainResult, heldout_loss, next_token_objective, train
from inkstone.train.mixed import MixedCorpus, Mixture, documents_of, read_mixture
from inkstone.train.online import OnlineMixer, OnlineSettings
from inkstone.train.settings import TrainSettings
from inkstone.train.stage import finish, new_model, pretrain

__all__ = [
    "Batch",
    "MixedCorpus",
    "Mixture",
    "OnlineMixer",
    "OnlineSettings",
    "PackedCorpus",
    "Row",
    "Rows",
    "TrainResult",
    "TrainSettings",
    "documents_of",
    "finish",
    "heldout_loss",
    "new_model",
    "next_token_objective",
    "pretrain",
    "read_mixture",
    "train",
]
