"""Machines: what they compute and hold. The table is hardware.toml; this machine's CPU is measured.

    find_device("h200"), find_device("cpu")

A name that is not in the table is refused with the known ones: a guessed peak would make every figure after it a guess.
"""

import difflib
import os
import time
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from inkstone.errors import InputError


@dataclass(frozen=True)
class Device:
    """One accelerator, or a CPU with all its cores; `tflops` of dense products in the dtype that training takes."""

    name: str
    tflops: float
    memory_gib: float
    is_gpu: bool = True


@cache
def _table() -> dict[str, dict[str, Any]]:
    return tomllib.loads(Path(__file__).with_name("hardware.toml").read_text(encoding="utf-8"))


def known_devices() -> dict[str, Device]:
    """Every accelerator of the table by its short name."""
    return {name: Device(name, float(row["bf16_tflops"]), float(row["memory_gib"])) for name, row in _table().items()}


@cache
def this_device(wanted: str = "auto") -> Device | None:
    """What a run with this `device` setting runs on here; None for a GPU that the table does not know."""
    if wanted == "cpu" or not torch.cuda.is_available():
        return this_cpu()
    name = torch.cuda.get_device_name()
    short = next((short for short, row in _table().items() if any(part in name for part in row["names"])), None)
    return known_devices()[short] if short else None


def find_device(name: str) -> Device:
    """The device of that name; "cpu" is this machine. Raises InputError for one that nobody measured."""
    if name == "cpu":
        return this_cpu()
    known = known_devices()
    if name.lower() not in known:
        close = difflib.get_close_matches(name.lower(), known, 1)
        hint = f"did you mean {close[0]}?" if close else f"known are cpu, {', '.join(known)}"
        raise InputError(f"--gpu {name}: unknown hardware, and its speed is not guessed; {hint}")
    return known[name.lower()]


def this_cpu() -> Device:
    """This machine: its memory, and the faster of bfloat16 and float32 products, measured for a moment."""
    best = max(_product_tflops(dtype) for dtype in (torch.float32, torch.bfloat16))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return Device("cpu", best, memory, is_gpu=False)


def _product_tflops(dtype: torch.dtype, size: int = 1024, turns: int = 12) -> float:
    """The best of some products: others may be at work on this machine."""
    a, b = torch.ones(size, size, dtype=dtype), torch.ones(size, size, dtype=dtype)
    seconds = []
    for _ in range(turns):
        started = time.perf_counter()
        a @ b
        seconds.append(time.perf_counter() - started)
    return 2 * size**3 / min(seconds) / 1e12
