"""Tuning on preference pairs: DPO and its relatives, with or without an adapter."""

from dataclasses import asdict

import numpy as np

from inkstone.model.decoder.lora import adapter_off
from inkstone.train import InOrder
from inkstone.tune.ends import Work, open_base, write_tuned
from inkstone.tune.pairs import PackedPairs, read_pairs
from inkstone.tune.preference import Preferred
from inkstone.tune.reference import preferred_share, reference_logprobs


def prefer(work: Work) -> dict[str, object]:
    """Tune on preference pairs; returns the run's figures."""
    template, tokenizer, model = open_base(work)
    settings = work.settings
    pairs, training, held, counts = read_pairs(work, template, tokenizer)
    reference = np.zeros((len(pairs), 2), np.float32)
    if settings.preference.needs_reference:
        reference = reference_logprobs(model, pairs, settings, tokenizer.fill_id, work.scratch, work.progress)
    length, seed, pad_id = settings.sequence_length, settings.seed, tokenizer.fill_id
    rows = PackedPairs(pairs.of(training), length, seed, pad_id, reference[training])
    heldout = PackedPairs(pairs.of(held), length, seed, pad_id, reference[held]) if len(held) else None
    steps = settings.steps(rows.rows_per_epoch)
    work.progress.note(f"{len(training)} pairs in {rows.rows_per_epoch} rows, {steps} steps", **counts)
    objective = Preferred(settings.preference)
    with adapter_off(model):
        before = preferred_share(model, heldout, objective) if heldout else None
    result = work.train(model, InOrder(rows), objective, heldout)
    after = preferred_share(model, heldout, objective) if heldout else None
    write_tuned(work, model, template, tokenizer)
    shares = {"heldout_accuracy_before": before, "heldout_accuracy": after}
    return {**asdict(result), **counts, **{name: share for name, share in shares.items() if share is not None}}
