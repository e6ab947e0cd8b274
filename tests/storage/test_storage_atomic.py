"""Kills, exceptions and full disks, for real: what a reader finds is the old or the new, never a mixture."""

import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from inkstone.errors import InkstoneError
from inkstone.storage import atomic_directory, atomic_file, settle, verify_manifest

CHILD = Path(__file__).with_name("replace_forever.py")


def replace_and_kill(directory: Path, first: int, delay: float, system: str) -> int:
    """Let a child replace `directory` three times, kill it `delay` seconds later; the last generation it reported."""
    command = [sys.executable, "-u", str(CHILD), str(directory), str(first), system]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        seen = [child.stdout.readline() for _ in range(3)]
        end = time.perf_counter() + delay
        while time.perf_counter() < end:
            pass
        child.kill()
        return int((seen + child.stdout.read().splitlines())[-1].split()[1])


@pytest.mark.parametrize("system", ["with-exchange", "without-exchange"])
def test_a_writer_killed_at_any_moment_leaves_a_whole_directory(system: str, tmp_path: Path) -> None:
    draw = random.Random(system)
    directory, generation = tmp_path / "stage", 0
    for _ in range(12):
        reported = replace_and_kill(directory, generation + 1, draw.uniform(0, 0.004), system)
        settle(directory)
        found = verify_manifest(directory, contents=True)["generation"]
        assert found in (reported, reported + 1)
        texts = {(directory / name).read_text() for name in ("a", "b", "part/c")}
        assert texts == {f"{found}\n" * 500}
        assert [path.name for path in tmp_path.iterdir()] == ["stage"]
        generation = reported


def test_a_reader_never_finds_the_directory_missing_while_it_is_replaced(tmp_path: Path) -> None:
    """Holds where the system can exchange two names in one step, as Linux can."""
    directory = tmp_path / "stage"
    command = [sys.executable, "-u", str(CHILD), str(directory), "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        child.stdout.readline()
        end = time.perf_counter() + 0.3
        while time.perf_counter() < end:
            assert (directory / "manifest.json").exists()
        child.kill()


def tree(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, OSError])
def test_an_exception_leaves_the_old_directory_and_no_draft(error: type[BaseException], tmp_path: Path) -> None:
    with atomic_directory(tmp_path / "stage") as draft:
        (draft / "a").write_text("old")
    with pytest.raises(error), atomic_directory(tmp_path / "stage") as draft:
        (draft / "a").write_text("new")
        raise error("stop")
    assert tree(tmp_path) == {"stage/a": b"old"}
    assert [path.name for path in tmp_path.iterdir()] == ["stage"]


def test_of_two_writers_at_once_the_second_ends_with_a_sentence_and_the_first_is_whole(tmp_path: Path) -> None:
    with atomic_directory(tmp_path / "out") as draft:
        (draft / "a").write_text("first")
        with pytest.raises(InkstoneError, match="another process is writing"), atomic_directory(tmp_path / "out"):
            pass
        settle(tmp_path / "out")  # as a reader does
        (draft / "b").write_text("first")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"a", "b"}


def test_an_exception_before_there_was_a_directory_leaves_none(tmp_path: Path) -> None:
    with pytest.raises(ValueError), atomic_directory(tmp_path / "deep" / "stage"):
        raise ValueError
    assert tree(tmp_path) == {}


def test_nothing_of_the_old_directory_survives_in_the_new_one(tmp_path: Path) -> None:
    for name in ("old", "new"):
        with atomic_directory(tmp_path / "stage") as draft:
            (draft / name).write_text(name)
    assert tree(tmp_path) == {"stage/new": b"new"}


