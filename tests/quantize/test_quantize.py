"""GPTQ and rounding: what is written opens as what was computed, and GPTQ loses less than rounding."""

import json
from functools import partial
from pathlib import Path

import pytest
import torch

from inkstone.errors import InputError
from inkstone.model import load_model, save_model
from inkstone.model.decoder.config import DecoderConfig
from inkstone.model.decoder.decoder import Decoder, initialise
from inkstone.model.packed.grouped import round_to_nearest
from inkstone.model.packed.pack import pack_model, packed_maps
from inkstone.progress import Silent
from inkstone.quantize import Quantization, quantize_model
from inkstone.quantize import model as quantizing
from inkstone.quantize.awq import _best_scale, clipped, scale_block
from inkstone.quantize.blocks import _gather
from inkstone.quantize.gptq import Hessian, gptq

SHAPES = {
    "llama": {},
    "mixtral": {"num_experts": 4},
    "baichuan": {"position": "alibi", "num_kv_heads": 4},
    "chatglm": {"rotary_dim": 8, "qkv_bias": True},
    "bloom": {
        "norm": "layer", "embedding_norm": True, "position": "alibi", "num_kv_heads": 4, "tie_embeddings": True,
        "qkv_bias": True, "out_bias": True, "mlp_bias": True, "gated": False, "activation": "gelu_tanh",
        "intermediate_size": 256,
    },
}  # fmt: skip
SMALL = {"samples": 8, "length": 32, "group_size": 32}


def directory(path: Path, family: str) -> Path:
    settings = {
        "vocab_size": 96, "hidden_size": 64, "intermediate_size": 96, "num_layers": 2, "num_heads": 4,
        "num_kv_heads": 2, "head_dim": 16, "max_positions": 64, "norm_eps": 1e-6 if family != "bloom" else 1e-5,
    }  # fmt: skip
    model = Decoder(DecoderConfig(**{**settings, **SHAPES[family]}))  # type: ignore[arg-type]
    initialise(model, torch.Generator().manual_seed(1))
    save_model(model, path, bos_id=1, eos_id=2, pad_id=0, stop_ids=[2])
    return path


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> torch.Tensor:
    """Calibration ids in the place of encoded text: these directories have no vocabulary."""
    ids = torch.randint(0, 90, (8, 32), generator=torch.Generator().manual_seed(2))
    monkeypatch.setattr(quantizing, "_calibration", lambda source, path, how: ids)
    return ids


@pytest.mark.parametrize("family", SHAPES)
@pytest.mark.parametrize(("layout", "act_order"), [("gptq", True), ("awq", False), ("compressed-tensors", False)])
def test_what_is_written_opens_packed_and_near_the_original(
    tmp_path: Path, rows: torch.Tensor, family: str, layout: str, act_order: bool
) -> None:
    source = directory(tmp_path / "source", family)
    how = Quantization("gptq", layout=layout, act_order=act_order, **SMALL)  # type: ignore[arg-type]
    quantize_model(source, tmp_path / "target", how)
    plain, packed = load_model(source), load_model(tmp_path / "target")
    assert packed_maps(packed) == (2 * 6 if family in ("mixtral", "bloom") else 2 * 7)
    with torch.no_grad():
        difference = (packed(rows) - plain(rows)).norm() / plain(rows).norm()
    assert 0 < float(difference) < 0.2
    assert not (tmp_path / "target.partial").exists()


@pytest.mark.parametrize("family", SHAPES)
@pytest.mark.parametrize("layout", ["awq", "gptq"])
def test_awq_opens_packed_and_near_the_original(tmp_path: Path, rows: torch.Tensor, family: str, layout: str) -> None:
    source = directory(tmp_path / "source", family)
    quantize_model(source, tmp_path / "target", Quantization("awq", layout=layout, **SMALL))  # type: ignore[arg-type]
    plain, packed = load_model(source), load_model(tmp_path / "target")
    with torch.no_grad():
        difference = (packed(rows) - plain(rows)).norm() / plain(rows).norm()
    assert packed_maps(packed) and 0 < float(difference) < 0.2


@pytest.mark.parametrize("family", SHAPES)
def test_scales_change_weights_and_not_what_the_block_computes(tmp_path: Path, family: str) -> None:
    model = load_model(directory(tmp_path / "source", family)).float()
    block = model.model.layers[0]
    draws = torch.Generator().manual_seed(3)
    loud = torch.ones(64)
    loud[[3, 17]] = 30.0
    block.input_layernorm.weight.data.mul_(loud)
    block.post_attention_layernorm.weight.data.mul_(loud)
    states = [torch.randn(2, 16, 64, generator=draws)]
    run = partial(quantizing._through, model, block, states)
    with torch.no_grad():
        before, old = run()[0], block.self_attn.q_proj.weight.clone()
        folded = scale_block(block, _gather(block, run), Quantization("awq", group_size=32))
        after = run()[0]
    torch.testing.assert_close(after, before, atol=2e-4, rtol=1e-3)
    grown = (block.self_attn.q_proj.weight.detach() / old)[0]
    assert min(grown[3], grown[17]) > 1.5 * float(grown.median())
    assert ("mlp.gate.weight" in folded) == (family == "mixtral") and "input_layernorm.weight" in folded


