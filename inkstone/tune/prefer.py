"""Tuning on preference pairs: DPO and its relatives, with or without an adapter."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from inkstone.chat import read_preferences
from inkstone.progress import Progress
from inkstone.train import InOrder, Mesh, train
from inkstone.train.mesh import ALONE
from inkstone.tune.ends import check_roles, open_base, write_tuned
from inkstone.tune.pairs import PackedPairs, encode_pair
from inkstone.tune.preference import Preferred
from inkstone.tune.reference import preferred_share, reference_logprobs
from inkstone.tune.settings import SFTSettings


def prefer(
    settings: SFTSettings,
    inputs: list[Path],
    base_dir: Path,
    output: Path,
    scratch: Path,
    progress: Progress,
    mesh: Mesh = ALONE,
    tests: Sequence[Path] = (),
) -> dict[str, object]:
    """Tune the model of `base_dir` on the preference pairs of `inputs`, tested on those of `tests` where it is given;
    returns the run's figures."""
    template, tokenizer, model = open_base(settings, base_dir, mesh)
    dataset = read_preferences(inputs, on_problem=settings.on_problem)
    told = [*dataset.preferences, *(read_preferences(tests, settings.on_problem).preferences if tests else ())]
    check_roles([pair.prompt for pair in told], template)
    found = [encode_pair(pair, template, tokenizer, settings.sequence_length) for pair in told]
    pairs = [pair for pair in found if pair is not None]
    every = max(2, round(1 / settings.heldout_fraction)) if settings.heldout_fraction and len(pairs) > 1 else 0
    held = [number for number in range(len(pairs)) if every and number % every == 0]
    if tests:
        held = list(range(sum(pair is not None for pair in found[: len(dataset.preferences)]), len(pairs)))
    training = sorted(set(range(len(pairs))) - set(held))
    reference = np.zeros((len(pairs), 2), np.float32)
    if settings.preference.needs_reference:
        reference = reference_logprobs(model, pairs, settings, tokenizer.fill_id, scratch, progress)
    length, seed, pad_id = settings.sequence_length, settings.seed, tokenizer.fill_id
    rows = PackedPairs([pairs[n] for n in training], length, seed, pad_id, reference[training])
    heldout = PackedPairs([pairs[n] for n in held], length, seed, pad_id, reference[held]) if held else None
    counts = {"pairs": len(training), "too_long_pairs": len(found) - len(pairs), "skipped_rows": len(dataset.skipped)}
    steps = settings.steps(rows.rows_per_epoch)
    progress.note(f"{len(training)} pairs in {rows.rows_per_epoch} rows, {steps} steps", **counts)
    objective = Preferred(settings.preference)
    before = preferred_share(model, heldout, objective) if heldout else None
    result = train(model, InOrder(rows), settings, scratch, progress, heldout=heldout, objective=objective, mesh=mesh)
    after = preferred_share(model, heldout, objective) if heldout else None
    write_tuned(settings, model, template, tokenizer, base_dir, output, scratch, mesh)
    shares = {"heldout_accuracy_before": before, "heldout_accuracy": after}
    return {**asdict(result), **counts, **{name: share for name, share in shares.items() if share is not None}}
