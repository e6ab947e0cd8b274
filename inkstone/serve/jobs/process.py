"""A job's process: in a group of its own, known again by its number and when it began, ended by signals.

A number alone is not enough: the system gives it to another process one day.
"""

import os
import signal
import subprocess
from contextlib import suppress
from pathlib import Path


def start(command: list[str], log: Path) -> "subprocess.Popen[bytes]":
    """Run a command that outlives this process; what it says is added to `log`."""
    with log.open("ab") as said:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=said, stderr=said, start_new_session=True)


def identity(pid: int) -> str:
    """The number and when the process began, in the system's own words; no beginning where none of it runs."""
    try:
        # The name in brackets may hold anything; what follows is the state, and the start in ticks since the boot.
        state, *fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        began = "" if state in "ZX" else f"{fields[18]} {boot}"
    except FileNotFoundError:  # ended; or a system without /proc, which has `ps`
        ps = ["ps", "-o", "lstart=", "-p", str(pid)]
        began = "" if Path("/proc/self").exists() else subprocess.run(ps, capture_output=True, text=True).stdout.strip()
    return f"{pid} {began}"


def runs(process: str) -> bool:
    """Whether the process of an identity still runs."""
    pid, _, began = process.partition(" ")
    return bool(began) and identity(int(pid)) == process


def end(process: str, now: bool) -> None:
    """Ask it to finish its step, save and end; or end it and all that it started, `now`."""
    with suppress(ProcessLookupError):
        if runs(process):
            (os.killpg if now else os.kill)(int(process.split()[0]), signal.SIGKILL if now else signal.SIGTERM)
