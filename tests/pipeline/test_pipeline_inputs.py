"""Input files that are missing, empty, damaged or malformed: a sentence with the place, or kept going and recorded."""

import json
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import zstandard
from tiny_run import RECIPE, Ended, inkstone, write_recipe

LATIN = "L’été, déjà à Besançon."
POEM = "登鹳雀楼是唐代诗人王之涣的一首诗：白日依山尽，黄河入海流。欲穷千里目，更上一层楼。写的是登高望远的景色。"
PROSE = "The heron stood in the shallow water for a long time, and then it rose over the reeds and was gone."
OWN = RECIPE[: RECIPE.index("[sft]")].replace("[primer]\nsize_mb = 0.3\n", "").replace('"primer:raw"', "INPUTS")
CURATE = OWN[: OWN.index("[tokenizer]")]


def own_recipe(folder: Path, text: str = CURATE, inputs: str = "my/*") -> Path:
    """A recipe over files in folder/my."""
    return write_recipe(folder, text.replace("INPUTS", json.dumps(str(folder / inputs))))


@pytest.fixture
def my(tmp_path: Path) -> Path:
    folder = tmp_path / "my"
    folder.mkdir()
    return folder


def write_rows(path: Path, rows: list[Any]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def audit(folder: Path) -> list[dict[str, Any]]:
    return pq.read_table(folder / "runs" / "tiny" / "corpus" / "audit").to_pylist()


def refused(ended: Ended) -> str:
    """The sentence, when the user's input was refused."""
    assert ended.code == 2, ended.err
    assert ended.said.startswith("error: ")
    assert "Traceback" not in ended.err
    return ended.said.removeprefix("error: ")


def test_every_pattern_that_matches_no_file_is_named_before_anything_runs(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, RECIPE)
    here = f"matches no file: correct the path (seen from {Path.cwd()})"
    said = refused(
        inkstone(
            "run", recipe,
            "--set", f'corpus.inputs=["primer:raw", "{tmp_path}/my/*.txt", "{tmp_path}/book.txt"]',
            "--set", f'sft.inputs=["{tmp_path}/my-chats/*.jsonl"]',
            "--set", f"evaluate.quiz={tmp_path}/quiz",
        )
    )  # fmt: skip
    assert said.splitlines() == [
        f'[corpus] "{tmp_path}/my/*.txt" {here}',
        f'[corpus] "{tmp_path}/book.txt" {here}',
        f'[sft] "{tmp_path}/my-chats/*.jsonl" {here}',
        f'[evaluate] "{tmp_path}/quiz" {here}',
    ]
    assert not (tmp_path / "runs").exists()


def test_the_recipe_for_own_text_says_which_files_it_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = Path(__file__).parents[2] / "recipes" / "own-text.toml"
    monkeypatch.chdir(tmp_path)
    said = refused(inkstone("run", recipe))
    assert [line.split(" matches")[0] for line in said.splitlines()] == ['[corpus] "my"']


@pytest.mark.parametrize("kind", ["poem.txt", "web.jsonl.zst"])
def test_the_first_command_for_own_text_takes_a_folder_with_one_kind_of_file(
    kind: str, my: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its `--set` is the README's; curated with it, the document is there."""
    root = Path(__file__).parents[2]
    [command] = [line for line in (root / "README.md").read_text("utf-8").splitlines() if "own-text.toml --set" in line]
    row = json.dumps({"text": POEM}, ensure_ascii=False).encode()
    (my / kind).write_bytes(POEM.encode() if kind.endswith("txt") else zstandard.compress(row))
    monkeypatch.chdir(tmp_path)
    ended = inkstone("curate", root / "recipes" / "own-text.toml", *shlex.split(command)[3:])
    assert ended.code == 0, ended.err
    rows = pq.read_table(tmp_path / "runs" / "own-text" / "corpus" / "train").to_pylist()
    assert [row["text"] for row in rows] == [POEM]


def test_an_input_folder_that_holds_the_run_itself_is_refused(tmp_path: Path, my: Path) -> None:
    (my / "a.txt").write_text(POEM, encoding="utf-8")
    ended = inkstone("curate", own_recipe(tmp_path, inputs=""), "--dry-run")
    assert ended.code == 2
    assert "holds the run's own folder" in ended.err


def test_a_kind_of_file_that_cannot_be_read_is_named(tmp_path: Path, my: Path) -> None:
    (my / "book.pdf").write_bytes(b"%PDF-1.4")
    (my / "good.txt").write_text(POEM, encoding="utf-8")
    said = refused(inkstone("run", own_recipe(tmp_path)))
    assert said.startswith(f"{my}/book.pdf: cannot read a file of this kind; known are .txt, .md, .jsonl")
    assert not (tmp_path / "runs" / "tiny" / "corpus").exists()


@pytest.mark.parametrize("content", ["", " \n\n"])
def test_an_empty_corpus_is_refused(tmp_path: Path, my: Path, content: str) -> None:
    (my / "empty.txt").write_text(content)
    said = refused(inkstone("run", own_recipe(tmp_path)))
    assert said.startswith("corpus: no document could be read; 1 records are unreadable: empty.txt:1: no text in field")
    assert not (tmp_path / "runs" / "tiny" / "corpus").exists()


def test_a_corpus_that_the_rules_empty_says_which_rule_and_which_key(tmp_path: Path, my: Path) -> None:
    (my / "short.txt").write_text("白日依山尽。", encoding="utf-8")
    said = refused(inkstone("run", own_recipe(tmp_path)))
    assert "none of the 1 documents is left" in said
    assert "too_short removed 1 documents in zh: to relax it set corpus.rules.zh.min_tokens" in said


def test_a_file_that_is_not_utf8_among_good_ones_is_counted_and_recorded_and_the_run_goes_on(
    tmp_path: Path, my: Path
) -> None:
    (my / "good.txt").write_text(POEM, encoding="utf-8")
    (my / "latin.txt").write_bytes(LATIN.encode("cp1252"))
    ended = inkstone("run", own_recipe(tmp_path))
    assert ended.code == 0, ended.err
    assert any(
        "kept 1 of 1 documents" in note and "1 records were unreadable (see audit/ and report.json)" in note
        for note in ended.notes
    )
    (record,) = audit(tmp_path)
    assert (record["level"], record["rule"], record["id"]) == ("record", "encoding", "latin:latin.txt:1")
    assert record["detail"].startswith("latin.txt:1: not UTF-8 (byte 1 is 0x92)")
    assert "set [corpus] encoding, or convert it" in record["detail"]
    report = json.loads((tmp_path / "runs" / "tiny" / "corpus" / "report.json").read_text(encoding="utf-8"))
    assert report["unreadable"]["count"] == 1


def test_files_that_are_all_not_utf8_are_refused_with_what_they_may_be(tmp_path: Path, my: Path) -> None:
    for number in range(4):
        (my / f"{number}.txt").write_bytes(LATIN.encode("cp1252"))
    said = refused(inkstone("run", own_recipe(tmp_path)))
    assert said.startswith("corpus: no document could be read; 4 records are unreadable: 0.txt:1: not UTF-8")
    assert "set [corpus] encoding, or convert it" in said
    assert not (tmp_path / "runs" / "tiny" / "corpus").exists()


def test_a_row_without_text_and_a_broken_row_are_recorded_with_file_and_row(tmp_path: Path, my: Path) -> None:
    rows = [json.dumps(row, ensure_ascii=False) for row in ({"text": POEM}, {"title": "无文"}, {"text": PROSE})]
    (my / "web.jsonl").write_text("\n".join([*rows, '{"text": "cut off']), encoding="utf-8")
    ended = inkstone("run", own_recipe(tmp_path))
    assert ended.code == 0, ended.err
    found = {record["id"]: (record["rule"], record["detail"]) for record in audit(tmp_path)}
    assert found["web:web.jsonl:2"] == (
        "no_text",
        "web.jsonl:2: no text in field text; fields: title. Set [corpus] text_fields if the text has another name",
    )
    assert found["web:web.jsonl:4"][0] == "json"
    assert found["web:web.jsonl:4"][1].startswith("web.jsonl:4: not JSON")


def test_a_vocabulary_that_is_too_small_names_one_that_is_not_and_the_corpus_is_kept(
    finished: Path, tmp_path: Path, my: Path
) -> None:
    shutil.copyfile(finished / "primer" / "raw" / "web.jsonl", my / "web.jsonl")
    recipe = own_recipe(tmp_path, OWN[: OWN.index("[model]")])
    said = refused(inkstone("run", recipe, "--set", "tokenizer.vocab_size=300"))
    assert said.startswith(
        "vocab_size = 300 is too small for this corpus: beside 272 control and byte tokens it has room"
    )
    run = tmp_path / "runs" / "tiny"
    assert (run / "corpus" / "stage.json").is_file()
    assert not (run / "tokenizer").exists()
    assert "[tokenizer] vocab_size = 100: input should be greater than or equal to 273" in refused(
        inkstone("run", recipe, "--set", "tokenizer.vocab_size=100")
    )


def test_a_corpus_shorter_than_one_row_says_so(tmp_path: Path, my: Path) -> None:
    (my / "a.txt").write_text(POEM, encoding="utf-8")
    (my / "b.txt").write_text(PROSE, encoding="utf-8")
    said = refused(inkstone("run", own_recipe(tmp_path, OWN), "--set", "pretrain.sequence_length=256"))
    assert "fewer than one row of sequence_length = 256: add text or set a smaller sequence_length" in said


def chat(*turns: str) -> dict[str, Any]:
    roles = ("user", "assistant")
    return {"messages": [{"role": roles[i % 2], "content": turn} for i, turn in enumerate(turns)]}


MALFORMED = [
    chat("你好", "你好！"),
    chat("only a question"),
    {"messages": [{"role": "user", "content": "Hi"}, {"role": "robot", "content": "Hello"}]},
    {"messages": "Hi"},
    chat("Hi", "Hello"),
]


def test_every_malformed_conversation_is_listed_with_file_and_row(begun: Callable[[str], Path], tmp_path: Path) -> None:
    recipe = begun("sft")
    run = recipe.parent / "runs" / "tiny"
    chats = tmp_path / "chats.jsonl"
    write_rows(chats, MALFORMED)
    change = ("--set", f'sft.inputs=["{chats}"]', "--until", "sft")
    said = refused(inkstone("run", recipe, *change)).splitlines()
    *rows, count, hint = said
    assert [line.split(" ")[0] for line in rows] == [f"{chats}:2", f"{chats}:3", f"{chats}:4"]
    assert count == "3 malformed rows in all" and hint.endswith("with --set sft.on_problem=skip")
    assert (run / "pretrain" / "stage.json").is_file()
    assert not (run / "sft").exists()

    ended = inkstone("run", recipe, *change, "--set", "sft.on_problem=skip", "--set", "sft.max_steps=1")
    assert ended.code == 0, ended.err
    record = json.loads((run / "sft" / "stage.json").read_text(encoding="utf-8"))
    assert record["result"]["skipped_rows"] == 3


def test_malformed_conversations_and_questions_are_found_before_the_first_stage_starts(tmp_path: Path) -> None:
    chats, quiz = tmp_path / "chats.jsonl", tmp_path / "quiz"
    write_rows(chats, MALFORMED)
    quiz.mkdir()
    write_rows(quiz / "test.jsonl", [{"question": "1+1?"}])
    change = ("--set", f'sft.inputs=["{chats}"]', "--set", f"evaluate.quiz={quiz}")
    assert inkstone("run", write_recipe(tmp_path, RECIPE), *change, "--dry-run").out.count("its data has faults") == 2
    for dry_run in ((), ("--dry-run",)):
        said = refused(inkstone("run", write_recipe(tmp_path, RECIPE), *change, *dry_run))
        assert f"{chats}:2" in said
        assert str(quiz) in said
        assert not list((tmp_path / "runs").glob("*/*/stage.json"))


def test_the_recipe_for_own_text_goes_from_texts_to_a_table_of_held_out_scores(
    finished: Path, tmp_path: Path, my: Path
) -> None:
    """No primer, no conversations, no quiz; only the sizes are made smaller here."""
    web = (finished / "primer" / "raw" / "web.jsonl").read_bytes()
    (my / "web.jsonl.zst").write_bytes(zstandard.compress(web))
    (my / "poem.txt").write_text(POEM, encoding="utf-8")
    smaller = [
        f'corpus.inputs=["{my}/*.txt", "{my}/*.jsonl.zst"]', f"runs_dir={tmp_path / 'runs'}", "model.hidden_size=32",
        "model.num_layers=1", "model.num_heads=2", "pretrain.max_steps=2", "pretrain.dtype=float32",
        "pretrain.device=cpu", "evaluate.device=cpu",
    ]  # fmt: skip
    settings = [word for setting in smaller for word in ("--set", setting)]
    ended = inkstone("run", Path(__file__).parents[2] / "recipes" / "own-text.toml", *settings)
    assert ended.code == 0, ended.err
    run = tmp_path / "runs" / "own-text"
    lines = ended.out.splitlines()
    stages = ("corpus", "tokenizer", "tokens", "pretrain", "evaluate")
    assert lines[:5] == [f"done {run / stage} ({number} of 5)" for number, stage in enumerate(stages, 1)]
    head, overall = (next(line for line in lines if name in line) for name in ("score", "held-out"))
    assert head.split() == ["score", "untrained", "pretrain"]
    assert overall.split()[:4] == ["held-out", "bits", "per", "byte"]
    assert 1 < float(overall.split()[-1]) < 10
    assert "talk to it" not in ended.out
    assert {record["source"] for record in pq.read_table(run / "corpus" / "train").to_pylist()} == {"web", "poem"}
    scores = json.loads((run / "evaluate" / "scores.json").read_text(encoding="utf-8"))
    assert all("heldout" in model and "quiz" not in model for model in scores["models"].values())
    assert (run / "report.html").is_file()


def test_too_few_documents_to_hold_any_out_still_run_and_say_so(finished: Path, tmp_path: Path, my: Path) -> None:
    """A handful of books is a corpus; what cannot be measured is said, not silently left out."""
    texts = pq.read_table(finished / "corpus" / "train")["text"].to_pylist()
    for number in range(5):
        (my / f"{number}.txt").write_text("\n\n".join(texts[number::5]), encoding="utf-8")
    recipe = own_recipe(tmp_path, OWN + "[evaluate]\n")
    ended = inkstone("run", recipe, "--set", "pretrain.max_steps=2")
    assert ended.code == 0, ended.err
    assert "the held-out split is shorter than one row: no held-out loss during training" in ended.notes
    assert any(note.startswith("there are no held-out documents, so no bits per byte") for note in ended.notes)
