"""Packed weights: every layout is the same model as its dequantised weights, in all families."""

import hashlib
import json
from pathlib import Path

import pytest
import torch
from checkpoint_samples import CONFIGS, tensors_of, write
from model_samples import tiny_model, tokens

from inkstone.errors import InputError
from inkstone.model import load_model, save_model
from inkstone.model.families import family_of
from inkstone.model.files.convert import convert_model
from inkstone.model.files.pieces import by_theirs
from inkstone.model.inspect import inspect_model
from inkstone.model.packed.awq import write_awq
from inkstone.model.packed.compressed_tensors import write_int, write_packed
from inkstone.model.packed.gptq import write_gptq
from inkstone.model.packed.grouped import Grouped, round_to_nearest
from inkstone.model.packed.nf4 import dynamic_levels, quantise_nf4
from inkstone.model.packed.pack import pack_model, packed_maps, prepack_model, unpack_model

WRITERS = {"gptq": write_gptq, "awq": write_awq, "pack-quantized": write_packed, "int-quantized": write_int}
SETTINGS = {
    "gptq": {"quant_method": "gptq", "bits": 4, "group_size": 16, "checkpoint_format": "gptq"},
    "awq": {"quant_method": "awq", "bits": 4, "group_size": 16, "version": "gemm", "zero_point": True},
    "pack-quantized": {
        "quant_method": "compressed-tensors", "format": "pack-quantized",
        "config_groups": {"group_0": {"weights": {"num_bits": 4, "type": "int"}}},
    },
    "int-quantized": {
        "quant_method": "compressed-tensors", "format": "int-quantized",
        "config_groups": {"group_0": {"weights": {"num_bits": 8, "type": "int"}}},
    },
}  # fmt: skip


def quantised(directory: Path, family: str, layout: str, **changes: object) -> Path:
    """A checkpoint of random weights whose linear maps are rounded and written in `layout`."""
    config = {**CONFIGS[family], "quantization_config": {**SETTINGS[layout], **changes}}
    tensors = {}
    ours = by_theirs(family_of(config, "").layout(family_of(config, "").read_config(config, ""), ()))
    for name, tensor in tensors_of(CONFIGS[family]).items():
        kind = ours[name][0].ours
        if tensor.dim() == 2 and not kind.endswith(("embed_tokens.weight", "lm_head.weight", "gate.weight")):
            whole = layout == "int-quantized"
            packed = round_to_nearest(tensor, 8 if whole else 4, tensor.shape[1] if whole else 16)
            parts = WRITERS[layout](packed)
            tensors |= {f"{name.removesuffix('.weight')}.{part}": value.contiguous() for part, value in parts.items()}
        else:
            tensors[name] = tensor
    return write(directory, config, tensors)


@pytest.mark.parametrize("layout", WRITERS)
@pytest.mark.parametrize("family", CONFIGS)
def test_a_packed_directory_is_the_model_of_its_dequantised_weights(tmp_path: Path, family: str, layout: str) -> None:
    directory = quantised(tmp_path / "packed", family, layout)
    packed = load_model(directory)
    assert packed_maps(packed) > 0
    convert_model(directory, tmp_path / "plain")
    plain = load_model(tmp_path / "plain")
    assert packed_maps(plain) == 0
    ids = tokens(2, 9) % 90
    assert torch.allclose(packed(ids), plain(ids), atol=2e-4, rtol=1e-4)
    unpack_model(packed)
    assert torch.allclose(packed(ids), plain(ids), atol=2e-4, rtol=1e-4)
    assert "quantized" in inspect_model(directory).weights


@pytest.mark.parametrize("layout", WRITERS)
def test_layouts_write_what_they_read(layout: str) -> None:
    from inkstone.model.files.quantised import layout_of

    weight = torch.randn(16, 64, generator=torch.Generator().manual_seed(1))
    whole = layout == "int-quantized"
    packed = round_to_nearest(weight, 8 if whole else 4, 64 if whole else 16, symmetric=layout != "awq")
    if layout in ("gptq", "pack-quantized"):
        order = torch.randperm(64, generator=torch.Generator().manual_seed(2))
        packed = Grouped(packed.unpacked(), packed.scales, packed.zeros, 4, 16, order)
    back = layout_of(SETTINGS[layout], "").read(WRITERS[layout](packed), (16, 64), SETTINGS[layout])
    assert torch.equal(back.dequantise(torch.float32), packed.dequantise(torch.float32))


def test_gptq_words_are_those_of_the_field() -> None:
    """Symmetric zeros are 0x77777777 in version 1; nibble i of row r is input channel 8 r + i."""
    codes = (torch.arange(16) % 16)[None].expand(8, 16)
    packed = Grouped(codes, torch.ones(8, 1), torch.full((8, 1), 8), 4, 16)
    parts = write_gptq(packed)
    assert parts["qzeros"].tolist() == [[2004318071]]
    assert [hex(int(word) & 0xFFFFFFFF) for word in parts["qweight"][:, 0]] == ["0x76543210", "0xfedcba98"]


def test_nf4_is_bitsandbytes_to_the_bit() -> None:
    """Digests of what bitsandbytes 0.50.2 made of this weight on a CPU (dequantised in bfloat16)."""
    weight = ((torch.arange(320 * 256) * 7919 % 10007).float() / 5003.5 - 1).pow(3).view(320, 256).bfloat16()
    packed = quantise_nf4(weight)
    made = [packed.codes, packed.absmax, packed.dequantise(torch.bfloat16).view(torch.int16)]
    assert [hashlib.sha256(one.numpy().tobytes()).hexdigest()[:16] for one in made] == GOLDEN
    assert len(dynamic_levels().unique()) == 256


