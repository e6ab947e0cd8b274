"""A whole run in seconds, called the way a user calls it, and what is compared between two runs.

`inkstone(...)` calls the command line in this process; `start(...)` in a process of its own, to be killed.
"""

import contextlib
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

from inkstone.cli import main
from inkstone.storage import verify_manifest

STAGES = ("primer", "corpus", "tokenizer", "tokens", "pretrain", "sft", "evaluate")

RECIPE = """
name = "tiny"
trackers = []
[primer]
size_mb = 0.3
[corpus]
inputs = ["primer:raw"]
[tokenizer]
vocab_size = 1500
[model]
hidden_size = 32
num_layers = 1
num_heads = 2
max_positions = 256
[pretrain]
sequence_length = 64
batch_tokens = 256
max_steps = 60
warmup_steps = 5
log_steps = 5
heldout_steps = 20
checkpoint_steps = 4
device = "cpu"
dtype = "float32"
compile = "off"
[sft]
inputs = ["primer:chats"]
sequence_length = 128
batch_tokens = 256
max_steps = 40
warmup_steps = 5
checkpoint_steps = 4
device = "cpu"
dtype = "float32"
compile = "off"
[evaluate]
problems = "primer:problems"
shots = 0
max_problems = 2
max_new_tokens = 4
heldout_tokens = 2000
device = "cpu"
"""

# Figures of the clock, the machine and of what the last process had left to do; all else must be equal in two runs.
_CLOCK = ("seconds", "started", "throughput", "hardware", "versions", "parts_encoded_now")


class Ended(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def said(self) -> str:
        """Standard error without the JSON lines of progress."""
        return "\n".join(line for line in self.err.splitlines() if not line.startswith("{"))

    @property
    def notes(self) -> list[str]:
        rows = [json.loads(line) for line in self.err.splitlines() if line.startswith("{")]
        return [row["note"] for row in rows if "note" in row]


def inkstone(*arguments: str | Path) -> Ended:
    """Call the command line in this process, without a terminal."""
    out, err = io.StringIO(), io.StringIO()
    code = 0
    with (
        mock.patch.object(sys, "argv", ["inkstone", *map(str, arguments)]),
        mock.patch.dict(os.environ, {"COLUMNS": "300"}),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as leave:
            code = leave.code if isinstance(leave.code, int) else int(leave.code is not None)
    return Ended(code, out.getvalue(), err.getvalue())


def write_recipe(folder: Path, text: str = RECIPE) -> Path:
    """The recipe as a file whose runs are in folder/runs."""
    path = folder / "recipe.toml"
    path.write_text(f'runs_dir = "{folder / "runs"}"\n{text}', encoding="utf-8")
    return path


def start(*arguments: str | Path) -> "subprocess.Popen[str]":
    """Call the command line in a new process and session."""
    return subprocess.Popen(
        [sys.executable, "-c", "from inkstone.cli import main; main()", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A shell's background job ignores SIGINT, and so would the command that is to be stopped by it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"},
    )


def wait_until(process: "subprocess.Popen[str]", reached: Callable[[], bool], limit_s: float = 60) -> None:
    """Poll until `reached()`. Fails when the process ends before that."""
    deadline = time.monotonic() + limit_s
    while not reached():
        assert process.poll() is None, f"ended too early: {process.communicate()[1]}"
        assert time.monotonic() < deadline, "never reached"
        time.sleep(0.001)


def end(process: "subprocess.Popen[str]") -> Ended:
    """Wait for the process."""
    out, err = process.communicate(timeout=60)
    return Ended(process.returncode, out, err)


def state(run: Path) -> dict[str, tuple[int, int]]:
    """What tells a stage directory from one that was written again: its inode and the time of its stage.json."""
    return {
        stage: ((run / stage).stat().st_ino, (run / stage / "stage.json").stat().st_mtime_ns)
        for stage in STAGES
        if (run / stage).exists()
    }


def check_whole(run: Path) -> None:
    """Every stage directory that exists is complete and undamaged."""
    for stage in STAGES:
        directory = run / stage
        if directory.exists():
            assert json.loads((directory / "stage.json").read_text(encoding="utf-8"))["stage"] == stage
            if (directory / "manifest.json").exists():
                verify_manifest(directory, contents=True)


def check_clean(run: Path) -> None:
    """Nothing is left of killed processes."""
    assert [path.name for path in run.iterdir() if path.name.endswith((".draft", ".old"))] == []
    assert list(run.glob(".scratch/*")) == []


def result(run: Path, stages: tuple[str, ...] = STAGES) -> dict[str, Any]:
    """Content of all files but for figures of the clock: metrics and JSON as values, the rest as sha256."""
    return {
        path.relative_to(run).as_posix(): _content(path)
        for stage in stages
        for path in sorted((run / stage).rglob("*"))
        if path.is_file()
    }


def _content(path: Path) -> Any:
    data = path.read_bytes()
    if path.name == "metrics.jsonl":
        return [_timeless(json.loads(line)) for line in data.splitlines()]
    if path.suffix == ".json":
        value = _timeless(json.loads(data))
        if path.name == "manifest.json":
            # Checksums of JSON files cover figures of the clock; their values are compared themselves.
            kept = [name for name in value["files"] if not name.endswith((".json", "metrics.jsonl"))]
            value["files"] = {name: value["files"][name] for name in kept}
        return value
    return hashlib.sha256(data).hexdigest()


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: _timeless(inner)
            for key, inner in value.items()
            if not key.endswith(_CLOCK) and not key.endswith("_per_second")
        }
    return [_timeless(inner) for inner in value] if isinstance(value, list) else value
