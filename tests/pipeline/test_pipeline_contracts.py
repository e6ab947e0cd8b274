"""What decides a result and what does not; damage that is noticed; several tuning stages; a run told as events."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_run import RECIPE, check_clean, check_whole, inkstone, result, state, write_recipe

from inkstone.errors import InputError
from inkstone.pipeline import read_events, run
from inkstone.pipeline.events import EventLog
from inkstone.pipeline.plan import make_plan
from inkstone.pipeline.stages import build_stages
from inkstone.recipe import read_recipe
from inkstone.storage import Digests, file_sha256, fingerprint

Begun = Callable[[str], Path]
HALF = ("--set", "pretrain.max_steps=30", "--until", "pretrain")


def stop_after(recipe: Path, step: int) -> None:
    """Train until that step is done, then stop as a program that holds the run would."""
    seen: list[float] = []

    def observe(event: dict[str, Any]) -> None:
        if event["kind"] == "progress" and event["unit"] == "steps":
            seen.append(event["done"])

    with pytest.raises(KeyboardInterrupt, match=f"stopped after step {step} of 30"):
        run(read_recipe(recipe, ["pretrain.max_steps=30"]), "pretrain", observe, lambda: seen[-1:] == [step])


@pytest.mark.parametrize(
    "change", ["log_steps=3", "checkpoint_steps=7", "heldout_steps=9", "micro_batch_tokens=128", 'device="auto"']
)
def test_a_half_done_training_goes_on_after_a_change_of_a_machine_setting(change: str, begun: Begun) -> None:
    recipe = begun("pretrain")
    stop_after(recipe, 9)
    said = inkstone("run", recipe, *HALF, "--set", f"pretrain.{change}", "--dry-run").out
    assert "not done yet; continues from " in said and "step-00000009" in said
    ended = inkstone("run", recipe, *HALF, "--set", f"pretrain.{change}")
    assert ended.code == 0, ended.err
    assert "continuing after step 9 of 30" in ended.notes
    check_clean(recipe.parent / "runs" / "tiny")


def test_a_finished_stage_stays_fresh_with_other_machine_settings_and_not_with_others(begun: Begun) -> None:
    recipe = begun("evaluate")
    machine = ["--set", "pretrain.log_steps=2", "--set", "sft.device=auto", "--set", "tokens.processes=1"]
    assert inkstone("run", recipe, "--until", "sft", *machine).out.startswith("Nothing left to do")
    said = inkstone("run", recipe, "--until", "sft", "--set", "pretrain.dtype=bfloat16", "--dry-run").out
    assert 'settings changed: pretrain.dtype "float32" -> "bfloat16"' in said


def as_older_version(folder: Path) -> None:
    """stage.json as it was before machine settings were told apart: they are covered, and new keys are unknown."""
    path = folder / "stage.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    covers = record["covers"]
    covers["settings"] = {
        name: {key: value for key, value in values.items() if key not in ("shard", "workers", "ray", "encoding")}
        for name, values in record["settings"].items()
    }
    record["fingerprint"] = fingerprint({"stage": record["stage"], **covers})
    path.write_text(json.dumps({key: value for key, value in record.items() if key != "kind"}), encoding="utf-8")
    (folder / "manifest.json").unlink()


def test_a_run_of_an_older_version_is_recognised(begun: Begun) -> None:
    recipe = begun("tokens")
    run_dir = recipe.parent / "runs" / "tiny"
    before = state(run_dir)
    record = run_dir / "primer" / "stage.json"
    as_older_version(run_dir / "primer")
    old = json.loads(record.read_text(encoding="utf-8"))["fingerprint"]
    for name in ("corpus", "tokenizer"):
        path = run_dir / name / "stage.json"
        facts = json.loads(path.read_text(encoding="utf-8"))
        facts["covers"]["needs"] = {need: old for need in facts["covers"]["needs"] if need == "primer"} | {
            need: fp for need, fp in facts["covers"]["needs"].items() if need != "primer"
        }
        path.write_text(json.dumps(facts), encoding="utf-8")
    assert inkstone("run", recipe, "--until", "tokenizer").out.startswith("Nothing left to do")
    assert {name: inode for name, (inode, _) in state(run_dir).items()} == {n: i for n, (i, _) in before.items()}


def test_an_unchanged_input_is_not_read_again_and_a_changed_one_of_the_same_size_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, old = tmp_path / "data.txt", 1_600_000_000
    file.write_text("one")
    os.utime(file, (old, old))
    digests = Digests(tmp_path / "memory.json")
    first = digests.sha256(file)
    digests.save()
    read: list[Path] = []

    def counted(path: Path) -> str:
        read.append(path)
        return file_sha256(path)

    monkeypatch.setattr("inkstone.storage.digests.file_sha256", counted)
    assert Digests(tmp_path / "memory.json").sha256(file) == first and read == []
    file.write_text("two")
    os.utime(file, (old + 1, old + 1))
    assert Digests(tmp_path / "memory.json").sha256(file) != first and read == [file]
    (tmp_path / "memory.json").write_text("[")
    assert Digests(tmp_path / "memory.json").sha256(file) != first, "a damaged memory is an empty one"


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("pattern", "damage", "words"),
    [
        ("pretrain/model.safetensors", Path.unlink, "model.safetensors is missing"),
        ("corpus/train/*.parquet", Path.unlink, ".parquet is missing"),
        ("pretrain/model.safetensors", flip, "model.safetensors has changed since it was written"),
        ("tokens/train-*.tokens.bin", flip, "tokens.bin has changed since it was written"),
    ],
)
def test_damage_to_a_finished_stage_is_said_before_anything_uses_it(
    pattern: str, damage: Callable[[Path], None], words: str, begun: Begun
) -> None:
    recipe = begun("evaluate")
    run_dir = recipe.parent / "runs" / "tiny"
    before = state(run_dir)
    (victim,) = run_dir.glob(pattern)
    damage(victim)
    ended = inkstone("run", recipe, "--until", "sft")
    assert ended.code == 1
    assert words in ended.said and "delete it and run its stage again" in ended.said
    assert state(run_dir) == before, "nothing is done or lost"


TWICE = RECIPE.replace(
    "[evaluate]\n",
    '[tune.more]\nbase = "sft"\ninputs = ["primer:chats"]\nsequence_length = 128\nbatch_tokens = 256\nmax_steps = 3\n'
    'warmup_steps = 1\ndevice = "cpu"\ndtype = "float32"\ncompile = "off"\n[evaluate]\n',
)


def test_a_recipe_may_tune_more_than_once_and_all_models_are_scored(begun: Begun) -> None:
    recipe = write_recipe(begun("evaluate").parent, TWICE)
    ended = inkstone("run", recipe)
    assert ended.code == 0, ended.err
    run_dir = recipe.parent / "runs" / "tiny"
    check_whole(run_dir)
    record = json.loads((run_dir / "more" / "stage.json").read_text(encoding="utf-8"))
    assert record["kind"] == "sft" and list(record["covers"]["needs"]) == ["primer", "sft"]
    scores = json.loads((run_dir / "evaluate" / "scores.json").read_text(encoding="utf-8"))
    assert list(scores["models"]) == ["untrained", "pretrain", "sft", "more"]
    assert f"talk to it: inkstone chat {run_dir / 'more'}" in ended.out
    assert "Tuning more" in (run_dir / "report.html").read_text(encoding="utf-8")
    directory = write_recipe(recipe.parent, TWICE.replace('base = "sft"', f'base = "{run_dir / "pretrain"}"'))
    assert "settings changed: more.base" in inkstone("run", directory, "--dry-run").out


@pytest.mark.parametrize(
    ("base", "sentence"),
    [("more", '[tune.more] base = "more" is no earlier stage'), ("nosuch", '[more] "nosuch" matches no file')],
)
def test_a_tuning_stage_from_nowhere_is_refused(base: str, sentence: str, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, TWICE.replace('base = "sft"', f'base = "{base}"'))
    ended = inkstone("run", recipe, "--dry-run")
    assert ended.code == 2 and sentence in ended.said


def test_a_tuning_stage_cannot_take_another_stages_directory(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, TWICE.replace("[tune.more]", "[tune.corpus]"))
    assert "a tuning stage cannot be called corpus" in inkstone("run", recipe, "--dry-run").said


def test_a_run_is_told_as_numbered_events_that_go_on_after_a_kill(begun: Begun) -> None:
    recipe = begun("pretrain")
    run_dir = recipe.parent / "runs" / "tiny"
    stop_after(recipe, 9)
    log = run_dir / "events.jsonl"
    with log.open("a", encoding="utf-8") as stream:
        stream.write('{"sequence": 99, "ti')  # what SIGKILL leaves
    assert inkstone("run", recipe, *HALF).code == 0
    events = read_events(log)
    assert [event["sequence"] for event in events] == list(range(1, len(events) + 1))
    kinds = [event["kind"] for event in events if event["kind"] != "progress"]
    assert kinds[:2] == ["plan", "start"] and kinds[-1] == "done" and "failed" in kinds
    rows = [event["row"] for event in events if event["kind"] == "metrics" and "loss" in event["row"]]
    kept = [json.loads(line) for line in (run_dir / "pretrain" / "metrics.jsonl").read_text().splitlines()]
    assert rows == [row for row in kept if "loss" in row]


def test_an_observer_hears_what_the_file_keeps(tmp_path: Path) -> None:
    heard: list[dict[str, Any]] = []
    log = EventLog(tmp_path / "events.jsonl", heard.append)
    log.write("corpus", "note", note="一句话")
    log.write("corpus", "progress", keep=False, done=1)
    assert [event["kind"] for event in heard] == ["note", "progress"]
    assert read_events(tmp_path / "events.jsonl") == heard[:1]


def test_a_plan_reads_no_input_twice(begun: Begun, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = begun("pretrain")
    run_dir = recipe.parent / "runs" / "tiny"
    stages = build_stages(read_recipe(recipe))[:4]
    digests = Digests(run_dir / ".digests.json")
    for path in run_dir.rglob("*"):
        if path.is_file():
            os.utime(path, (1_600_000_000, 1_600_000_000))
    make_plan(run_dir, stages, digests, contents=True)
    digests.save()
    monkeypatch.setattr("inkstone.storage.digests.file_sha256", lambda path: pytest.fail(f"{path} was read again"))
    plan = make_plan(run_dir, stages, Digests(run_dir / ".digests.json"), contents=True)
    assert not any(planned.damage or planned.reason for planned in plan)


def test_results_of_a_run_that_was_stopped_are_those_of_one_that_was_not(begun: Begun) -> None:
    recipe = begun("pretrain")
    run_dir = recipe.parent / "runs" / "tiny"
    stop_after(recipe, 13)
    assert inkstone("run", recipe, *HALF).code == 0
    parts = result(run_dir, ("pretrain",))
    shutil.rmtree(run_dir / "pretrain")
    assert inkstone("run", recipe, *HALF).code == 0
    assert result(run_dir, ("pretrain",)) == parts


def test_a_dataset_info_entry_is_stale_when_it_or_its_file_changes_and_not_with_its_neighbours(tmp_path: Path) -> None:
    info, rows = tmp_path / "dataset_info.json", tmp_path / "rows.json"
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(f'name = "x"\n[sft]\nbase = "{tmp_path}"\ninputs = ["{info}#mine"]\n', encoding="utf-8")

    def covers(columns: dict[str, str], text: str = "b", **others: object) -> object:
        rows.write_text(json.dumps([{"instruction": "a", "output": text}]), encoding="utf-8")
        info.write_text(
            json.dumps({"mine": {"file_name": "rows.json", "columns": columns}, **others}), encoding="utf-8"
        )
        stage = build_stages(read_recipe(recipe))[0]
        return make_plan(tmp_path / "run", [stage], Digests(tmp_path / "digests"))[0].covers["inputs"][f"{info}#mine"]

    first = covers({})
    assert covers({}, other={}) == first
    assert len({first, covers({"prompt": "output"}), covers({}, "c")}) == 3
    info.unlink()
    with pytest.raises(InputError, match="matches no file"):
        build_stages(read_recipe(recipe))
