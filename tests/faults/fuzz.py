"""Damaged input by the hundred: `python tests/faults/fuzz.py SEED CASES [KIND ...]` prints what misbehaved as JSON.

Case n of a kind is a pure function of (seed, kind, n). A case may succeed or end with a sentence (InkstoneError, or
an OSError, which the command line says); anything else is a fault, and so are 30 seconds and a gigabyte.
"""

import json
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from faults.kinds import KINDS, prepare
from faults.kinds_later import LATER

from inkstone.errors import InkstoneError

ALL = KINDS | LATER
_SECONDS, _KILOBYTES = 30, 1_000_000


class Hung(BaseException):
    """The case takes too long."""


def run(seed: int, cases: int, kinds: list[str]) -> dict[str, Any]:
    """The number of cases tried, of sentences by kind, and every fault: its number and last lines of traceback."""
    signal.signal(signal.SIGALRM, _hang)
    faults: list[dict[str, Any]] = []
    sentences = dict.fromkeys(kinds, 0)
    slowest = (0.0, "")
    with tempfile.TemporaryDirectory() as scratch:
        prepare(Path(scratch))
        for name in kinds:
            for number in range(cases):
                draw = random.Random(f"{seed} {name} {number}")
                folder = Path(scratch) / "case"
                folder.mkdir()
                call = ALL[name](folder, draw)
                before, started = _peak(), time.monotonic()
                signal.alarm(_SECONDS)
                try:
                    call()
                except (InkstoneError, OSError) as error:
                    sentences[name] += 1
                    if not str(error):
                        faults.append({"kind": name, "number": number, "fault": "no sentence", "where": ""})
                except BaseException as error:
                    if isinstance(error, KeyboardInterrupt):
                        raise
                    last = "".join(traceback.format_exception(error)[-3:])[-900:]
                    faults.append({"kind": name, "number": number, "fault": type(error).__name__, "where": last})
                finally:
                    signal.alarm(0)
                slowest = max(slowest, (round(time.monotonic() - started, 2), f"{name} {number}"))
                if _peak() - before > _KILOBYTES:
                    faults.append(
                        {"kind": name, "number": number, "fault": "memory", "where": f"{_peak() - before} kB"}
                    )
                shutil.rmtree(folder)
    return {"cases": cases * len(kinds), "sentences": sentences, "slowest_s": slowest,
            "peak_mb": _peak() // 1000, "faults": faults}  # fmt: skip


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _hang(signum: int, frame: object) -> None:
    raise Hung


if __name__ == "__main__":
    print(json.dumps(run(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:] or list(ALL))))
