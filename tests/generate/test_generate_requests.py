"""The engine under traffic: requests that come, share, wait, are cancelled and pushed out; blocks come back."""

import random

import pytest
import torch
from generate_samples import SHAPE, prompts, tiny_model
from hypothesis import given, settings
from hypothesis import strategies as st

from inkstone.errors import InputError
from inkstone.generate import Delta, Engine, Request, SamplingSettings, generate, score
from inkstone.generate.blocks import Blocks
from inkstone.model import BLOCK, CacheContext, Decoder
from inkstone.model.decoder.config import RopeScaling

GREEDY = SamplingSettings(max_new_tokens=9)


@pytest.fixture(scope="module")
def model() -> Decoder:
    return tiny_model()


def run(engine: Engine) -> dict[int, list[int]]:
    """Answers of all requests, to the end."""
    answers: dict[int, list[int]] = {}
    while engine.busy:
        keep(engine.step(), answers)
    return answers


def keep(deltas: list[Delta], answers: dict[int, list[int]]) -> None:
    for delta in deltas:
        answers.setdefault(delta.id, []).extend([] if delta.token is None else [delta.token])


def alone(model: Decoder, request: Request) -> list[int]:
    [answer] = generate(model, [list(request.prompt)], request.sampling, request.stop_ids)
    return answer


def some_requests(count: int, seed: int) -> list[Request]:
    """Of all lengths, greedy and sampled; half of them begin alike."""
    draw = random.Random(seed)
    [beginning] = prompts([20], seed=seed)
    found = []
    for number, prompt in enumerate(prompts([draw.randrange(1, 20) for _ in range(count)], seed=seed + 1)):
        sampling = SamplingSettings(
            temperature=draw.choice([0, 1.2]), top_p=0.9, max_new_tokens=draw.randrange(1, 25), seed=number
        )
        found.append(Request([*beginning, *prompt] if draw.random() < 0.5 else prompt, sampling, {7, 8}))
    return found


@settings(max_examples=20, deadline=None)
@given(
    st.integers(0, 10_000),
    st.integers(3, 8),
    st.integers(1, 4),
    st.sampled_from([1, 7, 1024]),
    st.sampled_from([0, 3]),
    st.sampled_from([1, 64]),
)
def test_arrivals_cancellations_sharing_and_a_short_pool_change_no_answer_and_lose_no_block(
    seed: int, blocks: int, rows: int, step_tokens: int, lookup: int, margin: int
) -> None:
    model, draw = tiny_model(), random.Random(seed)
    drafts = model if lookup and seed % 2 else None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("inkstone.generate.engine._MARGIN", margin)  # the smaller, the more are pushed out
        engine = Engine(model, blocks * BLOCK, rows, step_tokens=step_tokens, lookup=lookup, draft=drafts)
        traffic(model, engine, draw, seed)
    assert engine.blocks.free == engine.blocks.count == blocks


def traffic(model: Decoder, engine: Engine, draw: random.Random, seed: int) -> None:
    """Requests that come and are cancelled at random; those that are answered are answered as if alone."""
    waiting = dict(enumerate(some_requests(8, seed)))
    submitted: dict[int, Request] = {}
    answers: dict[int, list[int]] = {}
    while waiting or engine.busy:
        if waiting and draw.random() < 0.4:
            _, request = waiting.popitem()
            submitted[engine.submit(request)] = request
        if submitted and draw.random() < 0.05:
            cancelled = draw.choice(list(submitted))
            engine.cancel(cancelled)
            answers.pop(cancelled, None)
            submitted.pop(cancelled)
        keep(engine.step(), answers)
    for number, request in submitted.items():
        assert answers.get(number, []) == alone(model, request)


