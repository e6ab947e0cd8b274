"""torchrun: the first process plans and writes, all of them train, and the model is that of one process."""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file
from tiny_run import check_clean, check_whole, inkstone

SHORT = ("--set", "pretrain.max_steps=6", "--until", "pretrain")


def run_ranks(recipe: Path, *more: str, size: int = 2) -> list[tuple[int, str, str]]:
    """The command as torchrun starts it: exit code, output and errors of each process."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    where = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "inkstone", "run", str(recipe), *more]
    ranks = [
        subprocess.Popen(
            command,
            env={**os.environ, **where, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(size)
    ]
    said = [process.communicate(timeout=120) for process in ranks]
    return [(process.returncode, out, err) for process, (out, err) in zip(ranks, said, strict=True)]


def test_two_processes_make_the_model_of_one(begun: Callable[[str], Path]) -> None:
    recipe = begun("pretrain")
    run = recipe.parent / "runs" / "tiny"
    ended = run_ranks(recipe, *SHORT)
    assert [code for code, _, _ in ended] == [0, 0], ended
    assert f"done {run / 'pretrain'} (1 of 1)" in ended[0][1]
    assert ended[1][1:] == ("", ""), "the second process has nothing to say"
    check_whole(run)
    check_clean(run)
    together = load_file(run / "pretrain" / "model.safetensors")
    assert inkstone("run", recipe, *SHORT).out.startswith("Nothing left to do"), "the number of processes is no setting"
    shutil.rmtree(run / "pretrain")
    assert inkstone("run", recipe, *SHORT).code == 0
    for name, weight in load_file(run / "pretrain" / "model.safetensors").items():
        torch.testing.assert_close(together[name], weight, atol=1e-5, rtol=1e-4)


def test_a_mistake_is_said_once_and_ends_every_process(begun: Callable[[str], Path]) -> None:
    recipe = begun("pretrain")
    ended = run_ranks(recipe, *SHORT, "--set", "pretrain.batch_tokens=64", "--set", "pretrain.sequence_length=64")
    assert [code for code, _, _ in ended] == [2, 2]
    assert "a step of batch_tokens = 64 has 1 rows, fewer than the 2 processes" in ended[0][2]
    assert ended[1][2] == ""
