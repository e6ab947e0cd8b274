"""What stays in the mapped file or beside a GPU: the same numbers, and the bytes that were promised."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_samples import CONFIGS, tensors_of, write
from model_samples import tiny_model, tokens
from test_model_packed import quantised

from inkstone.errors import InputError
from inkstone.generate import Engine, Request, SamplingSettings
from inkstone.model import Decoder, DecoderConfig, load_model, open_directory
from inkstone.model.families import family_of
from inkstone.model.files.offload import Offload, leaving
from inkstone.model.files.weights import decoder_shapes
from inkstone.model.gguf.blocks import BLOCKS
from inkstone.model.inspect import presets
from inkstone.model.packed.as_stored import Lane, Stored
from inkstone.model.packed.linear import PackedExperts

GIB = 2**30
MAPPED = Offload(mapped=True)
BF16, F16, F32 = torch.bfloat16, torch.float16, torch.float32
STACKED = tuple(f"model.layers.{n}.mlp.experts.{part}" for n in range(2) for part in ("gate_up_proj", "down_proj"))


def stored_of(model: Decoder) -> list[Stored]:
    return [module for module in model.modules() if isinstance(module, Stored)]


def plain(directory: Path, family: str, dtype: torch.dtype, names: tuple[str, ...] = (), **changes: object) -> Path:
    config = {**CONFIGS[family], **changes, "torch_dtype": str(dtype).removeprefix("torch.")}
    return write(directory, config, {name: value.to(dtype) for name, value in tensors_of(config, names).items()})


@torch.inference_mode()
def assert_equal_bits(one: Decoder, other: Decoder) -> None:
    for rows in (tokens(1, 1) % 90, tokens(3, 9) % 90):
        assert torch.equal(one(rows), other(rows))


@pytest.mark.parametrize(
    ("family", "names", "stored", "asked"),
    [
        ("mixtral", (), BF16, None),
        ("mixtral", (), F16, BF16),
        ("mixtral", STACKED, BF16, F32),
        ("llama", (), BF16, F32),
        ("bloom", (), F32, BF16),
    ],
)
def test_a_model_left_in_its_file_computes_the_copied_models_bits(
    tmp_path: Path, family: str, names: tuple[str, ...], stored: torch.dtype, asked: torch.dtype | None
) -> None:
    directory = plain(tmp_path / "m", family, stored, names)
    mapped = load_model(directory, asked, offload=MAPPED)
    assert_equal_bits(load_model(directory, asked), mapped)
    experts = {name: tensor for name, tensor in tensors_of(CONFIGS[family], names).items() if "experts" in name}
    held = sum(one.num_bytes for one in stored_of(mapped))
    if experts and asked is None:
        assert held == sum(tensor.numel() for tensor in experts.values()) * stored.itemsize
    assert not any("experts" in name for name, _ in mapped.named_parameters())


@pytest.mark.parametrize("layout", ["gptq", "awq", "int-quantized", "gguf"])
def test_packed_experts_are_unpacked_only_where_they_are_chosen(tmp_path: Path, layout: str) -> None:
    directory = packed_mixture(tmp_path, layout)
    mapped = load_model(directory, offload=MAPPED)
    assert_equal_bits(load_model(directory), mapped)
    asked: list[Stored] = []
    for one in stored_of(mapped):
        one.unpack = spied(one, asked)
    with torch.inference_mode():
        mapped(torch.tensor([[5]]))
    of_experts = {one for module in mapped.modules() if isinstance(module, PackedExperts) for one in module.modules()}
    assert sum(one in of_experts for one in asked) == 2 * 2 * 3, "two layers, two experts a token, gate, up and down"
    assert len(asked) == len(set(asked)), "each is unpacked once for its product"


def spied(one: Stored, asked: list[Stored]) -> Any:
    unpack = one.unpack
    assert unpack is not None

    def seen(parts: Any) -> Any:
        asked.append(one)
        return unpack(parts)

    return seen


def packed_mixture(path: Path, layout: str, hidden_size: int = 64, intermediate_size: int = 96) -> Path:
    if layout != "gguf":
        return quantised(path / "m", "mixtral", layout)
    pytest.importorskip("gguf")
    from test_model_gguf import directory

    from inkstone.model.gguf import write_gguf
    from inkstone.progress import Silent
    from inkstone.tokenizer import TokenizerSettings
    from inkstone.tokenizer.bpe.train import train

    vocabulary = train(TokenizerSettings(vocab_size=400), [(["你好，世界！Hello 12 world the then"] * 3, 1.0)])[0]
    source = directory(path / "m", "mixtral", vocabulary, hidden_size=hidden_size, intermediate_size=intermediate_size)
    write_gguf(source, path / "m.gguf", "q4_0", Silent())
    return path / "m.gguf"


def test_nothing_leaves_where_all_can_be_copied_and_what_has_left_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    directory = plain(tmp_path / "m", "mixtral", BF16)
    assert not stored_of(load_model(directory, offload=Offload())) and not caplog.text
    # One layer's experts fit into half of what is free.
    monkeypatch.setattr("inkstone.model.files.offload.free_bytes", lambda: 2 * 4 * 3 * 32 * 48 * 2.0)
    model = load_model(directory, offload=Offload())
    assert len(stored_of(model)) == 4 * 3 and isinstance(model.model.layers[1].mlp.experts.down_proj, PackedExperts)
    assert "the experts of 1 of 2 layers (0.00 GiB) stay in the mapped file" in caplog.text


@pytest.mark.parametrize("name", ["mixtral", "gguf", "llama"])
def test_what_does_not_fit_is_brought_weight_by_weight_and_computes_the_same(tmp_path: Path, name: str) -> None:
    """A CPU stands in for the GPU: what is brought is copied there too. At the smallest budget everything leaves."""
    wide = {"hidden_size": 256, "intermediate_size": 1024}
    directory = packed_mixture(tmp_path, name, **wide) if name == "gguf" else plain(tmp_path / "m", name, BF16, **wide)
    how = Offload(gpu_gib=0.01, cache_gib=0.001, device="cpu")
    with pytest.raises(InputError, match="too small") as told:
        load_model(directory, offload=how)
    least = float(str(told.value).split()[-1])
    with pytest.raises(InputError, match="too small"):
        load_model(directory, offload=replace(how, gpu_gib=least - 0.001))
    model = load_model(directory, offload=replace(how, gpu_gib=least))
    assert_equal_bits(load_model(directory), model)
    outside = [one for one in stored_of(model) if one.lane]
    [lane] = {one.lane for one in outside}
    assert isinstance(lane, Lane)
    before = lane.num_bytes
    with torch.inference_mode():
        model(torch.tensor([[5]]))
    brought = lane.num_bytes - before
    if name == "llama":
        assert len(outside) == 2 * 7 and list(lane.coming) == outside[:1], "the next step's first is on its way"
        assert brought == sum(one.num_bytes for one in outside)
    else:
        held = [one for module in model.modules() if isinstance(module, PackedExperts) for one in module.modules()]
        experts = sum(one.num_bytes for one in held if isinstance(one, Stored))
        assert brought - experts * 2 / 4 < experts / 8, "two of four are chosen"


def test_a_budget_bounds_the_engines_keys_and_values() -> None:
    model = tiny_model()
    model.cache_tokens = 32
    engine = Engine(model, 10**6)
    with pytest.raises(InputError, match="more than the engine's 32"):
        engine.submit(Request([5] * 20, SamplingSettings(max_new_tokens=20), {1}))
    engine.submit(Request([5] * 20, SamplingSettings(max_new_tokens=4), {1}))
    assert Offload(cache_gib=1).cache_tokens(read_preset("mixtral-8x7b"), BF16) == 8192


def read_preset(name: str) -> DecoderConfig:
    values = presets()[name]
    return family_of(values, name).read_config(values, name)


def q2_k_bytes(config: DecoderConfig) -> dict[str, float]:
    """As llama.cpp's q2_K stores a mixture, but embedding and head plain, as they are here."""
    kinds = {"down_proj": "q3_K", "gate_up_proj": "q2_K", "o_proj.weight": "q3_K", "v_proj.weight": "q4_K"}
    sizes = {}
    for name, shape in decoder_shapes(config).items():
        kind = kinds.get(name.partition("_attn.")[2] or name.rpartition(".")[2], "q2_K")
        block = BLOCKS[kind]
        each = block.size / block.weights if "layers" in name and len(shape) > 1 and "gate.weight" not in name else 2
        sizes[name] = torch.Size(shape).numel() * each
    return sizes


