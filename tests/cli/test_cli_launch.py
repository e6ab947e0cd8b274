"""`inkstone launch`: several processes on this host, and a job script for many."""

import subprocess
import sys
from pathlib import Path

from tiny_run import RECIPE, inkstone, write_recipe


def test_a_launched_recipe_runs_in_several_processes_and_a_bad_one_is_refused_before(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, RECIPE.partition("[sft]")[0])
    command = [sys.executable, "-m", "inkstone", "launch", str(recipe), "--nproc", "2", "--set", "pretrain.max_steps=2"]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert (tmp_path / "runs" / "tiny" / "pretrain" / "model.safetensors").is_file()
    refused = inkstone("launch", recipe, "--nproc", "2", "--set", "pretrain.nosuch=1")
    assert refused.code == 2 and "there is no such key" in refused.said


def test_a_slurm_job_is_a_valid_script_that_names_all_it_was_told(tmp_path: Path) -> None:
    recipe, script = write_recipe(tmp_path), tmp_path / "job.sh"
    ended = inkstone("launch", recipe, "--nproc", "8", "--nodes", "16", "--slurm", script, "--set", "pretrain.epochs=2")
    assert ended.code == 0, ended.err
    text = script.read_text(encoding="utf-8")
    for line in (
        "#SBATCH --nodes=16",
        "#SBATCH --gpus-per-node=8",
        "--nnodes=16",
        "--set pretrain.epochs=2",
        str(recipe),
    ):
        assert line in text
    subprocess.run(["bash", "-n", script], check=True)
    again = inkstone("launch", recipe, "--slurm", script)
    assert again.code == 2 and "already exists" in again.said
    other = inkstone("launch", recipe, "--slurm", tmp_path / "b.sh", "--submit")
    assert other.code == 2 and "sbatch" in other.said
