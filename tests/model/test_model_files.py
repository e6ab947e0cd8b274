"""Files of weights: read as the safetensors library reads them, written as it expects, refused when damaged."""

import json
import logging
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_samples import CONFIGS, Tensors, sample, tensors_of, write
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from inkstone.errors import InputError
from inkstone.model import load_model
from inkstone.model.files.safetensors_file import Entry, SafetensorsFile, write_safetensors
from inkstone.model.files.stored import Checkpoint

DTYPES = [
    torch.float32,
    torch.bfloat16,
    torch.float16,
    torch.float64,
    torch.int64,
    torch.int32,
    torch.uint8,
    torch.bool,
]
Shapes = st.lists(st.tuples(st.lists(st.integers(0, 5), max_size=3), st.sampled_from(DTYPES)), max_size=8)


def bits(tensor: torch.Tensor) -> tuple[object, ...]:
    return tensor.dtype, tensor.shape, tensor.contiguous().view(-1).view(torch.uint8).tolist()


@settings(max_examples=40, deadline=None)
@given(Shapes)
def test_files_pass_between_the_library_and_ours_bit_by_bit(
    tmp_path_factory: pytest.TempPathFactory, shapes: list[tuple[list[int], torch.dtype]]
) -> None:
    folder = tmp_path_factory.mktemp("files")
    tensors = {f"t{number}": (torch.randn(shape) * 100).to(dtype) for number, (shape, dtype) in enumerate(shapes)}
    save_file(tensors, folder / "theirs.safetensors")
    entries = {name: Entry(tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}
    write_safetensors(folder / "ours.safetensors", entries, tensors.__getitem__)
    read_here = SafetensorsFile(folder / "theirs.safetensors")
    read_there = load_file(folder / "ours.safetensors")
    assert read_here.entries == entries and read_there.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert bits(read_here.tensor(name)) == bits(read_there[name]) == bits(tensor)


def header_of(path: Path) -> tuple[dict[str, Any], bytes]:
    raw = path.read_bytes()
    length = struct.unpack("<Q", raw[:8])[0]
    return json.loads(raw[8 : 8 + length]), raw[8 + length :]


def longer(raw: dict[str, Any]) -> None:
    raw["a"]["data_offsets"][1] += 4


def wider(raw: dict[str, Any]) -> None:
    raw["a"]["shape"] = [5]


def overlapping(raw: dict[str, Any]) -> None:
    raw["b"]["data_offsets"] = raw["a"]["data_offsets"]
    raw["b"]["shape"] = raw["a"]["shape"]


def negative(raw: dict[str, Any]) -> None:
    raw["a"]["shape"] = [-2, -2]


def without_offsets(raw: dict[str, Any]) -> None:
    del raw["a"]["data_offsets"]


@pytest.mark.parametrize("lie", [longer, wider, overlapping, negative, without_offsets])
def test_a_header_that_lies_is_refused_here_as_by_the_library(
    lie: Callable[[dict[str, Any]], None], tmp_path: Path
) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"a": torch.ones(4), "b": torch.ones(2)}, path)
    header, data = header_of(path)
    lie(header)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    with pytest.raises(SafetensorError):
        load_file(path)
    with pytest.raises(InputError, match=r"model\.safetensors is damaged"):
        SafetensorsFile(path)


@pytest.mark.parametrize("claimed", [0, 1 << 20, 1 << 40, (1 << 64) - 1])
def test_a_header_longer_than_the_file_is_refused_before_it_is_read(claimed: int, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", claimed) + b"{}" * 10)
    with pytest.raises(InputError, match="is damaged"):
        SafetensorsFile(path)


def test_tensors_of_a_header_that_is_not_aligned_are_still_read(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"a": torch.arange(5, dtype=torch.float32)}, path)
    header, data = header_of(path)
    text = json.dumps(header).encode()
    text += b" " * (1 - len(text) % 2)  # an odd length: no float is where a float should be
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    assert SafetensorsFile(path).tensor("a").tolist() == [0, 1, 2, 3, 4]


def test_writing_into_a_loaded_model_never_reaches_its_file(tmp_path: Path) -> None:
    directory = sample(tmp_path / "m", "llama")
    before = (directory / "model.safetensors").read_bytes()
    with torch.no_grad():
        for weight in load_model(directory).parameters():
            weight.add_(1)
    assert (directory / "model.safetensors").read_bytes() == before


