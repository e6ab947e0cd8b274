"""The engine: a request's tokens depend on nothing but the request, and agree with transformers' generate."""

from itertools import islice
from pathlib import Path

import pytest
import torch
from generate_samples import SHAPE, prompts, tiny_model

from inkstone.errors import InputError
from inkstone.generate import SamplingSettings, generate, stream
from inkstone.model import Decoder, save_model

GREEDY = SamplingSettings(max_new_tokens=12)
LENGTHS = [5, 1, 17, 9, 30, 2, 11]


@pytest.fixture(scope="module")
def model() -> Decoder:
    return tiny_model()


def reference(model: Decoder, directory: Path, prompt: list[int], **options: object) -> list[int]:
    transformers = pytest.importorskip("transformers")
    save_model(model, directory, bos_id=0, eos_id=1, pad_id=2, stop_ids=[1])
    oracle = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    ids: list[int] = oracle.generate(
        torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.long), do_sample=False,
        eos_token_id=SHAPE.vocab_size - 1, max_new_tokens=12, **options,
    )[0, len(prompt) :].tolist()  # fmt: skip
    return ids


@pytest.mark.parametrize("penalty", [1.0, 1.7])
def test_greedy_text_equals_transformers_generate(penalty: float, model: Decoder, tmp_path: Path) -> None:
    sampling = SamplingSettings(max_new_tokens=12, repetition_penalty=penalty)
    for prompt in prompts([6, 15]):
        ours = list(stream(model, prompt, sampling, set()))
        assert ours == reference(model, tmp_path, prompt, repetition_penalty=penalty)


@pytest.mark.parametrize("rows", [1, 2, 3, 32])
def test_greedy_batch_gives_what_each_prompt_gives_alone(rows: int, model: Decoder) -> None:
    requests = prompts(LENGTHS)
    alone = [generate(model, [prompt], GREEDY, {7, 8, 9})[0] for prompt in requests]
    assert generate(model, requests, GREEDY, {7, 8, 9}, rows=rows) == alone
    assert len(set(map(tuple, alone))) > len(alone) // 2, "the model says the same to everybody: nothing was tested"


@pytest.mark.parametrize("rows", [2, 32])
def test_sampled_batch_gives_what_each_prompt_gives_alone_with_its_own_seed(rows: int, model: Decoder) -> None:
    """Request i of a batch draws from seed + i."""
    requests = prompts(LENGTHS)
    sampling = SamplingSettings(temperature=1.3, top_k=40, top_p=0.95, max_new_tokens=12, seed=5)
    alone = [
        generate(model, [prompt], sampling.model_copy(update={"seed": 5 + index}), set())[0]
        for index, prompt in enumerate(requests)
    ]
    assert generate(model, requests, sampling, set(), rows=rows) == alone


def test_same_seed_gives_the_same_text_and_another_seed_another(model: Decoder) -> None:
    def text(seed: int) -> list[int]:
        return generate(model, prompts([8]), SamplingSettings(temperature=1.0, max_new_tokens=20, seed=seed), set())[0]

    assert text(1) == text(1)
    assert text(1) != text(2)


def test_streamed_tokens_are_the_generated_ones_and_come_before_the_end(model: Decoder) -> None:
    [prompt] = prompts([8])
    sampling = SamplingSettings(temperature=1.0, max_new_tokens=20)
    whole = generate(model, [prompt], sampling, set())[0]
    assert list(stream(model, prompt, sampling, set())) == whole
    assert list(islice(stream(model, prompt, sampling, set()), 3)) == whole[:3]


def test_text_ends_before_its_first_stop_token(model: Decoder) -> None:
    requests = prompts(LENGTHS)
    free = generate(model, requests, GREEDY, set())
    stops = {free[0][4], free[2][0]}
    for stopped, whole in zip(generate(model, requests, GREEDY, stops, rows=3), free, strict=True):
        end = next((at for at, token in enumerate(whole) if token in stops), len(whole))
        assert stopped == whole[:end]
    assert generate(model, [requests[2]], GREEDY, stops) == [[]]


@pytest.mark.parametrize("limit", [1, 2, 12])
def test_max_new_tokens_is_the_length_when_nothing_stops(limit: int, model: Decoder) -> None:
    sampling = SamplingSettings(max_new_tokens=limit)
    assert [len(ids) for ids in generate(model, prompts(LENGTHS), sampling, set(), rows=3)] == [limit] * len(LENGTHS)


def test_text_ends_where_the_positions_end(model: Decoder) -> None:
    lengths = [SHAPE.max_positions - 1, SHAPE.max_positions - 7, 3]
    made = generate(model, prompts(lengths), SamplingSettings(max_new_tokens=1000), set())
    assert [len(ids) for ids in made] == [SHAPE.max_positions - length for length in lengths]


@pytest.mark.parametrize("length", [0, SHAPE.max_positions, SHAPE.max_positions + 5])
def test_prompt_that_is_empty_or_fills_all_positions_is_refused_by_number(length: int, model: Decoder) -> None:
    with pytest.raises(InputError, match=f"prompt 1 has {length} tokens; the model takes 1 to 47"):
        generate(model, prompts([3, length]), GREEDY, set())


def test_no_prompts_give_no_answers(model: Decoder) -> None:
    assert generate(model, [], GREEDY, set()) == []


def test_greedy_token_is_the_most_probable_next_token(model: Decoder) -> None:
    requests = prompts(LENGTHS)
    first = [ids[0] for ids in generate(model, requests, GREEDY, set())]
    with torch.no_grad():
        assert [int(model(torch.tensor([one]))[0, -1].argmax()) for one in requests] == first


def test_model_with_half_precision_arithmetic_decodes() -> None:
    model = tiny_model()
    model.compute_dtype = torch.bfloat16
    [ids] = generate(model, prompts([8]), GREEDY, set())
    assert len(ids) == 12
