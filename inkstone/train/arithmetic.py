"""Which device, dtype and compiler a run uses: chosen once, said in the log, kept in the checkpoint.

Recent CPUs multiply bfloat16 matrices several times faster than float32, others emulate it slowly; a short measurement
decides, because flags do not tell. A resumed run keeps the choice it started with, so that its numbers stay the same.
"""

import shutil
from dataclasses import dataclass

import torch

from inkstone.errors import InputError
from inkstone.model.cpu_speed import bfloat16_speedup
from inkstone.train.settings import TrainSettings

_COMPILE_PAYS_TOKENS = 400_000
"""Compiling costs 10 to 30 s on two cores; below this many tokens it does not come back."""


@dataclass(frozen=True)
class Arithmetic:
    """The choice and the sentence that explains it."""

    device: str
    dtype: str
    compile: bool
    reason: str

    @property
    def torch_dtype(self) -> torch.dtype:
        return {"float32": torch.float32, "bfloat16": torch.bfloat16}[self.dtype]


def choose_arithmetic(settings: TrainSettings, total_tokens: int, before: Arithmetic | None = None) -> Arithmetic:
    """Resolve the "auto"s of the settings on this machine, or keep what a run had `before` it was interrupted.

    The dtype is kept on any machine, the compiler on the same kind of device. Raises InputError when a GPU is asked for
    and missing.
    """
    device = settings.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    elif device.startswith("cuda") and not torch.cuda.is_available():
        raise InputError(f'device = "{device}", but PyTorch sees no GPU here: set device = "cpu" or "auto"')
    if before and before.device == device:
        return before
    dtype, why_dtype = (before.dtype, "as before") if before else _choose_dtype(settings.dtype, device)
    compiled, why_compile = _choose_compile(settings.compile, device, total_tokens)
    return Arithmetic(device, dtype, compiled, f"{device}, {dtype} ({why_dtype}), {why_compile}")


def _choose_dtype(wanted: str, device: str) -> tuple[str, str]:
    if wanted != "auto":
        return wanted, "as set"
    if device != "cpu":
        return ("bfloat16", "supported") if torch.cuda.is_bf16_supported() else ("float32", "no bfloat16 here")
    ratio = bfloat16_speedup()
    # Well above 1, because casts and rounding are not free and the choice must not flip between runs.
    name = "bfloat16" if ratio > 1.5 else "float32"
    return name, f"bfloat16 products run {ratio:.1f}x as fast as float32 on this CPU"


def _choose_compile(wanted: str, device: str, total_tokens: int) -> tuple[bool, str]:
    if wanted != "auto":
        return wanted == "on", f"torch.compile {wanted} as set"
    if device != "cpu":
        return True, "torch.compile on"
    if total_tokens < _COMPILE_PAYS_TOKENS:
        return False, "torch.compile off: the run is too short for it to pay"
    problem = _trial_compilation()
    return not problem, f"torch.compile off: {problem}" if problem else "torch.compile on"


def _trial_compilation() -> str | None:
    """Why compiled code cannot be had here: it needs a C++ compiler and Python's headers, and either may be missing."""
    if not (shutil.which("g++") or shutil.which("clang++")):
        return "no C++ compiler (g++ or clang++) found"
    try:
        torch.compile(torch.sin)(torch.ones(16))
    except Exception as error:  # whatever the compiler, the linker or the loader of the result may raise
        return f"a trial compilation failed ({type(error).__name__})"
    return None
