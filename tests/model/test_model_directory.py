"""A model directory is read whole and exact, or refused in words; and what a shape promises is what it has."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from model_samples import SHAPE, tiny_model
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from tiny_tokenizers import sentencepiece_like

from inkstone.chat import TEMPLATES, attach_template
from inkstone.errors import InputError
from inkstone.generate import SamplingSettings, read_sampling
from inkstone.model import Decoder, DecoderConfig, ModelSettings, load_model, open_directory, save_model
from inkstone.model.files.convert import convert_model
from inkstone.model.files.directory import read_stop_ids
from inkstone.model.inspect import inspect_model

Tensors = dict[str, torch.Tensor]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    save_model(tiny_model(), tmp_path, bos_id=0, eos_id=1, pad_id=2, stop_ids=[1, 4])
    return tmp_path


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("tied", [True, False])
def test_saving_and_loading_returns_the_same_bits(dtype: torch.dtype, tied: bool, tmp_path: Path) -> None:
    model = tiny_model(tie_embeddings=tied).to(dtype)
    save_model(model, tmp_path, bos_id=0, eos_id=1, pad_id=2, stop_ids=[1])
    loaded = load_model(tmp_path)
    assert loaded.config == model.config
    for (name, saved), (same_name, found) in zip(model.named_parameters(), loaded.named_parameters(), strict=True):
        assert name == same_name and found.dtype == dtype and torch.equal(saved, found)


def test_tied_head_and_embedding_stay_one_tensor_after_loading(directory: Path) -> None:
    model = load_model(directory)
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_stop_ids_are_read_from_the_generation_config_then_the_config(directory: Path) -> None:
    assert read_stop_ids(directory) == {1, 4}
    (directory / "generation_config.json").unlink()
    assert read_stop_ids(directory) == {1}


DAMAGED = [
    b"{",
    b"[]",
    b"",
    b"null",
    b'{"eos_token_id": 3.5}',
    b'{"eos_token_id": [1, "a"]}',
    b"\xff\xfe{}",
    b"[" * 9999,
]


@pytest.mark.parametrize("content", DAMAGED, ids=lambda content: repr(content[:24]))
def test_a_damaged_generation_config_is_one_sentence_wherever_a_model_is_opened(
    directory: Path, tmp_path: Path, content: bytes
) -> None:
    sentencepiece_like().save(directory)
    (directory / "generation_config.json").write_bytes(content)
    for open_it in (
        read_stop_ids,
        open_directory,
        lambda path: open_directory(path, template="raw", chat=True),
        lambda path: convert_model(path, tmp_path / "converted"),
        lambda path: attach_template(TEMPLATES["raw"], sentencepiece_like(), path),
    ):
        with pytest.raises(InputError, match=r"generation_config\.json") as caught:
            open_it(directory)
        assert len(caught.value.problems) == 1
    assert not (tmp_path / "converted").exists()
    assert any("generation_config.json" in line for line in inspect_model(directory).missing)


def test_a_byte_order_mark_before_the_settings_of_a_model_is_accepted(directory: Path) -> None:
    for name in ("config.json", "generation_config.json"):
        path = directory / name
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert read_stop_ids(directory) == {1, 4} and read_sampling(directory) == SamplingSettings()
    assert load_model(directory).config == SHAPE


@pytest.mark.parametrize("changes", [{}, {"tie_embeddings": False}, {"num_kv_heads": 1, "head_dim": 6}])
def test_num_parameters_is_what_the_model_has(changes: dict[str, object]) -> None:
    model = tiny_model(**changes)
    assert model.config.num_parameters() == sum(weight.numel() for weight in model.parameters())


def refused(directory: Path) -> str:
    with pytest.raises(InputError) as caught:
        load_model(directory)
    return str(caught.value)


def rewrite(directory: Path, change: Callable[[Tensors], None]) -> None:
    tensors = load_file(directory / "model.safetensors")
    change(tensors)
    save_file(tensors, directory / "model.safetensors")


def test_every_missing_misshaped_and_unexpected_tensor_is_named_at_once(directory: Path) -> None:
    def damage(tensors: Tensors) -> None:
        tensors.pop("model.layers.1.mlp.up_proj.weight")
        tensors["model.norm.weight"] = torch.ones(31)
        tensors["model.layers.2.mlp.up_proj.weight"] = torch.ones(48, 32)

    rewrite(directory, damage)
    message = refused(directory)
    assert "model.layers.1.mlp.up_proj.weight is missing" in message
    assert "model.norm.weight has shape (31,), expected (32,)" in message
    assert "model.layers.2.mlp.up_proj.weight is not part of this architecture" in message
    assert len(message.splitlines()) == 3


def test_untied_model_without_its_head_is_refused(directory: Path) -> None:
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": False}))
    assert "lm_head.weight is missing" in refused(directory)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"model_type": "gpt2"}, 'model_type "gpt2" is not supported; supported: llama'),
        ({"model_type": None}, 'model_type "None" is not supported'),
        ({"hidden_act": "gelu"}, "hidden_act = 'gelu' is not supported; expected 'silu'"),
        ({"attention_bias": 1}, "attention_bias = 1 is neither true nor false"),
        ({"rope_parameters": {"rope_type": "su", "factor": 8.0}}, 'rope type "su" is not supported'),
        ({"rope_parameters": None, "rope_scaling": {"type": "longrope", "factor": 2.0}}, 'rope type "longrope" is not'),
        ({"num_key_value_heads": 3}, "num_heads = 4 is not a multiple of num_kv_heads = 3"),
        ({"head_dim": 7}, "head_dim = 7 is odd"),
    ],
)
def test_a_config_that_asks_for_other_arithmetic_is_refused(
    changes: dict[str, object], sentence: str, directory: Path
) -> None:
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, **changes}))
    message = refused(directory)
    assert sentence in message and "config.json" in message


def test_all_missing_keys_of_a_config_are_named_at_once(directory: Path) -> None:
    (directory / "config.json").write_text('{"model_type": "llama", "vocab_size": 97}')
    message = refused(directory)
    for key in ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"):
        assert f"{key} is missing" in message


@pytest.mark.parametrize("kept", [0, 5, 300, -1], ids=["empty", "inside the size", "inside the header", "last byte"])
def test_a_truncated_safetensors_file_is_refused_with_its_name(kept: int, directory: Path) -> None:
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    message = refused(directory)
    assert "model.safetensors is damaged" in message and "\n" not in message


def test_a_lost_shard_is_named(directory: Path) -> None:
    (directory / "model.safetensors").unlink()
    index = {"weight_map": {"model.norm.weight": "model-00002-of-00002.safetensors"}}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "model-00002-of-00002.safetensors is missing" in refused(directory)


def test_an_unreadable_index_of_shards_is_refused(directory: Path) -> None:
    (directory / "model.safetensors").unlink()
    (directory / "model.safetensors.index.json").write_text('{"weight_map": {"model.no')
    assert "model.safetensors.index.json is not valid JSON" in refused(directory)


def test_directories_without_a_config_or_with_a_broken_one_are_refused(directory: Path) -> None:
    (directory / "config.json").write_text("{")
    assert "config.json is not valid JSON" in refused(directory)
    (directory / "config.json").unlink()
    assert "is not a model directory: it has no config.json" in refused(directory)


def test_settings_fill_in_the_shape_that_follows_from_them() -> None:
    config = ModelSettings(hidden_size=96, num_layers=3, num_heads=6).decoder_config(vocab_size=500)
    assert (config.head_dim, config.num_kv_heads, config.intermediate_size) == (16, 6, 256)
    explicit = ModelSettings(hidden_size=96, num_heads=6, num_kv_heads=2, head_dim=8, intermediate_size=80)
    assert explicit.decoder_config(500) == DecoderConfig(
        vocab_size=500, hidden_size=96, intermediate_size=80, num_layers=6, num_heads=6, num_kv_heads=2, head_dim=8,
        max_positions=2048, tie_embeddings=True,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"hidden_size": 100, "num_heads": 3}, "hidden_size = 100 is not a multiple of num_heads = 3"),
        ({"num_heads": 4, "num_kv_heads": 3}, "num_heads = 4 is not a multiple of num_kv_heads = 3"),
        ({"hidden_size": 36, "num_heads": 4}, "head_dim = 9 is odd"),
        ({"hiden_size": 64}, "Extra inputs are not permitted"),
    ],
)
def test_impossible_or_misspelt_shapes_are_refused(values: dict[str, int], sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence):
        ModelSettings(**values)


def test_flops_per_token_counts_six_per_matmul_weight_and_full_attention() -> None:
    # The tied embedding is counted once, as the head; norms are left in, being less than a thousandth.
    weights = sum(weight.numel() for weight in Decoder(SHAPE).parameters())
    attention = 12 * SHAPE.num_layers * SHAPE.num_heads * SHAPE.head_dim * 50
    assert SHAPE.flops_per_token(50) == 6 * weights + attention
