"""What a token may look at, said by one context object that the decoder passes to every layer.

`PackedContext` is for training and whole-sequence scoring: rows that may hold several documents, which never see each
other. `CacheContext` is for decoding: keys and values are kept in a `KVCache` and each row is at its own position.
The decoder only calls `context.positions_BT` and `context.attend(layer, q, k, v)`.

Shapes: B rows, T new tokens, S cached tokens, H query heads, K key/value heads, d head_dim, L layers.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from inkstone.errors import InputError
from inkstone.model.config import DecoderConfig
from inkstone.model.cpu_attention import masked_attention

EXPLICIT_LENGTH = 1024
"""Longest row, in tokens, for which CPU training keeps the T x T probabilities."""


class AttentionContext(Protocol):
    """How keys and values are kept and masked."""

    positions_BT: Tensor

    def attend(self, layer: int, q_BHTd: Tensor, k_BKTd: Tensor, v_BKTd: Tensor) -> Tensor:
        """Attention output [B, H, T, d] of the new tokens in `layer`."""


@dataclass
class PackedContext:
    """Causal attention inside each document of each row; `bias_B1TT` is None where every row is one document.

    The bias is 0 where a token may look and -inf elsewhere, in the dtype of the arithmetic.
    """

    positions_BT: Tensor
    bias_B1TT: Tensor | None

    @classmethod
    def whole_rows(cls, rows: int, length: int, device: torch.device | str = "cpu") -> "PackedContext":
        """Every row is one document."""
        return cls(torch.arange(length, device=device).expand(rows, length), None)

    @classmethod
    def documents(cls, positions_BT: Tensor, document_ids_BT: Tensor, dtype: torch.dtype) -> "PackedContext":
        """Rows that hold several documents: token t sees token s when s <= t and both have the same document id."""
        length = document_ids_BT.shape[1]
        same = document_ids_BT[:, None, :, None] == document_ids_BT[:, None, None, :]
        visible = same & torch.ones(length, length, dtype=torch.bool, device=same.device).tril()
        return cls(
            positions_BT, torch.zeros(visible.shape, dtype=dtype, device=same.device).masked_fill(~visible, -torch.inf)
        )

    def attend(self, layer: int, q_BHTd: Tensor, k_BKTd: Tensor, v_BKTd: Tensor) -> Tensor:
        if self.bias_B1TT is not None and q_BHTd.device.type == "cpu" and q_BHTd.shape[2] <= EXPLICIT_LENGTH:
            groups = q_BHTd.shape[1] // k_BKTd.shape[1]
            k_BHTd, v_BHTd = (x.repeat_interleave(groups, dim=1) if groups > 1 else x for x in (k_BKTd, v_BKTd))
            return masked_attention(q_BHTd, k_BHTd, v_BHTd, self.bias_B1TT)[0]
        return F.scaled_dot_product_attention(
            q_BHTd,
            k_BKTd,
            v_BKTd,
            attn_mask=self.bias_B1TT,
            is_causal=self.bias_B1TT is None,
            enable_gqa=q_BHTd.shape[1] != k_BKTd.shape[1],
        )


class KVCache:
    """Keys and values of `rows` sequences, up to `length` tokens each: two tensors [L, rows, K, length, d]."""

    def __init__(
        self, config: DecoderConfig, rows: int, length: int, dtype: torch.dtype, device: torch.device | str = "cpu"
    ) -> None:
        if length > config.max_positions:
            raise InputError(
                f"{length} tokens do not fit the model's {config.max_positions} positions: shorten the prompt or "
                "lower max_new_tokens"
            )
        shape = (config.num_layers, rows, config.num_kv_heads, length, config.head_dim)
        self.keys = torch.zeros(shape, dtype=dtype, device=device)
        self.values = torch.zeros(shape, dtype=dtype, device=device)

    def share_first_row(self, length: int) -> None:
        """Copy the first row's first `length` tokens to every row: a common prefix is computed once."""
        self.keys[:, 1:, :, :length] = self.keys[:, :1, :, :length]
        self.values[:, 1:, :, :length] = self.values[:, :1, :, :length]


class CacheContext:
    """New tokens of the cache's rows `rows`; token (b, t) is at `positions_BT[b, t]` and sees all up to itself."""

    def __init__(self, cache: KVCache, positions_BT: Tensor, rows: slice = slice(None)) -> None:
        self.cache = cache
        self.positions_BT = positions_BT
        self.rows = rows
        self.seen = int(positions_BT.max()) + 1
        slots = torch.arange(self.seen, device=positions_BT.device)
        self.mask_B1TS = slots <= positions_BT[:, None, :, None]
        self.row_index = torch.arange(positions_BT.shape[0], device=positions_BT.device)[:, None]

    def attend(self, layer: int, q_BHTd: Tensor, k_BKTd: Tensor, v_BKTd: Tensor) -> Tensor:
        keys, values = self.cache.keys[layer, self.rows], self.cache.values[layer, self.rows]
        # Indexing with (row, :, position) puts the indexed dimensions first: [B, T, K, d].
        keys[self.row_index, :, self.positions_BT] = k_BKTd.transpose(1, 2)
        values[self.row_index, :, self.positions_BT] = v_BKTd.transpose(1, 2)
        return F.scaled_dot_product_attention(
            q_BHTd,
            keys[:, :, : self.seen],
            values[:, :, : self.seen],
            attn_mask=self.mask_B1TS,
            enable_gqa=q_BHTd.shape[1] != k_BKTd.shape[1],
        )