def test_a_loaded_model_outlives_the_replacement_and_the_removal_of_its_directory(tmp_path: Path) -> None:
    directory = sample(tmp_path / "m", "llama")
    expected = {name: weight.clone() for name, weight in load_model(directory, mapped=False).named_parameters()}
    model = load_model(directory)
    replacement = sample(tmp_path / "other", "llama", hidden_size=16)
    (replacement / "model.safetensors").replace(directory / "model.safetensors")
    (directory / "model.safetensors").unlink()
    assert all(torch.equal(weight, expected[name]) for name, weight in model.named_parameters())


# ---- legacy files


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before 2020"])
@pytest.mark.parametrize("shards", [1, 3])
def test_legacy_weights_give_the_same_model_as_safetensors(zipped: bool, shards: int, tmp_path: Path) -> None:
    modern = sample(tmp_path / "modern", "baichuan-7b")
    legacy = tmp_path / "legacy"
    legacy.mkdir()
    (legacy / "config.json").write_text((modern / "config.json").read_text())
    tensors = load_file(modern / "model.safetensors")
    names = sorted(tensors)
    files = {name: f"pytorch_model-{n % shards + 1:05d}-of-{shards:05d}.bin" for n, name in enumerate(names)}
    if shards == 1:
        files = dict.fromkeys(names, "pytorch_model.bin")
    else:
        (legacy / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": files}))
    for file in set(files.values()):
        chosen = {name: tensors[name] for name in names if files[name] == file}
        torch.save(chosen, legacy / file, _use_new_zipfile_serialization=zipped)
    expected = dict(load_model(modern).named_parameters())
    for name, weight in load_model(legacy).named_parameters():
        assert torch.equal(weight, expected[name])


class Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("form", ["zip", "before 2020", "plain pickle"])
def test_a_pickle_with_code_in_it_is_refused_and_not_run(form: str, tmp_path: Path) -> None:
    directory = sample(tmp_path / "m", "llama")
    (directory / "model.safetensors").unlink()
    path, mark = directory / "pytorch_model.bin", tmp_path / "ran"
    table = {"model.norm.weight": Payload(mark)}
    if form == "plain pickle":
        path.write_bytes(pickle.dumps(table))
    else:
        torch.save(table, path, _use_new_zipfile_serialization=form == "zip")
    message = refused(directory)
    assert "pytorch_model.bin cannot be read without running code in it" in message and "\n" not in message
    assert not mark.exists()


@pytest.mark.parametrize("kept", [0, 100, -10])
def test_truncated_legacy_weights_are_refused(kept: int, tmp_path: Path) -> None:
    directory = sample(tmp_path / "m", "llama")
    torch.save(load_file(directory / "model.safetensors"), directory / "pytorch_model.bin")
    (directory / "model.safetensors").unlink()
    path = directory / "pytorch_model.bin"
    path.write_bytes(path.read_bytes()[:kept])
    assert "pytorch_model.bin is damaged" in refused(directory) or "or is damaged" in refused(directory)


# ---- whole directories


def refused(directory: Path) -> str:
    with pytest.raises(InputError) as caught:
        load_model(directory)
    return str(caught.value)


@pytest.mark.parametrize(
    "name", ["../../x.safetensors", "/etc/x.safetensors", "..\\x.safetensors", "sub/../../x.safetensors", "run.py"]
)
def test_an_index_that_leads_out_of_its_directory_is_refused(name: str, tmp_path: Path) -> None:
    directory = sample(tmp_path / "m", "llama", shards=2)
    index = directory / "model.safetensors.index.json"
    table = json.loads(index.read_text())
    table["weight_map"]["model.norm.weight"] = name
    index.write_text(json.dumps(table))
    assert "outside its directory" in refused(directory)


def test_links_into_a_hubs_cache_are_followed(tmp_path: Path) -> None:
    directory = sample(tmp_path / "m", "llama", shards=2)
    for path in directory.glob("*.safetensors"):
        blob = tmp_path / f"blob-{path.name}"
        path.rename(blob)
        path.symlink_to(blob)
    load_model(directory)


def test_one_file_comes_before_an_older_index_as_in_transformers(tmp_path: Path) -> None:
    directory = sample(tmp_path / "m", "llama", shards=2)
    tensors = {name: value + 1 for file in directory.glob("*.safetensors") for name, value in load_file(file).items()}
    save_file(tensors, directory / "model.safetensors")
    assert torch.equal(load_model(directory).model.norm.weight, tensors["model.norm.weight"])


def test_shards_without_their_index_are_not_guessed_at(tmp_path: Path) -> None:
    directory = sample(tmp_path / "m", "llama", shards=2)
    (directory / "model.safetensors.index.json").unlink()
    assert "no index of its shards" in refused(directory)


def test_an_adapter_given_as_a_model_says_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    assert "it is an adapter: give its base, and --adapter" in refused(tmp_path)


def test_a_directory_without_weights_says_which_files_would_do(tmp_path: Path) -> None:
    directory = sample(tmp_path / "m", "llama")
    (directory / "model.safetensors").unlink()
    assert "has no weights: model.safetensors" in refused(directory)


def test_a_tensor_in_two_shards_is_refused(tmp_path: Path) -> None:
    directory = sample(tmp_path / "m", "llama", shards=2)
    first, second = sorted(directory.glob("*.safetensors"))
    save_file({**load_file(second), **load_file(first)}, second)
    assert "and in an earlier file" in refused(directory)


def test_every_tensor_with_nan_or_infinity_is_named_in_the_checkpoints_own_words(tmp_path: Path) -> None:
    tensors = tensors_of(CONFIGS["baichuan-7b"])
    tensors["model.layers.1.self_attn.W_pack.weight"][40, 3] = float("nan")
    tensors["model.layers.0.mlp.up_proj.weight"][-1, -1] = float("-inf")
    message = refused(write(tmp_path / "m", CONFIGS["baichuan-7b"], tensors))
    assert "model.layers.1.self_attn.W_pack.weight holds NaN" in message
    assert "model.layers.0.mlp.up_proj.weight holds NaN" in message
    assert len(message.splitlines()) == 2


def test_weights_too_large_for_the_asked_dtype_are_named(tmp_path: Path) -> None:
    tensors = tensors_of(CONFIGS["llama"])
    tensors["model.norm.weight"][0] = 1e6
    directory = write(tmp_path / "m", CONFIGS["llama"], tensors)
    load_model(directory, torch.bfloat16)
    with pytest.raises(InputError, match=r"model\.norm\.weight has values too large for float16"):
        load_model(directory, torch.float16)


def test_what_is_wrong_in_many_layers_is_said_once_in_the_checkpoints_names(tmp_path: Path) -> None:
    config = {**CONFIGS["baichuan-7b"], "num_hidden_layers": 12}
    tensors: Tensors = tensors_of(config)
    for layer in (0, 1, 2, 7, 11):
        del tensors[f"model.layers.{layer}.self_attn.W_pack.weight"]
    tensors["model.layers.3.mlp.up_proj.weight"] = torch.ones(1, 1)
    tensors["model.layers.12.mlp.up_proj.weight"] = torch.ones(1, 1)
    assert [line.partition(": ")[2] for line in refused(write(tmp_path / "m", config, tensors)).splitlines()] == [
        "model.layers.12.mlp.up_proj.weight is not part of this architecture",
        "model.layers.3.mlp.up_proj.weight has shape (1, 1), expected (48, 32)",
        "model.layers.{0-2,7,11}.self_attn.W_pack.weight is missing",
    ]


def test_code_named_by_a_config_is_ignored_with_a_sentence(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    directory = sample(tmp_path / "m", "baichuan-7b", auto_map={"AutoModel": "modeling_baichuan.Model"})
    (directory / "modeling_baichuan.py").write_text("raise SystemExit('executed')")
    with caplog.at_level(logging.WARNING):
        load_model(directory)
    assert "auto_map" in caplog.text and "no code from a checkpoint is ever run" in caplog.text


def test_an_unknown_family_and_quantized_weights_are_refused_by_name(tmp_path: Path) -> None:
    assert 'model_type "rwkv" is not supported; supported: llama' in refused(sample_config(tmp_path, model_type="rwkv"))
    quantized = sample_config(tmp_path, quantization_config={"quant_method": "hqq"})
    assert "the weights are quantized (hqq)" in refused(quantized)


def sample_config(directory: Path, **changes: object) -> Path:
    (directory / "config.json").write_text(json.dumps({**CONFIGS["llama"], **changes}))
    return directory


def test_all_tensors_of_a_checkpoint_are_listed_in_the_order_they_lie_on_disk(tmp_path: Path) -> None:
    directory = sample(tmp_path / "m", "llama")
    file = SafetensorsFile(directory / "model.safetensors")
    places = [file.tensor(name).data_ptr() for name in Checkpoint(directory).entries]
    assert places == sorted(places)
