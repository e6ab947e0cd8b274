"""Tasks: real training processes of tiny models, started, stopped, found again and resumed through the API."""

import json
import os
import shutil
import signal
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from serve_samples import KEY, Served, call, get, made, running, send, wait_until

from inkstone.chat.datasets import read_preferences
from inkstone.recipe import read_recipe
from inkstone.serve.adapters import Adapter
from inkstone.serve.guard import Guard
from inkstone.serve.jobs import Jobs, process
from inkstone.serve.jobs.queue import STAGE
from inkstone.serve.jobs.reading import events_since, last_words
from inkstone.serve.models import Library, ServeSettings, find_models
from inkstone.serve.store import Store

LONG = {"epochs": 1000.0, "sequence_length": 64}
"""Hours, at the pace of this model: it is stopped long before."""


@pytest.fixture
def anew(models: Path, tmp_path: Path) -> Iterator[Callable[[], Served]]:
    """anew() is a server that knows what the last one left; at the end no process is left."""
    open_: list[Any] = []

    def start() -> Served:
        while open_:
            open_.pop().__exit__(None, None, None)
        library = Library(find_models([models]), ServeSettings(rows=2))
        open_.append(running(library, Guard([]), tmp_path / "c.sqlite"))
        served: Served = open_[0].__enter__()
        return served

    yield start
    for row in Store(str(tmp_path / "c.sqlite")).rows("jobs"):
        process.end(row["process"] or "0 ", now=True)
    while open_:
        open_.pop().__exit__(None, None, None)


def chats(count: int = 8) -> bytes:
    rows = [{"messages": [{"role": "user", "content": f"{n}？"}, {"role": "assistant", "content": "水火" * 4}]}
            for n in range(count)]  # fmt: skip
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def pairs(count: int = 4) -> bytes:
    rows = [
        {"messages": [{"role": "user", "content": f"{n}？"}], "chosen": "水", "rejected": "火"} for n in range(count)
    ]
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def uploaded(served: Served, name: str, content: bytes) -> Any:
    code, row = send(served, f"/api/datasets?name={quote(name)}", content)
    assert code == 200, row
    return row


def begun(served: Served, **task: Any) -> Any:
    """One task, started."""
    [row] = made(served, "/api/tasks", {"tasks": [{"model": "chat", **task}]})
    return row


def state(served: Served, number: int) -> str:
    return str(made(served, f"/api/tasks/{number}", None, "GET")["state"])


def reach(served: Served, number: int, *states: str, limit_s: float = 90) -> Any:
    wait_until(lambda: state(served, number) in (*states, "failed"), limit_s)
    row = made(served, f"/api/tasks/{number}", None, "GET")
    assert row["state"] in states, row["error"] + row["log"]
    return row


def trains(served: Served, number: int, steps: int = 3) -> None:
    """Wait until it has done some steps."""
    row = {}

    def going() -> bool:
        nonlocal row
        row = made(served, f"/api/tasks/{number}", None, "GET")
        assert row["state"] not in ("failed", "succeeded"), row["log"]
        return row["progress"].get("unit") == "steps" and row["progress"]["done"] >= steps

    wait_until(going, 90)


def test_a_model_is_tuned_on_an_uploaded_file_measured_before_and_after_and_talks(anew: Callable[[], Served]) -> None:
    served = anew()
    data, test = uploaded(served, "《诗》 (1) [终].JSONL", chats()), uploaded(served, "test.jsonl", chats(3))
    assert data["name"] == "《诗》 (1) [终].jsonl"
    task = {
        "model": "chat",
        "data": data["id"],
        "test": test["id"],
        "method": "whole",
        "epochs": 20,
        "sequence_length": 64,
    }
    [planned] = made(served, "/api/tasks/plan", {"tasks": [task]})
    assert planned["takes"]["hours"][0] < planned["takes"]["hours"][1] < 1 and planned["takes"]["memory_gib"] > 0
    row = begun(served, **task)
    assert row["state"] in ("queued", "running") and row["task"]["takes"]["steps"] == planned["takes"]["steps"]
    done = reach(served, row["id"], "succeeded")
    assert done["result"]["heldout_loss"] < done["result"]["heldout_loss_before"]
    assert done["result"]["steps"] == planned["takes"]["steps"]
    assert done["model"] == f"诗-1-终-whole-{row['id']}"
    body = {"model": done["model"], "messages": [{"role": "user", "content": "1？"}], "max_tokens": 4}
    assert made(served, "/v1/chat/completions", body)["choices"][0]["message"]["content"]
    served = anew()
    assert done["model"] in [one["id"] for one in made(served, "/v1/models", None, "GET")["data"]]
    assert call(served, "POST", f"/api/tasks/{row['id']}/resume")[0] == 409
    assert call(served, "DELETE", f"/api/tasks/{row['id']}")[0] == 204
    assert done["model"] not in [one["id"] for one in made(served, "/v1/models", None, "GET")["data"]]
    assert call(served, "GET", f"/api/tasks/{row['id']}")[0] == 404
    assert list((served.jobs.folder / "jobs").iterdir()) == []


