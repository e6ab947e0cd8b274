"""`inkstone convert`: every family into what others open, bit by bit, a tensor at a time."""

import json
from pathlib import Path

import pytest
import torch
from checkpoint_samples import CONFIGS, Tensors, sample, tensors_of, write
from safetensors.torch import load_file

from inkstone.errors import InputError
from inkstone.model import load_model, save_model
from inkstone.model.files.convert import convert_model
from inkstone.model.files.rewrite import rewrite_weights, vocabulary_of

transformers = pytest.importorskip("transformers")


def stored(directory: Path) -> Tensors:
    """Every tensor of a directory, by the library."""
    tensors: Tensors = {}
    for path in directory.glob("*.safetensors"):
        tensors.update(load_file(path))
    return tensors


def assert_same(found: Tensors, expected: Tensors) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor), name


@pytest.mark.parametrize("shards", [1, 3], ids=["one file", "sharded"])
@pytest.mark.parametrize("name", ["llama", "baichuan-13b", "bloom", "mixtral", "chatglm"])
def test_a_family_converted_to_itself_keeps_every_bit_and_name(name: str, shards: int, tmp_path: Path) -> None:
    source = sample(tmp_path / "source", name, shards)
    written = convert_model(source, tmp_path / "target", max_shard_bytes=20_000 if shards > 1 else 10**9)
    assert written.name == name.partition("-")[0]
    assert (tmp_path / "target/model.safetensors.index.json").exists() == (shards > 1)
    assert_same(stored(tmp_path / "target"), stored(source))


def test_baichuan_7b_becomes_a_llama_whose_projections_are_the_thirds_of_w_pack(tmp_path: Path) -> None:
    source = sample(tmp_path / "source", "baichuan-7b", 2)
    assert convert_model(source, tmp_path / "target").name == "llama"
    packed, model = stored(source), transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "target")
    assert isinstance(model, transformers.LlamaForCausalLM)
    for layer in range(2):
        thirds = packed[f"model.layers.{layer}.self_attn.W_pack.weight"].chunk(3)
        for part, rows in zip("qkv", thirds, strict=True):
            assert torch.equal(model.state_dict()[f"model.layers.{layer}.self_attn.{part}_proj.weight"], rows)


def test_a_llama_can_be_written_back_in_baichuans_names(tmp_path: Path) -> None:
    source = sample(tmp_path / "source", "baichuan-7b")
    convert_model(source, tmp_path / "llama")
    convert_model(tmp_path / "llama", tmp_path / "back", family="baichuan")
    assert_same(stored(tmp_path / "back"), stored(source))


def test_a_family_that_cannot_say_the_shape_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    source = sample(tmp_path / "source", "baichuan-13b")
    with pytest.raises(InputError, match=r"llama .*config\.json cannot say position = alibi"):
        convert_model(source, tmp_path / "target", family="llama")
    with pytest.raises(InputError, match="there is no family rwkv; there are: llama, baichuan"):
        convert_model(source, tmp_path / "target", family="rwkv")
    assert not (tmp_path / "target").exists()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_the_dtype_is_changed_as_torch_does_and_said_in_the_config(dtype: torch.dtype, tmp_path: Path) -> None:
    source = sample(tmp_path / "source", "chatglm")
    convert_model(source, tmp_path / "target", dtype=dtype)
    assert_same(stored(tmp_path / "target"), {name: tensor.to(dtype) for name, tensor in stored(source).items()})
    config = json.loads((tmp_path / "target/config.json").read_text())
    assert config["torch_dtype"] == str(dtype).removeprefix("torch.")


def test_stacked_experts_are_read_and_written_as_published(tmp_path: Path) -> None:
    published = tensors_of(CONFIGS["mixtral"])
    stacked: Tensors = {}
    for name, tensor in published.items():
        if ".experts." not in name:
            stacked[name.replace("block_sparse_moe", "mlp")] = tensor
    for layer in range(2):
        block = f"model.layers.{layer}.block_sparse_moe.experts"
        gate, up, down = ([published[f"{block}.{e}.{w}.weight"] for e in range(4)] for w in ("w1", "w3", "w2"))
        experts = f"model.layers.{layer}.mlp.experts"
        stacked[f"{experts}.gate_up_proj"] = torch.cat([torch.stack(gate), torch.stack(up)], dim=1)
        stacked[f"{experts}.down_proj"] = torch.stack(down)
    source = write(tmp_path / "source", CONFIGS["mixtral"], stacked)
    convert_model(source, tmp_path / "target", max_shard_bytes=30_000)
    assert_same(stored(tmp_path / "target"), published)
    one = load_model(source).state_dict()
    assert_same(load_model(tmp_path / "target").state_dict(), one)


