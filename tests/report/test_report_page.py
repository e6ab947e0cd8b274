"""The page of a run: whole, offline, escaped, and patient with stages that are missing."""

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from inkstone.errors import InkstoneError, InputError
from inkstone.report import render_report

pytest.importorskip("matplotlib", reason="the report's charts need the extra `report`")

HOSTILE = "<script>alert('x')</script><img src=http://evil.example/a.png> {{ 7 * 7 }} $\\frac{1}{2$ & \"quoted\""
VOID = {"meta", "br", "hr", "img", "link", "input"}


class Page(HTMLParser):
    """Tags must nest; attributes and text are kept for the promises below."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.text += data


def write(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def quiz(accuracy: float) -> dict[str, Any]:
    part = {"n": 40, "correct": int(40 * accuracy), "accuracy": accuracy, "stderr": 0.07}
    return part | {"by_lang": {"zh": part}, "by_subject": {"zh/诗词": part, "en/capitals": part}}


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A run as the stages leave it, small."""
    run = tmp_path / "墨<1>"
    for number, stage in enumerate(("primer", "corpus", "tokenizer", "tokens", "pretrain", "sft", "evaluate")):
        facts = {"stage": stage, "started": "2026-01-01T00:00:00", "seconds": 10.0 + number}
        facts |= {"versions": {"torch": "2.13"}, "hardware": {"cpu": "Slate 9000"}, "settings": {"note": HOSTILE}}
        write(run / stage / "stage.json", facts)
    step = {
        "step": "rules",
        "documents_in": 5321,
        "documents_out": 4321,
        "characters_in": 99000,
        "characters_out": 88000,
    }
    examples = [{"id": "web-0-7", "value": 3.0, "threshold": 20.0, "detail": HOSTILE, "text": HOSTILE}]
    rule = {"rule": "too_short<i>", "level": "document", "count": 13, "characters": 7654, "examples": examples}
    write(run / "corpus" / "report.json", {"steps": [step], "rules": [rule]})
    langs = {"zh": {"bytes_per_token": 4.25}, "en": {"bytes_per_token": 3.75}}
    write(run / "tokenizer" / "measure.json", {"split": "heldout", "languages": langs})
    for stage in ("pretrain", "sft"):
        rows: list[dict[str, Any]] = [
            {"step": n, "tokens": 1000 * n, "loss": 8.0 / n, "tokens_per_second": 5000.0} for n in range(1, 30)
        ]
        write_rows(run / stage / "metrics.jsonl", [*rows, {"step": 29, "heldout_loss": 2.345}])
    models = {"random": {"quiz": {"letter": quiz(0.25)}}, "sft": {"quiz": {"letter": quiz(0.75)}}}
    write(run / "evaluate" / "scores.json", {"method": {"letter": "5-shot"}, "models": models})
    samples = {
        "random": {"continue": [{"prompt": "登鹳雀楼->王之涣\n夜雨寄北->", "text": HOSTILE}]},
        "sft": {"chat": {"zh": [{"role": "user", "content": "你好"}, {"role": "assistant", "content": "<b>您好</b>"}]}},
    }
    write(run / "evaluate" / "samples.json", {"models": samples})
    return run


def test_the_mixture_is_shown_with_its_transfer_table_and_its_online_weights(run_dir: Path) -> None:
    names = ["zh/<verse>", "en/books"]
    mixes = {
        kind: dict(zip(names, weights, strict=True))
        for kind, weights in (("natural", (0.9, 0.1)), ("learned", (0.4, 0.6)))
    }
    law = {
        name: {"transfer": dict(zip(names, row, strict=True))}
        for name, row in zip(names, ((1, 0.0425), (0.5, 1)), strict=True)
    }
    check = {"predicted": [5.1, 5.2], "measured": [5.15, 5.25], "rank_correlation_of_target": 0.9}
    check |= {"rank_correlation_per_domain": 0.8, "mean_absolute_error": 0.05}
    compared = {
        "natural": {"measured": [5.5, 5.7], "predicted": 5.6},
        "learned": {"measured": [5.3, 5.4], "predicted": 5.3},
    }
    facts = {
        "kind": "learned",
        "chosen": "learned",
        "domains": dict.fromkeys(names),
        "mixes": mixes,
        "law": law,
        "compared": compared,
    }
    write(run_dir / "mixture" / "mixture.json", facts | {"check": check})
    rows = [{"step": n, "loss": 5.0, "weight zh/<verse>": 0.4 + n / 100} for n in range(1, 5)]
    write_rows(run_dir / "pretrain" / "metrics.jsonl", [*rows, {"step": 4, "heldout_loss": 4.0}])
    text = Page(render_report(run_dir).read_text(encoding="utf-8")).text
    for said in (
        "those of the learned mix",
        "Weights of the mixtures",
        "The law on mixtures",
        "zh/<verse>",
        "0.04",
        "natural: measured 5.6000",
        "reweighted online",
    ):
        assert said in text, said
    assert "does not win" not in text


