"""The inside of the sandbox: a script of its own that runs one program and says on a pipe whether it ran to its end.

`sandbox.py` starts it in fresh namespaces (no network, no other processes). It shuts itself into an empty root that
holds the interpreter and nothing else, gives up every privilege for good, and sets limits before the first line of the
program is read. It imports nothing of Inkstone.
"""

import ctypes
import json
import os
import resource
import sys
from pathlib import Path

_NOSUID, _NODEV, _READ_ONLY, _REMOUNT, _BIND, _REC, _PRIVATE = 2, 4, 1, 32, 4096, 16384, 1 << 18
_NO_NEW_PRIVILEGES, _DROP_BOUND = 38, 24
_NOBODY = 65534


def shut_in(libc: ctypes.CDLL, root: str, places: list[str]) -> None:
    """An empty file system in memory becomes the root; `places` are there to be read."""

    def mount(source: str, target: str, kind: str | None, flags: int, data: str = "") -> None:
        if libc.mount(source.encode(), target.encode(), kind and kind.encode(), flags, data.encode()):
            raise OSError(ctypes.get_errno(), f"mount {target}")

    mount("none", "/", None, _REC | _PRIVATE)
    mount("none", root, "tmpfs", _NOSUID | _NODEV, "size=32m,mode=755")
    for place in places:
        Path(root + place).mkdir(parents=True, exist_ok=True)
        mount(place, root + place, None, _BIND | _REC)
        mount("none", root + place, None, _BIND | _REMOUNT | _READ_ONLY | _NOSUID | _NODEV)
    Path(root + "/tmp").mkdir()
    Path(root + "/tmp").chmod(0o777)
    os.chroot(root)
    os.chdir("/tmp")


def give_up(libc: ctypes.CDLL) -> None:
    """Nobody, without capabilities, and no way to get any."""
    libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    for capability in range(64):
        libc.prctl(_DROP_BOUND, capability, 0, 0, 0)
    try:
        os.setgroups([])
        os.setresgid(_NOBODY, _NOBODY, _NOBODY)
        os.setresuid(_NOBODY, _NOBODY, _NOBODY)
    except OSError:
        pass  # a namespace of a plain user knows nobody else; what it can do is taken away below
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    if libc.capset(header, (ctypes.c_uint32 * 6)()):
        raise OSError(ctypes.get_errno(), "capset")


def limit(seconds: int, memory: int) -> None:
    for what, most in (
        (resource.RLIMIT_CPU, seconds), (resource.RLIMIT_AS, memory), (resource.RLIMIT_NPROC, 16),
        (resource.RLIMIT_FSIZE, 1 << 20), (resource.RLIMIT_NOFILE, 64), (resource.RLIMIT_CORE, 0),
    ):  # fmt: skip
        resource.setrlimit(what, (most, most))


def main() -> None:
    order = json.loads(sys.stdin.read())
    if order["root"]:
        # The first process of the namespace stays outside: it dies with whoever started it, and everything with it.
        # (A process that changes its user is no longer told of its parent's death, nor would a hostile one want to be.)
        if child := os.fork():
            os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) and 1)
        libc = ctypes.CDLL(None, use_errno=True)
        shut_in(libc, order["root"], order["places"])
        give_up(libc)
    limit(order["seconds"], order["memory"])
    os.write(order["report"], b"inside ")
    exec(compile(order["program"], "program", "exec"), {"__name__": "__main__"})  # the program is the point
    os.write(order["report"], b"passed")


main()
