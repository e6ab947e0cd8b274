"""`inkstone curate audit` and the group around it."""

import json
from pathlib import Path

import pytest
from tiny_run import inkstone

from inkstone.corpus.run.review import tally


@pytest.fixture(scope="module")
def corpus(data: Path) -> Path:
    return data / "runs" / "small"


def test_without_a_reason_it_prints_what_each_rule_removed(corpus: Path) -> None:
    ended = inkstone("curate", "audit", corpus)
    assert ended.code == 0, ended.err
    report = json.loads((corpus / "corpus" / "report.json").read_text(encoding="utf-8"))
    assert len(report["rules"]) > 3
    for rule in report["rules"]:
        (line,) = [line for line in ended.out.splitlines() if line.startswith(f"{rule['rule']} ")]
        assert line.split()[-2:] == [f"{rule['count']:,}", f"{rule['characters']:,}"]
    rows = [json.loads(line) for line in inkstone("curate", "audit", corpus, "--json").out.splitlines()]
    assert sum(row["count"] for row in rows) == sum(rule["count"] for rule in report["rules"])


def test_a_reason_gives_the_texts_the_measured_value_and_the_limit(corpus: Path) -> None:
    row = next(row for row in tally(corpus) if row.level == "document")
    arguments = ["curate", "audit", corpus / "corpus", "--reason", row.rule, "--source", row.source, "--lang", row.lang]
    found = [json.loads(line) for line in inkstone(*arguments, "--json", "--limit", "3").out.splitlines()]
    assert 1 <= len(found) <= 3
    assert {(one["rule"], one["source"], one["lang"]) for one in found} == {(row.rule, row.source, row.lang)}
    shown = inkstone(*arguments, "--limit", "1")
    assert shown.code == 0 and shown.out.startswith(f"1. {found[0]['id']} · {row.lang} · document")
    assert found[0]["text"].splitlines()[0][:40] in shown.out


def test_an_unknown_reason_is_answered_with_the_known_ones(corpus: Path) -> None:
    ended = inkstone("curate", "audit", corpus, "--reason", "dup_sentense")
    assert ended.code == 2 and ended.out == ""
    assert 'nothing was removed for the reason "dup_sentense"; reasons here: ' in ended.said
    assert all(row.rule in ended.said for row in tally(corpus))


def test_a_source_that_lost_nothing_by_a_rule_is_answered_with_those_that_did(corpus: Path) -> None:
    row = tally(corpus)[0]
    ended = inkstone("curate", "audit", corpus, "--reason", row.rule, "--source", "nowhere")
    assert ended.code == 2
    assert f'{row.rule} removed nothing for source "nowhere"; it did in: ' in ended.said and row.source in ended.said


def test_a_directory_without_an_audit_is_refused(tmp_path: Path) -> None:
    ended = inkstone("curate", "audit", tmp_path)
    assert ended.code == 2 and "holds no audit: give the directory of a run or of a curated corpus" in ended.said


@pytest.mark.parametrize("words", [["curate"], ["curate", "run"]])
def test_the_verb_of_a_recipe_may_be_left_out(words: list[str], data: Path) -> None:
    ended = inkstone(*words, data / "small.toml", "--dry-run")
    assert ended.code == 0 and "plan for" in ended.out, ended.err