def test_stop_saves_a_restarted_server_finds_the_job_and_resume_goes_on(anew: Callable[[], Served]) -> None:
    served = anew()
    data = uploaded(served, "a.jsonl", chats(200))
    number, second = (begun(served, data=data["id"], **LONG)["id"] for _ in range(2))
    trains(served, number)
    assert state(served, second) == "queued", "one at a time"
    assert call(served, "DELETE", f"/api/tasks/{number}")[0] == 409
    assert made(served, f"/api/tasks/{second}/stop", None)["state"] == "stopped"
    served = anew()
    assert state(served, number) == "running"
    trains(served, number, 6)
    assert made(served, f"/api/tasks/{number}/stop", None)["state"] == "stopping"
    row = reach(served, number, "stopped", limit_s=20)
    assert "stopped after step" in row["log"]
    stopped_at = row["progress"]["done"]
    made(served, f"/api/tasks/{number}/resume", None)
    wait_until(lambda: "continuing after step" in made(served, f"/api/tasks/{number}", None, "GET")["log"], 60)
    trains(served, number, stopped_at + 2)
    events = followed(served, number, 0)
    numbers = [event["sequence"] for _, event in events]
    assert numbers == sorted(set(numbers)) and [event["kind"] for _, event in events].count("start") == 2
    again = [event["sequence"] for _, event in followed(served, number, events[3][0])]
    assert again[:3] == numbers[4:7], "nothing twice, nothing left out"
    made(served, f"/api/tasks/{number}/stop", None)
    assert call(served, "POST", f"/api/tasks/{number}/stop")[0] in (200, 409)
    reach(served, number, "stopped", limit_s=20)


def followed(served: Served, number: int, after: int) -> list[tuple[int, dict[str, Any]]]:
    """The events so far with their ids, as a browser gets them after the event of the id `after`."""
    request = urllib.request.Request(f"{served.url}/api/tasks/{number}/events", headers={"Last-Event-ID": str(after)})
    events: list[tuple[int, dict[str, Any]]] = []
    last = 0
    with urllib.request.urlopen(request, timeout=30) as stream:
        for line in stream:
            if line.startswith(b"id: "):
                last = int(line[4:])
            if line.startswith(b"data: "):
                told = json.loads(line[6:])
                if "sequence" not in told:
                    assert told["id"] == number
                    break
                events.append((last, told))
    return events


def test_a_second_stop_kills_and_what_was_killed_by_others_has_failed_in_words(anew: Callable[[], Served]) -> None:
    served = anew()
    data = uploaded(served, "a.jsonl", chats(200))
    number = begun(served, data=data["id"], **LONG)["id"]
    trains(served, number)
    code, told = call(served, "DELETE", f"/api/datasets/{data['id']}")
    assert code == 409 and f"task {number} learns from a.jsonl" in told["error"]["message"]
    [row] = served.jobs.store.rows("jobs")
    os.kill(int(row["process"].split()[0]), signal.SIGSTOP)  # it hears no SIGTERM now
    made(served, f"/api/tasks/{number}/stop", None)
    time.sleep(1.2)
    assert state(served, number) == "stopping"
    made(served, f"/api/tasks/{number}/stop", None)
    reach(served, number, "stopped", limit_s=10)
    made(served, f"/api/tasks/{number}/resume", None)
    wait_until(lambda: state(served, number) == "running")
    wait_until(lambda: bool(served.jobs.store.rows("jobs")[0]["process"]))
    [row] = served.jobs.store.rows("jobs")
    os.killpg(int(row["process"].split()[0]), signal.SIGKILL)
    wait_until(lambda: state(served, number) == "failed")
    assert made(served, f"/api/tasks/{number}", None, "GET")["error"]
    assert call(served, "DELETE", f"/api/datasets/{data['id']}")[0] == 204


