"""The sampler, against its definitions and against transformers' logits processors."""

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from inkstone.generate import SamplingSettings
from inkstone.generate.sampler import Choice, sample

LOGITS = st.lists(st.floats(-8, 8, width=32), min_size=2, max_size=40).map(torch.tensor)


def draws(logits: torch.Tensor, sampling: SamplingSettings, count: int, seen: list[int] | None = None) -> torch.Tensor:
    """How often each token is chosen in `count` draws."""
    draw = random.Random(0)
    choices = [Choice(sampling, draw.random(), mark(logits, seen or [])) for _ in range(count)]
    chosen = sample(logits.expand(count, -1), choices)
    return torch.bincount(chosen, minlength=len(logits))


def mark(logits: torch.Tensor, seen: list[int]) -> torch.Tensor:
    marks = torch.zeros(len(logits), dtype=torch.bool)
    marks[seen] = True
    return marks


def choose(logits: torch.Tensor, seen: list[int], sampling: SamplingSettings) -> int:
    return int(sample(logits[None], [Choice(sampling, 0.5, mark(logits, seen))]))


@given(LOGITS)
def test_temperature_zero_is_argmax_and_a_tiny_temperature_agrees_when_the_best_is_clear(logits: torch.Tensor) -> None:
    best = choose(logits, [], SamplingSettings(temperature=0))
    assert best == int(logits.argmax())
    first, second = logits.topk(2).values
    if first - second > 0.1:
        assert draws(logits, SamplingSettings(temperature=0.003), 5).nonzero().flatten().tolist() == [best]


def test_temperature_one_draws_from_the_models_own_distribution() -> None:
    logits = torch.tensor([0.0, 1.0, 2.0, -1.0])
    counts = draws(logits, SamplingSettings(temperature=1.0), 4000)
    torch.testing.assert_close(counts / 4000, logits.softmax(-1), atol=0.03, rtol=0)


def test_higher_temperature_flattens_the_distribution() -> None:
    logits = torch.tensor([0.0, 3.0])
    counts = [int(draws(logits, SamplingSettings(temperature=t), 1500)[0]) for t in (0.5, 1.0, 4.0)]
    assert counts[0] < counts[1] < counts[2]


@settings(max_examples=40)
@given(LOGITS, st.integers(1, 10))
def test_top_k_draws_only_from_the_k_best(logits: torch.Tensor, k: int) -> None:
    scaled = logits / 2.0  # the smallest numbers become equal
    allowed = scaled >= scaled.topk(min(k, len(logits))).values[-1]
    counts = draws(logits, SamplingSettings(temperature=2.0, top_k=k), 40)
    assert counts[~allowed].sum() == 0


@settings(max_examples=40)
@given(LOGITS, st.floats(0.05, 1.0))
def test_top_p_draws_only_from_the_smallest_set_that_reaches_p(logits: torch.Tensor, p: float) -> None:
    ordered, order = logits.softmax(-1).sort(descending=True)
    size = int((ordered.cumsum(-1) < p - 1e-6).sum()) + 1
    # A token that reaches p only by a rounding error may stand on either side.
    allowed = set(order[: size + 1].tolist()) if abs(ordered[:size].sum() - p) < 1e-5 else set(order[:size].tolist())
    chosen = draws(logits, SamplingSettings(temperature=1.0, top_p=p), 40).nonzero().flatten().tolist()
    # Tokens of equal probability stay or go together.
    weights = (logits - logits.max()).exp()
    assert {float(weights[token]) for token in chosen} <= {float(weights[token]) for token in allowed}


def test_the_whole_nucleus_is_reachable() -> None:
    logits = torch.tensor([0.4, 0.3, 0.2, 0.1]).log()
    counts = draws(logits, SamplingSettings(temperature=1.0, top_p=0.75), 600)
    assert (counts[:3] > 0).all() and counts[3] == 0