def test_awq_loses_less_than_rounding_where_some_columns_are_loud() -> None:
    draws = torch.Generator().manual_seed(0)
    loud = torch.ones(64)
    loud[::16] = 40.0
    x, weight = torch.randn(2000, 64, generator=draws) * loud, torch.randn(32, 64, generator=draws)
    hessian, how = Hessian(64), Quantization("awq", group_size=32)
    hessian.add(x)
    rounded = round_to_nearest(weight, 4, 32).dequantise(torch.float32)
    scale = _best_scale([weight], [hessian], how)
    scaled = round_to_nearest(weight * scale, 4, 32).dequantise(torch.float32) / scale
    drawn_in = clipped(weight, hessian, how, 32).dequantise(torch.float32)
    lost = [float((x @ (one - weight).T).square().mean()) for one in (rounded, scaled, drawn_in)]
    assert lost[1] < 0.7 * lost[0] and lost[2] <= lost[0]


@pytest.mark.parametrize("act_order", [False, True])
def test_gptq_loses_less_than_rounding_where_inputs_are_correlated(act_order: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    spread = torch.randn(2000, 8, generator=generator) @ torch.randn(8, 64, generator=generator)
    x, weight = spread + 0.1 * torch.randn(2000, 64, generator=generator), torch.randn(32, 64, generator=generator)
    hessian = Hessian(64)
    hessian.add(x)
    ours = gptq(weight, hessian, 4, 32, act_order=act_order)
    rounded = round_to_nearest(weight, 4, 32)
    lost = [float((x @ (one.dequantise(torch.float32) - weight).T).square().mean()) for one in (ours, rounded)]
    assert lost[0] < 0.6 * lost[1]


def test_gptq_of_uncorrelated_inputs_is_rounding() -> None:
    weight, hessian = torch.randn(8, 64, generator=torch.Generator().manual_seed(0)), Hessian(64)
    hessian.add(torch.eye(64))
    assert torch.equal(
        gptq(weight, hessian, 4, 32).dequantise(torch.float32),
        round_to_nearest(weight, 4, 32).dequantise(torch.float32),
    )


class Stopped(Silent):
    def advance(self, done: float, total: float | None, unit: str, **fields: object) -> None:
        raise KeyboardInterrupt


def test_a_killed_call_goes_on_and_writes_the_same_bytes(tmp_path: Path, rows: torch.Tensor) -> None:
    source, how = directory(tmp_path / "source", "llama"), Quantization("gptq", **SMALL)  # type: ignore[arg-type]
    with pytest.raises(KeyboardInterrupt):
        quantize_model(source, tmp_path / "a", how, progress=Stopped())
    first = tmp_path / "a.partial" / "layer-00000.safetensors"
    made = first.stat().st_mtime_ns
    with pytest.raises(KeyboardInterrupt):
        quantize_model(source, tmp_path / "a", how, progress=Stopped())
    assert first.stat().st_mtime_ns == made
    quantize_model(source, tmp_path / "a", how)
    quantize_model(source, tmp_path / "b", how)
    a, b = (tmp_path / name / "model.safetensors" for name in "ab")
    assert a.read_bytes() == b.read_bytes()


def test_w8a8_and_rounding_need_no_text(tmp_path: Path) -> None:
    source = directory(tmp_path / "source", "llama")
    quantize_model(source, tmp_path / "w8a8", Quantization("rtn", bits=8, group_size=-1))
    settings = json.loads((tmp_path / "w8a8" / "config.json").read_text())["quantization_config"]
    assert settings["format"] == "int-quantized"
    assert packed_maps(load_model(tmp_path / "w8a8")) == 14


@pytest.mark.parametrize("family", SHAPES)
def test_nf4_is_written_as_packing_on_the_fly_computes_it(tmp_path: Path, family: str) -> None:
    source = directory(tmp_path / "source", family)
    quantize_model(source, tmp_path / "nf4", Quantization("nf4", group_size=64, layout="bitsandbytes"))
    stored, on_the_fly = load_model(tmp_path / "nf4"), load_model(source)
    pack_model(on_the_fly, "nf4")
    assert packed_maps(stored) == packed_maps(on_the_fly) > 0
    ids = torch.arange(24).view(2, 12)
    with torch.no_grad():
        torch.testing.assert_close(stored(ids), on_the_fly(ids), atol=2e-3, rtol=2e-2)
    settings = json.loads((tmp_path / "nf4" / "config.json").read_text())["quantization_config"]
    assert settings["bnb_4bit_quant_type"] == "nf4" and settings["load_in_4bit"] is True


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        (Quantization("nf4"), "--method nf4 is bitsandbytes' form"),
        (Quantization("rtn", layout="bitsandbytes"), "is for --method nf4 alone"),
        (Quantization("awq"), "--method awq needs --calibration FILE"),
        (Quantization(bits=3), "--bits 3 is not written"),
        (Quantization("rtn", group_size=48), "which groups of 48 do not divide: choose --group-size 64"),
        (Quantization("gptq"), "needs --calibration FILE"),
        (Quantization("rtn", bits=8, layout="awq"), "--layout awq has 4 bits only"),
    ],
)
def test_what_cannot_be_quantised_is_said_first(tmp_path: Path, how: Quantization, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        quantize_model(directory(tmp_path / "source", "llama"), tmp_path / "target", how)
    assert not (tmp_path / "target").exists()


def test_a_quantised_model_is_not_quantised_again(tmp_path: Path) -> None:
    source = directory(tmp_path / "source", "llama")
    quantize_model(source, tmp_path / "once", Quantization("rtn", group_size=32))
    with pytest.raises(InputError, match="quantized already"):
        quantize_model(tmp_path / "once", tmp_path / "twice", Quantization("rtn", group_size=32))
