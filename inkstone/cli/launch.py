"""`inkstone launch`: a recipe in several processes, through torchrun here or through a Slurm job on many hosts.

We write no launcher of our own: what starts, watches and restarts the processes is PyTorch's torchrun, and a restarted
run continues from its last checkpoint by itself.
"""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import typer

from inkstone.errors import InputError
from inkstone.recipe import read_recipe

_PORT = 29500


def launch_recipe(recipe: Path, overrides: list[str], nproc: int, restarts: int) -> None:
    """Run the recipe in `nproc` processes on this host; leaves with torchrun's exit code."""
    read_recipe(recipe, overrides)
    command = [sys.executable, "-m", *_torchrun(nproc, restarts, ["--standalone"]), *_run(recipe, overrides)]
    threads = str(max(1, (os.cpu_count() or 1) // nproc))
    ended = subprocess.run(command, env={"OMP_NUM_THREADS": threads, **os.environ})
    if ended.returncode:
        raise typer.Exit(ended.returncode)


def write_slurm(
    recipe: Path, overrides: list[str], nproc: int, nodes: int, restarts: int, script: Path, submit: bool
) -> None:
    """Write a job script for `nodes` hosts with `nproc` devices each, and submit it if asked."""
    found = read_recipe(recipe, overrides)
    if script.exists():
        raise InputError(f"{script} already exists: give another name, or remove it first")
    script.write_text(_job(recipe, overrides, nproc, nodes, restarts, found.name), encoding="utf-8")
    typer.echo(f"{script}: sbatch {script}")
    if submit:
        try:
            subprocess.run(["sbatch", str(script)], check=True)
        except FileNotFoundError as error:
            raise InputError("--submit needs Slurm's sbatch, which is not on this machine: copy the script") from error
        except subprocess.CalledProcessError as error:
            raise InputError(f"sbatch refused the job (exit code {error.returncode}): mend {script}") from error


def _torchrun(nproc: int, restarts: int, rendezvous: list[str]) -> list[str]:
    return ["torch.distributed.run", f"--nproc-per-node={nproc}", f"--max-restarts={restarts}", *rendezvous]


def _run(recipe: Path, overrides: list[str]) -> list[str]:
    return ["-m", "inkstone", "run", str(recipe), *(word for one in overrides for word in ("--set", one))]


def _job(recipe: Path, overrides: list[str], nproc: int, nodes: int, restarts: int, name: str) -> str:
    """One torchrun on every host; they meet at the first."""
    meeting = [
        "--rdzv-backend=c10d",
        "--rdzv-id=$SLURM_JOB_ID",
        f'--rdzv-endpoint="$head:{_PORT}"',
        f"--nnodes={nodes}",
    ]
    run = shlex.join(_run(recipe, overrides))
    return f"""#!/bin/bash
#SBATCH --job-name=inkstone-{name}
#SBATCH --nodes={nodes}
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node={nproc}
#SBATCH --output=inkstone-{name}-%j.log
#SBATCH --signal=B:TERM@120
#SBATCH --requeue

set -euo pipefail
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
# SIGTERM reaches every process two minutes before the time is over; each saves and stops, and the job is queued again.
srun python -m {" ".join(_torchrun(nproc, restarts, meeting))} \\
  {run} &
trap 'kill -TERM $!; wait $!; scontrol requeue "$SLURM_JOB_ID"' TERM
wait $!
"""
