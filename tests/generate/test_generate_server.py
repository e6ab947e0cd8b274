"""What a server asks of the engine: penalties, biases, log-probabilities, stop strings, constraints, figures."""

import pytest
import torch
from generate_samples import SHAPE, prompts, tiny_model
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from tiny_tokenizers import byte_level

from inkstone.errors import InputError
from inkstone.generate import Delta, Engine, Request, SamplingSettings, Shown, TextStream, generate, score
from inkstone.model import Decoder


@pytest.fixture(scope="module")
def model() -> Decoder:
    return tiny_model()


def run(model: Decoder, *requests: Request, rows: int = 32) -> list[list[Delta]]:
    """Each request's deltas."""
    engine = Engine(model, 2048, rows)
    numbers = [engine.submit(request) for request in requests]
    deltas: dict[int, list[Delta]] = {number: [] for number in numbers}
    while engine.busy:
        for delta in engine.step():
            deltas[delta.id].append(delta)
    assert engine.figures()["held"] == 0
    return [deltas[number] for number in numbers]


def tokens(deltas: list[Delta]) -> list[int]:
    return [delta.token for delta in deltas if delta.token is not None]


def plain_choice(model: Decoder, text: list[int], answer: list[int], how: SamplingSettings) -> int:
    """The greedy token by the definitions of the OpenAI API, without a cache."""
    logits = model(torch.tensor([text + answer]))[0, -1].float()
    for token in set(answer):
        logits[token] -= how.presence_penalty + how.frequency_penalty * answer.count(token)
    for token, bias in how.logit_bias.items():
        logits[token] += bias
    return int(logits.argmax())


@pytest.mark.parametrize(
    "how",
    [
        SamplingSettings(presence_penalty=1.5, max_new_tokens=10),
        SamplingSettings(frequency_penalty=0.7, presence_penalty=-0.3, max_new_tokens=10),
        SamplingSettings(logit_bias={3: 50.0, 5: -100.0}, max_new_tokens=3),
    ],
)
def test_penalties_and_biases_are_those_of_their_definitions(how: SamplingSettings, model: Decoder) -> None:
    plain = SamplingSettings(max_new_tokens=10)
    neighbours = prompts([4, 9])
    for prompt, deltas in zip(
        neighbours, run(model, *(Request(one, how) for one in neighbours), Request(neighbours[0], plain)), strict=False
    ):
        answer: list[int] = []
        with torch.no_grad():
            for _ in range(how.max_new_tokens):
                answer.append(plain_choice(model, prompt, answer, how))
        assert tokens(deltas) == answer


def test_stop_tokens_wait_for_min_tokens(model: Decoder) -> None:
    [prompt] = prompts([6])
    free = generate(model, [prompt], SamplingSettings(max_new_tokens=8), set())[0]
    stop = {free[0]}
    [ended] = run(model, Request(prompt, SamplingSettings(max_new_tokens=8), stop))
    [kept] = run(model, Request(prompt, SamplingSettings(max_new_tokens=8, min_tokens=3), stop))
    assert tokens(ended) == []
    assert len(tokens(kept)) >= 3 and free[0] not in tokens(kept)[:3]


def test_log_probabilities_are_the_models_own_and_the_best_come_first(model: Decoder) -> None:
    """Those of `score`, whatever the temperature, the penalty and the neighbours."""
    how = SamplingSettings(temperature=1.5, repetition_penalty=1.4, max_new_tokens=6, seed=3)
    [prompt] = prompts([7])
    [deltas, _] = run(model, Request(prompt, how, logprobs=4), Request(prompts([3])[0], how))
    answer = tokens(deltas)
    for index, delta in enumerate(deltas):
        [own] = score(model, [(prompt + answer[:index], [answer[index]])])
        assert delta.logprob == pytest.approx(own.logprob, abs=1e-4)
        assert len(delta.top) == 4
        assert [value for _, value in delta.top] == sorted((value for _, value in delta.top), reverse=True)
        [best] = score(model, [(prompt + answer[:index], [delta.top[0][0]])])
        assert delta.top[0][1] == pytest.approx(best.logprob, abs=1e-4)


