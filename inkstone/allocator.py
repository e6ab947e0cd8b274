"""Keep freed memory in the process and back big tensors with huge pages: the cheapest speed on a CPU.

Training allocates and frees the same tens of megabytes every step; glibc's default gives them back to the kernel each
time, and the page faults of taking them again cost 10 to 40 % of a step. Call once, before torch is imported.
"""

import ctypes
import os
import sys

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -2, -4, -8


def keep_memory() -> None:
    """Ask glibc not to return memory to the kernel and torch to use huge pages; does nothing where neither exists."""
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    _tell_glibc({_M_MMAP_MAX: 0, _M_TRIM_THRESHOLD: 2**31 - 1, _M_TOP_PAD: 2**26})


def give_memory_back() -> None:
    """The opposite, for a server: it runs for weeks with requests of all sizes, in many threads.

    What is freed goes back to the kernel, and threads share two heaps instead of having sixteen with gaps of their own.
    """
    _tell_glibc({_M_MMAP_MAX: 65_536, _M_TRIM_THRESHOLD: 2**27, _M_TOP_PAD: 2**20, _M_ARENA_MAX: 2})


def _tell_glibc(settings: dict[int, int]) -> None:
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for name, value in settings.items():
            mallopt(name, value)