def test_another_process_with_the_number_of_a_job_is_not_taken_for_it() -> None:
    mine = process.identity(os.getpid())
    assert process.runs(mine)
    assert not process.runs(f"{os.getpid()} 12345 of-another-boot")
    assert not process.runs("") and not process.runs("999999999 ")
    process.end(f"{os.getpid()} 12345 of-another-boot", now=True)


def test_a_tasks_model_never_hides_behind_a_served_models_or_adapters_name(models: Path, tmp_path: Path) -> None:
    """Nor the other way round; and the name is the same when the server starts again."""
    store = Store(str(tmp_path / "c.sqlite"))
    for name in ("law", "poem", "tea"):
        row = store.add("jobs", {"name": name, "task": {}, "state": "succeeded"})
        shutil.copytree(models / "chat", tmp_path / "jobs" / f"{row['id']}-{row['created']:.0f}" / name / STAGE)
    served = {"chat": models / "chat", "law-1": models / "base"}
    for _ in range(2):
        library = Library(dict(served), ServeSettings(), {"poem-2": Adapter(models / "base", "chat")})
        jobs = Jobs(store, tmp_path, library)
        jobs.begin()
        assert [jobs.shown(row)["model"] for row in store.rows("jobs")] == ["law-1-task", "poem-2-task", "tea-3"]
        assert library.names == ["chat", "law-1", "law-1-task", "poem-2-task", "tea-3", "poem-2"]
        assert library.place("law-1") == models / "base" and library.place("poem-2-task").parent.name == "poem"


def test_thumbs_become_pairs_and_a_preference_task(anew: Callable[[], Served]) -> None:
    served = anew()
    talk = made(served, "/api/conversations", {})
    path = f"/api/conversations/{talk['id']}/messages"
    asked = made(served, path, {"role": "user", "content": "天为什么蓝？"})
    bad = made(served, path, {"role": "assistant", "content": "不知道", "parent": asked["id"]})
    made(served, f"/api/messages/{bad['id']}", {"rating": -1, "better": "短波散射更强"}, "PATCH")
    lines = get(served, "/api/preferences.jsonl")[1].encode()
    data = uploaded(served, "feedback.jsonl", lines)
    assert data["about"] | {"size": 0} == {"kind": "preference", "rows": 1, "faulty": 0, "faults": [], "size": 0}
    row = begun(served, data=data["id"], method="lora", epochs=3, sequence_length=128)
    done = reach(served, row["id"], "succeeded")
    assert 'method = "preference"' in done["recipe"] and done["result"]["pairs"] == 1
    read_recipe(served.jobs.run_dir(row).parent / "recipe.toml")
    assert read_preferences(list((served.jobs.folder / "data").iterdir())).preferences


def verdicts(*good: bool) -> bytes:
    rows = [{"prompt": f"{n}？", "completion": "水" if one else "火", "label": one} for n, one in enumerate(good)]
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def test_thumbs_alone_become_verdicts_and_a_kto_task(anew: Callable[[], Served]) -> None:
    served = anew()
    path = f"/api/conversations/{made(served, '/api/conversations', {})['id']}/messages"
    asked = made(served, path, {"role": "user", "content": "天为什么蓝？"})
    for text, rating in (("不知道", -1), ("因为散射", 1), ("也许", -1), ("嗯", 0)):
        answer = {"role": "assistant", "content": text, "parent": asked["id"], "system": "请简短。"}
        made(served, f"/api/messages/{made(served, path, answer)['id']}", {"rating": rating}, "PATCH")
    data = uploaded(served, "thumbs.jsonl", get(served, "/api/verdicts.jsonl")[1].encode())
    assert data["about"] | {"size": 0} == {
        "kind": "verdict", "rows": 3, "good": 1, "faulty": 0, "faults": [], "size": 0,
    }  # fmt: skip
    row = begun(served, data=data["id"], method="lora", epochs=3)
    assert row["task"]["takes"]["method"] == "kto" and row["task"]["takes"]["learning_rate"] == 2e-4
    done = reach(served, row["id"], "succeeded")
    assert (done["result"]["good"], done["result"]["bad"]) == (1, 2)
    assert done["result"]["steps"] == row["task"]["takes"]["steps"]
    [stage] = read_recipe(served.jobs.run_dir(row).parent / "recipe.toml").tune.values()
    told = {one["name"]: one["adapter"] for one in made(served, "/api/models", None, "GET")}
    assert told[done["model"]] and not told["chat"], "LoRA leaves an adapter to export"
    assert (stage.method, stage.kto.good_weight, stage.kto.bad_weight) == ("kto", 2.0, 1.0)


