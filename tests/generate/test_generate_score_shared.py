"""Choices scored behind a shared prefix equal whole forwards, for every kind of position and whatever is batched."""

import random
from dataclasses import replace

import pytest
import torch
from generate_samples import SHAPE

from inkstone.generate.score_shared import Choices, alike, score_choices
from inkstone.model import Decoder, DecoderConfig

LONG = replace(SHAPE, max_positions=300)
SHAPES = {
    "rope": LONG,
    "alibi": replace(LONG, position="alibi"),
    "window": replace(LONG, sliding_window=20),
    "every head its own keys": replace(LONG, num_kv_heads=4),
}


def model_of(shape: DecoderConfig) -> Decoder:
    """The tiny model's way of drawing weights, in another shape."""
    model, generator = Decoder(shape), torch.Generator().manual_seed(3)
    for weight in model.parameters():
        noise = torch.randn(weight.shape, generator=generator)
        weight.data = 1 + 0.3 * noise if weight.dim() == 1 else 0.25 * noise
    return model.eval()


def questions(seed: int = 0) -> list[Choices]:
    """Three subjects with long, short and no common beginning; endings of one and of several tokens."""
    draw = random.Random(seed)

    def ids(count: int) -> list[int]:
        return [draw.randrange(SHAPE.vocab_size) for _ in range(count)]

    subjects = [ids(130), ids(70), ids(1)]
    return [
        Choices(
            subjects[number % 3] + ids(draw.randrange(1, 25)),
            [ids(draw.choice([1, 1, 6])) for _ in range(4)],
            whole=number % 4 == 0,
        )
        for number in range(24)
    ]


def plain(model: Decoder, one: Choices) -> list[tuple[float, bool]]:
    """One forward per ending, nothing shared."""
    results = []
    for ids in one.continuations:
        whole = torch.tensor([one.context + ids])
        with torch.no_grad():
            table = model(whole[:, :-1])[0].log_softmax(-1)  # the last token predicts nothing
        first = 0 if one.whole else len(one.context) - 1
        chosen = table.gather(1, whole[0, 1:, None])[first:, 0]
        results.append((float(chosen.sum()), bool((table.argmax(-1) == whole[0, 1:])[first:].all())))
    return results


def check(model: Decoder, asked: list[Choices], row_tokens: int) -> None:
    found = dict(score_choices(model, asked, row_tokens=row_tokens))
    assert sorted(found) == list(range(len(asked)))
    for index, one in enumerate(asked):
        expected = plain(model, one)
        assert [scored.logprob for scored in found[index]] == pytest.approx([sum_ for sum_, _ in expected], abs=1e-3)
        assert [scored.greedy for scored in found[index]] == [greedy for _, greedy in expected]


@pytest.mark.parametrize("kind", SHAPES)
def test_shared_prefix_scores_equal_whole_forwards(kind: str) -> None:
    check(model_of(SHAPES[kind]), questions(), row_tokens=4096)


@pytest.mark.parametrize("row_tokens", [1, 60, 400])
def test_the_size_of_a_batch_changes_nothing(row_tokens: int) -> None:
    check(model_of(LONG), questions(seed=1), row_tokens)


def test_asking_a_part_computes_the_same_runs_and_gives_the_same_numbers() -> None:
    """What a killed run asks again comes out to the last bit."""
    model, asked = model_of(LONG), questions(seed=2)
    whole = dict(score_choices(model, asked))
    part = dict(score_choices(model, asked, only=[3]))
    assert 3 in part
    assert len(part) < len(whole)
    assert all(whole[index] == scored for index, scored in part.items())


def test_angles_that_depend_on_a_sequences_length_are_not_shared() -> None:
    from inkstone.model.decoder.config import RopeScaling

    scaling = RopeScaling(kind="dynamic", factor=8.0, original_positions=64)
    shape = replace(LONG, max_positions=64, rope_scaling=scaling)
    check(model_of(shape), questions(seed=3), row_tokens=4096)


def test_runs_are_cut_where_one_subject_ends_and_never_lose_a_question() -> None:
    asked = questions()
    runs = alike([one.context for one in asked])
    assert sorted(index for run in runs for index in run) == list(range(len(asked)))
    assert [{index % 3 for index in run} for run in runs if len(run) == 8 and {index % 3 for index in run} == {0}]
    assert alike([]) == []
