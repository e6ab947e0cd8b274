"""`inkstone convert`, `inkstone inspect` and `inkstone.load`, as a user calls them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

import inkstone
from inkstone.cli.commands import app
from inkstone.tokenizer import Tokenizer

ORACLE = Path(__file__).parents[2] / "../shared/data/eval/oracle/tiny_llama"
needs_oracle = pytest.mark.skipif(not ORACLE.is_dir(), reason="needs the shared tiny llama")
SHAPE = {
    "model_type": "baichuan", "vocab_size": 64, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
    "num_attention_heads": 2, "max_position_embeddings": 32, "bos_token_id": 1, "eos_token_id": 2,
    "auto_map": {"AutoModelForCausalLM": "modeling_baichuan.BaiChuanForCausalLM"},
}  # fmt: skip


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return result.exit_code, result.output


@pytest.fixture
def baichuan(tmp_path: Path) -> Path:
    """A random Baichuan-7B in miniature, in legacy weights, as it was published."""
    directory = tmp_path / "baichuan"
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(SHAPE))
    (directory / "modeling_baichuan.py").write_text("raise SystemExit('executed')")
    shapes = {"self_attn.W_pack": (48, 16), "self_attn.o_proj": (16, 16), "mlp.gate_proj": (32, 16)}
    shapes |= {"mlp.up_proj": (32, 16), "mlp.down_proj": (16, 32), "input_layernorm": (16,)}
    shapes |= {"post_attention_layernorm": (16,)}
    tensors = {f"model.layers.0.{name}.weight": torch.randn(shape) for name, shape in shapes.items()}
    tensors |= {"model.embed_tokens.weight": torch.randn(64, 16), "model.norm.weight": torch.randn(16)}
    tensors |= {"lm_head.weight": torch.randn(64, 16), "model.layers.0.self_attn.rotary_emb.inv_freq": torch.randn(4)}
    torch.save(tensors, directory / "pytorch_model.bin")
    return directory


def test_convert_writes_a_llama_in_the_asked_dtype_and_shards(baichuan: Path, tmp_path: Path) -> None:
    code, output = run("convert", baichuan, tmp_path / "out", "--dtype", "bf16", "--shard-size", "0.004MB")
    assert code == 0 and output.strip().splitlines()[-1] == f"{tmp_path / 'out'} (llama)"
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert (config["model_type"], config["torch_dtype"], "auto_map" in config) == ("llama", "bfloat16", False)
    shards = list((tmp_path / "out").glob("model-*.safetensors"))
    assert len(shards) > 1 and all(
        tensor.dtype == torch.bfloat16 for file in shards for tensor in load_file(file).values()
    )
    assert not list((tmp_path / "out").glob("*.py"))
    assert run("inspect", tmp_path / "out", "--json")[0] == 0


def test_a_conversion_that_fails_leaves_nothing_behind(baichuan: Path, tmp_path: Path) -> None:
    tensors = torch.load(baichuan / "pytorch_model.bin")
    tensors["model.norm.weight"][0] = float("nan")
    torch.save(tensors, baichuan / "pytorch_model.bin")
    code, _ = run("convert", baichuan, tmp_path / "out")
    assert code == 2 and {path.name for path in tmp_path.iterdir()} == {"baichuan"}


@pytest.mark.parametrize("size", ["5", "0GB", "5TB", "-1GB", "many"])
def test_a_shard_size_that_is_none_is_refused(size: str, baichuan: Path, tmp_path: Path) -> None:
    code, _ = run("convert", baichuan, tmp_path / "out", f"--shard-size={size}")
    assert code == 2 and not (tmp_path / "out").exists()


def test_an_existing_target_is_not_replaced(baichuan: Path) -> None:
    before = (baichuan / "config.json").read_text()
    assert run("convert", baichuan, baichuan)[0] == 2
    assert (baichuan / "config.json").read_text() == before


def test_inspect_shows_what_a_person_asks_for(baichuan: Path) -> None:
    code, output = run("inspect", baichuan)
    assert code == 0
    for shown in ("baichuan", "1 layers, hidden 16, 2 heads of 8", "RoPE, theta 10000", "32 tokens", "code", "missing"):
        assert shown in output


def test_inspect_of_a_preset_is_also_for_programs() -> None:
    code, output = run("inspect", "--model", "mixtral-8x7b", "--json")
    facts = json.loads(output)
    assert code == 0 and facts["parameters"] == 46_702_792_704 and facts["active_parameters"] == 12_879_925_248


@pytest.mark.parametrize("arguments", [[], ["x", "--model", "baichuan-7b"], ["--model", "gpt-2"], ["/no/such/place"]])
def test_inspect_says_what_it_needs(arguments: list[str]) -> None:
    assert run("inspect", *arguments)[0] == 2


@needs_oracle
def test_load_opens_a_directory_that_others_made_with_its_tokenizer_and_without_a_template() -> None:
    opened = inkstone.load(ORACLE, dtype=torch.float32)
    assert opened.template is None and opened.stop_ids
    ids = opened.tokenizer.encode("The ink stone")
    assert opened.model(torch.tensor([ids])).shape == (1, len(ids), opened.model.config.vocab_size)
    assert isinstance(opened.tokenizer, Tokenizer)


@needs_oracle
def test_load_takes_a_template_by_name_where_the_files_do_not_say_one(tmp_path: Path) -> None:
    assert inkstone.load(str(ORACLE), template="raw").template is not None


def test_importing_inkstone_does_not_import_torch() -> None:
    script = "import sys, inkstone; assert callable(inkstone.load); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], env={"PYTHONPATH": ":".join(sys.path)}).returncode == 0


@needs_oracle
def test_converting_a_vocabulary_that_asks_for_code_gives_one_that_does_not(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    source = tmp_path / "source"
    source.mkdir()
    for path in ORACLE.iterdir():
        (source / path.name).write_bytes(path.read_bytes())
    config = json.loads((source / "tokenizer_config.json").read_text())
    (source / "tokenizer_config.json").write_text(json.dumps({**config, "auto_map": {"AutoTokenizer": ["x.Y", None]}}))
    assert run("convert", source, tmp_path / "out")[0] == 0
    tokenizer, text = transformers.AutoTokenizer.from_pretrained(tmp_path / "out"), "ink 砚台 2024\n"
    assert tokenizer(text, add_special_tokens=False)["input_ids"] == Tokenizer.load(source).encode(text)


@needs_oracle
def test_a_foreign_llama_in_half_precision_shards_is_evaluated_as_it_is(tmp_path: Path) -> None:
    source = tmp_path / "foreign"
    source.mkdir()
    for path in ORACLE.iterdir():
        if path.suffix != ".safetensors":
            (source / path.name).write_bytes(path.read_bytes())
    tensors = {name: tensor.to(torch.float16) for name, tensor in load_file(ORACLE / "model.safetensors").items()}
    names = sorted(tensors)
    shards = {name: f"model-{number % 2 + 1:05d}-of-00002.safetensors" for number, name in enumerate(names)}
    for file in set(shards.values()):
        save_file({name: tensors[name] for name in names if shards[name] == file}, source / file)
    (source / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    quiz = tmp_path / "quiz"
    quiz.mkdir()
    item = {"id": "1", "lang": "en", "subject": "x", "question": "2+2?", "choices": ["1", "2", "3", "4"], "answer": 3}
    for split in ("dev", "test"):
        (quiz / f"{split}.jsonl").write_text(json.dumps({**item, "id": split}) + "\n")
    code, output = run("evaluate", source, "-o", tmp_path / "out", "--quiz", quiz, "--shots", "1")
    assert code == 0, output
    assert json.loads((tmp_path / "out/scores.json").read_text())["models"]["foreign"]["kind"] == "base"