@pytest.mark.parametrize("step_tokens", [4, 1024])
def test_a_prompts_log_probabilities_are_those_of_score(step_tokens: int, model: Decoder) -> None:
    """Also where the prompt is computed in pieces, and where its beginning is known already."""
    [prompt] = prompts([37])
    engine = Engine(model, 2048, 2, step_tokens)
    for _ in range(2):
        engine.submit(Request(prompt, SamplingSettings(max_new_tokens=2), prompt_logprobs=2))
        deltas = []
        while engine.busy:
            deltas += engine.step()
        told = deltas[0].prompt
        assert len(told) == len(prompt) - 1 and not deltas[1].prompt
        for place, one in enumerate(told):
            [own] = score(model, [(prompt[: place + 1], [prompt[place + 1]])])
            assert one.logprob == pytest.approx(own.logprob, abs=1e-4)
            assert len(one.top) == 2


class Only:
    """A constraint: even ids, in rising order."""

    def __init__(self) -> None:
        self.last = -1

    def allowed(self) -> torch.Tensor:
        ids = torch.arange(SHAPE.vocab_size)
        return (ids % 2 == 0) & (ids > self.last)

    def accept(self, token: int) -> None:
        self.last = token


def test_a_constraint_decides_what_may_be_chosen_and_hears_what_was(model: Decoder) -> None:
    how = SamplingSettings(temperature=1.0, max_new_tokens=4)
    [free, bound] = run(model, Request(prompts([5])[0], how), Request(prompts([5])[0], how, constraint=Only()))
    answer = tokens(bound)
    assert answer == sorted(set(answer)) and all(token % 2 == 0 for token in answer)
    assert tokens(free) != answer


def test_figures_tell_what_is_held_shared_and_done(model: Decoder) -> None:
    engine = Engine(model, 2048, 4)
    [prompt] = prompts([40])
    first = engine.submit(Request(prompt, SamplingSettings(max_new_tokens=5)))
    engine.submit(Request(prompt, SamplingSettings(max_new_tokens=5)))
    engine.step()
    told = engine.figures()
    assert (told["running"], told["waiting"], told["prompt_tokens"], told["shared_tokens"]) == (2, 0, 80, 32)
    engine.cancel(first)
    while engine.busy:
        engine.step()
    told = engine.figures()
    assert (told["held"], told["cancelled"], told["new_tokens"]) == (0, 1, 6)


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (Request([1, 2], SamplingSettings(logit_bias={SHAPE.vocab_size: 1.0})), "logit_bias names the id"),
        (Request([1, 2], logprobs=-1), "log-probabilities of -1 tokens"),
    ],
)
def test_what_cannot_be_asked_is_refused_in_words(request_: Request, said: str, model: Decoder) -> None:
    with pytest.raises(InputError, match=said):
        Engine(model, 256).submit(request_)


@pytest.mark.parametrize("setting", ["presence_penalty", "frequency_penalty"])
def test_penalties_beyond_two_are_refused(setting: str) -> None:
    with pytest.raises(ValidationError):
        SamplingSettings(**{setting: 2.5})


@given(
    st.text(st.sampled_from("ab。\n水𝄞"), max_size=20),
    st.lists(st.text(st.sampled_from("ab。\n水"), min_size=1, max_size=3)),
)
def test_text_ends_before_the_first_stop_string_wherever_tokens_are_cut(text: str, stops: list[str]) -> None:
    tokenizer = byte_level()
    shown = Shown(stops)
    stream = TextStream(tokenizer, shown)
    said = "".join([stream.push(token) for token in tokenizer.encode(text)]) + stream.close()
    places = [text.find(stop) for stop in stops if stop in text]
    assert said == (text[: min(places)] if places else text)
    assert (shown.stopped is None) == (not places)
