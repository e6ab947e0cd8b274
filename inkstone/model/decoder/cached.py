"""Attention over keys and values that are kept: decoding, each sequence at its own position.

A pool has blocks of 16 tokens; a sequence is a list of blocks, so nobody pays for a neighbour's length and sequences
may share the blocks of a common beginning. One forward takes new tokens of many sequences laid end to end, whatever
their number: a piece of a long prompt beside the last token of everybody else.

On a CPU each sequence attends alone, without padding, and over a view where its blocks lie side by side; on a GPU those
of one token attend together, sorted by size so that a long one does not pad the others. A prefix is not in the pool: it
is put in front of what a layer reads.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from inkstone.model.decoder.attention import before, position_bias
from inkstone.model.decoder.config import DecoderConfig
from inkstone.model.decoder.position import head_slopes

BLOCK = 16
"""Tokens of one block."""


class BlockPool:
    """Keys and values, two tensors [L, blocks, 16, K, d], made with the first ones, which say how many heads there are.

    In a CPU's memory the blocks of one head lie together: a view of a sequence is read fastest that way.
    """

    keys: Tensor
    values: Tensor

    def __init__(self, num_layers: int, blocks: int, device: torch.device | str = "cpu") -> None:
        self.num_layers, self.blocks, self.device = num_layers, blocks, torch.device(device)

    def write(self, layer: int, slots_N: Tensor, k_KNd: Tensor, v_KNd: Tensor) -> tuple[Tensor, Tensor]:
        """Keep new keys and values; those of the layer, views [K, slots, d], come back."""
        self.make(k_KNd.shape[0], k_KNd.shape[2], k_KNd.dtype)
        keys, values = (kept[layer].flatten(0, 1).transpose(0, 1) for kept in (self.keys, self.values))
        keys[:, slots_N], values[:, slots_N] = k_KNd, v_KNd
        return keys, values

    def make(self, heads: int, size: int, dtype: torch.dtype) -> None:
        """Room for keys and values, if there is none yet."""
        if not hasattr(self, "keys"):
            shape = (self.num_layers, self.blocks, BLOCK, heads, size)
            order = (0, 3, 1, 2, 4) if self.device.type == "cpu" else (0, 1, 2, 3, 4)
            empty = torch.empty_permuted(shape, order, dtype=dtype, device=self.device)
            self.keys, self.values = empty.zero_(), torch.zeros_like(empty)

    def copy(self, source: int, targets: Sequence[int]) -> None:
        """What one block holds, into others."""
        for kept in (self.keys, self.values):
            kept[:, list(targets)] = kept[:, [source]]


@dataclass(frozen=True)
class Span:
    """`count` new tokens of a sequence, whose `blocks` hold the `start` tokens before them and have room for these."""

    blocks: Sequence[int]
    start: int
    count: int

    @property
    def stop(self) -> int:
        return self.start + self.count


class CacheContext:
    """New tokens of several sequences, each seeing all before it: [1, tokens], or [sequences, 1] where all have one.

    `together`: whether spans of one token attend in one call; default: on a GPU.
    """

    def __init__(self, pool: BlockPool, spans: Sequence[Span], together: bool | None = None) -> None:
        self.pool, self.spans, device = pool, spans, pool.device
        self.together = device.type != "cpu" if together is None else together
        at = [(span.blocks, position) for span in spans for position in range(span.start, span.stop)]
        shape = (-1, 1) if len(at) == len(spans) else (1, -1)
        self.positions_BT = torch.tensor([position for _, position in at], device=device).view(shape)
        slots = [blocks[position // BLOCK] * BLOCK + position % BLOCK for blocks, position in at]
        self.slots_N = torch.tensor(slots, device=device)

    def prepare(self, config: DecoderConfig, dtype: torch.dtype, prefix: int = 0) -> None:
        device, positions_N = self.positions_BT.device, self.positions_BT.flatten()
        slopes = head_slopes(config, device)
        alike: dict[int, list[tuple[int, Span]]] = {}
        first = 0
        for span in self.spans:
            # Those of one group have the same number of binary digits: padding is less than what is used.
            size = (span.stop // BLOCK).bit_length() if self.together and span.count == 1 else -1 - first
            alike.setdefault(size, []).append((first, span))
            first += span.count
        self.groups = [_Group(rows, device) for rows in alike.values()]
        for group in self.groups:
            window = config.sliding_window if config.sliding_window and config.sliding_window < group.width else None
            plain = slopes is None and window is None
            if plain and group.rows == 1 and group.count in (1, 0 if prefix else group.width):
                continue
            place_S = torch.arange(-prefix, group.width, device=device)
            distance_GTS = positions_N[group.tokens].view(-1, group.count, 1) - place_S
            bias = (distance_GTS >= 0)[:, None] if plain else position_bias(distance_GTS, slopes, window, prefix)
            group.mask_GHTS = bias if plain else bias.to(dtype)

    def attend(
        self, layer: int, q_BHTd: Tensor, k_BKTd: Tensor, v_BKTd: Tensor, prefix_2KPd: Tensor | None = None
    ) -> Tensor:
        q_HNd, k_KNd, v_KNd = (x.transpose(0, 1).flatten(1, 2) for x in (q_BHTd, k_BKTd, v_BKTd))
        keys, values = self.pool.write(layer, self.slots_N, k_KNd, v_KNd)
        out_HNd, grouped = torch.empty_like(q_HNd), len(q_HNd) != len(keys)
        for group in self.groups:
            queries_HMd, mask = q_HNd[:, group.tokens], group.mask_GHTS
            queries_GHTd = queries_HMd.view(len(q_HNd), -1, group.count, q_HNd.shape[2]).transpose(0, 1)
            kv = before(prefix_2KPd, group.read(keys), group.read(values))
            causal = mask is None and group.count > 1
            out_GHTd = F.scaled_dot_product_attention(queries_GHTd, *kv, mask, is_causal=causal, enable_gqa=grouped)
            out_HNd[:, group.tokens] = out_GHTd.transpose(0, 1).reshape_as(queries_HMd)
        return out_HNd.view(len(q_HNd), len(q_BHTd), *q_BHTd.shape[2:]).transpose(0, 1)


class _Group:
    """Spans that attend in one call: one of any number of tokens, or several of one, padded with closed blocks."""

    mask_GHTS: Tensor | None = None

    def __init__(self, rows: list[tuple[int, Span]], device: torch.device) -> None:
        (first, span), self.rows = rows[0], len(rows)
        self.count, self.width = span.count, max(span.stop for _, span in rows)
        self.tokens: slice | Tensor = slice(first, first + self.count)
        if self.rows > 1:
            self.tokens = torch.tensor([first for first, _ in rows], device=device)
        size = -(-self.width // BLOCK)
        table = [[*span.blocks[:size], *[span.blocks[0]] * (size - len(span.blocks))] for _, span in rows]
        self.start = table[0][0] * BLOCK if table == [list(range(table[0][0], table[0][0] + size))] else None
        self.blocks = torch.tensor(table, device=device)

    def read(self, kept_KSd: Tensor) -> Tensor:
        """Keys or values [G, K, width, d]: a view of one span whose blocks lie side by side, else a copy."""
        if self.start is not None:
            return kept_KSd[None, :, self.start : self.start + self.width]
        blocks = kept_KSd.unflatten(1, (-1, BLOCK)).index_select(1, self.blocks.flatten())
        return blocks.view(len(blocks), self.rows, -1, blocks.shape[-1]).transpose(0, 1)[:, :, : self.width]
