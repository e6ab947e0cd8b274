"""Attention inside the documents of packed rows: training, and scoring of whole sequences."""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from inkstone.model.decoder.attention import position_bias
from inkstone.model.decoder.config import DecoderConfig
from inkstone.model.decoder.cpu_attention import masked_attention
from inkstone.model.decoder.position import alibi_slopes

EXPLICIT_LENGTH = 1024
"""Longest row, in tokens, for which CPU training keeps the T x T probabilities."""

KEPT_BIAS_BYTES = 2**31
"""A bias up to this size is made once for all layers; a larger one in pieces, again in each layer."""

_PIECE = 512


@dataclass
class PackedContext:
    """Causal attention inside each document of each row; without `document_ids_BT` every row is one document.

    `starts` [n + 1] int32 and `longest` say the same as the ids do, over the rows laid end to end: where each document
    starts, with the end after the last one, and the tokens of the longest. Attention kernels for variable lengths
    (CUDA) need them.
    """

    positions_BT: Tensor
    document_ids_BT: Tensor | None = None
    starts: Tensor | None = None
    longest: int | None = None
    _bias: Tensor | None = field(default=None, init=False, repr=False)
    _rule: tuple[Tensor | None, int | None] | None = field(default=None, init=False, repr=False)

    @classmethod
    def whole_rows(cls, rows: int, length: int, device: torch.device | str = "cpu") -> "PackedContext":
        """Every row is one document."""
        return cls(torch.arange(length, device=device).expand(rows, length))

    @classmethod
    def documents(
        cls,
        positions_BT: Tensor,
        document_ids_BT: Tensor,
        starts: Tensor | None = None,
        longest: int | None = None,
    ) -> "PackedContext":
        """Rows that hold several documents: token t sees token s when s <= t and both have the same document id."""
        return cls(positions_BT, document_ids_BT, starts, longest)

    def prepare(self, config: DecoderConfig, dtype: torch.dtype) -> None:
        rows, length = self.positions_BT.shape
        window = config.sliding_window if config.sliding_window and config.sliding_window < length else None
        alibi = config.position == "alibi"
        self._bias, self._rule = None, None
        if self.document_ids_BT is None and not alibi and window is None:
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
        ids = self.document_ids_BT
        positions = self.positions_BT if ids is not None else self.positions_BT[:1]
        distance = positions[:, start:stop, None] - positions[:, None, :stop]
        bias = position_bias(distance, *self._rule)
        if ids is not None:
            # A position in another document may be smaller: the ids close it.
            bias = bias.masked_fill((ids[:, start:stop, None] != ids[:, None, :stop])[:, None], -torch.inf)
        return bias.to(dtype)
