"""Keep freed memory in the process and back big tensors with huge pages: the cheapest speed on a CPU.

Training allocates and frees the same tens of megabytes every step; glibc's default gives them back to the kernel each
time, and the page faults of taking them again cost 10 to 40 % of a step. Call once, before torch is imported.
"""

import ctypes
import os
import sys

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4


def keep_memory() -> None:
    """Ask glibc not to return memory to the kernel and torch to use huge pages; does nothing where neither exists."""
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(_M_TOP_PAD, 2**26)
