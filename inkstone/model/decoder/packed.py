"""Attention inside the documents of packed rows: training, and scoring of whole sequences.

The context keeps what says who sees whom, and `prepare` chooses once per forward how it is computed. A T x T mask is
made only where the kernel wants one:

- causal: every row is one document, without ALiBi, window or prefix. PyTorch's own causal kernel.
- varlen: the same for documents whose `starts` are known, on a GPU in 16 bits. Flash attention.
- flex: everything else in training on a GPU. (Scoring there takes a bias: it is not worth compiling a kernel for.)
- explicit: rows up to `EXPLICIT_LENGTH` on a CPU. Products with a bias, see `cpu_attention.py`.
- dense: a bias for all layers and PyTorch's kernel.
- pieces: the same in pieces of queries, made again in each layer, where the whole bias is too large to keep.
"""

from dataclasses import dataclass, field
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from inkstone.model.decoder.attention import before
from inkstone.model.decoder.config import DecoderConfig
from inkstone.model.decoder.cpu_attention import first_keys, masked_attention
from inkstone.model.decoder.gpu_attention import HEAD_DIMS, Attend, flex, varlen
from inkstone.model.decoder.position import head_slopes
from inkstone.model.decoder.visibility import Visibility

EXPLICIT_LENGTH = 1024
"""Longest row, in tokens, for which CPU training keeps the T x T probabilities."""

KEPT_BIAS_BYTES = 2**31
"""A bias up to this size is made once for all layers; a larger one in pieces, again in each layer."""

_PIECE = 512


@dataclass
class PackedContext:
    """Causal attention inside each document of each row; without `document_ids_BT` every row is one document.

    `starts` [n + 1] int32 and `longest` say what the ids say for flash attention: over the rows laid end to end, where
    each document starts and the last one ends, and the tokens of the longest.
    """

    positions_BT: Tensor
    document_ids_BT: Tensor | None = None
    starts: Tensor | None = None
    longest: int | None = None
    _attend: Attend = field(init=False, repr=False)

    @classmethod
    def whole_rows(cls, rows: int, length: int, device: torch.device | str = "cpu") -> "PackedContext":
        """Every row is one document."""
        return cls(torch.arange(length, device=device).expand(rows, length))

    @classmethod
    def documents(
        cls, positions_BT: Tensor, document_ids_BT: Tensor, starts: Tensor | None = None, longest: int | None = None
    ) -> "PackedContext":
        """Rows that hold several documents: token t sees token s when s <= t and both have the same document id."""
        return cls(positions_BT, document_ids_BT, starts, longest)

    def prepare(self, config: DecoderConfig, dtype: torch.dtype, prefix: int = 0) -> None:
        device = self.positions_BT.device
        flash = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
        self._attend = self.choose(config, dtype, flash and config.head_dim in HEAD_DIMS, prefix)

    def choose(self, config: DecoderConfig, dtype: torch.dtype, flash: bool, prefix: int = 0) -> Attend:
        """How this forward attends; `flash`: the kernels of `gpu_attention.py` can be used."""
        rows, length = self.positions_BT.shape
        slopes = head_slopes(config, self.positions_BT.device)
        window = config.sliding_window if config.sliding_window and config.sliding_window < length else None
        plain = slopes is None and window is None and not prefix
        if plain and self.document_ids_BT is None:
            return partial(_dense, None)
        if flash and plain and self.starts is not None and dtype in (torch.bfloat16, torch.float16):
            return varlen(self.starts, self.longest or length, length)
        seen = Visibility.of(self.positions_BT, self.document_ids_BT, slopes, window, prefix)
        if flash and torch.is_grad_enabled():
            return flex(seen, length)
        if rows * len(seen.h) * length * (prefix + length) * dtype.itemsize > KEPT_BIAS_BYTES:
            return partial(_pieces, seen)
        explicit = self.positions_BT.device.type == "cpu" and length <= EXPLICIT_LENGTH
        bias = seen.bias(0, length, dtype)
        return partial(_explicit, bias, first_keys(bias)) if explicit else partial(_dense, bias)

    def attend(
        self, layer: int, q_BHTd: Tensor, k_BKTd: Tensor, v_BKTd: Tensor, prefix_2KPd: Tensor | None = None
    ) -> Tensor:
        return self._attend(q_BHTd, *before(prefix_2KPd, k_BKTd, v_BKTd))


def _explicit(bias: Tensor, first: Tensor, q_BHTd: Tensor, k_BKTd: Tensor, v_BKTd: Tensor) -> Tensor:
    groups = q_BHTd.shape[1] // k_BKTd.shape[1]
    k_BHTd, v_BHTd = (x.repeat_interleave(groups, dim=1) if groups > 1 else x for x in (k_BKTd, v_BKTd))
    return masked_attention(q_BHTd, k_BHTd, v_BHTd, bias, first)[0]


def _dense(bias: Tensor | None, q_BHTd: Tensor, k_BKTd: Tensor, v_BKTd: Tensor) -> Tensor:
    grouped = q_BHTd.shape[1] != k_BKTd.shape[1]
    return F.scaled_dot_product_attention(
        q_BHTd, k_BKTd, v_BKTd, attn_mask=bias, is_causal=bias is None, enable_gqa=grouped
    )


def _pieces(seen: Visibility, q_BHTd: Tensor, k_BKTd: Tensor, v_BKTd: Tensor) -> Tensor:
    edges = [(start, min(start + _PIECE, q_BHTd.shape[2])) for start in range(0, q_BHTd.shape[2], _PIECE)]
    biases = (seen.bias(start, stop, q_BHTd.dtype) for start, stop in edges)
    kept = [(start, stop, seen.prefix + stop) for start, stop in edges]
    parts = [(q_BHTd[:, :, start:stop], k_BKTd[:, :, :end], v_BKTd[:, :, :end]) for start, stop, end in kept]
    return torch.cat([_dense(bias, *qkv) for bias, qkv in zip(biases, parts, strict=True)], 2)
