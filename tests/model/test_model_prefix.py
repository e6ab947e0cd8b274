"""Prefixes: what a cache that begins with them gives; PEFT's logits; off is the base; files of another base refused."""

import copy
import json
from pathlib import Path

import pytest
import torch
from model_samples import tiny_model, tokens

from inkstone.errors import InputError
from inkstone.model import BlockPool, CacheContext, Decoder, DecoderConfig, ModelSettings, Span, load_model, save_model
from inkstone.model.decoder.lora import adapter_off, attach_prefix
from inkstone.model.decoder.position import rotary_angles
from inkstone.model.decoder.prefix import Prefix, draw_prefix
from inkstone.model.families import position_after_prefix
from inkstone.model.files.adapter import load_adapter, save_adapter
from inkstone.train import new_model

KINDS: dict[str, dict[str, object]] = {
    "llama": {},
    "baichuan": {"position": "alibi", "num_heads": 6, "num_kv_heads": 6},
    "chatglm2": {"rotary_dim": 4, "qkv_bias": True},
    "mixtral": {"num_experts": 4},
    "bloom": {"position": "alibi", "num_kv_heads": 4, "norm": "layer", "gated": False, "activation": "gelu_tanh"},
}
TEXT = torch.arange(24).view(2, 12) * 3 % 61


