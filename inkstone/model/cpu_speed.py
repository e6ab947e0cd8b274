"""How fast this CPU multiplies bfloat16, which its flags do not tell: some are several times faster than in float32,
others half as fast. Training chooses its dtype by it, and a long prompt its products.
"""

import time
from functools import cache

import torch


@cache
def bfloat16_speedup() -> float:
    """How much faster bfloat16 products are: the best of many short turns, in turn, on one thread.

    On a busy machine threads wait for each other and a single measurement means little; the best turn of one thread
    is the machine's own speed.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        best = {torch.float32: float("inf"), torch.bfloat16: float("inf")}
        for _ in range(20):
            for dtype in best:
                a, b = torch.ones(1024, 512, dtype=dtype), torch.ones(512, 512, dtype=dtype)
                start = time.perf_counter()
                a @ b
                best[dtype] = min(best[dtype], time.perf_counter() - start)
    finally:
        torch.set_num_threads(threads)
    return best[torch.float32] / best[torch.bfloat16]