def test_huozis_mixture_in_two_bits_leaves_layer_by_layer_experts_first() -> None:
    """Its readme: 18 GB whole, 9.6 GB with 16 layers offloaded; here attention, embedding and head stay."""
    config = replace(read_preset("mixtral-8x7b"), vocab_size=57000)
    sizes = q2_k_bytes(config)
    assert 17.2e9 < sum(sizes.values()) < 18.2e9
    gone = leaving(sizes, 9.6e9)
    assert gone[:2] == [f"model.layers.31.mlp.experts.{part}" for part in ("gate_up_proj", "down_proj")]
    assert len(gone) == 2 * 17 and all(".experts." in name for name in gone)
    left = {name: size for name, size in sizes.items() if name not in gone}
    assert sum(left.values()) <= 9.6e9 < sum(left.values()) + sum(sizes[name] for name in gone[-2:])
    assert leaving(sizes, sum(sizes.values())) == [] and len(leaving(sizes, 0)) == 32 * (2 + 4)


def test_what_cannot_be_is_one_sentence(tmp_path: Path) -> None:
    directory = plain(tmp_path / "m", "mixtral", BF16)
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="there is no GPU here"):
            open_directory(directory, offload=Offload(gpu_gib=8))
    with pytest.raises(InputError, match="inkstone quantize"):
        open_directory(directory, quantize="int4", offload=MAPPED)
    tensors = {name: value.to(BF16) for name, value in tensors_of(CONFIGS["mixtral"]).items()}
    broken = "model.layers.1.block_sparse_moe.experts.3.w2.weight"
    tensors[broken][0, 0] = torch.nan
    write(directory, CONFIGS["mixtral"], tensors)
    with pytest.raises(InputError, match=broken):
        load_model(directory, offload=MAPPED)
    damaged = quantised(tmp_path / "q", "mixtral", "gptq", group_size=24)
    with pytest.raises(InputError, match="contradict group_size"):
        load_model(damaged, offload=MAPPED)
