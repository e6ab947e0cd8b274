"""Guessing, from what a text has said before or with a smaller model: the same answers, in fewer steps."""

import copy
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from generate_samples import SHAPE, prompts, tiny_model
from tiny_tokenizers import byte_level

from inkstone.errors import InputError
from inkstone.generate import Engine, Request, SamplingSettings
from inkstone.generate.lookup import Lookup
from inkstone.model import Decoder, open_directory, save_model
from inkstone.model.opened import with_draft

LONG = replace(SHAPE, max_positions=400)


@pytest.fixture(scope="module")
def model() -> Decoder:
    """Greedy answers of a random model soon go in circles, which is what guesses live on."""
    return tiny_model(LONG)


def requests(count: int) -> list[Request]:
    draw = random.Random(5)
    made = []
    for prompt in prompts([draw.randrange(2, 60) for _ in range(count)], seed=7):
        greedy = draw.random() < 0.7
        sampling = SamplingSettings(
            max_new_tokens=draw.randrange(1, 120), temperature=0.0 if greedy else 0.9, seed=len(made),
            frequency_penalty=0.5 if draw.random() < 0.2 else 0.0,
        )  # fmt: skip
        made.append(Request(prompt, sampling, {7} if draw.random() < 0.3 else set(), logprobs=int(draw.random() < 0.1)))
    return made


def answers(
    model: Decoder, asked: list[Request], lookup: int, rows: int = 4, draft: Decoder | None = None
) -> tuple[dict[int, list[int]], Engine, int]:
    """Requests that arrive as others leave; the answers, the engine and its steps."""
    engine, said, steps, left = (
        Engine(model, 4096, rows, step_tokens=40, lookup=lookup, draft=draft),
        {},
        0,
        list(asked),
    )
    finishes: dict[int, str] = {}
    while left or engine.busy:
        if left and len(engine.waiting) < 2:
            said[engine.submit(left.pop(0))] = []
        for delta in engine.step():
            if delta.token is not None:
                said[delta.id].append(delta.token)
            if delta.finish:
                finishes[delta.id] = delta.finish
        steps += 1
    assert len(finishes) == len(asked)
    return said, engine, steps


@pytest.mark.parametrize("lookup", [1, 4, 9])
def test_guesses_change_no_answer_and_save_steps(lookup: int, model: Decoder) -> None:
    asked = requests(24)
    plain, _, steps = answers(model, asked, 0)
    guessed, engine, fewer = answers(model, asked, lookup)
    assert guessed == plain
    figures = engine.figures()
    assert figures["guessed_right"] > 50 and fewer < steps
    assert figures["held"] == 0 and figures["new_tokens"] == sum(map(len, plain.values()))


@pytest.mark.parametrize("lookup", [1, 4])
def test_a_draft_changes_no_answer_and_saves_steps(lookup: int, model: Decoder) -> None:
    """Greedy or drawn: the draft here is the model with a little noise."""
    draft = copy.deepcopy(model)
    with torch.no_grad():
        for weight in draft.parameters():
            weight.add_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)) * 0.03 * weight.std())
    asked = requests(24) + requests(4)  # the last share the beginnings of the first
    plain, _, steps = answers(model, asked, 0)
    guessed, engine, fewer = answers(model, asked, lookup, draft=draft)
    assert guessed == plain
    figures = engine.figures()
    assert figures["guessed_right"] > 0.5 * figures["guessed_tokens"] > 0 and fewer < 0.8 * steps
    assert figures["held"] == 0 and figures["shared_tokens"] > 0


def test_a_draft_that_is_the_model_itself_is_always_right(model: Decoder) -> None:
    """Whatever is drawn: both look at the same draw. Stop tokens and ends cut some guesses short."""
    asked = [
        Request(prompt, SamplingSettings(temperature=0.9, max_new_tokens=61, seed=seed))
        for seed, prompt in enumerate(prompts([5, 30, 17], seed=3))
    ]
    _, engine, steps = answers(model, asked, 4, draft=model)
    figures = engine.figures()
    assert figures["guessed_right"] == figures["guessed_tokens"] == 3 * 48 and steps < 20


def test_a_prefix_that_guesses_filled_is_shared_rightly(model: Decoder) -> None:
    """What one request's guesses wrote may be what the next prompt begins with."""
    [prompt] = prompts([9], seed=1)
    long = SamplingSettings(max_new_tokens=200)
    plain, _, _ = answers(model, [Request(prompt, long)], 0, rows=1)
    engine = Engine(model, 4096, 2, lookup=6)
    engine.submit(Request(prompt, long))
    first = [
        delta.token for _ in iter(lambda: engine.busy, False) for delta in engine.step() if delta.token is not None
    ]
    assert first == plain[0]
    again = prompt + first[:150]
    engine.submit(Request(again, SamplingSettings(max_new_tokens=30)))
    second = [d.token for _ in iter(lambda: engine.busy, False) for d in engine.step() if d.token is not None]
    assert second == first[150:180] and engine.figures()["shared_tokens"] >= 144


def test_a_guess_is_what_followed_the_longest_run_last() -> None:
    tokens = [1, 2, 3, 4, 5, 9, 2, 3, 8, 1, 2, 3]
    lookup = Lookup(tokens)
    assert lookup.guess(3) == [4, 5, 9], "three tokens in a row count more than two that stood there later"
    tokens.append(7)
    assert lookup.guess(3) == []
    tokens += [2, 3]
    assert lookup.guess(2) == [7, 2]


def test_a_draft_of_another_vocabulary_is_refused_with_both_sizes(tmp_path: Path) -> None:
    sizes = []
    for name, tokenizer in (("model", byte_level()), ("draft", byte_level(["<more>"]))):
        shape = replace(SHAPE, vocab_size=tokenizer.vocab_size)
        save_model(tiny_model(shape), tmp_path / name, bos_id=0, eos_id=1, pad_id=1, stop_ids=[1])
        tokenizer.save(tmp_path / name)
        sizes.append(tokenizer.vocab_size)
    opened = open_directory(tmp_path / "model")
    assert with_draft(opened, None) is opened and with_draft(opened, tmp_path / "model").draft is not None
    with pytest.raises(InputError, match=f"draft cannot guess for this model: its vocabulary of {sizes[1]} ids"):
        with_draft(opened, tmp_path / "draft")
