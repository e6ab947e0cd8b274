"""Decoding steps in fixed shapes: on a GPU one CUDA graph for each of a few numbers of rows, instead of 1,000 launches.

    steps = Steps(model, pool, rows=32)
    logits_RV = steps(tokens, spans)        # one new token of each span; the pool keeps its keys and values

Rows are filled up to a power of two; those that are filled up write to the pool's last block, which nobody reads. What
changes from step to step is one small table that the host writes and the device gets in one copy. A graph is captured
the first time its number of rows is met, after torch.compile has fused what lies between the products: once for all
layers. Elsewhere than on a GPU the same function runs uncaptured: for tests.
"""

import os
import threading
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
from inkstone.model.decoder.paged import step_layers
from inkstone.model.decoder.position import head_slopes

SWITCH = "INKSTONE_GRAPHS"
"""The variable that switches graphs on (1) where nothing else is said: nobody has run them on a GPU yet."""
_ONE_AT_A_TIME = threading.Lock()
"""Captures, in a process: torch asks for that."""


def wanted(model: Decoder, asked: bool | None) -> bool:
    """Whether to decode so. Raises InputError where it is asked for and the model cannot."""
    on_gpu, prefix = model.device.type == "cuda", model.model.prefix
    if asked is None and not (on_gpu and os.environ.get(SWITCH) == "1"):
        return False
    reason = "its prefix stands before what a layer reads" if prefix and prefix.enabled else ""
    if model.cache_tokens:
        reason = "a part of it waits in host memory (--gpu-memory-gib)"
    experts = [one for one in model.modules() if isinstance(one, Experts)]
    packed = model.dtype != torch.bfloat16 or any(one.product is not matmul_runs for one in experts)
    if on_gpu and experts and (packed or torch.cuda.get_device_capability(model.device) < (9, 0)):
        reason = "its experts' runs are counted by the host, except in unpacked bfloat16 on Hopper and newer"
    if asked and reason:
        raise InputError(f"steps of this model cannot be captured as CUDA graphs: {reason}; leave graphs out")
    return asked is not False and not reason


@cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """One program for all layers and, from the second number of rows on, for all numbers."""
    return torch.compile(function)


class Steps:
    """Of at most `rows` rows over a pool whose last block nobody holds."""

    def __init__(self, model: Decoder, pool: BlockPool, rows: int) -> None:
        self.model, self.pool, self.on_gpu = model, pool, model.device.type == "cuda"
        self.run = _compiled if self.on_gpu else (lambda function: function)
        self.slopes = head_slopes(model.held, model.device)
        room = (pool.blocks - 1) * BLOCK
        width = blocks_for(min(room, model.config.position_limit or room))
        # Of each row its token, its position and its blocks.
        self.told = torch.zeros((_size(rows), 2 + width), dtype=torch.int32, pin_memory=self.on_gpu)
        self.table = torch.zeros_like(self.told, device=model.device)
        self.blocks: list[list[int]] = [[] for _ in self.told]
        self.graphs: dict[int, tuple[torch.cuda.CUDAGraph, Tensor]] = {}
        if self.on_gpu:
            self.memory, self.beside = torch.cuda.graph_pool_handle(), torch.cuda.Stream(model.device)

    def __call__(self, tokens: Sequence[list[int]], spans: Sequence[Span]) -> Tensor:
        """Logits [R, V], which the next step overwrites."""
        size = _size(len(spans))
        self._tell(tokens, spans, size - len(spans))
        self.pool.make(self.model.held.num_kv_heads, self.model.held.head_dim, self.model.dtype)
        self.table[:size].copy_(self.told[:size], non_blocking=True)
        if not self.on_gpu:
            return self._logits(size)[: len(spans)]
        if size not in self.graphs:
            self.graphs[size] = self._captured(size)
        graph, logits_RV = self.graphs[size]
        graph.replay()
        return logits_RV[: len(spans)]

    def _tell(self, tokens: Sequence[list[int]], spans: Sequence[Span], filled: int) -> None:
        """Tokens, positions and blocks, of which few change; `filled` rows write to the last block."""
        rows = [(token, span.start, span.blocks) for (token,), span in zip(tokens, spans, strict=True)]
        rows += [(0, 0, [self.pool.blocks - 1])] * filled
        self.told[: len(rows), :2] = torch.tensor([row[:2] for row in rows])
        for row, (_, _, blocks) in enumerate(rows):
            if self.blocks[row] != blocks:
                self.blocks[row] = list(blocks)
                self.told[row, 2 : 2 + len(blocks)] = torch.tensor(blocks)

    def _logits(self, size: int) -> Tensor:
        """What is captured: logits [size, V] of what stands in the table."""
        model, trunk, table_RC = self.model, self.model.model, self.table[:size]
        # As tensors of their own: views would tell torch.compile of strides and offsets, each another program.
        tokens_R, positions_R = (
            table_RC[:, column].to(torch.long, memory_format=torch.contiguous_format) for column in (0, 1)
        )
        x_R1D, angles = self.run(Trunk.begin)(trunk, tokens_R[:, None], positions_R[:, None], model.dtype)
        layers = step_layers(self.pool, table_RC[:, 2:], positions_R, self.slopes, model.held.sliding_window)
        for block, context in zip(trunk.layers, layers, strict=True):
            x_R1D, _ = self.run(Block.forward)(block, x_R1D, angles, context)
        normed_R1D = self.run(type(trunk.norm).forward)(trunk.norm, x_R1D)
        logits_RV: Tensor = model.lm_head(normed_R1D)[:, 0]
        return logits_RV

    def _captured(self, size: int) -> tuple[torch.cuda.CUDAGraph, Tensor]:
        """Run twice beside the main stream, so that all is compiled and allocated, then written down."""
        try:
            main = torch.cuda.current_stream(self.model.device)
            # A server may hold many shapes of models; beyond the limit torch would silently not compile.
            limit = torch._dynamo.config.patch(recompile_limit=64)
            with _ONE_AT_A_TIME, limit, torch.cuda.device(self.model.device), torch.cuda.stream(main):
                self.beside.wait_stream(main)
                with torch.cuda.stream(self.beside):
                    for _ in range(2):
                        self._logits(size)
                graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(graph, self.memory, self.beside, "thread_local"):  # waits for the device first
                    logits_RV = self._logits(size)
        except Exception as error:
            first = error.__context__ or error  # ending a broken capture fails too, and says less
            raise InkstoneError(
                f"decoding steps of {size} rows could not be captured as a CUDA graph ({type(first).__name__}: "
                f"{str(first).strip().partition(chr(10))[0]}): unset {SWITCH}, or give Engine(..., graphs=False); "
                "answers stay equal"
            ) from error
        return graph, logits_RV


def _size(rows: int) -> int:
    """The power of two that holds so many rows."""
    return 1 << (rows - 1).bit_length()
