"""The commands for single rooms: what they write, what they refuse, and that they replace nothing of the user's."""

import json
from pathlib import Path

import pytest
from tiny_run import Ended, inkstone

from inkstone.primer import PrimerSettings, render_primer
from inkstone.progress import Silent
from inkstone.storage import verify_manifest
from inkstone.tokenizer import Tokenizer, open_shards


def refused(ended: Ended, code: int = 2) -> str:
    assert (ended.code, ended.out) == (code, ""), ended.err
    assert ended.said.startswith("error: ")
    return ended.said.removeprefix("error: ")


def test_primer_writes_what_its_room_writes(data: Path, tmp_path: Path) -> None:
    render_primer(PrimerSettings(size_mb=0.3), tmp_path, Silent())
    files = {path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()}
    assert files
    assert all((data / "primer" / file).read_bytes() == (tmp_path / file).read_bytes() for file in files)


def test_tokenizer_train_and_encode_write_directories_that_fit_together(data: Path) -> None:
    tokenizer = Tokenizer.load(data / "tokenizer")
    assert tokenizer.vocab_size == 1200
    verify_manifest(data / "tokens", contents=True)
    shards = open_shards(data / "tokens", "train", tokenizer.fingerprint)
    assert shards.document(0)[0] == tokenizer.bos_id


def test_evaluate_prints_a_table_and_writes_scores(data: Path, models: Path, tmp_path: Path) -> None:
    ended = inkstone("evaluate", models / "base", "-o", tmp_path / "scores", "--tokens", data / "tokens")
    assert ended.code == 0, ended.err
    assert "held-out bits per byte" in ended.out
    scores = json.loads((tmp_path / "scores" / "scores.json").read_text(encoding="utf-8"))
    assert scores["models"]["base"]["heldout"]["bits_per_byte"] > 0


def test_evaluate_without_a_question_is_refused(models: Path, tmp_path: Path) -> None:
    said = refused(inkstone("evaluate", models / "base", "-o", tmp_path / "scores"))
    assert said == "nothing to evaluate: give --tasks, --quiz, --problems, --tokens or --perplexity-by-length"
    assert not (tmp_path / "scores").exists()


def test_evaluate_names_everything_that_is_missing_and_leaves_nothing(data: Path, tmp_path: Path) -> None:
    said = refused(
        inkstone("evaluate", tmp_path / "nomodel", "-o", tmp_path / "scores", "--quiz", tmp_path / "noquiz")
    ).splitlines()
    assert said[0].startswith(f"{tmp_path}/nomodel is no model directory (it has no config.json)")
    assert any(f"{tmp_path}/noquiz" in line for line in said[1:])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("verb", ["primer", "evaluate", "tokenizer train", "tokenizer encode"])
def test_an_output_directory_that_exists_is_never_replaced(verb: str, data: Path, models: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    corpus = data / "runs" / "small" / "corpus"
    arguments = {
        "primer": [],
        "evaluate": [models / "base", "--tokens", data / "tokens"],
        "tokenizer train": [corpus],
        "tokenizer encode": [corpus, data / "tokenizer"],
    }[verb]
    said = refused(inkstone(*verb.split(), *arguments, "-o", tmp_path))
    assert said == f"{tmp_path} already exists and would be replaced: give a new directory, or remove it first"
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_tokenizer_train_without_a_corpus_says_what_to_run(tmp_path: Path) -> None:
    said = refused(inkstone("tokenizer", "train", tmp_path / "none", "-o", tmp_path / "t"))
    assert said == (f"{tmp_path}/none: no such file or directory; give a curated corpus or text to read.")
    assert list(tmp_path.iterdir()) == []


def test_tokenizer_encode_without_a_tokenizer_is_a_sentence(data: Path, tmp_path: Path) -> None:
    said = refused(
        inkstone("tokenizer", "encode", data / "runs" / "small" / "corpus", tmp_path / "none", "-o", tmp_path / "t")
    )
    assert f"{tmp_path}/none" in said
    assert list(tmp_path.iterdir()) == []


def test_report_writes_the_page_of_a_run_and_says_where(data: Path) -> None:
    page = data / "runs" / "small" / "report.html"
    page.unlink()
    ended = inkstone("report", data / "runs" / "small")
    assert (ended.code, ended.out) == (0, f"{page}\n")
    assert page.read_text(encoding="utf-8").startswith("<!")


def test_report_of_something_else_is_refused(tmp_path: Path) -> None:
    said = refused(inkstone("report", tmp_path / "none"))
    assert said == f"{tmp_path}/none is no run directory: give one that `inkstone run` wrote."


def test_a_row_number_in_a_sentence_stays_a_number(tmp_path: Path) -> None:
    """ ":100:" is the name of an emoji to the library that prints."""
    (tmp_path / "web.jsonl").write_bytes(b"\n" * 99 + b"\xff\n")
    recipe = tmp_path / "r.toml"
    recipe.write_text(f'name = "x"\nruns_dir = "{tmp_path}/runs"\n[corpus]\ninputs = ["{tmp_path}/web.jsonl"]\n')
    assert "web.jsonl:100: not UTF-8" in refused(inkstone("run", recipe))


@pytest.mark.parametrize("option", [("--adapter", "x"), ("--limit", "3"), ("--as-base",), ("--temperature", "0.5")])
def test_what_only_benchmarks_have_is_refused_elsewhere(option: tuple[str, ...], tmp_path: Path) -> None:
    ended = inkstone("evaluate", tmp_path, "-o", tmp_path / "out", "--quiz", tmp_path, *option)
    assert ended.code == 2 and f"{option[0]} is for benchmarks: give --tasks, or leave it out" in ended.said
