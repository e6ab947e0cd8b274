"""Baichuan 7B, 13B and 2, and ChatGLM2, which transformers does not carry, as published: four oracles.

A plain reference written from the equations; figures of the original modelling code and of llama.cpp, kept in golden/;
and llama.cpp itself where it is installed. Small widths, but the published depths for llama.cpp, which tells Baichuan's
kinds apart by depth.
"""

import json
from pathlib import Path

import llama_cpp_oracle
import numpy as np
import plain_reference
import pytest
import torch
from published_checkpoints import DEEP, DEFAULTS, SMALL, Published
from safetensors.numpy import load_file, save_file

from inkstone.generate import SamplingSettings, generate, score
from inkstone.model import Decoder, load_model, save_model

EVERY = pytest.mark.parametrize("name", SMALL)


def write(model: Published, directory: Path) -> Path:
    """The checkpoint as a directory, buffers and duplicates included."""
    directory.mkdir(exist_ok=True)
    (directory / "config.json").write_text(json.dumps(model.config))
    save_file(model.tensors, directory / "model.safetensors")
    return directory


@pytest.fixture
def small(name: str, tmp_path: Path) -> Decoder:
    return load_model(write(SMALL[name], tmp_path / "published"))


def tokens(length: int, seed: int) -> list[int]:
    return torch.randint(0, 96, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


@torch.no_grad()
@EVERY
def test_logits_are_those_of_the_published_equations(name: str, small: Decoder) -> None:
    row = tokens(30, 1)
    expected = plain_reference.logits(SMALL[name], row)
    np.testing.assert_allclose(small(torch.tensor([row]))[0].numpy(), expected, atol=1e-4)


@torch.no_grad()
@EVERY
def test_greedy_tokens_of_a_mixed_batch_through_the_cache_are_those_without_one(name: str, small: Decoder) -> None:
    prompts = [tokens(length, length) for length in (19, 2, 7)]
    answers = generate(small, prompts, SamplingSettings(max_new_tokens=64), set(), rows=2)
    for prompt, answer in zip(prompts, answers, strict=True):
        text = list(prompt)
        for _ in range(64):
            text.append(int(small(torch.tensor([text]))[0, -1].argmax()))
        assert text[len(prompt) :] == answer
    expected = plain_reference.logits(SMALL[name], prompts[0] + answers[0][:5])[len(prompts[0]) - 1 : -1].argmax(-1)
    assert answers[0][:5] == expected.tolist()


@torch.no_grad()
@EVERY
def test_scores_of_unequal_requests_are_those_of_the_published_equations(name: str, small: Decoder) -> None:
    requests = [(tokens(9, 1), tokens(4, 2)), (tokens(9, 1), tokens(1, 3)), (tokens(3, 4), tokens(7, 5))]
    for (context, continuation), scored in zip(requests, score(small, requests), strict=True):
        logits = torch.tensor(plain_reference.logits(SMALL[name], context + continuation))[len(context) - 1 : -1]
        expected = logits.log_softmax(-1).gather(1, torch.tensor(continuation)[:, None]).sum()
        assert scored.logprob == pytest.approx(float(expected), abs=1e-3)


@EVERY
def test_what_is_saved_has_the_published_names_bits_and_meaning(name: str, small: Decoder, tmp_path: Path) -> None:
    save_model(small, tmp_path / "saved", bos_id=1, eos_id=2, pad_id=0, stop_ids=[2])
    found, published = load_file(tmp_path / "saved" / "model.safetensors"), SMALL[name].tensors
    if name == "Baichuan-7B":
        # Opens anywhere as llama: W_pack is cut into q, k and v.
        for layer in range(2):
            at = f"model.layers.{layer}.self_attn"
            found[f"{at}.W_pack.weight"] = np.concatenate([found.pop(f"{at}.{part}_proj.weight") for part in "qkv"])
    # Of what was published, only a buffer and ChatGLM's second copy of the head are left out.
    not_weights = {"transformer.rotary_pos_emb.inv_freq", *({"lm_head.weight"} if name.startswith("Chat") else ())}
    assert found.keys() == published.keys() - not_weights
    assert all(np.array_equal(tensor, published[key]) for key, tensor in found.items())
    config = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert config["model_type"] == ("llama" if name == "Baichuan-7B" else SMALL[name].config["model_type"])
    assert load_model(tmp_path / "saved").config == small.config


@torch.no_grad()
@pytest.mark.parametrize("name", DEEP)
def test_logits_are_those_llama_cpp_gave(name: str, tmp_path: Path) -> None:
    golden = json.loads((llama_cpp_oracle.GOLDEN / f"{name.lower()}.json").read_text())
    ours = load_model(write(DEEP[name](), tmp_path))(torch.tensor([golden["tokens"]]))[0].numpy()
    for position, expected in golden["logits"].items():
        np.testing.assert_allclose(ours[int(position)], expected, atol=2e-3, err_msg=f"position {position}")


@torch.no_grad()
@pytest.mark.parametrize("name", DEFAULTS)
def test_logits_are_those_the_original_code_gave_where_only_its_defaults_tell(name: str, tmp_path: Path) -> None:
    golden = json.loads((llama_cpp_oracle.GOLDEN / "original.json").read_text())
    model = load_model(write(DEFAULTS[name], tmp_path / "published"))
    save_model(model, tmp_path / "saved", bos_id=1, eos_id=2, pad_id=0, stop_ids=[2])
    for opened in (model, load_model(tmp_path / "saved")):
        ours = opened(torch.tensor([golden["tokens"]]))[0].numpy()
        for position, expected in golden["logits"][name].items():
            np.testing.assert_allclose(ours[int(position)], expected, atol=1e-4, err_msg=f"position {position}")


def test_a_chatglm2_with_rows_by_head_is_saved_as_the_original_reads_it(tmp_path: Path) -> None:
    published = DEFAULTS["ChatGLM2, rows by head"]
    model = load_model(write(published, tmp_path / "published"))
    save_model(model, tmp_path / "saved", bos_id=1, eos_id=2, pad_id=0, stop_ids=[2])
    config = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert (config["multi_query_attention"], config["multi_query_group_num"]) == (True, 4)
    name = "transformer.encoder.layers.1.self_attention.query_key_value.weight"
    by_part = published.tensors[name].reshape(4, 3, 16, 64).swapaxes(0, 1).reshape(192, 64)
    assert np.array_equal(load_file(tmp_path / "saved" / "model.safetensors")[name], by_part)


@torch.no_grad()
@pytest.mark.slow
@pytest.mark.parametrize("name", DEEP)
def test_logits_are_those_llama_cpp_gives_now(name: str, tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp", reason="llama.cpp is not installed: pip install 'inkstone[oracle]' builds it")
    row = tokens(64, 9)
    ours = load_model(write(DEEP[name](), tmp_path))(torch.tensor([row]))[0].numpy()
    np.testing.assert_allclose(ours, llama_cpp_oracle.logits(DEEP[name](), row), atol=2e-3)