@pytest.mark.parametrize(
    "values",
    [
        {"temperature": 0.7},
        {"temperature": 1.0, "top_k": 5},
        {"temperature": 1.0, "top_p": 0.6},
        {"temperature": 1.0, "repetition_penalty": 1.4},
        {"temperature": 1.0, "min_p": 0.2},
        {"temperature": 0.8, "top_k": 9, "top_p": 0.7, "repetition_penalty": 1.2},
        {"temperature": 1.2, "top_k": 12, "top_p": 0.9, "min_p": 0.1},
    ],
    ids=lambda values: ", ".join(values),
)
def test_frequencies_follow_transformers_processors(values: dict[str, float]) -> None:
    transformers = pytest.importorskip("transformers")
    sampling = SamplingSettings.model_validate(values)
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(20, generator=generator) * 2
    seen = [3, 3, 11, 0]
    processors = [
        transformers.RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty),
        transformers.TemperatureLogitsWarper(sampling.temperature),
        *([transformers.TopKLogitsWarper(sampling.top_k)] if sampling.top_k else []),
        *([transformers.TopPLogitsWarper(sampling.top_p)] if sampling.top_p < 1 else []),
        *([transformers.MinPLogitsWarper(sampling.min_p)] if sampling.min_p else []),
    ]
    scores = logits[None].clone()
    for processor in processors:
        scores = processor(torch.tensor([seen]), scores)
    expected = scores[0].softmax(-1)
    counts = draws(logits, sampling, 3000, seen)
    assert counts[expected == 0].sum() == 0
    torch.testing.assert_close(counts / 3000, expected, atol=0.035, rtol=0)


def test_repetition_penalty_also_changes_greedy_choice_and_leaves_the_logits_alone() -> None:
    logits = torch.tensor([2.0, 1.5, -0.5])
    kept = logits.clone()
    sampling = SamplingSettings(repetition_penalty=2.0)
    assert choose(logits, [0], sampling) == 1
    assert choose(logits, [], sampling) == 0
    assert torch.equal(logits, kept)


@pytest.mark.parametrize(
    "values",
    [
        {"temperature": -0.1},
        {"min_p": 1.5},
        {"top_p": 0},
        {"top_p": 1.1},
        {"top_k": -1},
        {"max_new_tokens": 0},
        {"topp": 0.5},
    ],
)
def test_settings_without_meaning_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        SamplingSettings.model_validate(values)


def test_every_row_of_a_batch_gets_what_it_gets_alone_whatever_its_neighbours_ask_for() -> None:
    """Vocabularies wider and narrower than what a nucleus is looked for in, greedy beside sampled, equals included."""
    choices = [
        {},
        {"temperature": 1.0},
        {"temperature": 0.7, "top_p": 0.5},
        {"temperature": 1.5, "top_p": 0.99, "top_k": 700},
        {"temperature": 1e-6},
        {"temperature": 1.0, "top_k": 3, "repetition_penalty": 1.3},
        {"temperature": 1.0, "min_p": 0.3, "top_p": 0.999},
        {"repetition_penalty": 2.0},
    ]
    settings = [SamplingSettings.model_validate(values) for values in choices]
    for vocab in (20, 3000):
        generator = torch.Generator().manual_seed(vocab)
        logits = (torch.randn(len(settings), vocab, generator=generator) * 2).bfloat16()
        marks = mark(logits[0], [0, 5, 7])
        seen = [marks if one.repetition_penalty != 1 else None for one in settings]
        places = [number / len(settings) for number in range(len(settings))]
        choices = [Choice(*row) for row in zip(settings, places, seen, strict=True)]
        together = sample(logits, choices).tolist()
        rows = zip(logits, settings, places, seen, strict=True)
        assert together == [int(sample(one[None], [Choice(how, place, own)])) for one, how, place, own in rows]
        backwards = sample(logits.flip(0), choices[::-1]).tolist()
        assert together == backwards[::-1]


def test_a_temperature_near_zero_and_logits_beyond_reason_choose_a_token() -> None:
    logits = torch.tensor([[3e38, -3e38, 0.0], [-torch.inf, 1.0, 2.0], [1.0, 1.0, 1.0]])
    settings = [SamplingSettings(temperature=1e-30, top_p=0.5)] * 2 + [SamplingSettings(temperature=1.0)]
    assert sample(logits, [Choice(one, 0.99) for one in settings]).tolist() == [0, 2, 2]


def test_ids_stay_where_the_logits_are() -> None:
    """No generator of another device and no copy to the host is involved: the meta device has no numbers to copy."""
    logits = torch.zeros(2, 9, device="meta")
    settings = [SamplingSettings(), SamplingSettings(temperature=0.7, repetition_penalty=1.1)]
    seen = [None, torch.zeros(9, dtype=torch.bool, device="meta")]
    assert sample(logits, [Choice(*row) for row in zip(settings, [0.1, 0.2], seen, strict=True)]).device.type == "meta"
