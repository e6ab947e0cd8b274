"""A model with an extended vocabulary: old rows untouched, new ones means, and it loads and trains elsewhere."""

import json
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tokenizer"))

from test_tokenizer_extend import english_base
from tokenizer_samples import make_rows, write_split
from typer.testing import CliRunner

from inkstone.cli.commands import app
from inkstone.errors import InputError
from inkstone.model import load_model
from inkstone.model.vocabulary import extend_model
from inkstone.progress import Silent
from inkstone.tokenizer import ExtendSettings, Tokenizer, extend_tokenizer

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
    KINDS[kind](rows or base.vocab_size).save_pretrained(folder)
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
    old = transformers.AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).state_dict()
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
    assert (model.get_input_embeddings().weight is model.get_output_embeddings().weight) == (kind == "tied")


@pytest.mark.parametrize("kind", ["llama", "mixtral"])
def test_the_extended_model_trains(kind: str, corpus: Path, tmp_path: Path) -> None:
    source, base = base_directory(kind, tmp_path / "base")
    extension = extend_tokenizer(base, corpus, ExtendSettings(add=30), Silent())
    (tmp_path / "out").mkdir()
    extend_model(source, base, extension, tmp_path / "out")
    model, tokenizer = load_model(tmp_path / "out", torch.float32), Tokenizer.load(tmp_path / "out")
    text = "".join(text for _, text, _, lang in make_rows(60, seed=1) if lang == "zh")
    ids = torch.tensor(tokenizer.encode(text)[:768]).view(-1, 64)
    assert (ids >= base.vocab_size).any()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(8):
        logits = model(ids[:, :-1])
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert all(map(torch.isfinite, torch.tensor(losses))) and losses[-1] < losses[0] - 0.3


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
