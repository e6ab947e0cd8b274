"""Attention over keys and values that are kept: decoding, token by token, each row at its own position."""

import torch
import torch.nn.functional as F
from torch import Tensor

from inkstone.errors import InputError
from inkstone.model.decoder.attention import position_bias
from inkstone.model.decoder.config import DecoderConfig
from inkstone.model.decoder.position import head_slopes


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
        slopes = head_slopes(config, slots.device)
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
