"""The stage of KTO: conversations whose last answer is good or bad in, a chat model out (`kto` has the loss).

An example is packed as a pair: its own answer, and the next example's as the mismatch that tells how far the policy has
moved in general.
"""

from dataclasses import asdict, dataclass

import numpy as np

from inkstone.chat import Preference, Template, Verdict, read_verdicts
from inkstone.errors import InputError
from inkstone.tokenizer import Tokenizer
from inkstone.train import InOrder
from inkstone.tune.ends import Work, check_roles, heldout_numbers, open_base, roles_of, write_tuned
from inkstone.tune.kto import Verdicts
from inkstone.tune.pairs import EncodedPair, PackedPairs, encode_pair
from inkstone.tune.reference import reference_logprobs


@dataclass(frozen=True)
class Examples:
    """Encoded examples beside their mismatches, and 1 for a good answer, -1 for a bad one."""

    pairs: list[EncodedPair]
    labels: list[float]


def kto(work: Work) -> dict[str, object]:
    """Tune on answers that are good or bad; returns the run's figures."""
    template, tokenizer, model = open_base(work)
    settings = work.settings
    dataset = read_verdicts(work.inputs, settings.on_problem)
    told = encode_verdicts(dataset.verdicts, template, tokenizer, settings.sequence_length)
    held: list[int] = heldout_numbers(len(told.pairs), settings.heldout_fraction).tolist()
    training = sorted(set(range(len(told.pairs))) - set(held))
    reference = reference_logprobs(model, told.pairs, settings, tokenizer.fill_id, work.scratch, work.progress)

    def rows(numbers: list[int]) -> PackedPairs:
        pairs, labels = [told.pairs[n] for n in numbers], [told.labels[n] for n in numbers]
        place = (settings.sequence_length, settings.seed, tokenizer.fill_id)
        return PackedPairs(pairs, *place, reference[np.array(numbers, int)], labels)

    good = sum(told.labels[number] > 0 for number in training)
    counts = {
        "good": good,
        "bad": len(training) - good,
        "too_long_examples": len(dataset.verdicts) - len(told.pairs),
        "skipped_rows": len(dataset.skipped),
    }
    steps = settings.steps(rows(training).rows_per_epoch)
    work.progress.note(f"{good} good and {len(training) - good} bad answers, {steps} steps", **counts)
    heldout = rows(held) if held else None
    result = work.train(model, InOrder(rows(training)), Verdicts(settings.kto), heldout)
    write_tuned(work, model, template, tokenizer)
    return {**asdict(result), **counts}


def encode_verdicts(verdicts: list[Verdict], template: Template, tokenizer: Tokenizer, length: int) -> Examples:
    """Each example with the next one's answer as its mismatch. Raises InputError where all verdicts are the same."""
    kinds = {verdict.good for verdict in verdicts}
    if len(kinds) < 2:
        said = "good" if kinds == {True} else "bad"
        raise InputError(f'every answer is {said}: kto needs both kinds (good answers alone are method = "sft")')
    check_roles(roles_of([verdict.chat for verdict in verdicts]), template)
    pairs, labels = [], []
    for verdict, made in zip(verdicts, beside_next(verdicts), strict=True):
        if pair := encode_pair(made, template, tokenizer, length):
            pairs.append(pair)
            labels.append(1.0 if verdict.good else -1.0)
    return Examples(pairs, labels)


def beside_next(verdicts: list[Verdict]) -> list[Preference]:
    """Each example's answer beside the next one's."""
    answers = [verdict.chat[-1].content for verdict in verdicts]
    others = [*answers[1:], *answers[:1]]
    return [Preference(v.chat[:-1], own, other) for v, own, other in zip(verdicts, answers, others, strict=True)]
