"""A reward model: a decoder whose last token's hidden state is turned into one number, and how pairs train it.

    add_score(model, seed=1)                  # a head of size 1 beside the language model's
    save_score(model, directory); load_score(model, directory)
    scores = score_documents(model, [ids, ...], length=512, pad_id=0)

The loss is -log sigmoid(score of the better answer - score of the worse one) (Stiennon et al. 2020, arXiv 2009.01325,
as in Ouyang et al. 2022). A number for the whole answer is read where it ends.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from inkstone.errors import InputError
from inkstone.model import Decoder
from inkstone.storage import reading
from inkstone.train import Batch, Outcome, Row
from inkstone.train.objective import Figures
from inkstone.tune.packing import best_fit_decreasing
from inkstone.tune.preference import PerPair

SCORE_FILE = "score.safetensors"
_AT_ONCE = 8  # rows of a forward that only scores


def add_score(model: Decoder, seed: int) -> None:
    """A head of small weights: every score begins near 0."""
    head = nn.Linear(model.config.hidden_size, 1, bias=False)
    nn.init.normal_(head.weight, std=0.01, generator=torch.Generator().manual_seed(seed))
    model.add_module("score", head)


def save_score(model: Decoder, directory: Path) -> None:
    save_file({"score.weight": model.get_parameter("score.weight").detach().cpu()}, directory / SCORE_FILE)


def load_score(model: Decoder, directory: Path) -> None:
    """Give the model the head of a reward model's directory. Raises InputError where there is none that fits."""
    path = directory / SCORE_FILE
    if not path.is_file():
        raise InputError(f'{directory} is no reward model: it has no {SCORE_FILE}; make one with method = "reward"')
    add_score(model, 0)
    with reading(path, "the head of a reward model"):
        model.get_submodule("score").load_state_dict({"weight": load_file(path)["score.weight"]})


def scores_at(model: Decoder, hidden_ND: Tensor) -> Tensor:
    """The head's number for each hidden state, float32 [N]."""
    head = model.get_submodule("score")
    assert isinstance(head, nn.Linear)
    return F.linear(hidden_ND.float(), head.weight.float())[:, 0]


def document_scores(model: Decoder, batch: Batch) -> Tensor:
    """The score of each document [n], where it ends; padding is one too."""
    hidden_ND = model.hidden(batch.tokens, batch.context()).flatten(0, 1)
    return scores_at(model, hidden_ND[batch.starts[1:].long() - 1])


class Ranked(PerPair):
    """The objective of a reward model."""

    def __call__(self, policy: Decoder, batch: Batch, last: Figures) -> Outcome:
        scores, side = document_scores(policy, batch), batch.columns["side"]
        margin_P = scores[side > 0] - scores[side < 0]
        told = {"pairs": torch.ones_like(margin_P), "accuracy": (margin_P > 0).float(), "margin": margin_P}
        return Outcome(-F.logsigmoid(margin_P).sum(), {name: one.detach().sum()[None] for name, one in told.items()})


@torch.no_grad()
def score_documents(model: Decoder, documents: Sequence[Sequence[int]], length: int, pad_id: int) -> list[float]:
    """The score of each, in order; documents are packed into rows of `length` tokens."""
    bins = best_fit_decreasing([len(ids) for ids in documents], length)
    scores = np.zeros(len(documents))
    for start in range(0, len(bins), _AT_ONCE):
        chosen = [bins[number] for number in range(start, min(start + _AT_ONCE, len(bins)))]
        batch = Batch.stack([packed_row([documents[n] for n in members], length, pad_id) for members in chosen])
        found = model.compute(document_scores, batch.to(model.device)).cpu().numpy()
        real = batch.columns["real"].numpy() > 0
        scores[[number for members in chosen for number in members]] = found[real]
    return [float(value) for value in scores]


def packed_row(documents: Sequence[Sequence[int]], length: int, pad_id: int) -> Row:
    """Whole documents side by side; the column `real` tells them from the padding."""
    tokens, ids = np.full(length, pad_id, np.int64), np.full(length, len(documents), np.int64)
    positions, filled = np.arange(length), 0
    for place, document in enumerate(documents):
        span = slice(filled, filled + len(document))
        tokens[span], ids[span], positions[span] = document, place, np.arange(len(document))
        filled += len(document)
    positions[filled:] = np.arange(length - filled)
    real = [1.0] * len(documents) + ([0.0] if filled < length else [])
    return Row(tokens, positions, ids, np.zeros(length, np.float32), {"real": np.array(real, np.float32)})
