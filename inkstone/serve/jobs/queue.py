"""The queue: jobs in the database, at most `at_once` of them running, each found again after the server was restarted.

    jobs = Jobs(store, Path("tasks"), library)
    jobs.begin()                                # finds running ones again, offers the models of finished ones
    number = jobs.add("poems-lora", task, recipe)["id"]

A job is `folder/jobs/NUMBER-TIME`: recipe.toml, log.txt, and the run's directory by the job's name. How it ended is
told by that directory, not by an exit code, which only the parent of a process learns.
"""

import json
import logging
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

from inkstone.serve.guard import Refused
from inkstone.serve.jobs import process
from inkstone.serve.jobs.reading import last_words, progress_of
from inkstone.serve.models import Library
from inkstone.serve.store.store import Row, Store

STAGE = "tuned"
"""The recipe's one stage, whose directory is the model."""
ACTIVE, ENDED = ("running", "stopping"), ("stopped", "succeeded", "failed")
_POLL_S, _LOST_S = 0.5, 60
_log = logging.getLogger("inkstone.serve")


class Jobs:
    """No thread runs before the first job."""

    def __init__(self, store: Store, folder: Path, library: Library, at_once: int = 1) -> None:
        self.store, self.folder, self.library, self.at_once = store, folder.resolve(), library, at_once
        self._children: dict[int, subprocess.Popen[bytes]] = {}
        self._woken = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True, name="jobs")
        self._lock = threading.Lock()

    def begin(self) -> None:
        """When a server starts: models of finished jobs are offered, what runs or waits is watched."""
        for row in (rows := self.store.rows("jobs")):
            self._offer(row)
        if any(row["state"] not in ENDED for row in rows):
            self._wake()

    def run_dir(self, row: Row) -> Path:
        # With the time: numbers begin anew in another database.
        return self.folder / "jobs" / f"{row['id']}-{row['created']:.0f}" / str(row["name"])

    def shown(self, row: Row) -> Row:
        """A job for a page: with the last progress of its run, and the name of its model when it has one."""
        model = self._model_name(row) if row["state"] == "succeeded" else None
        return {**row, "model": model, "progress": progress_of(self.run_dir(row) / "events.jsonl")}

    def _model_name(self, row: Row) -> str:
        """By which a finished job's model is asked for; never that of a served model or adapter."""
        name, own = f"{row['name']}-{row['id']}", self.run_dir(row) / STAGE
        while name in self.library.adapters or self.library.directories.get(name, own) != own:
            name += "-task"
        return name

    def add(self, name: str, task: Row, recipe: str) -> Row:
        """A new job at the end of the queue. `recipe` lacks `name` and `runs_dir`."""
        row = self.store.add("jobs", {"name": name, "task": task, "state": "stopped"})
        place = self.run_dir(row).parent
        place.mkdir(parents=True, exist_ok=True)
        head = f"name = {toml(name)}\nruns_dir = {toml(str(place))}\n\n"
        (place / "recipe.toml").write_text(head + recipe, encoding="utf-8")
        return self.resume(row["id"])

    def resume(self, number: int) -> Row:
        """Queue a job that was stopped or failed; it goes on from its last checkpoint."""
        if not self.store.turn(number, ("stopped", "failed"), {"state": "queued", "process": "", "error": ""}):
            raise Refused(
                409, f"task {number} is {self.store.row('jobs', number)['state']}: there is nothing to resume"
            )
        self._wake()
        return self.store.row("jobs", number)

    def stop(self, number: int) -> Row:
        """Ask a job to save and end; asked again, it is ended at once."""
        if not self.store.turn(number, ("queued",), {"state": "stopped"}):
            asked = self.store.turn(number, ("running",), {"state": "stopping"})
            row = self.store.row("jobs", number)
            if row["state"] not in ACTIVE:
                raise Refused(409, f"task {number} is {row['state']}: there is nothing to stop")
            process.end(row["process"], now=not asked)
        return self.store.row("jobs", number)

    def remove(self, number: int) -> None:
        """Forget a job that has ended, with its files and its model."""
        row = self.store.row("jobs", number)
        if row["state"] not in ENDED:
            raise Refused(409, f"task {number} is {row['state']}: stop it first")
        self.store.remove("jobs", number)
        known, gone = self.library.directories, self.run_dir(row) / STAGE
        self.library.directories = {name: place for name, place in known.items() if place != gone}
        shutil.rmtree(self.run_dir(row).parent, ignore_errors=True)

    def _wake(self) -> None:
        with self._lock:
            if not self._thread.is_alive():
                self._thread.start()
        self._woken.set()

    def _watch(self) -> None:
        """Look at the jobs twice a second while any is open."""
        open_ = True
        while True:
            self._woken.wait(_POLL_S if open_ else None)
            self._woken.clear()
            try:
                open_ = self._turn_once()
            except Exception:  # a database that is away for a moment must not end the queue
                _log.exception("the queue of tasks could not be looked at; it tries again")

    def _turn_once(self) -> bool:
        for row in self.store.rows("jobs"):
            if row["state"] in ACTIVE:
                self._look(row)
            elif row["state"] == "queued" and self.store.turn(
                row["id"], ("queued",), {"state": "running"}, self.at_once
            ):
                self._start(row)
        return any(row["state"] not in ENDED for row in self.store.rows("jobs"))

    def _start(self, row: Row) -> None:
        place, number = self.run_dir(row).parent, row["id"]
        command = [sys.executable, "-m", "inkstone", "run", str(place / "recipe.toml")]
        self._children[number] = child = process.start(command, place / "log.txt")
        found = process.identity(child.pid)
        self.store.turn(number, ACTIVE, {"process": found})
        if self.store.row("jobs", number)["state"] == "stopping":  # somebody was quicker than the line above
            process.end(found, now=False)

    def _look(self, row: Row) -> None:
        """Whether a job's process has ended, and how."""
        if child := self._children.get(row["id"]):
            child.poll()  # without this an ended child stays in the system's list
        starting = not row["process"] and time.time() - row["changed"] < _LOST_S  # by another server
        if starting or process.runs(row["process"]):
            return
        done = (self.run_dir(row) / STAGE / "stage.json").is_file()
        state = "succeeded" if done else "stopped" if row["state"] == "stopping" else "failed"
        error = last_words(self.run_dir(row).parent / "log.txt") if state == "failed" else ""
        self.store.turn(row["id"], ACTIVE, {"state": state, "error": error})
        self._offer({**row, "state": state})

    def _offer(self, row: Row) -> None:
        """Let people talk to a finished job's model; it is opened when they do."""
        name, directory = self.shown(row)["model"], self.run_dir(row) / STAGE
        if name and (directory / "config.json").is_file():
            self.library.directories = {**self.library.directories, name: directory}  # others may go through the old


def toml(value: str | float | list[str] | dict[str, float]) -> str:
    """A value as TOML writes it, which for all of these but tables is as JSON does."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{name} = {toml(one)}" for name, one in value.items()) + " }"
    return json.dumps(value, ensure_ascii=False)