@torch.no_grad()
@pytest.mark.parametrize("counted", [True, False], ids=["transformers", "ChatGLM2"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_prefix_is_a_cache_that_begins_with_it(kind: str, counted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers as a prefix encoder lays them, written where a cache keeps keys and values; the text after them."""
    length, model, row = 20, tiny_model(**KINDS[kind]), tokens(1, 30)
    base, shape = model(row), model.config
    numbers = torch.randn(length, shape.num_layers * 2 * shape.num_kv_heads * shape.head_dim)
    pairs = numbers.view(length, shape.num_layers * 2, shape.num_kv_heads, -1).permute(1, 2, 0, 3).split(2)
    pool = BlockPool(shape.num_layers, 4)
    for layer, (keys, values) in enumerate(pairs):
        pool.write(layer, torch.arange(length), keys, values)
    with monkeypatch.context() as patch:
        if not counted:
            where = "inkstone.model.decoder.decoder.rotary_angles"
            patch.setattr(where, lambda config, positions_BT: rotary_angles(config, positions_BT - length))
        expected = model(row, CacheContext(pool, [Span(range(4), length, 30)]))
    attach_prefix(model, Prefix(torch.stack(pairs), length if counted else 0))
    torch.testing.assert_close(model(row), expected, atol=5e-5, rtol=1e-4)
    assert not torch.allclose(expected, base, atol=0.1)
    with adapter_off(model):
        assert torch.equal(model(row), base)


@torch.no_grad()
def test_a_window_never_closes_the_prefix() -> None:
    model = tiny_model(prefix=4, sliding_window=3)
    assert model.model.prefix
    before = model(tokens(1, 40))
    model.model.prefix.numbers.mul_(2)
    assert (before[0, -1] - model(tokens(1, 40))[0, -1]).abs().max() > 0.01


def test_only_the_prefix_trains_and_recomputed_activations_give_its_gradient() -> None:
    model, gradients = tiny_model(prefix=6), []
    assert [name for name, weight in model.named_parameters() if weight.requires_grad] == ["model.prefix.numbers"]
    for model.model.recompute in (False, True):
        loss = model(tokens(2, 20)).logsumexp(-1).sum()
        gradients += torch.autograd.grad(loss, [weight for weight in model.parameters() if weight.requires_grad])
    assert bool(gradients[0].any()) and torch.equal(*gradients)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("base")
    shape = ModelSettings(hidden_size=32, num_layers=2, num_heads=4, num_kv_heads=2, max_positions=64)
    save_model(new_model(shape, 61, 1), directory, bos_id=0, eos_id=1, pad_id=2, stop_ids=[1])
    return directory


def with_prefix(base: Path, length: int = 5) -> Decoder:
    model = load_model(base, torch.float32)
    attach_prefix(model, draw_prefix(model.config, length, length, torch.Generator().manual_seed(2)))
    return model


@torch.no_grad()
@pytest.mark.parametrize("family", ["llama", "bloom"])
def test_peft_opens_our_prefix_and_we_its_with_the_same_logits(family: str, base: Path, tmp_path: Path) -> None:
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    if family == "bloom":
        base = tmp_path / "bloom"
        shape = DecoderConfig(61, 32, 128, 2, 4, 4, 8, 2048, position="alibi", norm="layer", gated=False,
                              activation="gelu_tanh", embedding_norm=True, qkv_bias=True, out_bias=True, mlp_bias=True,
                              tie_embeddings=True)  # fmt: skip
        save_model(Decoder(shape), base, bos_id=0, eos_id=1, pad_id=2, stop_ids=[1])
    model = with_prefix(base)
    save_adapter(model, tmp_path / "ours", str(base))

    def plain() -> object:
        return transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)

    oracle = peft.PeftModel.from_pretrained(plain(), tmp_path / "ours").eval()
    torch.testing.assert_close(model(TEXT), oracle(TEXT).logits, atol=1e-5, rtol=1e-5)
    torch.manual_seed(3)
    made = peft.get_peft_model(plain(), peft.PrefixTuningConfig(num_virtual_tokens=7, task_type="CAUSAL_LM")).eval()
    made.save_pretrained(tmp_path / "theirs")
    model = load_model(base, torch.float32)
    load_adapter(model, tmp_path / "theirs")
    torch.testing.assert_close(model(TEXT), made(TEXT).logits, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_checkpoint_of_chatglm2s_trainer_is_a_prefix(tmp_path: Path) -> None:
    """Its trainer saves the prefix encoder's table alone, in float16; its model views a row as [L x 2, K, d]."""
    model = tiny_model(**KINDS["chatglm2"])
    config, rows = model.config, torch.randn(5, 2 * 2 * model.config.num_kv_heads * model.config.head_dim).half()
    torch.save({"transformer.prefix_encoder.embedding.weight": rows}, tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text('{"pre_seq_len": 5}')
    expected = copy.deepcopy(model)
    keys_and_values = rows.float().view(5, config.num_layers * 2, config.num_kv_heads, config.head_dim)
    numbers = torch.stack(keys_and_values.permute(1, 2, 0, 3).split(2))
    attach_prefix(expected, Prefix(numbers, position_after_prefix(config, 5)))
    load_adapter(model, tmp_path)
    torch.testing.assert_close(model(TEXT), expected(TEXT))
    torch.save({"transformer.word_embeddings.weight": rows}, tmp_path / "pytorch_model.bin")
    with pytest.raises(
        InputError, match=r"is no adapter: it has no adapter_config\.json, and its weights no transformer"
    ):
        load_adapter(model, tmp_path)
    torch.save({"transformer.prefix_encoder.embedding.weight": rows[:, :-2]}, tmp_path / "pytorch_model.bin")
    with pytest.raises(InputError, match="is for another base"):
        load_adapter(model, tmp_path)


@torch.no_grad()
def test_a_model_directory_keeps_its_prefix_and_a_second_one_is_refused(base: Path, tmp_path: Path) -> None:
    model = with_prefix(base)
    save_model(model, tmp_path / "whole", bos_id=0, eos_id=1, pad_id=2, stop_ids=[1])
    again = load_model(tmp_path / "whole")
    assert torch.equal(again(TEXT), model(TEXT)) and all(weight.requires_grad for weight in again.parameters())
    with adapter_off(again):
        assert torch.equal(again(TEXT), model(TEXT)), "a prefix of the base is no adapter"
    save_adapter(model, tmp_path / "adapter", str(base))
    with pytest.raises(InputError, match="a model takes one"):
        load_adapter(again, tmp_path / "adapter")


def test_a_prefix_that_does_not_fit_is_refused_by_its_numbers(base: Path, tmp_path: Path) -> None:
    save_adapter(with_prefix(base), tmp_path, str(base))
    other = new_model(ModelSettings(hidden_size=32, num_layers=3, num_heads=4, num_kv_heads=2, max_positions=64), 61, 1)
    with pytest.raises(InputError, match=r"is \[5, 64\]; this model wants rows of 96 numbers, for 3 layers and 2 key"):
        load_adapter(other, tmp_path)
    told = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps({**told, "first_position": 3}))
    with pytest.raises(InputError, match="first_position = 3; a text begins at 0 or at 5"):
        load_adapter(load_model(base), tmp_path)
    model = with_prefix(base)
    with torch.no_grad():
        model.model.prefix.numbers[0, 0, 0, 0, 0] = torch.nan  # type: ignore[union-attr]
    save_adapter(model, tmp_path, str(base))
    with pytest.raises(InputError, match="prompt_embeddings holds NaN"):
        load_adapter(load_model(base), tmp_path)


@torch.no_grad()
def test_a_chatglm2s_prefix_says_that_its_text_begins_at_zero(tmp_path: Path) -> None:
    shape = DecoderConfig(61, 32, 48, 2, 4, 2, 8, 64, rotary_dim=4, qkv_bias=True)
    save_model(Decoder(shape), tmp_path / "base", bos_id=0, eos_id=1, pad_id=2, stop_ids=[1])
    model = load_model(tmp_path / "base")
    attach_prefix(model, draw_prefix(shape, 5, 0, torch.Generator()))
    save_adapter(model, tmp_path / "adapter", "base")
    config = tmp_path / "adapter" / "adapter_config.json"
    told = json.loads(config.read_text())
    assert told.pop("first_position") == 0
    for written in (told, {**told, "first_position": 5}):  # without the key it is the family's own way
        config.write_text(json.dumps(written))
        again = load_model(tmp_path / "base")
        load_adapter(again, tmp_path / "adapter")
        assert torch.equal(again(TEXT), model(TEXT)) == ("first_position" not in written)