def test_nan_stops_the_conversion_with_every_name(tmp_path: Path) -> None:
    tensors = tensors_of(CONFIGS["mixtral"])
    for expert in (1, 3):
        tensors[f"model.layers.0.block_sparse_moe.experts.{expert}.w2.weight"][0, 0] = float("nan")
    with pytest.raises(InputError) as caught:
        convert_model(write(tmp_path / "source", CONFIGS["mixtral"], tensors), tmp_path / "target")
    assert [p.partition(": ")[2] for p in caught.value.problems] == [
        f"model.layers.0.block_sparse_moe.experts.{expert}.w2.weight holds NaN or infinite values" for expert in (1, 3)
    ]


def test_tokenizer_template_and_generation_settings_are_carried_and_code_is_not(tmp_path: Path) -> None:
    source = sample(tmp_path / "source", "llama", pad_token_id=7)
    beside = {
        "generation_config.json": '{"top_k": 5}',
        "tokenizer.model": "x",
        "chat_template.jinja": "y",
        "LICENSE": "z",
    }
    for name, text in {**beside, "tokenization_x.py": "raise", "training.log": "noise", "notes.bin": "w"}.items():
        (source / name).write_text(text)
    convert_model(source, tmp_path / "target")
    kept = {path.name: path.read_text() for path in (tmp_path / "target").iterdir() if path.suffix != ".safetensors"}
    config = json.loads(kept.pop("config.json"))
    assert kept == beside
    assert (config["bos_token_id"], config["eos_token_id"], config["pad_token_id"]) == (1, 2, 7)


def test_without_generation_settings_the_configs_token_ids_become_them(tmp_path: Path) -> None:
    convert_model(sample(tmp_path / "source", "llama"), tmp_path / "target")
    settings = transformers.GenerationConfig.from_pretrained(tmp_path / "target")
    assert (settings.bos_token_id, settings.eos_token_id) == (1, 2)


# ---- transformers as the oracle, both ways


def theirs(name: str) -> "transformers.PreTrainedModel":
    values = {key: value for key, value in CONFIGS[name].items() if key not in ("torch_dtype", "model_type")}
    config = transformers.AutoConfig.for_model(CONFIGS[name]["model_type"], **values)
    torch.manual_seed(0)
    return transformers.AutoModelForCausalLM.from_config(config).eval()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["llama", "mixtral", "bloom"])
def test_saved_there_loaded_and_saved_here_loaded_there_are_equal_bits(
    name: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    reference = theirs(name).to(dtype)
    reference.save_pretrained(tmp_path / "there", max_shard_size="30KB")
    save_model(
        load_model(tmp_path / "there"), tmp_path / "here", bos_id=1, eos_id=2, pad_id=0, stop_ids=[2],
        max_shard_bytes=30_000,
    )  # fmt: skip
    convert_model(tmp_path / "there", tmp_path / "converted", max_shard_bytes=25_000)
    for directory in (tmp_path / "here", tmp_path / "converted"):
        again, said = transformers.AutoModelForCausalLM.from_pretrained(directory, output_loading_info=True)
        assert not said["missing_keys"] and not said["unexpected_keys"] and not said["mismatched_keys"]
        assert_same(dict(again.state_dict()), dict(reference.state_dict()))


@torch.no_grad()
@pytest.mark.parametrize("name", ["llama", "mixtral", "bloom"])
def test_a_converted_checkpoint_gives_the_same_logits_there_and_here(name: str, tmp_path: Path) -> None:
    reference, ids = theirs(name), torch.randint(0, 96, (2, 20), generator=torch.Generator().manual_seed(1))
    reference.save_pretrained(tmp_path / "there")
    convert_model(tmp_path / "there", tmp_path / "here")
    torch.testing.assert_close(load_model(tmp_path / "here")(ids), reference(ids).logits, atol=1e-4, rtol=1e-4)


# ---- a few tensors changed, the rest untouched


@pytest.mark.parametrize("name", ["llama", "baichuan-13b", "bloom", "mixtral", "chatglm"])
def test_a_grown_vocabulary_leaves_every_other_tensor_as_it_was(name: str, tmp_path: Path) -> None:
    source = sample(tmp_path / "source", name, 2)
    names, before = vocabulary_of(source), stored(source)
    assert names.rows == 96 and (names.head is None) == (name == "bloom")
    grow = {
        key: lambda old: torch.cat([old, old.mean(0, keepdim=True)]) for key in (names.embedding, names.head) if key
    }
    rewrite_weights(source, tmp_path / "target", grow, max_shard_bytes=20_000)
    config = json.loads((source / "config.json").read_text())
    config.update(dict.fromkeys(names.config_keys, 97))
    (tmp_path / "target/config.json").write_text(json.dumps(config))
    after = stored(tmp_path / "target")
    for key in grow:
        assert torch.equal(after[key][:96], before[key]) and after[key].shape[0] == 97
    assert_same({k: v for k, v in after.items() if k not in grow}, {k: v for k, v in before.items() if k not in grow})
    assert load_model(tmp_path / "target").config.vocab_size == 97


def test_changing_a_tensor_that_is_not_there_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no tensor model\.embedding"):
        rewrite_weights(sample(tmp_path / "m", "llama"), tmp_path / "t", {"model.embedding": lambda old: old})
