"""The stage of a reward model: preference pairs in, a model that scores answers out (`score.safetensors` beside it)."""

from dataclasses import asdict
from pathlib import Path

import torch

from inkstone.chat import read_preferences
from inkstone.errors import InputError
from inkstone.model import Decoder
from inkstone.progress import Progress
from inkstone.train import Batch, InOrder, Mesh, train
from inkstone.train.mesh import ALONE
from inkstone.tune.ends import check_roles, open_base, write_tuned
from inkstone.tune.pairs import EncodedPair, PackedPairs, encode_pair
from inkstone.tune.score import Ranked, add_score, document_scores, save_score
from inkstone.tune.settings import SFTSettings


def rank(
    settings: SFTSettings,
    inputs: list[Path],
    base_dir: Path,
    output: Path,
    scratch: Path,
    progress: Progress,
    mesh: Mesh = ALONE,
) -> dict[str, object]:
    """Train the model of `base_dir` to score the better answer of a pair higher; returns the run's figures."""
    if mesh.shard > 1:
        raise InputError("a reward model's head is not sharded: set shard = 1")
    template, tokenizer, model = open_base(settings, base_dir, mesh)
    dataset = read_preferences(inputs, on_problem=settings.on_problem)
    check_roles([pair.prompt for pair in dataset.preferences], template)
    found = [encode_pair(pair, template, tokenizer, settings.sequence_length) for pair in dataset.preferences]
    pairs = [pair for pair in found if pair is not None]
    every = max(2, round(1 / settings.heldout_fraction)) if settings.heldout_fraction and len(pairs) > 1 else 0
    held = [pair for number, pair in enumerate(pairs) if every and number % every == 0]
    training = [pair for number, pair in enumerate(pairs) if not (every and number % every == 0)]
    rows = PackedPairs(training, settings.sequence_length, settings.seed, tokenizer.fill_id)
    heldout = PackedPairs(held, settings.sequence_length, settings.seed, tokenizer.fill_id) if held else None
    add_score(model, settings.seed)
    counts = {"pairs": len(training), "too_long_pairs": len(found) - len(pairs), "skipped_rows": len(dataset.skipped)}
    progress.note(f"{len(training)} pairs, {settings.steps(rows.rows_per_epoch)} steps", **counts)
    objective = Ranked()
    result = train(model, InOrder(rows), settings, scratch, progress, heldout=heldout, objective=objective, mesh=mesh)
    figures = {**asdict(result), **counts}
    if heldout:
        figures |= {"heldout_accuracy": _share_right(model, heldout), "longer_wins": _longer_wins(held)}
    write_tuned(settings, model, template, tokenizer, base_dir, output, scratch, mesh)
    if mesh.first:
        save_score(model, output)
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


def _longer_wins(pairs: list[EncodedPair]) -> float:
    """What "the longer answer is better" gets right: a reward model must be better than that."""
    gaps = [len(pair.chosen[0]) - len(pair.rejected[0]) for pair in pairs]
    return sum((gap > 0) + 0.5 * (gap == 0) for gap in gaps) / max(1, len(pairs))
