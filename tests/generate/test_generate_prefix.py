"""Generating and scoring with a prefix before every text: what a plain loop without any cache gives."""

from dataclasses import replace

import pytest
import torch
from generate_samples import SHAPE, prompts, tiny_model
from test_generate_score_shared import LONG, SHAPES, check, model_of, questions

from inkstone.generate import SamplingSettings, score
from inkstone.generate.engine import Engine
from inkstone.generate.request import Request
from inkstone.model import Decoder
from inkstone.model.decoder.lora import attach_prefix
from inkstone.model.decoder.prefix import draw_prefix

KINDS = {"rope": {}, "alibi": {"position": "alibi"}, "window": {"sliding_window": 20}}


def behind_a_prefix(model: Decoder, first_position: int = 21) -> Decoder:
    attach_prefix(model, draw_prefix(model.config, 21, first_position, torch.Generator().manual_seed(5)))
    return model


def plainly(model: Decoder, prompt: list[int], count: int) -> list[int]:
    ids = list(prompt)
    for _ in range(count):
        ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
    return ids[len(prompt) :]


@torch.no_grad()
@pytest.mark.parametrize("first_position", [21, 0])
@pytest.mark.parametrize("kind", KINDS)
def test_greedy_batches_with_shared_beginnings_are_a_plain_loops(kind: str, first_position: int) -> None:
    model = behind_a_prefix(tiny_model(replace(SHAPE, max_positions=90, **KINDS[kind])), first_position)  # type: ignore[arg-type]
    [beginning, *ends] = prompts([37, 1, 5, 20, 3])
    asked = [*(beginning + end for end in ends), ends[1]]
    engine, said = Engine(model, tokens=500, rows=3, step_tokens=24), {}
    numbers = {engine.submit(Request(one, SamplingSettings(max_new_tokens=8))): one for one in asked}
    while engine.busy:
        for delta in engine.step():
            said.setdefault(delta.id, []).append(delta.token)
    assert engine.counts["shared_tokens"] >= 64
    assert said == {number: plainly(model, prompt, 8) for number, prompt in numbers.items()}


@pytest.mark.parametrize("kind", SHAPES)
def test_choices_behind_a_prefix_are_scored_as_whole_forwards(kind: str) -> None:
    check(behind_a_prefix(model_of(SHAPES[kind])), questions(), row_tokens=400)


@torch.no_grad()
def test_continuations_behind_a_prefix_are_scored_as_whole_forwards() -> None:
    model, [context, *ends] = behind_a_prefix(model_of(LONG)), prompts([40, 3, 9])
    for ids, scored in zip(ends, score(model, [(context, ids) for ids in ends]), strict=True):
        table = model(torch.tensor([context + ids]))[0].log_softmax(-1)[len(context) - 1 : -1]
        assert scored.logprob == pytest.approx(float(table.gather(1, torch.tensor(ids)[:, None]).sum()), abs=1e-4)
