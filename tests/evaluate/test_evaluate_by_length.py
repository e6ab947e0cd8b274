"""Perplexity by context length: the numbers against transformers, and the command as a user types it."""

import json
import math
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from inkstone.cli.commands import app
from inkstone.errors import InputError
from inkstone.evaluate.by_length import perplexity_by_length, read_lengths
from inkstone.model import Decoder, DecoderConfig, load_model, save_model
from inkstone.model.decoder.decoder import initialise
from inkstone.progress import Silent
from inkstone.tokenizer import Tokenizer

TINY = Path(__file__).parents[2].parent / "shared" / "data" / "eval" / "oracle" / "tiny_llama"
SHAPE = DecoderConfig(60, 32, 48, 2, 4, 4, 8, max_positions=64)


def model(**changes: object) -> Decoder:
    made = Decoder(DecoderConfig(**{**SHAPE.__dict__, **changes}))  # type: ignore[arg-type]
    initialise(made, torch.Generator().manual_seed(0))
    for weight in made.parameters():
        weight.data *= 4 if weight.dim() > 1 else 1
    return made.eval()


def ids(count: int) -> list[int]:
    return torch.randint(0, 60, (count,), generator=torch.Generator().manual_seed(1)).tolist()


def test_perplexity_is_that_of_transformers_on_the_same_windows(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    ours, text = model(), ids(200)
    save_model(ours, tmp_path, bos_id=0, eos_id=1, pad_id=2, stop_ids=[1])
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    rows = perplexity_by_length(ours, text, 0, [16, 96], Silent())
    # Two windows of 96 fill 192 tokens, and so do twelve of 16.
    assert [(row.length, row.tokens, row.beyond_training) for row in rows] == [(16, 192, False), (96, 192, True)]
    for row in rows:
        losses, late = [], []
        for start in range(0, 192, row.length):
            window = torch.tensor(text[start : start + row.length])
            with torch.no_grad():
                logits = theirs(torch.cat((torch.tensor([0]), window[:-1]))[None]).logits[0]
            loss = torch.nn.functional.cross_entropy(logits, window, reduction="none")
            losses.append(loss)
            late.append(loss[row.length * 3 // 4 :])
        assert row.perplexity == pytest.approx(math.exp(torch.cat(losses).mean()), rel=1e-4)
        assert row.late == pytest.approx(math.exp(torch.cat(late).mean()), rel=1e-4)


def test_alibi_and_rope_are_measured_beyond_their_training_length() -> None:
    for changes in ({"position": "alibi"}, {}):
        (row,) = perplexity_by_length(model(**changes), ids(512), None, [512], Silent())
        assert row.beyond_training and math.isfinite(row.perplexity)


def test_a_text_shorter_than_the_longest_window_is_refused() -> None:
    with pytest.raises(InputError, match="the text has 100 tokens, fewer than 128"):
        perplexity_by_length(model(), ids(100), 0, [16, 128], Silent())


@pytest.mark.parametrize("text", ["", "512,many", "2", "0"])
def test_lengths_that_are_no_lengths_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="--perplexity-by-length"):
        read_lengths(text)


@pytest.mark.skipif(not TINY.is_dir(), reason="the shared data with the tiny model is not here")
@pytest.mark.parametrize("kind", ["txt", "jsonl"])
def test_the_command_writes_figures_and_a_chart(kind: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    texts = ["砚台是磨墨的工具。Ink is ground on the stone. " * 60, "一二三四五。" * 100]
    lines = "\n".join(json.dumps({"text": text}) for text in texts)
    (tmp_path / f"text.{kind}").write_text(lines if kind == "jsonl" else texts[0], encoding="utf-8")
    command = ["evaluate", str(TINY), "-o", str(tmp_path / "out"), "--perplexity-by-length", "256,64"]
    result = CliRunner().invoke(app, [*command, "--text", str(tmp_path / f"text.{kind}"), "--text-tokens", "600"])
    assert result.exit_code == 0, result.output
    figures = json.loads((tmp_path / "out" / "by_length.json").read_text())
    assert [row["length"] for row in figures["rows"]] == [64, 256]
    assert [row["tokens"] for row in figures["rows"]] == [512, 512]
    tokenizer = Tokenizer.load(TINY)
    first = texts if kind == "jsonl" else texts[:1]
    read = [one for text in first for one in (*tokenizer.encode(text), *tokenizer.end_ids)][:512]
    size = len(tokenizer.decode(read, skip_control=True, continued=True).encode())
    for row in figures["rows"]:
        bits = math.log2(row["perplexity"]) * row["tokens"] / size
        assert row["bits_per_byte"] == pytest.approx(bits)
    assert "context length" in (tmp_path / "out" / "by_length.svg").read_text()
    assert (tmp_path / "out" / "by_length.png").read_bytes().startswith(b"\x89PNG")
    assert f"{figures['rows'][1]['perplexity']:.4g}" in result.output


def test_the_command_asks_for_a_text(tmp_path: Path) -> None:
    directory = tmp_path / "model"
    tokenizer = Tokenizer.load(TINY) if TINY.is_dir() else pytest.skip("the shared data is not here")
    save_model(model(), directory, bos_id=0, eos_id=1, pad_id=2, stop_ids=[1])
    tokenizer.save(directory)
    command = ["evaluate", str(directory), "-o", str(tmp_path / "out"), "--perplexity-by-length", "16"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 2 and "give --text FILE" in result.output
    assert not (tmp_path / "out").exists()
    assert load_model(directory).config.max_positions == 64
