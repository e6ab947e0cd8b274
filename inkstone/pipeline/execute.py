"""Run what the plan says is missing or stale: each stage into a draft directory that appears whole, stage.json last.

Long stages keep their checkpoints in `.scratch/<stage>-<fingerprint>`, which survives a kill and is removed when the
stage is done. A lock keeps a second process out of the same run.
"""

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from inkstone import __version__
from inkstone.errors import InputError
from inkstone.pipeline.hardware import hardware, versions
from inkstone.pipeline.plan import Planned, stage_record
from inkstone.pipeline.stages import Stage
from inkstone.progress import Field, Progress
from inkstone.storage import atomic_directory, settle


def execute(run_dir: Path, planned: Planned, progress: Progress) -> dict[str, object]:
    """Run one stage and return its result."""
    stage = planned.stage
    scratch = _scratch(run_dir, stage.name, planned.fingerprint)
    started, clock = datetime.now(UTC), time.perf_counter()
    with atomic_directory(run_dir / stage.name) as draft:
        scratch.mkdir(parents=True, exist_ok=True)
        recorder = _Recorder(progress, scratch / "events.jsonl")
        recorder.note(f"{stage.name}: {planned.reason}")
        result = stage.work(draft, scratch, recorder)
        shutil.copyfile(scratch / "events.jsonl", draft / "events.jsonl")
        record = {
            "stage": stage.name,
            "version": stage.version,
            "fingerprint": planned.fingerprint,
            "inkstone": __version__,
            "versions": versions(),
            "hardware": hardware(),
            "started": started.isoformat(timespec="seconds"),
            "seconds": round(time.perf_counter() - clock, 2),
            "settings": planned.covers["settings"],
            "covers": planned.covers,
            "result": result,
        }
        (draft / "stage.json").write_text(json.dumps(record, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    for old in (run_dir / ".scratch").glob(f"{stage.name}-*"):
        shutil.rmtree(old)
    return result


def tidy(run_dir: Path, stages: list[Stage]) -> None:
    """Clear what a killed process left: half-replaced directories, and the scratch of stages that are done.

    Call it with the run locked, before planning. Raises InputError where a stage would replace somebody's own files.
    """
    problems = []
    for stage in stages:
        directory = run_dir / stage.name
        settle(directory)
        finished = stage_record(directory)
        if finished:
            shutil.rmtree(_scratch(run_dir, stage.name, str(finished.get("fingerprint"))), ignore_errors=True)
        elif directory.exists() and not (directory / "stage.json").is_file():
            problems.append(
                f"{directory} was not written by inkstone (it has no stage.json), and the stage would replace it: "
                "move it away, or set another name or runs_dir"
            )
    if problems:
        raise InputError(problems)


@contextmanager
def locked(run_dir: Path) -> Iterator[None]:
    """Hold the run's lock. Raises InputError when another process has it; the kernel frees it with its owner."""
    run_dir.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(run_dir / ".lock", timeout=0):
            yield
    except Timeout as error:
        raise InputError(
            f"another inkstone process is working on {run_dir}: wait for it, or choose another name"
        ) from error


def _scratch(run_dir: Path, stage: str, fingerprint: str) -> Path:
    return run_dir / ".scratch" / f"{stage}-{fingerprint[:12]}"


class _Recorder:
    """Passes progress on and keeps it in events.jsonl: every note, and numbers about once a second."""

    def __init__(self, progress: Progress, path: Path) -> None:
        self.progress, self.path, self.last = progress, path, 0.0

    def advance(self, done: float, total: float | None, unit: str, **fields: Field) -> None:
        self.progress.advance(done, total, unit, **fields)
        if time.monotonic() - self.last >= 1 or done == total:
            self.last = time.monotonic()
            self._write({"done": done, "total": total, "unit": unit, **fields})

    def note(self, message: str, **fields: Field) -> None:
        self.progress.note(message, **fields)
        self._write({"note": message, **fields})

    def _write(self, event: dict[str, Field]) -> None:
        row = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), **event}
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")