GOLDEN = ["0713700c2610d662", "eaca8696c37ff2d0", "71d923d959a1b799"]


@pytest.mark.parametrize("kind", ["int8", "int4", "nf4"])
@pytest.mark.parametrize("experts", [0, 4])
def test_a_model_packed_in_place_computes_with_its_packed_weights(kind: str, experts: int) -> None:
    model = tiny_model(hidden_size=64, intermediate_size=128, num_experts=experts)
    plain = model(tokens(2, 7))
    pack_model(model, kind)  # type: ignore[arg-type]
    packed = model(tokens(2, 7))
    unpack_model(model)
    assert torch.allclose(packed, model(tokens(2, 7)), atol=1e-3)
    assert not torch.equal(packed, plain)


def test_gradients_reach_the_input_of_a_packed_map() -> None:
    from inkstone.model.packed import PackedLinear

    weight = torch.randn(32, 64, generator=torch.Generator().manual_seed(0))
    module, x = PackedLinear(quantise_nf4(weight)), torch.randn(3, 64, requires_grad=True)
    module(x).square().sum().backward()
    given = x.grad
    x.grad = None
    torch.nn.functional.linear(x, module.weight).square().sum().backward()
    assert given is not None and torch.allclose(given, x.grad)  # type: ignore[arg-type]


def test_the_int4_kernel_multiplies_with_the_same_weight() -> None:
    generator = torch.Generator().manual_seed(0)
    weight, x = torch.randn(64, 256, generator=generator), torch.randn(4, 256, generator=generator).bfloat16()
    for symmetric in (True, False):
        packed = round_to_nearest(weight, 4, 64, symmetric)
        order = torch.randperm(256, generator=generator)
        for one in (packed, Grouped(packed.unpacked(), packed.scales, packed.zeros, 4, 64, order)):
            fast, exact = one.product(x), x.float() @ one.dequantise(torch.float32).T
            assert fast is not None
            assert float((fast.float() - exact).norm() / exact.norm()) < 0.01


@pytest.mark.parametrize(
    ("layout", "part", "changes", "sentence"),
    [
        ("gptq", "scales", {}, "scales is missing"),
        ("gptq", "", {"bits": 3}, "3 bits are not read"),
        ("awq", "", {"group_size": 24}, "contradict group_size"),
        ("gptq", "", {"quant_method": "hqq"}, "quantized (hqq), which is not read"),
        ("pack-quantized", "", {"format": "nvfp4"}, "format nvfp4 is not read"),
    ],
)
def test_a_damaged_quantised_directory_is_one_clear_sentence(
    tmp_path: Path, layout: str, part: str, changes: dict[str, object], sentence: str
) -> None:
    directory = quantised(tmp_path / "packed", "llama", layout, **changes)
    if part:
        from safetensors.torch import load_file, save_file

        path = directory / "model.safetensors"
        tensors = load_file(path)
        save_file({name: value for name, value in tensors.items() if not name.endswith(f".{part}")}, path)
    with pytest.raises(InputError, match=sentence.replace("(", r"\(").replace(")", r"\)")):
        load_model(directory)
    json.loads((directory / "config.json").read_text())


@pytest.mark.parametrize(("rows", "speedup"), [(2, 0.5), (30, 0.5), (30, 4.0)])
def test_prepacked_weights_are_the_same_numbers_and_no_gradient_is_promised(
    rows: int, speedup: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Few rows, and many on a CPU that multiplies bfloat16 slowly or fast."""
    monkeypatch.setattr("inkstone.model.packed.linear.bfloat16_speedup", lambda: speedup)
    model, plain = (tiny_model(num_experts=0).to(torch.bfloat16) for _ in range(2))
    prepack_model(model)
    assert packed_maps(model) == 15
    with torch.inference_mode():
        torch.testing.assert_close(model(tokens(rows, 9)), plain(tokens(rows, 9)), atol=0.15, rtol=0.05)
    unpack_model(model)
    ours, theirs = model.state_dict(), plain.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_weights_stay_those_of_the_mapped_file_where_copies_would_not_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model(num_experts=0).to(torch.bfloat16)
    save_model(model, tmp_path / "m", bos_id=0, eos_id=1, pad_id=2, stop_ids=[1])
    loaded = load_model(tmp_path / "m")
    places = {name: weight.data_ptr() for name, weight in loaded.named_parameters()}
    monkeypatch.setattr("inkstone.model.packed.pack.free_bytes", lambda: 1e3)
    prepack_model(loaded)
    assert packed_maps(loaded) == 0
    assert {name: weight.data_ptr() for name, weight in loaded.named_parameters()} == places
    monkeypatch.undo()
    prepack_model(loaded)
    assert packed_maps(loaded) == 15


@pytest.mark.parametrize("rows", [1, 8, 9, 70])
def test_int8_products_are_those_of_the_dequantised_weight(rows: int) -> None:
    draw = torch.Generator().manual_seed(3)
    packed = round_to_nearest(torch.randn(48, 64, generator=draw), 8, 64)
    x = torch.randn(rows, 64, generator=draw).bfloat16()
    found = packed.product(x)
    assert found is not None and found.shape == (rows, 48)
    exact = x.float() @ packed.dequantise(torch.float32).T
    torch.testing.assert_close(found.float(), exact, atol=0.12, rtol=0.02)
    assert packed.product(x.float()) is None, "torch's kernel is slower than a product in float32"
