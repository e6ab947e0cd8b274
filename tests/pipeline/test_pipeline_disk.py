"""A full disk, for real: one sentence with the path, nothing finished is lost, and space is all it takes to go on."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny_run import STAGES, check_clean, check_whole, inkstone, result, state, write_recipe

SIZE_MB = 4


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of SIZE_MB, mounted where the recipe's runs go."""
    place = tmp_path / "runs"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE_MB}m", "tmpfs", str(place)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a tmpfs is not permitted here")
    try:
        yield place
    finally:
        # Token shards may still be mapped: then the mount goes when they do.
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def begin(disk: Path, finished: Path, stage: str) -> tuple[Path, Path]:
    """A recipe and its run on the disk, with all stages before `stage` done."""
    for done in STAGES[: STAGES.index(stage)]:
        shutil.copytree(finished / done, disk / "tiny" / done)
    return write_recipe(disk.parent), disk / "tiny"


def leave(disk: Path, free_kb: int) -> None:
    """Fill the disk up to `free_kb`."""
    with (disk / "filler").open("wb") as filler:
        filler.write(bytes(shutil.disk_usage(disk).free))
        filler.flush()
        os.truncate(disk / "filler", filler.tell() - free_kb * 1024)


def full(path: Path) -> str:
    return (
        f"error: {path}: the disk is full; nothing was changed there. Free some space and run the same command again."
    )


def give_space(disk: Path) -> None:
    subprocess.run(["mount", "-o", f"remount,size={4 * SIZE_MB}m", str(disk)], check=True)


@pytest.mark.parametrize(
    ("stage", "free_kb"),
    [
        ("primer", 0),
        ("primer", 300),
        ("corpus", 4),
        ("corpus", 250),
        ("tokenizer", 40),
        ("tokens", 60),
        ("tokens", 152),
        ("pretrain", 0),
        ("evaluate", 100),
    ],
)
def test_a_full_disk_is_one_sentence_and_the_same_command_finishes_once_there_is_space(
    stage: str, free_kb: int, disk: Path, finished: Path
) -> None:
    recipe, run = begin(disk, finished, stage)
    before = state(run)
    leave(disk, free_kb)
    failed = inkstone("run", recipe, "--until", stage)
    # Long stages keep finished parts beside the run; then that is what did not fit.
    (place,) = re.findall(r"error: (\S+): the disk", failed.said)
    assert (failed.code, failed.said) == (1, full(Path(place)))
    beside = (".scratch", f".{stage}.parts", "events.jsonl", ".digests.json")
    assert Path(place) == run / stage or Path(place).relative_to(run).parts[0] in beside
    assert state(run) == before
    check_whole(run)

    give_space(disk)
    ended = inkstone("run", recipe, "--until", stage)
    assert ended.code == 0, ended.err
    done = STAGES[: STAGES.index(stage) + 1]
    assert result(run, done) == result(finished, done)
    check_clean(run)


def test_a_disk_that_fills_up_while_training_costs_only_the_steps_since_the_last_checkpoint(
    disk: Path, finished: Path
) -> None:
    recipe, run = begin(disk, finished, "pretrain")
    leave(disk, 1000)  # room for one checkpoint, not for two
    failed = inkstone("run", recipe, "--until", "pretrain")
    (kept,) = run.glob(".scratch/pretrain-*/checkpoints/*")
    assert kept.name == "step-00000004"
    assert (failed.code, failed.said) == (1, full(kept.with_name("step-00000008")))

    give_space(disk)
    ended = inkstone("run", recipe, "--until", "pretrain")
    assert ended.code == 0, ended.err
    assert "continuing after step 4 of 60" in ended.notes
    assert result(run, ("pretrain",)) == result(finished, ("pretrain",))
    check_clean(run)


def test_a_report_that_does_not_fit_is_a_sentence_too(disk: Path, finished: Path) -> None:
    recipe, run = begin(disk, finished, "pretrain")
    leave(disk, 50)
    failed = inkstone("run", recipe, "--until", "tokens")
    assert (failed.code, failed.said) == (1, full(run / "report.html"))


def test_a_runs_directory_that_cannot_be_made_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file")
    failed = inkstone("run", write_recipe(tmp_path))
    assert failed.code == 1
    assert failed.said.startswith(f"error: {tmp_path / 'runs'}")
    assert "\n" not in failed.said
