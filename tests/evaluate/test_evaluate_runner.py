"""The runner with tiny real models: SIGKILL and a second call, prompts that do not fit, joined tokens, one folder."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import filelock
import pytest
import torch
from tiny_tokenizers import byte_level, sentencepiece_like

from inkstone.errors import InputError
from inkstone.evaluate.protocols import find
from inkstone.evaluate.protocols.protocol import Ask, Protocol
from inkstone.evaluate.protocols.readers import first_capital, first_option
from inkstone.evaluate.report.compare import compare, sign_test
from inkstone.evaluate.report.figures import interval, pass_at
from inkstone.evaluate.run.benchmarks import run_benchmarks, wanted_protocols
from inkstone.evaluate.run.local import LocalModel
from inkstone.evaluate.run.plan import Planner
from inkstone.evaluate.tasks import Item
from inkstone.generate import score
from inkstone.model import Decoder, DecoderConfig, save_model
from inkstone.progress import Silent
from inkstone.tokenizer import Tokenizer

SUBJECTS = ("anatomy", "arts", "astronomy")


def make_model(directory: Path, seed: int = 0, max_positions: int = 2048) -> Path:
    tokenizer = byte_level()
    torch.manual_seed(seed)
    shape = DecoderConfig(
        vocab_size=tokenizer.vocab_size, hidden_size=32, intermediate_size=48, num_layers=2, num_heads=4,
        num_kv_heads=2, head_dim=8, max_positions=max_positions,
    )  # fmt: skip
    model = Decoder(shape)
    for weight in model.parameters():
        weight.data = 1 + 0.1 * torch.randn_like(weight) if weight.dim() == 1 else 0.2 * torch.randn_like(weight)
    save_model(model, directory, bos_id=tokenizer.bos_id, eos_id=tokenizer.eos_id, pad_id=tokenizer.pad_id, stop_ids=[])
    tokenizer.save(directory)
    return directory


def make_data(root: Path, questions: int = 12) -> Path:
    folder = root / "cmmlu"
    folder.mkdir(parents=True)
    for split, count in (("dev", 5), ("test", questions)):
        rows = [
            {"id": f"{subject}/{split}/{number}", "subject": subject, "Question": f"{subject} question {number}?",
             **{letter: f"{letter.lower()}{number}" for letter in "ABCD"}, "Answer": "ABCD"[number % 4]}
            for subject in SUBJECTS for number in range(count)
        ]  # fmt: skip
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return root


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("runner")
    make_model(root / "one")
    make_model(root / "other", seed=1)
    make_data(root / "data")
    return root


def run(work: Path, model: str, output: Path, *tasks: str, **options: Any) -> dict[str, Any]:
    protocols = wanted_protocols(tasks, max_new_tokens=options.pop("max_new_tokens", None))
    return run_benchmarks(LocalModel(work / model), protocols, work / "data", output, Silent(), **options)


def answers(path: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def test_both_means_and_every_count_stand_beside_a_score(work: Path, tmp_path: Path) -> None:
    scores = run(work, "one", tmp_path / "out", "cmmlu@lm-eval", "cmmlu@official/0")
    found = scores["tasks"]["cmmlu@lm-eval"]
    rows = answers(tmp_path / "out" / "cmmlu@lm-eval.jsonl")
    assert found["questions"] == len(rows) == 36
    assert found["item_mean"] == pytest.approx(sum(row["score"] for row in rows) / 36)
    assert set(found["subjects"]) == set(SUBJECTS)
    assert {"low", "high", "subject_mean", "categories", "unparsed", "truncated", "fingerprint"} <= set(found)
    assert "cmmlu@official-0shot" in scores["tasks"]


def test_a_killed_run_goes_on_and_ends_with_the_same_answers(work: Path, tmp_path: Path) -> None:
    """SIGKILL while answers are written; the second call asks what is missing and keeps every answer there is."""
    data = make_data(tmp_path / "data", questions=60)
    program = (
        "import sys, pathlib, time, torch\n"
        "from inkstone.evaluate.run import benchmarks, local, runner\n"
        "from inkstone.progress import Silent\n"
        "torch.set_num_threads(1)\n"
        "plain = runner.append_line\n"
        "runner.append_line = lambda *given: (plain(*given), time.sleep(0.01))\n"
        "model, data, out = map(pathlib.Path, sys.argv[1:])\n"
        "protocols = benchmarks.wanted_protocols(['cmmlu'])\n"
        "benchmarks.run_benchmarks(local.LocalModel(model), protocols, data, out, Silent())"
    )
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    command = [sys.executable, "-c", program, str(work / "one"), str(data), str(killed)]
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])})
    path = killed / "cmmlu@lm-eval.jsonl"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (path.is_file() and path.read_bytes().count(b"\n") >= 20):
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    with path.open("a", encoding="utf-8") as stream:
        stream.write('{"id": "half a li')
    before = path.read_text(encoding="utf-8").splitlines()[:-1]
    assert 20 <= len(before) < 180
    for output in (killed, whole):
        protocols = wanted_protocols(["cmmlu"])
        run_benchmarks(LocalModel(work / "one"), protocols, data, output, Silent())
    assert answers(killed / path.name) == answers(whole / path.name)
    assert set(before) <= set(path.read_text(encoding="utf-8").splitlines())


def test_a_second_call_computes_nothing(work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run(work, "one", tmp_path / "out", "cmmlu")
    monkeypatch.setattr(LocalModel, "answer", lambda *_: pytest.fail("asked again"))
    assert run(work, "one", tmp_path / "out", "cmmlu") == first


def test_an_answer_under_another_protocol_is_not_taken_for_this_one(work: Path, tmp_path: Path) -> None:
    path = tmp_path / "out" / "cmmlu@lm-eval.jsonl"
    run(work, "one", tmp_path / "out", "cmmlu", limit=6)
    keys = {row["key"] for row in answers(path)}
    protocol = replace(find("cmmlu"), cut="agree")
    run_benchmarks(LocalModel(work / "one"), [protocol], work / "data", tmp_path / "out", Silent(), limit=6)
    assert keys.isdisjoint(row["key"] for row in answers(path))


def test_a_smaller_limit_loses_no_answer_and_a_question_that_stands_twice_is_two(work: Path, tmp_path: Path) -> None:
    data, out = make_data(tmp_path / "data", questions=4), tmp_path / "out"
    path = data / "cmmlu" / "test.jsonl"
    first = json.loads(path.read_text(encoding="utf-8").splitlines()[0])
    with path.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(first | {"id": "again"}) + "\n")
    model, protocols = LocalModel(work / "one"), wanted_protocols(["cmmlu"])
    run_benchmarks(model, protocols, data, out, Silent())
    whole = answers(out / "cmmlu@lm-eval.jsonl")
    assert len({row["id"] for row in whole}) == len(whole) == 13
    for limit in (3, None):
        scores = run_benchmarks(model, protocols, data, out, Silent(), limit=limit)
        assert scores["tasks"]["cmmlu@lm-eval"]["questions"] == (limit or 13)
        assert {row["key"] for row in answers(out / "cmmlu@lm-eval.jsonl")} == {row["key"] for row in whole}


def test_two_models_or_two_processes_do_not_share_a_folder(work: Path, tmp_path: Path) -> None:
    run(work, "one", tmp_path / "out", "cmmlu", limit=4)
    with pytest.raises(InputError, match=r"holds answers of one .* and this is other"):
        run(work, "other", tmp_path / "out", "cmmlu", limit=4)
    with filelock.FileLock(tmp_path / "out" / ".lock"), pytest.raises(InputError, match="another evaluation writes"):
        run(work, "one", tmp_path / "out", "cmmlu", limit=4)


@pytest.mark.parametrize("protocol", ["lm-eval", "official", "house", "opencompass-ppl"])
def test_one_question_alone_gets_the_numbers_it_gets_among_others(protocol: str, work: Path) -> None:
    from inkstone.evaluate.run.runner import ask_all
    from inkstone.evaluate.tasks import load

    model, loaded, asked = LocalModel(work / "one"), load("cmmlu", work / "data"), find(f"cmmlu@{protocol}")
    asks = ask_all(asked, loaded, loaded.items)
    together = dict(model.answer(asked, asks, range(len(asks))))
    for index in (0, 17, 35):
        [(_, alone)] = model.answer(asked, [asks[index]], [0])
        assert together[index].values == pytest.approx(alone.values, abs=1e-4)


def planner(limit: int | None, tokenizer: Tokenizer | None = None) -> Planner:
    made = object.__new__(Planner)
    made.tokenizer, made.limit, made.default_start = tokenizer or byte_level(), limit, []
    return made


def asked(*sizes: int) -> Ask:
    return Ask("H:", tuple((f"{number}" * size, "=") for number, size in enumerate(sizes)), "\n", "q?", (" A", " B"))


@pytest.mark.parametrize(
    ("fit", "shown"), [("drop_first", "H:22=\nq?"), ("drop_last", "H:0=\nq?"), ("drop_longest", "H:0=\n22=\nq?")]
)
def test_examples_that_do_not_fit_are_dropped_as_the_protocol_says(fit: Any, shown: str) -> None:
    protocol = replace(find("cmmlu@house"), fit=fit, start=False)
    planner_ = planner(16)
    [planned] = planner_.choices(protocol, [asked(1, 9, 2)])
    assert planner_.tokenizer.decode(planned.requests[0].context).rstrip(" ") == shown
    assert planned.dropped == {"drop_first": 2, "drop_last": 2, "drop_longest": 1}[fit]
    assert planned.cut == 0


def test_the_harness_cuts_on_the_left_and_it_is_counted() -> None:
    planner_ = planner(8)
    [planned] = planner_.choices(find("cmmlu@lm-eval"), [asked(1, 9, 2)])
    assert planned.cut > 0
    assert {len(one.context) + len(ids) for one in planned.requests for ids in one.continuations} == {9}
    assert {planner_.tokenizer.decode(one.context[-2:]) for one in planned.requests} == {"q?"}


def test_ten_shots_that_do_not_fit_still_give_an_answer(work: Path, tmp_path: Path) -> None:
    make_model(tmp_path / "short", max_positions=64)
    scores = run_benchmarks(
        LocalModel(tmp_path / "short"), wanted_protocols(["cmmlu@official/10", "cmmlu@lm-eval/10"]), work / "data",
        tmp_path / "out", Silent(), limit=6,
    )  # fmt: skip
    official, harness = scores["tasks"].values()
    assert official["dropped_examples"] > 0
    assert harness["truncated"] == 6
    with pytest.raises(InputError, match=r"lets the model write 512 tokens, and it has 64 positions"):
        run_benchmarks(
            LocalModel(tmp_path / "short"), wanted_protocols(["cmmlu@opencompass"]), work / "data",
            tmp_path / "out", Silent(), limit=6,
        )  # fmt: skip


def test_a_token_across_the_boundary_is_scored_and_not_lost() -> None:
    """ "答：" is one token here: cut by length, nothing would be left to score (lm-eval ends with an error)."""
    tokenizer = sentencepiece_like()
    ask = Ask("", (), "", "问答", ("：", "："), ())
    planner_ = planner(None, tokenizer)
    for protocol in (find("cmmlu@lm-eval"), find("cmmlu@house")):
        [planned] = planner_.choices(protocol, [ask])
        [request] = planned.requests
        assert all(request.continuations)
        whole = tokenizer.encode("问答：")
        assert (request.context + request.continuations[0])[-len(whole) :] == whole


def test_the_loss_of_the_whole_text_is_divided_by_all_its_tokens(work: Path) -> None:
    model = LocalModel(work / "one")
    ask = Ask("", (), "", "one two three ", ("A", "B"), ())
    protocol = replace(find("cmmlu@opencompass-ppl"), start=False)
    [(_, said)] = model.answer(protocol, [ask], [0])
    for ending, value in zip("AB", said.values, strict=True):
        ids = model.opened.tokenizer.encode("one two three " + ending)
        [whole] = score(model.opened.model, [(ids[:1], ids[1:])])
        assert value == pytest.approx(whole.logprob / len(ids), abs=1e-5)


def test_a_text_ends_where_what_is_read_is_decided(work: Path, tmp_path: Path) -> None:
    """Stopping at the first capital letter changes no score, only the time."""
    run(work, "one", tmp_path / "early", "cmmlu@opencompass", limit=6, max_new_tokens=40)
    protocol = replace(find("cmmlu@opencompass"), max_new_tokens=40, until="")
    run_benchmarks(LocalModel(work / "one"), [protocol], work / "data", tmp_path / "late", Silent(), limit=6)
    early, late = (answers(tmp_path / name / "cmmlu@opencompass.jsonl") for name in ("early", "late"))
    assert [row["prediction"] for row in early] == [row["prediction"] for row in late]
    assert sum(len(row["texts"][0]) for row in early) < sum(len(row["texts"][0]) for row in late)


def test_two_runs_are_compared_question_by_question(work: Path, tmp_path: Path) -> None:
    for model in ("one", "other"):
        run(work, model, tmp_path / model, "cmmlu")
    [row] = compare(tmp_path / "one", tmp_path / "other")
    a, b = (answers(tmp_path / name / "cmmlu@lm-eval.jsonl") for name in ("one", "other"))
    gained = [two["score"] - one["score"] for one, two in zip(a, b, strict=True)]
    assert row.difference == pytest.approx(sum(gained) / len(gained))
    assert (row.only_a, row.only_b) == (gained.count(-1.0), gained.count(1.0))
    assert row.low <= row.difference <= row.high
    scores = json.loads((tmp_path / "other" / "scores.json").read_text(encoding="utf-8"))
    scores["tasks"]["cmmlu@lm-eval"]["fingerprint"] = "else"
    (tmp_path / "other" / "scores.json").write_text(json.dumps(scores), encoding="utf-8")
    with pytest.raises(InputError, match="different protocols"):
        compare(tmp_path / "one", tmp_path / "other")
    assert compare(tmp_path / "one", tmp_path / "other", force=True) == [row]


def test_the_arithmetic_of_scores() -> None:
    assert sign_test(0, 5) == pytest.approx(2 / 32)
    assert sign_test(7, 7) == 1.0
    assert sign_test(1, 3000) < 1e-300 or sign_test(1, 3000) == 0.0
    assert pass_at(5, 2, 1) == pytest.approx(0.4)
    assert pass_at(4, 2, 2) == pytest.approx(1 - 1 / 6)
    low, high = interval([1.0] * 50 + [0.0] * 50)
    assert (round(low, 4), round(high, 4)) == (0.4038, 0.5962)  # Wilson, 50 of 100


CHOICES = Item("x", "", {}, ("1", "2", "3", "4"), (1,))


def test_letters_are_read_strictly_and_nothing_is_guessed() -> None:
    assert first_capital("I think B", CHOICES).prediction == "I"  # as OpenCompass reads it, wrong
    assert first_capital("答案是 b", CHOICES).prediction is None
    read = {
        "答案是B。": "B",
        "The answer is (C).": "C",
        "I think B": "B",
        "故选：D": "D",
        "B. two": "B",
        "nothing": None,
    }
    assert {text: first_option(text, CHOICES).prediction for text in read} == read


def test_protocols_are_plain_values() -> None:
    assert isinstance(hash(find("mmlu@official")), int)
    assert Protocol("a", "b", "first note", "q").fingerprint == Protocol("a", "b", "other note", "q").fingerprint


def test_a_recipe_s_table_holds_a_benchmark_beside_every_model(work: Path, tmp_path: Path) -> None:
    from inkstone.evaluate import EvaluateSettings, Given, evaluate_models, score_rows
    from inkstone.evaluate.report.differences import in_words, read_answers, read_items

    settings = EvaluateSettings(tasks=["cmmlu", "cmmlu@house/0"], task_limit=8, heldout=False, device="cpu")
    models = {"base": work / "one", "chat": work / "other"}
    places = (tmp_path / "out", tmp_path / "scratch")
    for place in places:
        place.mkdir()
    scores = evaluate_models(settings, models, Given(data=work / "data"), places[0], scratch=places[1])
    table = score_rows(scores)
    assert table[0] == ["score", "base", "chat"]
    assert [row[0] for row in table[1:]] == ["cmmlu@house-0shot", "cmmlu@lm-eval"]
    assert all(re.fullmatch(r"\d+\.\d % ± \d+\.\d", cell) for row in table[1:] for cell in row[1:])
    assert (tmp_path / "out" / "benchmarks" / "chat" / "report.html").is_file()
    one, other = (read_answers(tmp_path / "out", name)["cmmlu@lm-eval"] for name in models)
    items = read_items("cmmlu@lm-eval", work / "data")
    told = in_words((one.rows[0], other.rows[0]), items)
    assert told["question"] == items[told["id"]].texts["question"] and told["right"][3:] in items[told["id"]].choices
    assert not read_items("cmmlu@lm-eval", tmp_path) and not read_items("word problems", work / "data")
    with pytest.raises(InputError, match="tasks needs data"):
        evaluate_models(settings, models, Given(), places[0])
    judged = settings.model_copy(update={"tasks": ["safety"]})
    with pytest.raises(InputError, match="need a judge"):
        evaluate_models(judged, models, Given(data=work / "data"), places[0])


def test_the_commands_of_the_room_work_together(work: Path, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from inkstone.cli.commands import app

    def command(*words: object) -> str:
        result = CliRunner().invoke(app, ["evaluate", *map(str, words)])
        assert result.exit_code == 0, result.output
        return result.output

    data = ["--data", work / "data"]
    for name in ("one", "other"):
        shown = command(work / name, "--tasks", "cmmlu,cmmlu@official/0", "-o", tmp_path / name, *data, "--limit", 9)
        assert "cmmlu@official-0shot" in shown
    shown = command("compare", tmp_path / "one", tmp_path / "other")
    assert "only A right" in shown
    assert "leaderboard.html" in command("leaderboard", tmp_path)
    assert "答案：" in command("explain", "cmmlu@lm-eval", *data)
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("anatomy question 3? A. a3 B. b3 C. c3 D. d3 and so on", encoding="utf-8")
    found = tmp_path / "found.jsonl"
    shown = command("contamination", corpus, "--tasks", "cmmlu", *data, "-o", found)
    assert "36" in shown
    assert found.is_file()
    for wrong in (["--tasks", "cmmluu"], ["--tasks", "cmmlu", "--quiz", "x"], []):
        result = CliRunner().invoke(app, ["evaluate", str(work / "one"), "-o", str(tmp_path / "no"), *wrong])
        assert result.exit_code == 2
    assert not (tmp_path / "no").exists()


def test_an_adapter_is_another_model_than_its_base(work: Path, tmp_path: Path) -> None:
    from inkstone.evaluate.run.runner import ask_all
    from inkstone.evaluate.tasks import load
    from inkstone.model import load_model
    from inkstone.model.decoder.lora import LoraShape, attach_lora, lora_modules, merge_lora
    from inkstone.model.files.adapter import save_adapter

    tuned = load_model(work / "one")
    attach_lora(tuned, LoraShape(rank=2, alpha=8.0), torch.Generator().manual_seed(1))
    for module in lora_modules(tuned).values():
        for weight in module.parameters():
            if weight.requires_grad:
                weight.data = torch.full_like(weight, 0.1)
    save_adapter(tuned, tmp_path / "adapter", str(work / "one"))
    base, both = LocalModel(work / "one"), LocalModel(work / "one", adapter=tmp_path / "adapter")
    assert both.name == "one+adapter"
    assert both.fingerprint != base.fingerprint
    loaded, protocol = load("cmmlu", work / "data"), find("cmmlu@lm-eval/0")
    asks = ask_all(protocol, loaded, loaded.items[:3])
    plain, adapted = (dict(model.answer(protocol, asks, range(3))) for model in (base, both))
    merge_lora(tuned)
    ids = both.opened.tokenizer.encode(asks[0].prompt())
    [merged] = score(tuned, [(ids, both.opened.tokenizer.encode(asks[0].prompt() + " A")[len(ids) :])])
    assert adapted[0].values[0] == pytest.approx(merged.logprob, abs=1e-3)
    assert adapted[0].values[0] != pytest.approx(plain[0].values[0], abs=1e-3)


def test_quantised_weights_are_another_model_and_are_scored_as_they_are_served(work: Path, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from inkstone.cli.commands import app
    from inkstone.evaluate import EvaluateSettings
    from inkstone.evaluate.run.runner import ask_all
    from inkstone.evaluate.stage import method
    from inkstone.evaluate.tasks import load
    from inkstone.model import open_directory

    plain, packed = LocalModel(work / "one"), LocalModel(work / "one", quantize="int8")
    assert plain.fingerprint != packed.fingerprint and packed.dtype == "float32 int8"
    assert method(EvaluateSettings())["fingerprint"] != method(EvaluateSettings(quantize="int8"))["fingerprint"]
    loaded, protocol = load("cmmlu", work / "data"), find("cmmlu@lm-eval/0")
    asks = ask_all(protocol, loaded, loaded.items[:3])
    first, second = (dict(model.answer(protocol, asks, range(3))) for model in (plain, packed))
    served = open_directory(work / "one", torch.float32, quantize="int8")
    ids = served.tokenizer.encode(asks[0].prompt())
    [own] = score(served.model, [(ids, served.tokenizer.encode(asks[0].prompt() + " A")[len(ids) :])])
    assert second[0].values[0] == pytest.approx(own.logprob, abs=1e-4) != first[0].values[0]
    words = [str(work / "one"), "--tasks", "cmmlu", "--data", str(work / "data"), "--limit", "3", "--quantize", "int8"]
    result = CliRunner().invoke(app, ["evaluate", *words, "-o", str(tmp_path / "packed")])
    assert result.exit_code == 0, result.output
    words[0] = "http://127.0.0.1:9/v1"
    assert CliRunner().invoke(app, ["evaluate", *words, "-o", str(tmp_path / "no")]).exit_code == 2