@pytest.mark.parametrize(
    ("present", "expected"),
    [
        ({"stage"}, "stage"),
        ({".stage.draft"}, None),
        ({"stage", ".stage.draft"}, "stage"),
        ({".stage.old", ".stage.draft"}, ".stage.old"),
        ({"stage", ".stage.old"}, "stage"),
        ({"stage", ".stage.old", ".stage.draft"}, "stage"),
    ],
    ids=lambda value: "+".join(sorted(value)) if isinstance(value, set) else None,
)
def test_settle_repairs_every_state_a_kill_can_leave(present: set[str], expected: str | None, tmp_path: Path) -> None:
    for name in present:
        (tmp_path / name).mkdir()
        (tmp_path / name / "content").write_text(name)
    settle(tmp_path / "stage")
    assert tree(tmp_path) == ({"stage/content": expected.encode()} if expected else {})
    settle(tmp_path / "stage")
    assert tree(tmp_path) == ({"stage/content": expected.encode()} if expected else {})


def test_every_file_and_folder_is_on_disk_before_the_new_name_appears(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[tuple[str, bool]] = []
    real_fsync = os.fsync

    def fsync(handle: int) -> None:
        path = Path(f"/proc/self/fd/{handle}").readlink()
        synced.append((str(path.relative_to(tmp_path)), (tmp_path / "stage").exists()))
        real_fsync(handle)

    if not Path("/proc/self/fd").exists():
        pytest.skip("needs /proc to see which file is synced")
    monkeypatch.setattr(os, "fsync", fsync)
    with atomic_directory(tmp_path / "stage") as draft:
        (draft / "part").mkdir()
        (draft / "a").write_text("a")
        (draft / "part" / "b").write_text("b")
    names = [".stage.draft/a", ".stage.draft", ".stage.draft/part", ".stage.draft/part/b"]
    assert sorted(synced[:-1]) == sorted((name, False) for name in names)
    assert synced[-1] == (".", True), "the parent, which holds the new name, is synced last"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    try:
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], capture_output=True, text=True
        )
    except FileNotFoundError:
        pytest.skip("there is no mount command here")
    if done.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {done.stderr.strip()}")
    try:
        yield disk
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_is_said_in_one_sentence_and_the_old_directory_stays(small_disk: Path) -> None:
    with atomic_directory(small_disk / "stage") as draft:
        (draft / "a").write_text("old")
    full = pytest.raises(InkstoneError, match=r"stage: the disk is full; nothing was changed there\. Free some space")
    with full, atomic_directory(small_disk / "stage") as draft:
        (draft / "a").write_bytes(bytes(4_000_000))
    assert tree(small_disk) == {"stage/a": b"old"}
    with atomic_directory(small_disk / "stage") as draft:
        (draft / "a").write_bytes(bytes(400_000))
    assert (small_disk / "stage" / "a").stat().st_size == 400_000


def test_a_full_disk_noticed_by_another_library_is_said_in_the_same_sentence(small_disk: Path) -> None:
    """The Rust writer of safetensors raises its own exception, without an error number."""
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file

    with pytest.raises(InkstoneError, match="the disk is full"), atomic_directory(small_disk / "stage") as draft:
        save_file({"a": torch.zeros(1_000_000)}, draft / "model.safetensors")
    assert tree(small_disk) == {}


def test_a_full_disk_leaves_the_old_file(small_disk: Path) -> None:
    (small_disk / "file").write_text("old")
    with pytest.raises(InkstoneError, match="the disk is full"), atomic_file(small_disk / "file") as draft:
        draft.write_bytes(bytes(4_000_000))
    assert tree(small_disk) == {"file": b"old"}


def test_an_error_of_the_block_that_is_no_full_disk_is_raised_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"input\.txt") as caught, atomic_directory(tmp_path / "stage"):
        (tmp_path / "input.txt").read_text()
    assert caught.value.__cause__ is None, "an error that is its own cause hangs printers of tracebacks"


def test_atomic_file_replaces_at_the_end_and_keeps_the_old_on_an_exception(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "file"
    with atomic_file(path) as draft:
        draft.write_text("one")
        assert not path.exists()
    with pytest.raises(ValueError), atomic_file(path) as draft:
        draft.write_text("two")
        raise ValueError
    assert tree(tmp_path) == {"folder/file": b"one"}
