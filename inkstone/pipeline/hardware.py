"""What a stage ran on, for stage.json: a figure without its machine and versions cannot be compared."""

import os
import platform
from importlib import metadata
from pathlib import Path

import torch


def hardware() -> dict[str, str | int | float]:
    """CPU name, cores, memory in GiB and the GPU's name, where they can be told."""
    facts: dict[str, str | int | float] = {"cpu": _cpu_name(), "cores": _cores()}
    if hasattr(os, "sysconf"):
        facts["memory_gib"] = round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    if torch.cuda.is_available():
        facts["gpu"] = torch.cuda.get_device_name()
        facts["gpus"] = torch.cuda.device_count()
    return facts


def versions() -> dict[str, str]:
    """Of Python and of the libraries that can change a result."""
    names = ("torch", "numpy", "tokenizers", "safetensors", "pyarrow")
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in names}}


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _cores() -> int:
    """Cores this process may use, which a container or taskset can make fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
