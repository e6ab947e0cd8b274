"""What runs again and what does not: only what is missing or stale, with the reason said."""

import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_run import RECIPE, STAGES, check_clean, check_whole, inkstone, result, state, write_recipe

Begun = Callable[[str], Path]
TOKENS = ("--until", "tokens")


def plan(recipe: Path, *more: str) -> dict[str, str]:
    """What --dry-run says: stage to "fresh" or the reason to run."""
    ended = inkstone("run", recipe, "--dry-run", *more)
    assert ended.code == 0, ended.err
    assert ended.err == "", "a dry run does nothing that has progress"
    rows = re.findall(r"^(\w+) +(run|fresh)(?: +(.*?))? *$", ended.out, re.MULTILINE)
    return {stage: reason if what == "run" else what for stage, what, reason in rows}


def tree(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_a_dry_run_of_a_new_recipe_lists_every_stage_and_writes_nothing(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path)
    said = plan(recipe)
    assert list(said) == list(STAGES)
    assert set(said.values()) == {"not done yet"}
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.toml"]


def test_a_second_call_runs_nothing_and_says_so(begun: Begun) -> None:
    recipe = begun("pretrain")
    run = recipe.parent / "runs" / "tiny"
    inkstone("run", recipe, *TOKENS)
    before = tree(run)
    ended = inkstone("run", recipe, *TOKENS)
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.splitlines() == [
        f"Nothing left to do: {run} has every stage of {recipe}, and all are fresh.",
        f"report: {run}/report.html",
    ]
    assert tree(run) == before


def test_a_changed_setting_redoes_its_stage_and_what_depends_on_it(begun: Begun) -> None:
    recipe = begun("pretrain")
    run = recipe.parent / "runs" / "tiny"
    change = ("--set", "tokenizer.vocab_size=1400", *TOKENS)
    assert plan(recipe, *change) == {
        "primer": "fresh",
        "corpus": "fresh",
        "tokenizer": "settings changed: tokenizer.vocab_size 1500 -> 1400",
        "tokens": "tokenizer runs again",
    }
    before = state(run)
    ended = inkstone("run", recipe, *change)
    assert ended.code == 0, ended.err
    assert ended.notes[0] == "tokenizer: settings changed: tokenizer.vocab_size 1500 -> 1400"
    after = state(run)
    assert {stage for stage in after if after[stage] != before[stage]} == {"tokenizer", "tokens"}
    assert set(plan(recipe, *change).values()) == {"fresh"}


def test_several_changed_settings_are_named_and_a_shape_is_part_of_training(finished: Path, begun: Begun) -> None:
    recipe = begun("evaluate")
    shutil.copytree(finished / "evaluate", recipe.parent / "runs" / "tiny" / "evaluate")
    more = ["--set", "model.num_layers=2", "--set", "pretrain.learning_rate=2e-3", "--set", "sft.epochs=9"]
    assert plan(recipe, *more) == {
        "primer": "fresh",
        "corpus": "fresh",
        "tokenizer": "fresh",
        "tokens": "fresh",
        "pretrain": "settings changed: model.num_layers 1 -> 2, pretrain.learning_rate 0.001 -> 0.002",
        "sft": "pretrain runs again",
        "evaluate": "pretrain runs again",
    }
    assert plan(recipe, "--set", "sft.epochs=9")["sft"] == "settings changed: sft.epochs 2.0 -> 9.0"


def test_a_removed_stage_is_done_again_and_comes_out_the_same(begun: Begun, finished: Path) -> None:
    recipe = begun("pretrain")
    run = recipe.parent / "runs" / "tiny"
    shutil.rmtree(run / "tokenizer")
    said = plan(recipe, *TOKENS)
    assert (said["corpus"], said["tokenizer"], said["tokens"]) == ("fresh", "not done yet", "tokenizer runs again")
    assert inkstone("run", recipe, *TOKENS).code == 0
    assert result(run, STAGES[:4]) == result(finished, STAGES[:4])


def test_a_damaged_stage_json_means_the_stage_is_done_again(begun: Begun, finished: Path) -> None:
    recipe = begun("tokens")
    run = recipe.parent / "runs" / "tiny"
    (run / "tokenizer" / "stage.json").write_text('{"stage": "tok')
    assert plan(recipe, "--until", "tokenizer")["tokenizer"] == "its stage.json is damaged"
    assert inkstone("run", recipe, "--until", "tokenizer").code == 0
    check_whole(run)
    assert result(run, STAGES[:3]) == result(finished, STAGES[:3])


OWN = RECIPE.replace("[primer]\nsize_mb = 0.3\n", "").replace("primer:raw", "MY/*.jsonl")


@pytest.fixture
def own(finished: Path, tmp_path: Path) -> Path:
    """A recipe over my/*.jsonl, run up to its corpus."""
    (tmp_path / "my").mkdir()
    shutil.copyfile(finished / "primer" / "raw" / "web.jsonl", tmp_path / "my" / "web.jsonl")
    text = OWN[: OWN.index("[model]")].replace("MY", str(tmp_path / "my"))
    recipe = write_recipe(tmp_path, text)
    assert inkstone("curate", recipe).code == 0
    return recipe


def test_an_input_with_a_new_date_but_the_same_bytes_changes_nothing(own: Path) -> None:
    (own.parent / "my" / "web.jsonl").touch()
    assert plan(own)["corpus"] == "fresh"


def test_an_edited_an_added_and_a_removed_input_are_named(own: Path) -> None:
    data = own.parent / "my" / "web.jsonl"
    content = data.read_text(encoding="utf-8")
    data.write_text(content + content.splitlines()[0] + "\n", encoding="utf-8")
    assert plan(own)["corpus"] == f"input changed: {data}"
    data.write_text(content, encoding="utf-8")
    assert plan(own)["corpus"] == "fresh"
    more = data.with_name("more.jsonl")
    more.write_text(content, encoding="utf-8")
    assert plan(own)["corpus"] == f"input changed: {more}"
    data.unlink()
    assert plan(own)["corpus"] == f"input changed: {data} and 1 more"


def test_until_stops_after_that_stage_and_curate_is_until_corpus(own: Path) -> None:
    run = own.parent / "runs" / "tiny"
    assert set(state(run)) == {"corpus"}
    assert inkstone("run", own, "--until", "tokenizer").code == 0
    assert set(state(run)) == {"corpus", "tokenizer"}


def test_until_a_stage_that_the_recipe_lacks_is_refused_with_those_it_has(own: Path) -> None:
    ended = inkstone("run", own, "--until", "pretrian")
    assert (ended.code, ended.said) == (
        2,
        f'error: {own} has no stage "pretrian"; it has: corpus, tokenizer, tokens',
    )
    assert inkstone("pretrain", own).said == f'error: {own} has no stage "pretrain"; it has: corpus, tokenizer, tokens'


def test_a_recipe_without_a_stage_is_refused(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, 'name = "x"\n')
    ended = inkstone("run", recipe)
    assert ended.code == 2
    assert ended.said == f"error: {recipe} names no stage: add a section such as [corpus] or [pretrain]"


def test_a_second_process_on_the_same_run_is_refused_until_the_first_one_is_gone(begun: Begun) -> None:
    recipe = begun("tokens")
    run = recipe.parent / "runs" / "tiny"
    code = "import sys, filelock\nwith filelock.FileLock(sys.argv[1]):\n print('held', flush=True)\n sys.stdin.read()"
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(run / ".lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert other.stdout and other.stdout.readline() == "held\n"
        before = tree(run)
        refused = inkstone("run", recipe, *TOKENS)
        assert refused.code == 2
        assert (
            refused.said == f"error: another inkstone process is working on {run}: wait for it, or choose another name"
        )
        assert tree(run) == before
        assert inkstone("run", recipe, *TOKENS, "--set", "name=another", "--dry-run").code == 0
    finally:
        other.send_signal(signal.SIGKILL)
        other.communicate()
    assert inkstone("run", recipe, *TOKENS).code == 0, "the kernel frees the lock of a killed process"


def test_a_dry_run_beside_a_running_process_leaves_its_drafts_alone(begun: Begun) -> None:
    recipe = begun("corpus")
    run = recipe.parent / "runs" / "tiny"
    (run / ".corpus.draft").mkdir()
    (run / ".corpus.draft" / "half.parquet").write_text("being written")
    before = tree(run)
    assert plan(recipe)["corpus"] == "not done yet"
    assert tree(run) == before


def test_somebody_elses_directory_is_never_replaced(own: Path) -> None:
    """runs_dir and name that point at the user's own folder: my/corpus/*.txt would be gone after the corpus stage."""
    mine = own.parent / "mine" / "corpus"
    mine.mkdir(parents=True)
    (mine / "poems.txt").write_text("白日依山尽，黄河入海流。", encoding="utf-8")
    ended = inkstone("run", own, "--set", f"runs_dir={own.parent}", "--set", "name=mine")
    assert ended.code == 2
    assert ended.said == (
        f"error: {mine} was not written by inkstone (it has no stage.json), and the stage would replace it: "
        "move it away, or set another name or runs_dir"
    )
    assert [path.name for path in mine.iterdir()] == ["poems.txt"]


def test_scratch_of_a_stage_that_was_finished_but_not_cleared_is_cleared(begun: Begun, finished: Path) -> None:
    """A kill between the rename of a stage and the removal of its scratch must not keep its checkpoints for ever."""
    recipe = begun("sft")
    run = recipe.parent / "runs" / "tiny"
    record = (run / "pretrain" / "stage.json").read_text(encoding="utf-8")
    done = re.search(r'"fingerprint": "(\w{12})', record)
    assert done
    for name in (done[1], "other-settings"):
        (run / ".scratch" / f"pretrain-{name}").mkdir(parents=True)
    assert inkstone("run", recipe, "--until", "pretrain").code == 0
    assert [path.name for path in (run / ".scratch").iterdir()] == ["pretrain-other-settings"]


def test_a_kill_in_the_middle_of_replacing_a_directory_is_repaired(begun: Begun, finished: Path) -> None:
    """Where the system cannot exchange two names, the old directory waits under another one for a moment."""
    recipe = begun("pretrain")
    run = recipe.parent / "runs" / "tiny"
    before = state(run)
    (run / "tokenizer").rename(run / ".tokenizer.old")
    shutil.copytree(finished / "tokens", run / ".tokens.draft")
    (run / "report.html").touch()
    ended = inkstone("run", recipe, *TOKENS)
    assert (ended.code, ended.err) == (0, "")
    assert state(run) == before
    check_clean(run)
