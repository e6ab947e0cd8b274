"""What a token may look at, said by one context object that the decoder passes to every layer.

`PackedContext` is for training and whole-sequence scoring: rows that may hold several documents, which never see each
other. `CacheContext` is for decoding: keys and values are kept in a `KVCache` and each row is at its own position.
The decoder only calls `context.prepare(config, dtype)` once per forward, then `context.attend(layer, q, k, v)`.

ALiBi and sliding windows are part of the bias that says who sees whom: a context adds -slope x distance, and closes
what lies beyond the window. Distances are between positions inside a document, so packing does not change them.

Shapes: B rows, T new tokens, S cached tokens, H query heads, K key/value heads, d head_dim, L layers.
"""

from dataclasses import dataclass, field
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from inkstone.errors import InputError
from inkstone.model.config import DecoderConfig
from inkstone.model.cpu_attention import masked_attention
from inkstone.model.position import alibi_slopes

EXPLICIT_LENGTH = 1024
"""Longest row, in tokens, for which CPU training keeps the T x T probabilities."""

KEPT_BIAS_BYTES = 2**31
"""A bias up to this size is made once for all layers; a larger one in pieces, again in each layer."""

_PIECE = 512


class AttentionContext(Protocol):
    """How keys and values are kept and masked."""

    positions_BT: Tensor

    def prepare(self, config: DecoderConfig, dtype: torch.dtype) -> None:
        """Make what all layers share; called once per forward, before the first layer."""

    def attend(self, layer: int, q_BHTd: Tensor, k_BKTd: Tensor, v_BKTd: Tensor) -> Tensor:
        """Attention output [B, H, T, d] of the new tokens in `layer`."""


def position_bias(distance_BTS: Tensor, slopes_H: Tensor | None, window: int | None) -> Tensor:
    """[B, H or 1, T, S] float32: 0 or -slope x distance where a token may look, -inf ahead and past the window."""
    hidden = distance_BTS < 0 if window is None else (distance_BTS < 0) | (distance_BTS >= window)
    distance_B1TS = distance_BTS[:, None].float()
    bias = torch.zeros_like(distance_B1TS) if slopes_H is None else -slopes_H[:, None, None] * distance_B1TS
    return bias.masked_fill(hidden[:, None], -torch.inf)


@dataclass
class PackedContext:
    """Causal attention inside each document of each row; `bias_B1TT` is None where every row is one document.

    The bias is 0 where a token may look and -inf elsewhere, in the dtype of the arithmetic.
    """

    positions_BT: Tensor
    bias_B1TT: Tensor | None
    _bias: Tensor | None = field(default=None, init=False, repr=False)
    _rule: tuple[Tensor | None, int | None] | None = field(default=None, init=False, repr=False)

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

    def prepare(self, config: DecoderConfig, dtype: torch.dtype) -> None:
        rows, length = self.positions_BT.shape
        window = config.sliding_window if config.sliding_window and config.sliding_window < length else None
        alibi = config.position == "alibi"
        self._bias, self._rule = self.bias_B1TT, None
        if not alibi and window is None:
            return
        self._rule = (alibi_slopes(config.num_heads, self.positions_BT.device) if alibi else None, window)
        if rows * (config.num_heads if alibi else 1) * length**2 * dtype.itemsize <= KEPT_BIAS_BYTES:
            self._bias, self._rule = self._piece_bias(0, length, dtype), None

    def attend(self, layer: int, q_BHTd: Tensor, k_BKTd: Tensor, v_BKTd: Tensor) -> Tensor:
        if self._rule is not None:
            return torch.cat([self._piece(q_BHTd, k_BKTd, v_BKTd, t) for t in range(0, q_BHTd.shape[2], _PIECE)], 2)
        if self._bias is not None and q_BHTd.device.type == "cpu" and q_BHTd.shape[2] <= EXPLICIT_LENGTH:
            groups = q_BHTd.shape[1] // k_BKTd.shape[1]
            k_BHTd, v_BHTd = (x.repeat_interleave(groups, dim=1) if groups > 1 else x for x in (k_BKTd, v_BKTd))
            return masked_attention(q_BHTd, k_BHTd, v_BHTd, self._bias)[0]
        return F.scaled_dot_product_attention(
            q_BHTd,
            k_BKTd,
            v_BKTd,
            attn_mask=self._bias,
            is_causal=self._bias is None,
            enable_gqa=q_BHTd.shape[1] != k_BKTd.shape[1],
        )

    def _piece(self, q_BHTd: Tensor, k_BKTd: Tensor, v_BKTd: Tensor, start: int) -> Tensor:
        stop = min(start + _PIECE, q_BHTd.shape[2])
        return F.scaled_dot_product_attention(
            q_BHTd[:, :, start:stop],
            k_BKTd[:, :, :stop],
            v_BKTd[:, :, :stop],
            attn_mask=self._piece_bias(start, stop, q_BHTd.dtype),
            enable_gqa=q_BHTd.shape[1] != k_BKTd.shape[1],
        )

    def _piece_bias(self, start: int, stop: int, dtype: torch.dtype) -> Tensor:
        """The bias of queries `start` to `stop`; without documents it is the same for all rows, which share one."""
        assert self._rule is not None
        positions = self.positions_BT if self.bias_B1TT is not None else self.positions_BT[:1]
        distance = positions[:, start:stop, None] - positions[:, None, :stop]
        bias = position_bias(distance, *self._rule)
        if self.bias_B1TT is not None:
            # A position in another document may be smaller: the documents' own bias closes it.
            bias = bias.masked_fill(self.bias_B1TT[:, :, start:stop, :stop] == -torch.inf, -torch.inf)
        return bias.to(dtype)


class KVCache:
    """Keys and values of `rows` sequences, up to `length` tokens each: two tensors [L, rows, K, length, d]."""

    def __init__(
        self, config: DecoderConfig, rows: int, length: int, dtype: torch.dtype, device: torch.device | str = "cpu"
    ) -> None:
        limit = config.position_limit
        if limit is not None and length > limit:
            raise InputError(
                f"{length} tokens do not fit the model's {limit} positions: shorten the prompt or lower max_new_tokens"
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
        self.row_index = torch.arange(positions_BT.shape[0], device=positions_BT.device)[:, None]

    def prepare(self, config: DecoderConfig, dtype: torch.dtype) -> None:
        slots = torch.arange(self.seen, device=self.positions_BT.device)
        if config.position == "rope" and config.sliding_window is None:
            self.mask_BHTS = slots <= self.positions_BT[:, None, :, None]
            return
        slopes = alibi_slopes(config.num_heads, slots.device) if config.position == "alibi" else None
        self.mask_BHTS = position_bias(self.positions_BT[:, :, None] - slots, slopes, config.sliding_window).to(dtype)

    def attend(self, layer: int, q_BHTd: Tensor, k_BKTd: Tensor, v_BKTd: Tensor) -> Tensor:
        keys, values = self.cache.keys[layer, self.rows], self.cache.values[layer, self.rows]
        # Indexing with (row, :, position) puts the indexed dimensions first: [B, T, K, d].
        keys[self.row_index, :, self.positions_BT] = k_BKTd.transpose(1, 2)
        values[self.row_index, :, self.positions_BT] = v_BKTd.transpose(1, 2)
        return F.scaled_dot_product_attention(
            q_BHTd,
            keys[:, :, : self.seen],
            values[:, :, : self.seen],
            attn_mask=self.mask_BHTS,
            enable_gqa=q_BHTd.shape[1] != k_BKTd.shape[1],
        )
