"""Decoding steps in fixed shapes: on a GPU one CUDA graph for each of a few numbers of rows, instead of 1,000 launches.

    steps = Steps(model, pool, rows=32)
    logits_RV = steps(tokens, spans)        # one new token of each span; the pool keeps its keys and values

Rows are filled up to a power of two; those that are filled up write to the pool's last block, which nobody reads. What
changes from step to step is one small table that the host writes and the device gets in one copy. A graph is captured
the first time its number of rows is met, after torch.compile has fused what lies between the products: once for all
layers. Elsewhere than on a GPU the same function runs uncaptured: for tests.
"""

import os
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from inkstone.errors import InkstoneError, InputError
from inkstone.generate.blocks import blocks_for
from inkstone.model import BLOCK, BlockPool, Decoder, Span
from inkstone.model.decoder.decoder import Block, Trunk
from inkstone.model.decoder.experts import Experts, matmul_runs
from inkstone.model.decoder.paged import StepContext
from inkstone.model.decoder.position import head_slopes

SWITCH = "INKSTONE_GRAPHS"
"""The variable that switches graphs off (0) where nothing else is said."""
_FIRST_BLOCK = 2
"""Columns of the table before a row's blocks: its token and its position."""


def wanted(model: Decoder, asked: bool | None) -> bool:
    """Whether to decode so. Raises InputError where it is asked for and the model cannot."""
    if asked is None and (model.device.type != "cuda" or os.environ.get(SWITCH) == "0"):
        return False
    reason = _why_not(model)
    if asked and reason:
        raise InputError(f"steps of this model cannot be captured as CUDA graphs: {reason}; leave graphs out")
    return asked is not False and not reason


def _why_not(model: Decoder) -> str | None:
    if model.model.prefix and model.model.prefix.enabled:
        return "its prefix stands before what a layer reads"
    mixtures = [one for one in model.modules() if isinstance(one, Experts)]
    if mixtures and model.device.type == "cuda":
        on_device = model.dtype == torch.bfloat16 and all(one.product is matmul_runs for one in mixtures)
        if not on_device or torch.cuda.get_device_capability(model.device) < (9, 0):
            return (
                "its experts' runs are counted on the host: only in bfloat16, unpacked and from Hopper on they are not"
            )
    return None


@cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """One program for all layers and, from the second number of rows on, for all numbers."""
    return torch.compile(function)


class Steps:
    """Of at most `rows` rows over a pool whose last block nobody holds."""

    def __init__(self, model: Decoder, pool: BlockPool, rows: int) -> None:
        self.model, self.pool, self.on_gpu = model, pool, model.device.type == "cuda"
        self.run = _compiled if self.on_gpu else (lambda function: function)
        held, room = model.held, (pool.blocks - 1) * BLOCK
        self.slopes, self.window = head_slopes(held, model.device), held.sliding_window
        width = blocks_for(min(room, model.config.position_limit or room))
        shape = (_size(rows), _FIRST_BLOCK + width)
        self.told = torch.zeros(shape, dtype=torch.int32, pin_memory=self.on_gpu)
        self.told[:, _FIRST_BLOCK:] = pool.blocks - 1
        self.table = self.told.to(model.device, copy=True)
        self.blocks: list[list[int]] = [[] for _ in self.told]
        self.graphs: dict[int, tuple[torch.cuda.CUDAGraph, Tensor]] = {}
        self.memory = torch.cuda.graph_pool_handle() if self.on_gpu else None

    def __call__(self, tokens: Sequence[list[int]], spans: Sequence[Span]) -> Tensor:
        """Logits [R, V], which the next step overwrites."""
        size = _size(len(spans))
        self._tell(size, [token for (token,) in tokens], spans)
        self.pool.make(self.model.held.num_kv_heads, self.model.held.head_dim, self.model.dtype)
        self.table[:size].copy_(self.told[:size], non_blocking=True)
        if not self.on_gpu:
            return self._logits(size)[: len(spans)]
        if size not in self.graphs:
            self.graphs[size] = self._captured(size)
        graph, logits_RV = self.graphs[size]
        graph.replay()
        return logits_RV[: len(spans)]

    def _tell(self, size: int, tokens: list[int], spans: Sequence[Span]) -> None:
        """The rows' tokens, positions and blocks, of which few change; the rest writes to the last block."""
        filled = size - len(spans)
        self.told[:size, 0] = torch.tensor(tokens + [0] * filled)
        self.told[:size, 1] = torch.tensor([span.start for span in spans] + [0] * filled)
        for row, blocks in enumerate([*(span.blocks for span in spans), *[[self.pool.blocks - 1]] * filled]):
            if self.blocks[row] != blocks:
                self.blocks[row] = list(blocks)
                self.told[row, _FIRST_BLOCK : _FIRST_BLOCK + len(blocks)] = torch.tensor(blocks)

    def _logits(self, size: int) -> Tensor:
        """What is captured: logits [size, V] of what stands in the table."""
        trunk, table_RC = self.model.model, self.table[:size]
        # As tensors of their own: views would tell torch.compile of strides and offsets, each another program.
        tokens_R, positions_R = (
            table_RC[:, column].to(torch.long, memory_format=torch.contiguous_format) for column in range(_FIRST_BLOCK)
        )
        context = StepContext(self.pool, table_RC[:, _FIRST_BLOCK:], positions_R, self.slopes, self.window)
        begin, block_of = self.run(Trunk.begin), self.run(Block.forward)
        x_R1D, angles = begin(trunk, tokens_R[:, None], positions_R[:, None], self.model.dtype)
        for number, block in enumerate(trunk.layers):
            x_R1D, _ = block_of(block, x_R1D, angles, context.layer(number))
        normed_R1D = self.run(type(trunk.norm).forward)(trunk.norm, x_R1D)
        logits_RV: Tensor = self.model.lm_head(normed_R1D)[:, 0]
        return logits_RV

    def _captured(self, size: int) -> tuple[torch.cuda.CUDAGraph, Tensor]:
        """Run twice beside the main stream, so that all is compiled and allocated, then written down."""
        try:
            with torch.cuda.device(self.model.device):
                beside, main = torch.cuda.Stream(), torch.cuda.current_stream()
                beside.wait_stream(main)
                with torch.cuda.stream(beside):
                    for _ in range(2):
                        self._logits(size)
                main.wait_stream(beside)
                graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(graph, self.memory, capture_error_mode="thread_local"):
                    logits_RV = self._logits(size)
        except Exception as error:
            first: BaseException = error
            while first.__context__:
                first = first.__context__  # ending a broken capture fails too, and says less
            raise InkstoneError(
                f"decoding steps of {size} rows could not be captured as a CUDA graph ({type(first).__name__}: "
                f"{str(first).strip().partition(chr(10))[0]}): set {SWITCH}=0, or give Engine(..., graphs=False); "
                "answers stay equal"
            ) from error
        return graph, logits_RV


def _size(rows: int) -> int:
    """The power of two that holds so many rows."""
    return 1 << (rows - 1).bit_length()
