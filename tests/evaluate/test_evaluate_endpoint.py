"""A model and a judge behind HTTP: a small server on this machine that answers as told, and fails as told."""

import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from test_evaluate_runner import answers, make_data, make_model
from test_evaluate_tasks import DATA, needs_data

from inkstone.chat import Message
from inkstone.errors import InkstoneError, InputError
from inkstone.evaluate.kept import Kept
from inkstone.evaluate.protocols import find
from inkstone.evaluate.run.benchmarks import run_benchmarks, wanted_protocols
from inkstone.evaluate.run.endpoint import Endpoint
from inkstone.evaluate.run.judged import read_points, read_rating, read_safety
from inkstone.evaluate.run.local import LocalModel
from inkstone.evaluate.run.model import Writing
from inkstone.evaluate.run.pairwise import judge_pairs
from inkstone.evaluate.run.runner import ask_all
from inkstone.evaluate.tasks import load
from inkstone.progress import Silent

Answer = Callable[[str, dict[str, Any]], Any]


@contextmanager
def server(answer: Answer) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """URL and the requests it got; `answer(path, values)` gives a dict, bytes, an int (a status) or sleeps."""
    seen: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._reply({"data": [{"id": "served"}]})

        def do_POST(self) -> None:
            values = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            seen.append(values | {"path": self.path})
            self._reply(answer(self.path, values))

        def _reply(self, given: Any) -> None:
            code = given if isinstance(given, int) else 200
            body = given if isinstance(given, bytes) else json.dumps({} if code != 200 else given).encode()
            self.send_response(code)
            self.send_header("Content-Length", str(len(body) + (10 if body == b"early" else 0)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{running.server_address[1]}/v1", seen
    finally:
        running.shutdown()
        running.server_close()


def said(text: str) -> dict[str, Any]:
    return {"choices": [{"text": text, "message": {"role": "assistant", "content": text}}]}


def open_endpoint(url: str, **more: Any) -> Endpoint:
    return Endpoint(url, **({"pause_s": 0.01, "timeout_s": 5.0} | more))


def echo_of(model: LocalModel) -> Answer:
    """A completions server as vLLM answers `echo` with `logprobs`: one entry per token, the written one last."""

    def answer(path: str, values: dict[str, Any]) -> dict[str, Any]:
        tokenizer, text = model.opened.tokenizer, values["prompt"]
        ids = tokenizer.encode(text)
        with torch.no_grad():
            table = model.opened.model(torch.tensor([ids]))[0].log_softmax(-1)
        own = [float(table[at - 1, ids[at]]) for at in range(1, len(ids))]
        rows = {
            "tokens": [*(tokenizer.decode([one]) for one in ids), "!"],
            "token_logprobs": [None, *own, -1.0],
            "top_logprobs": [None, *({"x": float(row.max())} for row in table[:-1]), {}],
        }
        choice = {"text": text + "!", "logprobs": rows}
        return {"choices": [choice], "usage": {"prompt_tokens": len(ids)}}

    return answer


def test_log_probabilities_through_an_endpoint_equal_those_of_the_directory(tmp_path: Path) -> None:
    model = LocalModel(make_model(tmp_path / "model"))
    loaded = load("cmmlu", make_data(tmp_path / "data", questions=1))
    for name in ("cmmlu@lm-eval/1", "cmmlu@opencompass-ppl/0"):
        protocol = find(name)
        asks = ask_all(protocol, loaded, loaded.items)
        own = dict(model.answer(protocol, asks, range(len(asks))))
        with server(echo_of(model)) as (url, _):
            found = dict(open_endpoint(url).answer(protocol, asks, range(len(asks))))
        for index in own:
            assert found[index].values == pytest.approx(own[index].values, abs=1e-3)
    with (
        server(lambda *_: said("no log-probabilities here")) as (url, _),
        pytest.raises(InputError, match="protocols that"),
    ):
        list(open_endpoint(url).answer(protocol, asks, [0]))


def test_rounds_go_as_a_conversation_and_stops_are_cut_here_too(tmp_path: Path) -> None:
    data = make_data(tmp_path / "data", questions=2)
    with server(lambda *_: said("答案是: B, not A")) as (url, seen):
        scores = run_benchmarks(
            open_endpoint(url), wanted_protocols(["cmmlu@opencompass"], shots=2), data, tmp_path / "out", Silent()
        )
    assert [one["role"] for one in seen[0]["messages"]] == ["user", "assistant", "user", "assistant", "user"]
    assert {one["path"] for one in seen} == {"/v1/chat/completions"}
    assert (seen[0]["model"], seen[0]["temperature"]) == ("served", 0.0)
    rows = answers(tmp_path / "out" / "cmmlu@opencompass-2shot.jsonl")
    assert {row["prediction"] for row in rows} == {"B"}
    assert scores["tasks"]["cmmlu@opencompass-2shot"]["item_mean"] == pytest.approx(0.5)
    with server(lambda *_: said("18\nQuestion: more")) as (url, _):
        endpoint = open_endpoint(url)
        [(_, text)] = endpoint.talk([[Message("user", "x")]], [Writing(8, stops=("\n",))])
    assert text == "18"


def failing(times: int, failure: Any) -> Answer:
    left = [times]

    def answer(path: str, values: dict[str, Any]) -> Any:
        left[0] -= 1
        if left[0] < 0:
            return said("fine")
        if failure == "sleep":
            time.sleep(1.5)
            return said("late")
        return failure

    return answer


def talk(url: str, **more: Any) -> str:
    [(_, text)] = open_endpoint(url, **more).talk([[Message("user", "x")]], [Writing(8)])
    return text


@pytest.mark.parametrize("failure", [500, 503, 429, b"no json", b"[1]", b"early", "sleep"])
def test_what_may_pass_is_tried_again_and_then_said(failure: Any) -> None:
    """Overload, nonsense, a connection that ends early, silence."""
    patience = {"timeout_s": 0.5 if failure == "sleep" else 5.0}
    with server(failing(2, failure)) as (url, seen):
        assert talk(url, **patience) == "fine"
        assert len(seen) == 3
    with server(failing(99, failure)) as (url, _), pytest.raises(InkstoneError, match=r"failed 2 times.*same command"):
        talk(url, tries=2, **patience)


def test_what_cannot_pass_is_said_at_once() -> None:
    with server(lambda *_: 401) as (url, seen), pytest.raises(InputError, match=r"refuses the request \(401\)"):
        talk(url)
    assert len(seen) == 1
    with server(lambda *_: {"choices": []}) as (url, _), pytest.raises(InkstoneError, match="without choices"):
        talk(url)
    with pytest.raises(InkstoneError, match="failed 2 times"):
        Endpoint("http://127.0.0.1:9/v1", tries=2, pause_s=0.01)


def rate(path: str, values: dict[str, Any]) -> dict[str, Any]:
    """The model says how many messages it sees; the judge rates 8, or says nothing useful about question 1112."""
    text = values["messages"][-1]["content"]
    if values["model"] != "judge":
        return said(f"answer after {len(values['messages'])} messages")
    return said("no verdict" if "骰子" in text else "很好。评分：[[8]]")


@needs_data
@pytest.mark.parametrize(("task", "label"), [("mt-bench-zh", "huozi"), ("mt-bench", "fastchat")])
def test_mt_bench_judges_every_turn_and_counts_what_it_cannot_read(task: str, label: str, tmp_path: Path) -> None:
    with server(rate) as (url, seen):
        models = open_endpoint(url, name="model"), open_endpoint(url, name="judge")
        for _ in range(2):
            scores = run_benchmarks(
                models[0], wanted_protocols([task]), DATA, tmp_path / "out", Silent(), limit=16, judge=models[1]
            )
        assert len(seen) == 2 * 2 * 16  # the second call asked nothing
    found, rows = scores["tasks"][f"{task}@{label}"], answers(tmp_path / "out" / f"{task}@{label}.jsonl")
    assert found["questions"] == len(rows) == 32
    assert found["scored"] + found["unparsed"] == 32
    assert found["item_mean"] == pytest.approx(0.8)
    assert found["also"] == {"rating": 8.0, "turn_1": 8.0, "turn_2": 8.0}
    assert {row["texts"][0] for row in rows if row["turn"] == 2} == {"answer after 3 messages"}
    asked = [one for one in seen if one["model"] == "model"]
    assert {one["temperature"] for one in asked} == {0.0, 0.1, 0.7}
    judged = [one["messages"] for one in seen if one["model"] == "judge"]
    systems = {one[0]["content"] for one in judged}
    assert ("您是一个乐于助人的助手。" in systems) == (task == "mt-bench-zh")
    reference = "参考答案" if task == "mt-bench-zh" else "Reference Answer"
    assert 0 < sum(reference in one[-1]["content"] for one in judged) < 32


@needs_data
def test_better_reference_answers_are_judged_by_and_the_model_is_not_asked_again(tmp_path: Path) -> None:
    shutil.copytree(DATA / "mt_bench", tmp_path / "data" / "mt_bench")
    with server(rate) as (url, seen):
        model, judge = open_endpoint(url, name="model"), open_endpoint(url, name="judge")
        ask = partial(run_benchmarks, model, wanted_protocols(["mt-bench"]), tmp_path / "data", tmp_path / "out")
        ask(Silent(), limit=16, judge=judge)
        old = [one["messages"][-1]["content"] for one in seen]
        [path] = (tmp_path / "data" / "mt_bench").glob("reference_answer*.jsonl")
        path.write_text(
            path.read_text(encoding="utf-8").replace('"turns": ["', '"turns": ["Corrected. '), encoding="utf-8"
        )
        seen.clear()
        ask(Silent(), limit=16, judge=judge)
    assert {one["model"] for one in seen} == {"judge"}
    assert len(seen) == sum("Reference Answer" in text for text in old) > 0
    assert all("Corrected. " in one["messages"][-1]["content"] for one in seen)


@needs_data
def test_pairs_are_judged_in_both_orders_and_disagreement_is_a_tie(tmp_path: Path) -> None:
    """A judge that always prefers the first answer finds nothing but ties."""
    items = load("mt-bench", DATA).items[40:48]
    for name in ("a", "b"):
        rows = [{"id": f"{item.id}/{turn}", "texts": [f"answer {name}"]} for item in items for turn in (1, 2)]
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

    def judged(verdict: Callable[[str], str], kept: Path) -> tuple[dict[str, int], int]:
        with server(lambda _, values: said(verdict(values["messages"][-1]["content"]))) as (url, seen):
            found = judge_pairs(open_endpoint(url), items, tmp_path / "a", tmp_path / "b", Kept(kept, "x"))
        return dict(found), len(seen)

    fair = {True: "[[A]]", False: "[[B]]"}
    keep = tmp_path / "kept.jsonl"
    assert judged(lambda text: fair[text.index("answer a") < text.index("answer b")], keep) == ({"a": 16}, 32)
    assert judged(lambda _: "asked again", keep) == ({"a": 16}, 0)
    (tmp_path / "b").write_text((tmp_path / "b").read_text().replace("answer b", "answer B"), encoding="utf-8")
    assert judged(lambda _: "[[C]]", keep) == ({"tie": 16}, 32), "of other answers nothing is known yet"
    assert judged(lambda _: "I prefer [[A]]", tmp_path / "first") == ({"tie": 16}, 32)
    assert judged(lambda _: "Both. [[C]]", tmp_path / "both") == ({"tie": 16}, 32)
    assert judged(lambda _: "hm", tmp_path / "none") == ({"unparsed": 16}, 32)


@needs_data
def test_safety_and_subjective_exams_are_judged_too(tmp_path: Path) -> None:
    def answer(path: str, values: dict[str, Any]) -> dict[str, Any]:
        text = values["messages"][-1]["content"]
        if "[[拒绝:是或否]]" in text:
            return said("理由。\n[[拒绝:是]] [[有害:否]]" if "拒绝作答" in text else "[[拒绝: 否]] [[有害：是]]")
        return said("【判分理由】对。\n【总分】3分" if "判分" in text else "我拒绝作答")

    with server(answer) as (url, _):
        endpoint = open_endpoint(url)
        scores = run_benchmarks(
            endpoint,
            wanted_protocols(["safety", "gaokao-subjective"]),
            DATA,
            tmp_path,
            Silent(),
            limit=12,
            judge=endpoint,
        )
        with pytest.raises(InputError, match="--judge URL"):
            run_benchmarks(endpoint, wanted_protocols(["safety"]), DATA, tmp_path, Silent())
    safety, exam = scores["tasks"].values()
    assert safety["also"] == {"refused": 1.0, "harmful": 0.0}
    assert safety["item_mean"] == 1.0
    total = sum(part["points"] for part in exam["subjects"].values())
    assert exam["item_mean"] == pytest.approx(sum(min(3.0, row) for row in points(tmp_path)) / total)


def points(folder: Path) -> list[float]:
    known = {item.id: item.weight for item in load("gaokao-subjective", DATA).items}
    return [known[row["id"].removesuffix("/1")] for row in answers(folder / "gaokao-subjective@official.jsonl")]


def test_judgements_are_read_as_fastchat_reads_them_and_never_guessed() -> None:
    texts = {"Rating: [[5]]": 5.0, "[[7.5]] then [[2]]": 7.5, "only [6]": 6.0, "9/10": None, "": None, "[[100]]": None}
    assert {text: read_rating(text) for text in texts} == texts
    assert read_safety("[[拒绝:是]] [[有害:否]]") == (True, False)
    assert read_safety("拒绝，无害") is None
    assert read_points("【总分】12分", 9) == 1.0
    assert read_points("【得分】3分", 9) is None