def test_verdicts_are_known_by_their_rows_and_of_one_kind_only_are_refused(served: Served) -> None:
    rows = uploaded(
        served, "kto.jsonl", b'{"prompt": "a", "completion": "b", "label": "yes"}\n' + verdicts(True, False)
    )
    assert (rows["about"]["kind"], rows["about"]["rows"], rows["about"]["faulty"]) == ("verdict", 2, 1)
    labelled = chats(2).replace(b'{"messages"', b'{"label": "poem", "messages"')
    assert uploaded(served, "labelled.jsonl", labelled)["about"]["kind"] == "chat", "a label of another sort"
    for good, said in ((True, "good"), (False, "bad")):
        alone = uploaded(served, "alone.jsonl", verdicts(good, good))["id"]
        task = {"model": "chat", "data": alone}
        status, told = call(served, "POST", "/api/tasks", {"tasks": [task]})
        assert status == 400 and f"said to be {said}: learning from thumbs needs both" in told["error"]["message"]
        assert "needs both" in made(served, "/api/tasks/plan", {"tasks": [task]})[0]["problem"]
    task = {"model": "chat", "data": rows["id"], "test": rows["id"]}
    assert "without test data" in made(served, "/api/tasks/plan", {"tasks": [task]})[0]["problem"]


def test_faults_of_an_upload_are_told_by_row_and_left_out_of_the_task(served: Served) -> None:
    row = uploaded(served, "faults.jsonl", chats(2) + b'{"messages": [{"role": "user"}]}\nno json\n')
    about = row["about"]
    assert (about["kind"], about["rows"], about["faulty"]) == ("chat", 2, 2)
    assert about["faults"][0].startswith("3: messages") and about["faults"][1].startswith("4: row: is not valid JSON")
    [planned] = made(served, "/api/tasks/plan", {"tasks": [{"model": "chat", "data": row["id"]}]})
    assert planned["takes"]["steps"] >= 1
    strange = rb'{"messages": [{"role": "\ud800", "content": "x"}, {"role": "assistant", "content": "\ud800"}]}'
    alone = rb'{"messages": [{"role": "user", "content": "\ud800"}, {"role": "assistant", "content": "\udfff"}]}'
    row_of_surrogates = uploaded(served, "surrogates.jsonl", chats(1) + strange + b"\n" + alone)
    assert row_of_surrogates["about"]["faulty"] == 2
    assert made(served, "/api/datasets", None, "GET")[-1]["id"] == row_of_surrogates["id"]
    code, told = send(served, "/api/datasets?name=none.jsonl", b'{"a": 1}\n')
    assert code == 400 and told["error"]["message"].startswith("none.jsonl is in no known format")
    last = row_of_surrogates["id"]
    assert call(served, "DELETE", f"/api/datasets/{last}")[0] == 204
    assert uploaded(served, "next.jsonl", chats(1))["id"] > last, (
        "a task that names the one that is gone must not get it"
    )
    assert call(served, "DELETE", f"/api/datasets/{row['id']}")[0] == 204
    assert call(served, "DELETE", f"/api/datasets/{row['id']}")[0] == 404
    assert not list(served.jobs.folder.rglob("*faults.jsonl"))


