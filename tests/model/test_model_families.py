"""The outside oracle for llama, mistral, mixtral, bloom, Qwen and GLM-4: transformers' own models, with their options.

Random checkpoints made there are opened here: equal logits, and the same 64 greedy tokens with a cache, without one and
in a left-padded batch. What is saved here opens there with the same bits.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from inkstone.generate import SamplingSettings, generate, score
from inkstone.model import Decoder, load_model, save_model

transformers = pytest.importorskip("transformers")

SHAPE = {"vocab_size": 101, "hidden_size": 48, "num_attention_heads": 6, "initializer_range": 0.2}
DENSE = {**SHAPE, "intermediate_size": 40, "num_hidden_layers": 2, "max_position_embeddings": 128}
LLAMA3 = {"rope_type": "llama3", "rope_theta": 900.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
YARN = {"rope_type": "yarn", "rope_theta": 900.0, "factor": 4.0, "original_max_position_embeddings": 32}
EVERY_KEY = {**YARN, "attention_factor": 1.3, "beta_fast": 12.0, "beta_slow": 2.0, "truncate": False}
QWEN = {"num_key_value_heads": 6}
GLM = {"head_dim": 8, "num_key_value_heads": 2, "pad_token_id": 0}
MOE = {"num_key_value_heads": 2, "moe_intermediate_size": 24, "num_experts": 5, "num_experts_per_tok": 2}
CHECKPOINTS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {}),
    "llama, grouped queries, tied": ("Llama", {"num_key_value_heads": 2, "tie_word_embeddings": True}),
    "llama, another base": ("Llama", {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}}),
    "llama, linear scaling": (
        "Llama",
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 800.0, "factor": 4.0}},
    ),
    "llama, dynamic scaling": (
        "Llama",
        {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.3}},
    ),
    "llama, llama3 scaling": ("Llama", {"rope_parameters": {**LLAMA3, "original_max_position_embeddings": 32}}),
    "llama, yarn scaling": ("Llama", {"rope_parameters": YARN}),
    "llama, yarn scaling, every key": ("Llama", {"rope_parameters": EVERY_KEY}),
    "qwen2": ("Qwen2", {"num_key_value_heads": 2}),
    "qwen2, sliding window, tied": (
        "Qwen2",
        {**QWEN, "use_sliding_window": True, "sliding_window": 9, "max_window_layers": 0, "tie_word_embeddings": True},
    ),
    "qwen2, yarn scaling": ("Qwen2", {**QWEN, "rope_parameters": YARN}),
    "qwen3": ("Qwen3", {"num_key_value_heads": 2, "head_dim": 12}),
    "qwen3, biases, tied": ("Qwen3", {**QWEN, "head_dim": 8, "attention_bias": True, "tie_word_embeddings": True}),
    "qwen3_moe": ("Qwen3Moe", {**MOE, "norm_topk_prob": True}),
    "qwen3_moe, shares of a softmax over all": ("Qwen3Moe", MOE),
    "glm": ("Glm", {**GLM, "rope_parameters": {"rope_type": "default", "rope_theta": 800.0}}),
    "glm, yarn scaling, tied": ("Glm", {**GLM, "rope_parameters": YARN, "tie_word_embeddings": True}),
    "llama, biases, wide heads": ("Llama", {"attention_bias": True, "mlp_bias": True, "head_dim": 12}),
    "mistral, sliding window": ("Mistral", {"num_key_value_heads": 3, "sliding_window": 9}),
    "mistral, no window": ("Mistral", {"num_key_value_heads": 3, "sliding_window": None}),
    "mixtral": ("Mixtral", {"num_key_value_heads": 2, "num_local_experts": 5, "num_experts_per_tok": 2}),
    "mixtral, sliding window, top 3": (
        "Mixtral",
        {"num_key_value_heads": 6, "num_local_experts": 4, "num_experts_per_tok": 3, "sliding_window": 7},
    ),
    "bloom, 6 heads": ("Bloom", {}),
    "bloom, 8 heads": ("Bloom", {"num_attention_heads": 8}),
    "bloom, 12 heads, untied": ("Bloom", {"num_attention_heads": 12, "tie_word_embeddings": False}),
}
EVERY = pytest.mark.parametrize("kind", CHECKPOINTS)
PROMPT_LENGTHS = (23, 3, 11, 1)


def reference(kind: str) -> Any:
    """A random model of transformers whose biases and norms are not the neutral ones of a fresh model."""
    family, options = CHECKPOINTS[kind]
    shape = DENSE if family != "Bloom" else {**SHAPE, "n_layer": 2}
    config = getattr(transformers, f"{family}Config")(**{**shape, **options}, attn_implementation="eager")
    torch.manual_seed(0)
    model = getattr(transformers, f"{family}ForCausalLM")(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() == 1:
                weight.add_(0.2 * torch.randn_like(weight))
    return model


def ids(rows: int, length: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(3, 101, (rows, length), generator=torch.Generator().manual_seed(seed))


def prompts() -> list[list[int]]:
    return [ids(1, length, seed)[0].tolist() for seed, length in enumerate(PROMPT_LENGTHS)]


def left_padded(rows: list[list[int]]) -> dict[str, torch.Tensor]:
    longest = max(map(len, rows))
    tokens = torch.tensor([[0] * (longest - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
    return {"input_ids": tokens, "attention_mask": mask}


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """(their model, ours, the directory it was opened from), made once for each kind."""
    made: dict[str, tuple[Any, Decoder, Path]] = {}

    def open_kind(kind: str) -> tuple[Any, Decoder, Path]:
        if kind not in made:
            directory = tmp_path_factory.mktemp("checkpoint")
            model = reference(kind)
            model.save_pretrained(directory)
            made[kind] = (model, load_model(directory), directory)
        return made[kind]

    return open_kind


@torch.no_grad()
@EVERY
def test_a_checkpoint_of_transformers_gives_equal_logits_here(kind: str, opened: Any) -> None:
    theirs, ours, _ = opened(kind)
    tokens = ids(3, 60)
    torch.testing.assert_close(ours(tokens), theirs(tokens).logits, atol=1e-4, rtol=1e-4)


@torch.no_grad()
@EVERY
def test_64_greedy_tokens_are_theirs_with_a_cache_without_one_and_in_a_left_padded_batch(
    kind: str, opened: Any
) -> None:
    theirs, ours, _ = opened(kind)
    rows = prompts()
    settings = {"max_new_tokens": 64, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    expected = theirs.generate(**left_padded(rows), **settings)[:, max(PROMPT_LENGTHS) :].tolist()
    assert generate(ours, rows, SamplingSettings(max_new_tokens=64), set()) == expected
    for row, answer in zip(rows[:2], expected, strict=False):
        text = list(row)
        for _ in range(64):
            text.append(int(ours(torch.tensor([text]))[0, -1].argmax()))
        assert text[len(row) :] == answer


@torch.no_grad()
@EVERY
def test_scores_of_unequal_requests_in_one_batch_are_the_log_probabilities_of_each_alone(
    kind: str, opened: Any
) -> None:
    theirs, ours, _ = opened(kind)
    requests = [(row, ids(1, 1 + number * 3, 50 + number)[0].tolist()) for number, row in enumerate(prompts())]
    for (context, continuation), scored in zip(requests, score(ours, requests), strict=True):
        logits = theirs(torch.tensor([context + continuation])).logits[0, len(context) - 1 : -1]
        expected = logits.log_softmax(-1).gather(1, torch.tensor(continuation)[:, None]).sum()
        assert scored.logprob == pytest.approx(float(expected), abs=2e-3)


@EVERY
def test_what_is_saved_here_is_opened_by_transformers_bit_for_bit(kind: str, opened: Any, tmp_path: Path) -> None:
    theirs, ours, _ = opened(kind)
    save_model(ours, tmp_path, bos_id=1, eos_id=2, pad_id=0, stop_ids=[2])
    back, info = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, dtype=torch.float32, output_loading_info=True, attn_implementation="eager"
    )
    assert not (info["missing_keys"] or info["unexpected_keys"] or info["mismatched_keys"])
    # A Mistral without a window is a Llama, and is saved as one.
    assert type(back) is type(theirs) or kind == "mistral, no window"
    for (name, mine), (same_name, original) in zip(back.named_parameters(), theirs.named_parameters(), strict=True):
        assert name == same_name and torch.equal(mine, original)
    with torch.no_grad():
        tokens = ids(2, 40)
        assert torch.equal(back.eval()(tokens).logits, theirs(tokens).logits)


@torch.no_grad()
def test_experts_stacked_as_the_newer_layout_keeps_them_open_as_well(opened: Any, tmp_path: Path) -> None:
    theirs, ours, directory = opened("mixtral")
    names = load_file(directory / "model.safetensors")
    assert any(".experts.0.w1." in name for name in names), "transformers no longer saves experts apart"
    stacked = {name: weight.detach().contiguous() for name, weight in theirs.named_parameters()}
    save_file(stacked, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_bytes((directory / "config.json").read_bytes())
    assert torch.equal(load_model(tmp_path)(ids(2, 20)), ours(ids(2, 20)))


@torch.no_grad()
def test_bloom_opens_in_the_published_names_and_keys_without_a_prefix(opened: Any, tmp_path: Path) -> None:
    _, ours, directory = opened("bloom, 6 heads")
    tensors = load_file(directory / "model.safetensors")
    save_file({name.removeprefix("transformer."): x for name, x in tensors.items()}, tmp_path / "model.safetensors")
    config = {"model_type": "bloom", "n_embed": 48, "num_attention_heads": 6, "n_layer": 2, "vocab_size": 101}
    (tmp_path / "config.json").write_text(json.dumps({**config, "n_inner": None, "seq_length": 2048}))
    assert torch.equal(load_model(tmp_path)(ids(2, 20)), ours(ids(2, 20)))


@torch.no_grad()
@pytest.mark.parametrize("kind", ["bloom, 6 heads", "llama, dynamic scaling", "mistral, sliding window"])
def test_positions_beyond_the_training_length_give_equal_logits(kind: str, opened: Any) -> None:
    theirs, ours, _ = opened(kind)
    tokens = ids(1, 300)
    torch.testing.assert_close(ours(tokens), theirs(tokens).logits, atol=3e-4, rtol=1e-4)
