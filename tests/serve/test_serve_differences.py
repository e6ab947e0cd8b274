"""Two models of evaluated runs, question by question: as `inkstone evaluate compare` counts them, a page at a time."""

import shutil
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from evaluated_runs import evaluated
from serve_samples import Served, call, made, running

from inkstone.evaluate.report.compare import compare
from inkstone.serve.guard import Guard
from inkstone.serve.models import Library, ServeSettings, find_models


@pytest.fixture(scope="module")
def compared(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("runs")
    for run, how in (("first", "f"), ("second", "another")):
        shutil.copytree(models / "chat", folder / run / "sft")
        shutil.copytree(models / "chat", folder / run / "pretrain")
        evaluated(folder / run, {"pretrain": range(100), "sft": range(70, 120)}, how)
    library = Library(find_models([folder]), ServeSettings())
    with running(library, Guard([]), folder / "c.sqlite") as one:
        yield one


def asked(served: Served, runs: str = "first first", **more: Any) -> str:
    folders = {Path(one["folder"]).name: one["folder"] for one in made(served, "/api/evaluations", None, "GET")}
    one, other = (folders[name] for name in runs.split())
    values = {"a_run": one, "a": "pretrain", "b_run": other, "b": "sft"}
    return f"/api/differences?{urlencode(values | more)}"


def test_every_task_is_compared_as_the_command_does(compared: Served) -> None:
    told = made(compared, asked(compared), None, "GET")
    tasks = {row["task"]: row for row in told["tasks"]}
    assert list(tasks)[-2:] == ["word problems", "cmmlu@official"] and len(tasks) == 5
    letter = tasks["quiz, by letter"]
    assert (letter["items"], letter["only_a"], letter["only_b"]) == (120, 70, 20) and letter["p"] < 1e-6
    run = next(place for name, place in compared.library.directories.items() if name == "first/sft").parent
    [same] = compare(*(run / "evaluate" / "benchmarks" / model for model in ("pretrain", "sft")))
    assert tasks["cmmlu@official"] == asdict(same)


def test_questions_come_a_page_at_a_time_with_both_answers_shortened(compared: Served) -> None:
    path = asked(compared, task="quiz, by letter", start=50)
    told = made(compared, path, None, "GET")
    assert told["total"] == 90 and len(told["rows"]) == 40
    row = told["rows"][0]
    assert (row["id"], row["a"], row["b"], row["right"], row["better"]) == ("q50", "B. 二", "C. 三", "B. 二", "a")
    assert row["question"].startswith("50？长") and len(row["question"]) < 650
    assert told["rows"][-1]["better"] == "b"


def test_written_answers_and_a_benchmark_whose_files_are_gone(compared: Served) -> None:
    [row] = made(compared, asked(compared, task="word problems"), None, "GET")["rows"]
    assert (row["a"], row["b"], row["right"]) == ("<b>pretrain</b>", "<b>sft</b>", "2")
    rows = made(compared, asked(compared, task="cmmlu@official"), None, "GET")["rows"]
    assert (rows[0]["a"], rows[0]["right"], rows[0]["question"]) == ("B", "B", "")


def test_runs_that_asked_in_other_ways_are_not_compared(compared: Served) -> None:
    told = made(compared, asked(compared, "first second"), None, "GET")
    assert told["tasks"] == [] and "cmmlu@official: asked under different protocols" in told["refused"]


@pytest.mark.parametrize(
    ("more", "code"), [({"a": "nobody"}, 400), ({"a_run": "/etc"}, 404), ({"task": "x"}, 404), ({"start": -1}, 400)]
)
def test_what_is_not_there_is_said(more: dict[str, Any], code: int, compared: Served) -> None:
    status, told = call(compared, "GET", asked(compared, **more))
    assert status == code and told["error"]["message"]