def test_those_that_grow_push_out_the_youngest_which_goes_on_with_its_tokens(
    model: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("inkstone.generate.engine._MARGIN", 1)
    sampling = [SamplingSettings(max_new_tokens=40, temperature=number) for number in range(4)]
    asked = [Request(prompt, how) for prompt, how in zip(prompts([5] * 4), sampling, strict=True)]
    engine = Engine(model, 5 * BLOCK, 4)
    numbers = [engine.submit(request) for request in asked]
    answers: dict[int, list[int]] = {}
    together = 0
    while engine.busy:
        keep(engine.step(), answers)
        together = max(together, len(engine.running))
    assert [answers[number] for number in numbers] == [alone(model, request) for request in asked]
    assert together > 1 and engine.figures()["pushed_out"] > 0 and engine.figures()["held"] == 0


def test_a_long_prompt_beside_31_short_ones_takes_what_it_uses_and_a_block_for_each() -> None:
    """[rows x longest took 128,128 slots here]."""
    config = {**vars(SHAPE), "max_positions": 4096}
    torch.manual_seed(0)
    model = Decoder(type(SHAPE)(**config)).eval()
    sampling = SamplingSettings(max_new_tokens=4)
    requests = [Request(prompt, sampling) for prompt in prompts([4000] + [3] * 31)]
    used = sum(len(request.prompt) + 4 for request in requests)
    engine = Engine(model, used + 15 * 32, 32, step_tokens=5000)
    for request in requests:
        engine.submit(request)
    assert len(engine.step()) == len(engine.running) == 32
    assert all(len(answer) == 3 for answer in run(engine).values())
    assert engine.pool.keys[0, :, :, 0, 0].numel() <= used + 16 * 32


def test_a_long_prompt_is_taken_in_pieces_and_nobody_waits_for_it(model: Decoder) -> None:
    engine = Engine(model, 256, rows=4, step_tokens=8)
    short = engine.submit(Request(prompts([3])[0], SamplingSettings(max_new_tokens=6)))
    engine.step()
    long = engine.submit(Request(prompts([36])[0], GREEDY))
    order = [[delta.id for delta in engine.step()] for _ in range(6)]
    assert order[:4] == [[short]] * 4
    assert order[5] == [long] and engine.running[0].cached == 36


def test_a_prompt_that_begins_like_another_computes_only_the_rest(
    model: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed: list[int] = []
    hidden = Decoder.hidden

    def counted(self: Decoder, tokens_BT: torch.Tensor, context: CacheContext | None = None) -> torch.Tensor:
        computed.append(tokens_BT.numel())
        return hidden(self, tokens_BT, context)

    monkeypatch.setattr(Decoder, "hidden", counted)
    [beginning] = prompts([2 * BLOCK])
    requests = [Request([*beginning, number], SamplingSettings(max_new_tokens=1)) for number in range(4)]
    engine = Engine(model, 256)
    for request in requests[:2]:
        engine.submit(request)
    engine.step()
    # In one step: the first computes the beginning, the second reads it in the same forward.
    assert computed == [2 * BLOCK + 2] and not engine.busy
    for request in requests[2:]:
        engine.submit(request)
    engine.step()
    assert computed[1:] == [2]


def test_what_ended_is_shared_until_others_need_its_blocks(model: Decoder) -> None:
    [first, second] = prompts([2 * BLOCK + 1, 2 * BLOCK + 1], seed=3)
    engine = Engine(model, 3 * BLOCK)
    for prompt, expected in ((first, 0), (first, 2 * BLOCK), (second, 0), (first, 0)):
        engine.submit(Request(prompt, SamplingSettings(max_new_tokens=4)))
        engine._admitted()
        assert engine.running[0].cached == expected
        [answer] = run(engine).values()
        assert answer == alone(model, Request(prompt, SamplingSettings(max_new_tokens=4)))


def test_the_least_recently_used_block_is_forgotten_first() -> None:
    blocks = Blocks(3)
    serial = 0
    held = blocks.take(3)
    for block in held:
        serial = blocks.learn(block, serial, [block] * BLOCK)
    text = [token for block in held for token in [block] * BLOCK] + [9]
    blocks.release(held)
    assert blocks.take(1) == held[2:]
    found, _ = blocks.match(text)
    assert found == held[:2] and blocks.free == 0


def test_a_step_that_is_interrupted_leaves_the_engine_as_if_it_had_not_been(
    model: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = some_requests(6, 4)
    engine = Engine(model, 512, rows=3)
    for request in requests:
        engine.submit(request)
    answers: dict[int, list[int]] = {}
    keep(engine.step(), answers)
    hidden = Decoder.hidden
    for _ in range(2):
        monkeypatch.setattr(Decoder, "hidden", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            engine.step()
        monkeypatch.setattr(Decoder, "hidden", hidden)
        keep(engine.step(), answers)
    while engine.busy:
        keep(engine.step(), answers)
    assert [answers.get(number, []) for number in range(6)] == [alone(model, request) for request in requests]


def test_logprobs_are_those_of_score(model: Decoder) -> None:
    [prompt] = prompts([8])
    engine = Engine(model, 64)
    engine.submit(Request(prompt, SamplingSettings(temperature=1.5, max_new_tokens=6, seed=2), logprobs=1))
    deltas = [delta for _ in range(6) for delta in engine.step()]
    answer = [delta.token for delta in deltas if delta.token is not None]
    for number, delta in enumerate(deltas):
        [scored] = score(model, [(prompt + answer[:number], answer[number : number + 1])])
        assert delta.logprob == pytest.approx(scored.logprob, abs=1e-4)
    assert [delta.finish for delta in deltas] == [None] * 5 + ["length"]


def test_a_stop_is_told_without_its_token(model: Decoder) -> None:
    [prompt] = prompts([8])
    free = alone(model, Request(prompt, GREEDY))
    engine = Engine(model, 64)
    engine.submit(Request(prompt, GREEDY, {free[2]}))
    deltas = [delta for _ in range(9) for delta in engine.step()]
    end = free.index(free[2])
    assert deltas[-1] == Delta(0, None, finish="stop") and len(deltas) == end + 1


def test_a_prompt_that_can_never_fit_is_refused_at_once_and_others_go_on(model: Decoder) -> None:
    engine = Engine(model, 32)
    engine.submit(Request([1, 2], SamplingSettings(max_new_tokens=3)))
    with pytest.raises(InputError, match="may have 40 tokens, more than the engine's 32"):
        engine.submit(Request([1] * 30, SamplingSettings(max_new_tokens=10)))
    with pytest.raises(InputError, match="holds ids outside the model's 61"):
        engine.submit(Request([1, 61], GREEDY))
    with pytest.raises(InputError, match="holds ids outside"):
        engine.submit(Request([-1], GREEDY))
    assert [len(answer) for answer in run(engine).values()] == [3]


def test_ids_that_the_tokenizer_lacks_are_never_sampled_nor_counted() -> None:
    """A padded embedding whose last rows would win every argmax."""
    model = tiny_model()
    with torch.no_grad():
        model.lm_head.weight[50:] = 40 * model.lm_head.weight[50:].abs()
    [prompt] = prompts([6])
    for sampling in (GREEDY, SamplingSettings(temperature=3.0, max_new_tokens=40, repetition_penalty=1.2)):
        assert max(generate(model, [prompt], sampling, set())[0]) >= 50
        model.known_ids = 50
        assert max(generate(model, [prompt], sampling, set())[0]) < 50
        model.known_ids = None
    model.known_ids = 50
    scored = score(model, [(prompt, [token]) for token in range(50)])
    assert sum(torch.tensor(one.logprob).exp().item() for one in scored) == pytest.approx(1, abs=1e-4)
    assert sum(one.greedy for one in scored) == 1
    with pytest.raises(InputError, match="request 0: the continuation holds ids that the tokenizer lacks"):
        score(model, [(prompt, [50])])


@pytest.mark.parametrize("position", ["alibi", "dynamic"])
def test_positions_that_reach_beyond_training_answer_alike_alone_and_together(position: str) -> None:
    shape = vars(SHAPE) | (
        {"position": "alibi"} if position == "alibi" else {"rope_scaling": RopeScaling("dynamic", 4.0, 48)}
    )
    model = Decoder(type(SHAPE)(**shape)).eval()
    for weight, given_ in zip(model.parameters(), tiny_model().parameters(), strict=True):
        weight.data = given_.data
    requests = prompts([60, 3, 90, 47])
    together = generate(model, requests, GREEDY, set(), rows=3)
    assert together == [generate(model, [prompt], GREEDY, set())[0] for prompt in requests]
    for prompt, answer in zip(requests, together, strict=True):
        assert answer[0] == int(model(torch.tensor([prompt]))[0, -1].argmax())
