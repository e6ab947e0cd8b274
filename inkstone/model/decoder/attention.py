"""What a token may look at, said by one context object that the decoder passes to every layer.

`PackedContext` (`packed.py`) is for training and whole-sequence scoring: rows that may hold several documents, which
never see each other. `CacheContext` (`cached.py`) is for decoding: keys and values are kept and each row is at its own
position. The decoder only calls `context.prepare(config, dtype)` once per forward, then `context.attend(...)`.

ALiBi and sliding windows are part of what says who sees whom: a context takes off slope x distance, and closes what
lies beyond the window. Distances are between positions inside a document, so packing does not change them.

A prefix (`prefix.py`) stands before every document: its keys and values are seen by all tokens, whatever the window.

Shapes: B rows, T new tokens, S cached tokens, P of a prefix, H query heads, K key/value heads, d head_dim, L layers.
"""

from typing import Protocol

import torch
from torch import Tensor

from inkstone.model.decoder.config import DecoderConfig


class AttentionContext(Protocol):
    """How keys and values are kept and masked."""

    positions_BT: Tensor

    def prepare(self, config: DecoderConfig, dtype: torch.dtype, prefix: int = 0) -> None:
        """Make what all layers share; called once per forward, before the first layer.

        `config` counts the heads that this process holds: with tensor parallelism a part of the model's. `prefix`:
        how many keys of a prefix every layer will bring.
        """

    def attend(
        self, layer: int, q_BHTd: Tensor, k_BKTd: Tensor, v_BKTd: Tensor, prefix_2KPd: Tensor | None = None
    ) -> Tensor:
        """Attention output [B, H, T, d] of the new tokens in `layer`."""


def before(prefix_2KPd: Tensor | None, k_BKSd: Tensor, v_BKSd: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values with those of the prefix in front of each row."""
    if prefix_2KPd is None:
        return k_BKSd, v_BKSd
    k, v = (
        torch.cat((x.expand(len(own), -1, -1, -1), own), 2)
        for x, own in zip(prefix_2KPd, (k_BKSd, v_BKSd), strict=True)
    )
    return k, v


def position_bias(distance_BTS: Tensor, slopes_H: Tensor | None, window: int | None, prefix: int = 0) -> Tensor:
    """[B, H or 1, T, S] float32: 0 or -slope x distance where a token may look, -inf ahead and past the window.

    The first `prefix` of the S keys are a prefix's, which the window does not close.
    """
    hidden = distance_BTS < 0
    if window is not None:
        hidden[..., prefix:] |= distance_BTS[..., prefix:] >= window
    distance_B1TS = distance_BTS[:, None].float()
    bias = torch.zeros_like(distance_B1TS) if slopes_H is None else -slopes_H[:, None, None] * distance_B1TS
    return bias.masked_fill(hidden[:, None], -torch.inf)
