"""Kills by the hundred: `python tests/pipeline/kill_often.py SEED KILLS FOLDER FINISHED`, FINISHED an undisturbed run.

A process that has its libraries loaded forks the command and kills it after a random time, again and again until the
run is finished; the run must then equal FINISHED, and a new one begins. After every kill all stages must be whole.
"""

import json
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))

from tiny_run import check_clean, check_whole, result, write_recipe

from inkstone.cli import main


def run_killed(recipe: Path, after_s: float) -> int | None:
    """Run the recipe in a fork; the exit status, or None where it was killed after `after_s`."""
    child = os.fork()
    if child == 0:
        os.setsid()
        null = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(null, stream)
        sys.argv = ["inkstone", "run", str(recipe)]
        try:
            main()
        except SystemExit as leave:
            os._exit(leave.code if isinstance(leave.code, int) else 1)
        os._exit(0)
    deadline = time.monotonic() + after_s
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def kill_often(seed: int, kills: int, folder: Path, finished: Path) -> dict[str, int]:
    """How often was killed, and how many runs were finished; an AssertionError where a run was harmed."""
    torch.set_num_threads(1)
    chance = random.Random(seed)
    expected = result(finished)
    killed = runs = 0
    recipe = write_recipe(folder)
    run = folder / "runs" / "tiny"
    while killed < kills or run.exists():
        # Past the last kill the run is left to end.
        status = run_killed(recipe, chance.expovariate(1.0) + 0.05 if killed < kills else 600)
        check_whole(run)
        if status is None:
            killed += 1
            continue
        assert status == 0, f"the run ended with {status} after {killed} kills"
        assert result(run) == expected, f"run {runs} differs after {killed} kills"
        check_clean(run)
        runs += 1
        shutil.rmtree(run)
    return {"kills": killed, "runs": runs}


if __name__ == "__main__":
    folder = Path(sys.argv[3])
    folder.mkdir(parents=True, exist_ok=True)
    print(json.dumps(kill_often(int(sys.argv[1]), int(sys.argv[2]), folder, Path(sys.argv[4]))))