def test_the_page_is_well_formed_and_asks_nothing_of_the_network(run_dir: Path) -> None:
    page = Page(render_report(run_dir).read_text(encoding="utf-8"))
    assert not page.open
    names = {tag for tag, _ in page.tags}
    assert [attributes for tag, attributes in page.tags if tag == "script"] == [{}], "one script, in the page itself"
    assert not names & {"img", "link", "iframe", "object", "base", "form"}
    for _, attributes in page.tags:
        for key, value in attributes.items():
            assert not key.startswith("on")
            if key in {"href", "src", "xlink:href", "action", "srcset"}:
                assert value is not None and value.startswith("#")
            assert "url(" not in (value or "") or "url(#" in (value or "")


def test_no_address_is_left_in_the_page_but_in_escaped_text(run_dir: Path) -> None:
    html = render_report(run_dir).read_text(encoding="utf-8").replace('http-equiv="Content-Security-Policy"', "")
    assert html.count("http") == html.count("&lt;img src=http://evil.example/a.png&gt;")
    assert "@import" not in html


def test_ids_are_unique_and_every_reference_has_its_target(run_dir: Path) -> None:
    page = Page(render_report(run_dir).read_text(encoding="utf-8"))
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = {value[1:] for _, attributes in page.tags for key, value in attributes.items() if key == "href" and value}
    assert targets and targets <= set(ids)


def test_hostile_text_from_the_run_is_shown_and_never_interpreted(run_dir: Path) -> None:
    html = render_report(run_dir).read_text(encoding="utf-8")
    page = Page(html)
    assert (
        html.count("<script") == 1 and "alert('x')" not in html and "<b>您好" not in html and "too_short<i>" not in html
    )
    assert page.text.count(HOSTILE) >= 2  # the removed document and the continuation
    assert "<b>您好</b>" in page.text
    assert "too_short<i>" in page.text
    assert "墨<1>" in page.text


def test_the_page_shows_the_figures_of_the_files(run_dir: Path) -> None:
    text = Page(render_report(run_dir).read_text(encoding="utf-8")).text.replace("\xa0", " ")
    for figure in ("5,321", "4,321", "7,654", "2.345", "25.0 % ± 7.0", "75.0 % ± 7.0", "4.25", "3.75", "29,000"):
        assert figure in text, figure
    for label in ("zh/诗词", "en/capitals", "Pretraining: loss", "Chat tuning: speed", "Slate 9000", "1 min 31 s"):
        assert label in text, label
    assert "夜雨寄北->" in text


def test_what_the_models_say_stands_before_the_charts_by_subject_and_conversations_first(run_dir: Path) -> None:
    page = render_report(run_dir).read_text(encoding="utf-8")
    marks = ['id="scores"', "<h3>Conversations</h3>", "<h3>Continued text</h3>", 'id="subjects"', 'id="training"']
    places = [page.index(mark) for mark in marks]
    assert places == sorted(places)


def test_charts_follow_the_page_colours_and_have_names_for_screen_readers(run_dir: Path) -> None:
    page = Page(render_report(run_dir).read_text(encoding="utf-8"))
    charts = [attributes for tag, attributes in page.tags if tag == "svg"]
    assert len(charts) >= 7
    assert all(attributes["role"] == "img" and attributes["aria-label"] for attributes in charts)
    html = render_report(run_dir).read_text(encoding="utf-8")
    assert "currentColor" in html and "#010203" not in html


def test_the_same_run_gives_the_same_page(run_dir: Path) -> None:
    first = render_report(run_dir).read_bytes()
    assert render_report(run_dir).read_bytes() == first


@pytest.mark.parametrize("stage", ["primer", "corpus", "tokenizer", "tokens", "pretrain", "sft", "evaluate"])
def test_a_missing_stage_is_said_to_be_missing(run_dir: Path, stage: str) -> None:
    for path in (run_dir / stage).iterdir():
        path.unlink()
    text = Page(render_report(run_dir).read_text(encoding="utf-8")).text
    assert f"Not finished: {stage}." in text


def test_an_empty_run_directory_still_has_a_page(tmp_path: Path) -> None:
    page = Page(render_report(tmp_path).read_text(encoding="utf-8"))
    assert not page.open
    assert "The corpus stage has not finished" in page.text


def test_a_line_cut_off_by_a_kill_does_not_hide_the_curve(run_dir: Path) -> None:
    with (run_dir / "pretrain" / "metrics.jsonl").open("a", encoding="utf-8") as stream:
        stream.write('{"step": 30, "los')
    assert "Pretraining: loss" in render_report(run_dir).read_text(encoding="utf-8")


def test_a_damaged_result_is_named_and_not_left_out(run_dir: Path) -> None:
    (run_dir / "evaluate" / "scores.json").write_text("{", encoding="utf-8")
    with pytest.raises(InkstoneError, match=r"scores\.json"):
        render_report(run_dir)


def test_a_directory_that_is_not_there_is_the_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        render_report(tmp_path / "nowhere")
