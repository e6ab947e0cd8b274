"""One dial: what a size like "125M" makes of a model's shape and of its training, where a recipe says no more.

Blocks of L layers and width D hold 12 L D^2 weights. Published models grow in both: D / L is 64 at a hundred million
and 128 at seven thousand million (GPT-2, LLaMA). Rate and batch follow DeepSeek's fits over training compute C in
FLOPs, 0.3118 C^-0.125 and 0.2920 C^0.3271 tokens (Bi et al. 2024, arXiv 2401.02954, eq. 3 and 4), with C = 6 N T and
the T = 20 N tokens of Hoffmann et al. (2022, arXiv 2203.15556). Sizes count the blocks; embeddings come on top.
"""

import math
import re
from typing import Any, TypeGuard

_UNITS = {"K": 1e3, "M": 1e6, "B": 1e9}
_MICRO_TOKENS = 16384
PATTERN = r"^([1-9][0-9]{0,3}(\.[0-9]{1,3})?|0\.[0-9]{0,2}[1-9])[KMB]$"


def is_size(value: object) -> TypeGuard[str]:
    return isinstance(value, str) and bool(re.match(PATTERN, value))


def parameters(size: str) -> float:
    """Of a size such as "2.5M" or "7B"."""
    return float(size[:-1]) * _UNITS[size[-1]]


def shape_of(size: str) -> dict[str, int]:
    """Keys of [model]: heads of 64 numbers, or 128 in wide models, whose heads eight GPUs can share."""
    count = parameters(size)
    ratio = 64 * max(1.0, count / 1e8) ** (math.log(2) / math.log(70))
    wished = (count * ratio / 12) ** (1 / 3)
    step, head = (64, 64) if wished < 1024 else (128, 64) if wished < 1792 else (1024, 128)
    width = max(step, round(wished / step) * step)
    return {"hidden_size": width, "num_layers": max(2, round(count / 12 / width**2)), "num_heads": width // head}


def training_of(size: str, sequence_length: int) -> dict[str, Any]:
    """Keys of [pretrain]: rate, tokens per step and, where a step is large, tokens per forward."""
    count = parameters(size)
    compute = 6 * count * 20 * count
    rows = 2 ** round(math.log2(max(1.0, 0.2920 * compute**0.3271 / sequence_length)))
    micro = min(rows, 2 ** int(math.log2(max(1, _MICRO_TOKENS // sequence_length))))
    return {
        "learning_rate": float(f"{0.3118 * compute**-0.125:.1e}"),
        "batch_tokens": rows * sequence_length,
        "micro_batch_tokens": micro * sequence_length,
    }
