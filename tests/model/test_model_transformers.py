"""The outside oracle for the decoder and its directory: transformers' Llama, in both directions."""

import json
from pathlib import Path

import pytest
import torch
from model_samples import tiny_model, tokens

from inkstone.model import load_model, save_model

transformers = pytest.importorskip("transformers")

SHAPES = {
    "tied, grouped queries": {},
    "untied": {"tie_embeddings": False},
    "a key/value head per query head": {"num_kv_heads": 4},
    "one key/value head": {"num_kv_heads": 1},
    "heads wider than hidden_size / num_heads": {"head_dim": 12},
}


def reference_logits(directory: Path, ids: torch.Tensor) -> torch.Tensor:
    model = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    with torch.no_grad():
        logits: torch.Tensor = model(ids).logits
    return logits


@torch.no_grad()
@pytest.mark.parametrize("changes", SHAPES.values(), ids=SHAPES.keys())
def test_saved_directory_gives_equal_logits_in_transformers(changes: dict[str, object], tmp_path: Path) -> None:
    model, ids = tiny_model(**changes), tokens(3, 40)
    save_model(model, tmp_path, bos_id=0, eos_id=1, pad_id=2, stop_ids=[1])
    torch.testing.assert_close(model(ids), reference_logits(tmp_path, ids), atol=2e-5, rtol=1e-5)


def llama(**changes: object) -> "transformers.LlamaForCausalLM":
    shape = {"vocab_size": 97, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}
    rope = {"rope_parameters": {"rope_type": "default", "rope_theta": 700.0}}
    config = transformers.LlamaConfig(**shape, **heads, **rope, initializer_range=0.25, **changes)
    torch.manual_seed(0)
    return transformers.LlamaForCausalLM(config).eval()


@torch.no_grad()
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("shard_size", ["1GB", "20KB"], ids=["one file", "sharded"])
def test_transformers_directory_gives_equal_logits_here(tied: bool, shard_size: str, tmp_path: Path) -> None:
    reference, ids = llama(tie_word_embeddings=tied), tokens(3, 40)
    reference.save_pretrained(tmp_path, max_shard_size=shard_size)
    assert (tmp_path / "model.safetensors.index.json").exists() == (shard_size == "20KB")
    torch.testing.assert_close(load_model(tmp_path)(ids), reference(ids).logits, atol=2e-5, rtol=1e-5)


@torch.no_grad()
def test_rotary_settings_in_the_keys_of_transformers_4_give_equal_logits(tmp_path: Path) -> None:
    reference, ids = llama(), tokens(2, 30)
    reference.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["rope_theta"] = config.pop("rope_parameters")["rope_theta"]
    (tmp_path / "config.json").write_text(json.dumps({**config, "rope_scaling": None}))
    torch.testing.assert_close(load_model(tmp_path)(ids), reference(ids).logits, atol=2e-5, rtol=1e-5)


@torch.no_grad()
def test_bfloat16_checkpoint_keeps_its_dtype_unless_another_is_asked_for(tmp_path: Path) -> None:
    reference, ids = llama().to(torch.bfloat16), tokens(2, 30)
    reference.save_pretrained(tmp_path)
    assert {weight.dtype for weight in load_model(tmp_path).parameters()} == {torch.bfloat16}
    wide = load_model(tmp_path, torch.float32)
    torch.testing.assert_close(wide(ids), reference_logits(tmp_path, ids), atol=2e-5, rtol=1e-5)


def test_generation_in_transformers_stops_at_the_saved_stop_ids(tmp_path: Path) -> None:
    save_model(tiny_model(), tmp_path, bos_id=0, eos_id=1, pad_id=2, stop_ids=[1, 4])
    config = transformers.GenerationConfig.from_pretrained(tmp_path)
    assert (config.bos_token_id, config.eos_token_id, config.pad_token_id) == (0, [1, 4], 2)
