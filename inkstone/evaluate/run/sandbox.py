"""Programs that a model wrote, run where they can do no harm: `run_program(source).passed`.

Each runs in a process of its own, in namespaces made by `unshare`, or by bubblewrap where only that may make them (no
network, no other process to see or to kill), and an empty root in memory, as nobody, with limits on time, memory,
processes, files and open files; what it prints goes nowhere. Whether this machine can do that is found out by doing it;
where it cannot, `require_sandbox` refuses, and only `--allow-unsandboxed` runs programs with the limits alone.
"""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from inkstone.errors import InputError

_JAIL = Path(__file__).with_name("jail.py")
_NAMESPACES = ["unshare", "--mount", "--pid", "--net", "--ipc", "--uts", "--fork", "--kill-child"]
_BUBBLEWRAP = [
    "bwrap", "--unshare-all", "--unshare-user", "--disable-userns", "--die-with-parent", "--cap-drop", "ALL", "--uid",
    "65534", "--gid", "65534", "--size", str(32 << 20), "--tmpfs", "/", "--dir", "/tmp", "--chdir", "/tmp",
]  # fmt: skip
_MEMORY = 1 << 29


@dataclass(frozen=True)
class Ran:
    """`why` it did not pass: timed out, failed, or (not `inside`) the sandbox could not be built."""

    passed: bool
    why: str = ""
    inside: bool = True


def require_sandbox(allow_unsandboxed: bool) -> None:
    """Raises InputError where programs cannot be isolated here, unless that is allowed."""
    if isolation() is None and not allow_unsandboxed:
        raise InputError(
            "this task runs programs that the model writes, and this machine cannot isolate them (unshare and bwrap "
            "are missing or not allowed): run it elsewhere, or give --allow-unsandboxed where nothing is worth keeping"
        )


@cache
def isolation() -> tuple[str, ...] | None:
    """The command that makes namespaces here: as root, as a user who is root in one, or bubblewrap's; None: none."""
    for command in (_NAMESPACES, [*_NAMESPACES, "--user", "--map-root-user"], _BUBBLEWRAP):
        if shutil.which(command[0]) and _run("pass", command, 10.0).passed:
            return tuple(command)
    return None


def run_program(source: str, seconds: float = 3.0) -> Ran:
    """Run a program to its end: it passes if it gets there, whatever exit code it wishes for."""
    return _run(source, isolation() or (), seconds)


def _run(source: str, command: Sequence[str], seconds: float) -> Ran:
    with tempfile.TemporaryDirectory() as folder:
        heard, said = os.pipe()
        places = [place for place in dict.fromkeys(["/usr", "/lib", "/lib64", sys.base_prefix]) if Path(place).is_dir()]
        places = [place for place in places if not (place != "/usr" and place.startswith("/usr/"))]
        if "bwrap" in command:  # which makes the root itself; the jail gives up the rest
            command = [*command, *(word for place in [*places, str(_JAIL)] for word in ("--ro-bind", place, place))]
            folder = ""
        order = {"root": folder if command else "", "places": places, "seconds": math.ceil(seconds) + 1,
                 "memory": _MEMORY, "report": said, "program": source}  # fmt: skip
        process = subprocess.Popen(
            [*command, os.path.realpath(sys.executable), "-I", "-S", str(_JAIL)], stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, pass_fds=(said,), env={}, cwd=folder or "/",
            start_new_session=True,
        )  # fmt: skip
        os.close(said)
        timed_out = False
        try:
            process.communicate(json.dumps(order).encode(), timeout=seconds + 2.0)
        except subprocess.TimeoutExpired:
            timed_out = True
        finally:
            # The group too: without namespaces there may be children left.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        with os.fdopen(heard, "rb") as stream:
            report = b"" if timed_out else stream.read()
    inside = report.startswith(b"inside")
    passed = report == b"inside passed" and process.returncode == 0
    return Ran(passed, "" if passed else "timed out" if timed_out else "failed", inside or timed_out)
