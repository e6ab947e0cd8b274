"""Run one stage into a draft directory that appears whole, stage.json last; and what keeps a run's directory in order.

Long stages keep their checkpoints in `.scratch/<stage>-<fingerprint>`, which survives a kill and is removed when the
stage is done. A lock keeps a second process out of the same run.
"""

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
from inkstone.pipeline.plan import Planned, former_fingerprint, stage_record
from inkstone.pipeline.stages import Stage, job
from inkstone.progress import Progress
from inkstone.recipe import Recipe
from inkstone.stage import Result
from inkstone.storage import atomic_directory, settle, write_json, write_manifest


def execute(recipe: Recipe, planned: Planned, scratch: Path, progress: Progress) -> Result:
    """Run one stage and return its result."""
    stage, run_dir = planned.stage, recipe.run_dir
    started, clock = datetime.now(UTC), time.perf_counter()
    with atomic_directory(run_dir / stage.name) as draft:
        result = stage.kind.work(job(recipe, stage, draft, scratch, progress))
        if not (draft / "manifest.json").is_file():
            write_manifest(draft, {"stage": stage.name})
        record = {
            "stage": stage.name,
            "kind": stage.kind.name,
            "version": stage.kind.version,
            "fingerprint": planned.fingerprint,
            "inkstone": __version__,
            "versions": versions(),
            "hardware": hardware(),
            "started": started.isoformat(timespec="seconds"),
            "seconds": round(time.perf_counter() - clock, 2),
            "settings": {name: model.model_dump(mode="json") for name, model in stage.settings.items()},
            "covers": planned.covers,
            "result": result,
        }
        write_json(draft / "stage.json", record)
    for old in (run_dir / ".scratch").glob(f"{stage.name}-*"):
        shutil.rmtree(old)
    return result


def scratch_of(run_dir: Path, planned: Planned) -> Path:
    """The stage's scratch directory, made if need be; one that an older version left half-done is taken over."""
    scratch = _scratch(run_dir, planned.stage.name, planned.fingerprint)
    former = _scratch(run_dir, planned.stage.name, former_fingerprint(planned))
    if former.is_dir() and not scratch.exists():
        former.rename(scratch)
    scratch.mkdir(parents=True, exist_ok=True)
    return scratch


def checkpoint_of(run_dir: Path, planned: Planned) -> str:
    """The newest training checkpoint that the stage will continue from; empty where there is none."""
    places = (planned.fingerprint, former_fingerprint(planned))
    folders = [_scratch(run_dir, planned.stage.name, name) / "checkpoints" for name in places]
    found = [path for folder in folders for path in sorted(folder.glob("step-*")) if (path / "manifest.json").exists()]
    return str(found[-1]) if found else ""


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
