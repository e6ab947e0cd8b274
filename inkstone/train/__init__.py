"""Training: one loop for every objective, with its sources, batches, optimizer, checkpoints and parallelism.

    result = train(model, InOrder(rows), settings, scratch, progress)

The walk: `source` (which `batches`; `mixed` by a mixture's weights, which `online` moves) -> `loop` (a step) ->
`objective` and `loss` (its gradient) -> `optimizer`; `checkpoint` and `interrupt` make it resumable, `arithmetic` picks
device, dtype and compiler, `mesh` says which rank does what, `meter` what a run reports.
"""

from inkstone.train.batches import Batch, PackedCorpus, Row, Rows
from inkstone.train.loop import heldout_loss, train
from inkstone.train.mesh import Mesh, join_mesh
from inkstone.train.meter import TrainResult
from inkstone.train.mixed import MixedCorpus, Mixture, OnlineSettings, documents_of, read_mixture
from inkstone.train.objective import NextToken, Objective, Outcome
from inkstone.train.online import OnlineMixer
from inkstone.train.settings import PretrainSettings, TrainSettings
from inkstone.train.source import InOrder, Source
from inkstone.train.stage import PRETRAIN, finish, new_model, pretrain

__all__ = [
    "PRETRAIN",
    "Batch",
    "InOrder",
    "Mesh",
    "MixedCorpus",
    "Mixture",
    "NextToken",
    "Objective",
    "OnlineMixer",
    "OnlineSettings",
    "Outcome",
    "PackedCorpus",
    "PretrainSettings",
    "Row",
    "Rows",
    "Source",
    "TrainResult",
    "TrainSettings",
    "documents_of",
    "finish",
    "heldout_loss",
    "join_mesh",
    "new_model",
    "pretrain",
    "read_mixture",
    "train",
]
