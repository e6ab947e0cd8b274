"""The stage of a reward model: preference pairs in, a model that scores answers out (`score.safetensors` beside it)."""

from dataclasses import asdict

import numpy as np
import torch

from inkstone.errors import InputError
from inkstone.model import Decoder
from inkstone.train import Batch, InOrder
from inkstone.tune.ends import Work, open_base, write_tuned
from inkstone.tune.pairs import KeptPairs, PackedPairs, read_pairs
from inkstone.tune.score import Ranked, add_score, document_scores, save_score


def rank(work: Work) -> dict[str, object]:
    """Train a model to score the better answer of a pair higher; returns the run's figures."""
    if not work.mesh.whole:
        raise InputError("a reward model's head is not sharded: set shard and tensor to 1")
    template, tokenizer, model = open_base(work)
    settings = work.settings
    pairs, training, held, counts = read_pairs(work, template, tokenizer)
    rows = PackedPairs(pairs.of(training), settings.sequence_length, settings.seed, tokenizer.fill_id)
    tested = pairs.of(held)
    heldout = PackedPairs(tested, settings.sequence_length, settings.seed, tokenizer.fill_id) if len(held) else None
    add_score(model, settings.seed)
    work.progress.note(f"{len(training)} pairs, {settings.steps(rows.rows_per_epoch)} steps", **counts)
    result = work.train(model, InOrder(rows), Ranked(), heldout)
    figures = {**asdict(result), **counts}
    if heldout:
        figures |= {"heldout_accuracy": _share_right(model, heldout), "longer_wins": _longer_wins(tested)}
    write_tuned(work, model, template, tokenizer)
    if work.mesh.first:
        save_score(model, work.output)
    return figures


@torch.no_grad()
def _share_right(model: Decoder, rows: PackedPairs) -> float:
    """Of pairs whose better answer has the higher score."""
    right = total = 0
    for index in range(rows.rows_per_epoch):
        batch = Batch.stack([rows.row(0, index)]).to(model.device)
        scores, side = model.compute(document_scores, batch), batch.columns["side"]
        right += int((scores[side > 0] > scores[side < 0]).sum())
        total += int((side > 0).sum())
    return right / max(1, total)


def _longer_wins(pairs: KeptPairs) -> float:
    """What "the longer answer is better" gets right: a reward model must be better than that."""
    gaps = -np.diff(pairs.lengths)
    return float(((gaps > 0) + 0.5 * (gaps == 0)).sum()) / max(1, len(pairs))