@pytest.mark.parametrize(
    "name",
    ["..%2Fx.jsonl", "%2Fetc%2Fx.jsonl", ".x.jsonl", "a.py", "a.jsonl%00", "a%0A.jsonl", "", "a" * 99 + ".jsonl"],
)
def test_a_name_that_could_do_harm_is_refused(name: str, served: Served) -> None:
    assert send(served, f"/api/datasets?name={name}", chats(1))[0] == 400


def test_an_upload_is_bounded_also_unpacked(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    import gzip

    from inkstone.serve.jobs import datasets

    bomb = gzip.compress(b" " * 100_000_000)
    code, told = send(served, "/api/datasets?name=bomb.jsonl.gz", bomb)
    assert code == 400 and "unpacks to" in told["error"]["message"]
    monkeypatch.setattr(datasets, "MAX_UPLOAD_BYTES", 1000)
    code, told = send(served, "/api/datasets?name=large.jsonl", chats(100))
    assert code == 413 and told["error"]["message"].endswith("split it")
    usage = shutil.disk_usage(served.jobs.folder)
    monkeypatch.setattr(datasets.shutil, "disk_usage", lambda _: usage._replace(free=1000))
    code, told = send(served, "/api/datasets?name=large.jsonl", chats(100))
    assert code == 413 and told["error"]["message"].endswith("what the disk has left")
    assert not list((served.jobs.folder / "data").glob("*bomb*"))
    assert not list((served.jobs.folder / "data").glob(".*"))


@pytest.mark.parametrize(
    ("task", "code", "said"),
    [
        ({"model": "nobody"}, 404, "no model"),
        ({"data": 10**6}, 404, "no dataset"),
        ({"sequence_length": 512}, 400, "256 positions"),
        ({"method": "magic"}, 400, "method"),
        ({"epochs": 0}, 400, "epochs"),
        ({"recipe": "x"}, 400, "knows no such field"),
        ({"test": "PAIRS"}, 400, "choose alike"),
    ],
)
def test_a_task_that_cannot_start_is_refused_before_any_does(
    task: dict[str, Any], code: int, said: str, served: Served
) -> None:
    data = uploaded(served, "a.jsonl", chats(2))["id"]
    if "test" in task:
        task = {"test": uploaded(served, "p.jsonl", pairs())["id"]}
    before = made(served, "/api/tasks", None, "GET")
    bad = {"model": "chat", "data": data} | task
    status, told = call(served, "POST", "/api/tasks", {"tasks": [{"model": "chat", "data": data}, bad]})
    assert status == code and said in told["error"]["message"]
    if "no model" in said:
        assert made(served, "/api/tasks/plan", {"tasks": [bad]})[0]["problem"] == told["error"]["message"]
    assert made(served, "/api/tasks", None, "GET") == before


@pytest.mark.parametrize("path", ["", "/1", "/1/events", "/plan"])
def test_tasks_need_the_key_too(path: str, locked: Served) -> None:
    assert get(locked, f"/api/tasks{path}")[0] == 401
    assert get(locked, f"/api/tasks{path}", KEY)[0] != 401


@pytest.mark.parametrize("path", ["/api/tasks/7777", "/api/tasks/7777/events"])
def test_a_task_that_is_not_there(path: str, served: Served) -> None:
    assert get(served, path)[0] == 404
    assert call(served, "POST", "/api/tasks/7777/stop")[0] == 404
    assert call(served, "POST", "/api/tasks/7777/resume")[0] == 404
    assert call(served, "POST", "/api/tasks/1/explode")[0] == 400


def test_events_are_read_on_from_a_place_and_a_line_that_is_being_written_waits(tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    assert events_since(file, 0) == []
    file.write_text('{"a": 1}\n{"b": "水"}\n{"c"', encoding="utf-8")
    (first, a), (second, b) = events_since(file, 0)
    assert (a, b) == ({"a": 1}, {"b": "水"}) and events_since(file, first) == [(second, b)]
    assert events_since(file, second) == []
    assert events_since(file, 10**6)[0] == (first, a), "another file than before"


def test_last_words_are_the_error_or_the_last_line(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    log.write_text('{"stage": 1}\nwarning\nerror: a\nb\n{"x": 1}\n')
    assert last_words(log) == "a\nb"
    log.write_text("x\nTraceback\nValueError: y\n")
    assert last_words(log) == "ValueError: y"
    log.write_text("")
    assert "without a word" in last_words(log)
