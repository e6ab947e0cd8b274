"""A model with an extended vocabulary: old rows untouched, new ones means, and it loads and trains elsewhere."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tokenizer"))

from foreign_samples import REAL, SHARED, lines, needs_shared
from test_tokenizer_extend import english_base
from tokenizer_samples import make_rows, write_split
from typer.testing import CliRunner

from inkstone.cli.commands import app
from inkstone.errors import InputError
from inkstone.model import load_model
from inkstone.model.files.vocabulary import extend_model
from inkstone.progress import Silent
from inkstone.tokenizer import ExtendSettings, Tokenizer, extend_tokenizer
from inkstone.train import InOrder, Row, TrainSettings, train

transformers = pytest.importorskip("transformers")
SHAPE = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
         "num_key_value_heads": 2, "max_position_embeddings": 128, "bos_token_id": 1, "eos_token_id": 2}  # fmt: skip
KINDS = {
    "llama": lambda rows: transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=rows, **SHAPE)),
    "tied": lambda rows: transformers.LlamaForCausalLM(
        transformers.LlamaConfig(vocab_size=rows, tie_word_embeddings=True, **SHAPE)
    ),
    "mixtral": lambda rows: transformers.MixtralForCausalLM(
        transformers.MixtralConfig(vocab_size=rows, num_local_experts=4, sliding_window=None, **SHAPE)
    ),
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    write_split(folder, "train", make_rows(300, seed=1))
    write_split(folder, "heldout", [])
    return folder


def base_directory(kind: str, folder: Path, rows: int | None = None) -> tuple[Path, Tokenizer]:
    torch.manual_seed(0)
    base = english_base()
    KINDS[kind](rows or base.vocab_size).save_pretrained(folder, max_shard_size="30KB")
    assert len(list(folder.glob("*.safetensors"))) > 1
    base.save(folder)
    return folder, base


@pytest.mark.parametrize("kind", list(KINDS))
def test_old_rows_stay_and_new_rows_are_means_of_sub_tokens(kind: str, corpus: Path, tmp_path: Path) -> None:
    source, base = base_directory(kind, tmp_path / "base")
    output = tmp_path / "extended"
    result = CliRunner().invoke(
        app, ["tokenizer", "extend", str(source), str(corpus), "-o", str(output), "--add", "30", "--pad-to", "64"]
    )
    assert result.exit_code == 0, result.output
    assert "no id changed" in result.output and "saved" in result.output
    report = json.loads((output / "extension.json").read_text(encoding="utf-8"))
    tokenizer = Tokenizer.load(output)
    before = transformers.AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    old = before.state_dict()
    model, info = transformers.AutoModelForCausalLM.from_pretrained(
        output, dtype=torch.float32, output_loading_info=True
    )
    assert not info["missing_keys"] and not info["unexpected_keys"]
    rows = model.config.vocab_size
    assert rows % 64 == 0 and rows >= tokenizer.vocab_size == base.vocab_size + report["added"]
    for name, new in model.state_dict().items():
        if name not in ("model.embed_tokens.weight", "lm_head.weight"):
            assert torch.equal(new, old[name])
            continue
        assert new.shape[0] == rows and torch.equal(new[: base.vocab_size], old[name])
        for token in range(base.vocab_size, tokenizer.vocab_size):
            parts = base.encode(tokenizer.decode([token], continued=True), continued=True)
            torch.testing.assert_close(new[token], old[name][parts].mean(0))
        assert torch.isfinite(new).all()
    text = torch.tensor([base.encode("the river runs to the sea")])
    with torch.no_grad():
        assert torch.equal(model(text).logits[..., : base.vocab_size], before(text).logits)
    assert (model.get_input_embeddings().weight is model.get_output_embeddings().weight) == (kind == "tied")


@pytest.mark.parametrize("kind", ["llama", "mixtral"])
def test_the_extended_model_trains(kind: str, corpus: Path, tmp_path: Path) -> None:
    source, base = base_directory(kind, tmp_path / "base")
    extension = extend_tokenizer(base, corpus, ExtendSettings(add=30), Silent())
    (tmp_path / "out").mkdir()
    extend_model(source, base, extension, tmp_path / "out")
    text = "".join(text for _, text, _, lang in make_rows(60, seed=1) if lang == "zh")
    losses = trained(tmp_path / "out", text, steps=30, length=64)
    assert losses[-1] < losses[0] - 0.3


@dataclass
class Rows:
    """A text as rows of as many tokens, all of them trained on."""

    tokens: np.ndarray
    length: int

    @property
    def rows_per_epoch(self) -> int:
        return len(self.tokens) // self.length

    def row(self, epoch: int, index: int) -> Row:
        part = self.tokens[index * self.length :][: self.length].astype(np.int64)
        return Row(part, np.arange(self.length), np.zeros_like(part), np.ones(self.length, np.float32))


def trained(directory: Path, text: str, steps: int, length: int) -> list[float]:
    """Losses of continued training of a directory by our own trainer; some tokens of the text are new ones."""
    ids = np.array(Tokenizer.load(directory).encode(text))
    settings = TrainSettings(
        sequence_length=length, batch_tokens=8 * length, max_steps=steps, log_steps=1, warmup_steps=2,
        learning_rate=3e-3, device="cpu", dtype="float32", compile="off",
    )  # fmt: skip
    scratch = directory.with_name(f"{directory.name}-training")
    train(load_model(directory, torch.float32), InOrder(Rows(ids, length)), settings, scratch, Silent())
    lines = (scratch / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [entry["loss"] for entry in map(json.loads, lines) if "loss" in entry]


@pytest.mark.slow
@needs_shared
@pytest.mark.parametrize("kind", ["llama", "mixtral"])
def test_a_model_with_llamas_vocabulary_takes_25_000_chinese_tokens_and_trains(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    base = Tokenizer.load(REAL / "llama-spm.gguf")
    KINDS[kind](base.vocab_size).save_pretrained(tmp_path / "base", max_shard_size="3MB")
    base.save(tmp_path / "base")
    names = ("novels_public_domain", "oi_wiki", "wiki_cmrc2018", "wiki_drcd_traditional", "python_docs_zh", "classics")
    files = [str(SHARED / f"pretrain/zh/{name}.jsonl.zst") for name in names]
    command = ["tokenizer", "extend", str(tmp_path / "base"), *files, "-o", str(tmp_path / "out")]
    result = CliRunner().invoke(app, [*command, "--add", "25000", "--characters", "6414"])
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "out" / "extension.json").read_text(encoding="utf-8"))
    assert report["vocab_size"] == 57_000 and report["text_without_chinese"]["ids_changed"] == 0
    assert report["tokens"]["saved"] > 0.415  # Chinese-Mixtral's figure on its own text
    assert (tmp_path / "out" / "tokenizer.model").is_file()
    text = "\n".join(lines("zh/novels_public_domain", limit=300))
    losses = trained(tmp_path / "out", text, steps=40, length=64)
    assert losses[-1] < losses[0] - 1


def test_a_tokenizer_larger_than_the_embedding_is_refused(corpus: Path, tmp_path: Path) -> None:
    source, base = base_directory("llama", tmp_path / "base", rows=100)
    output = tmp_path / "out"
    result = CliRunner().invoke(app, ["tokenizer", "extend", str(source), str(corpus), "-o", str(output)])
    assert isinstance(result.exception, InputError) or "do not belong together" in result.output
    assert not output.exists()
    del base


def test_a_tokenizer_alone_gives_a_tokenizer(corpus: Path, tmp_path: Path) -> None:
    english_base().save(tmp_path / "base")
    command = ["tokenizer", "extend", str(tmp_path / "base"), str(corpus), "-o", str(tmp_path / "out"), "--add", "24"]
    result = CliRunner().invoke(app, [*command, "--choose", "alp", "--characters", "8,16"])
    assert result.exit_code == 0, result.output
    assert not (tmp_path / "out" / "config.json").exists()
    assert "<svg" in (tmp_path / "out" / "alp.svg").read_text(encoding="utf-8")
    assert Tokenizer.load(tmp_path / "out").vocab_size > english_base().vocab_size
