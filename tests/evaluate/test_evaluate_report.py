"""The page of a run and the leaderboard: every number of scores.json, nothing executable from a file's text."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from inkstone.errors import InputError
from inkstone.evaluate.report.figures import figures, interval
from inkstone.evaluate.report.page import CHANCE, published_rows, radar, write_leaderboard, write_report
from inkstone.evaluate.tasks import BENCHMARKS


def rows(subjects: list[str]) -> list[dict[str, Any]]:
    return [{"id": f"{subject}{n}", "subject": subject, "gold": [0], "parsed": n > 0, "cut": n % 2, "dropped": 1,
             "seconds": 0.5, "score": float(n < 3)} for subject in subjects for n in range(4)]  # fmt: skip


def write_run(folder: Path, model: str = "m<b>x</b>", mark: str = "f1") -> Path:
    folder.mkdir(parents=True)
    found = figures(rows(list(BENCHMARKS["cmmlu"].subjects)[:30]), BENCHMARKS["cmmlu"].subjects)
    found |= {"fingerprint": mark, "limit": None, "note": "how"}
    scores = {"model": model, "fingerprint": "a1", "tasks": {"cmmlu@lm-eval": found}}
    (folder / "scores.json").write_text(json.dumps(scores), encoding="utf-8")
    return folder


class Text(HTMLParser):
    """Every tag that is opened and all text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        assert not any(name in ("src", "href") and str(value).startswith("http") for name, value in attrs)

    def handle_data(self, data: str) -> None:
        self.text += data


def test_a_page_shows_both_means_the_radar_and_every_subject(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    markdown, html = (path.read_text(encoding="utf-8") for path in write_report(run, published=True))
    page = Text(html)
    assert "<b>x</b>" not in html.replace("&lt;b&gt;", "")
    assert page.tags.count("polygon") == 5
    assert page.text.count("75.0 (4)") == 30
    for shown in ("75.00", "Baichuan-13B-Base", "55.3", "cmmlu@lm-eval", "f1"):
        assert shown in page.text
        assert shown in markdown
    assert "| cmmlu@lm-eval | 120 | 75.00 |" in markdown
    assert "GPT-4" not in markdown  # it published no CMMLU here


def test_a_leaderboard_has_a_column_per_protocol_and_the_best_run_first(tmp_path: Path) -> None:
    write_run(tmp_path / "b")
    write_run(tmp_path / "a", "other", "f2")
    text = write_leaderboard(tmp_path)[0].read_text(encoding="utf-8")
    assert "cmmlu@lm-eval (f1) | cmmlu@lm-eval (f2)" in text
    assert "| a | other | – | 75.00 |" in text
    assert Text((tmp_path / "leaderboard.html").read_text(encoding="utf-8")).tags.count("tr") == 3
    with pytest.raises(InputError, match="holds no runs"):
        write_leaderboard(tmp_path / "a")


def test_counts_of_what_could_not_be_read_or_did_not_fit() -> None:
    found = figures(rows(["law", "logic"]), BENCHMARKS["ceval"].subjects)
    assert (found["questions"], found["unparsed"], found["truncated"], found["dropped_examples"]) == (8, 2, 4, 8)
    hidden = [row | {"gold": []} for row in rows(["law"])]
    assert "item_mean" not in figures(hidden, {})


def test_weights_move_the_mean_and_its_interval() -> None:
    assert interval([1, 0, 0.5], [1, 1, 1]) == pytest.approx(interval([1, 0, 0.5]))
    low, high = interval([1.0, 0.0, 0.0, 0.0], [9, 1, 1, 1])
    assert low < 0.75 <= high


def test_radar_points_go_round_from_the_top() -> None:
    assert radar([1, 1, 1, 1], 10) == [(0, -10), (10, 0), (0, 10), (-10, 0)]


def test_every_published_number_names_its_task_and_source() -> None:
    known = published_rows({task: {} for task in BENCHMARKS})
    assert len(known) >= 15
    assert all(row["how"] and row["source"] and 0 < row["score"] < 100 for row in known)
    assert set(CHANCE) <= set(BENCHMARKS)
    assert not re.search(r"\b(0\.\d+)\b", json.dumps([row["score"] for row in known]))
