"""One rank's slice of every tensor, for tensor parallelism: only the bytes of that slice are read.

    tensors = load_slices(directory, rank=1, size=4)     # the decoder's names

Split by rows: query, key and value (whole heads), gate and up, the embedding and the head (vocabulary). Split by
columns: what adds to the residual (o_proj, down_proj), whose outputs the ranks sum. Everything else, and the biases of
those sums, is whole on every rank. With fewer key/value heads than ranks, ranks share them.
"""

from pathlib import Path

import torch
from torch import Tensor

from inkstone.errors import InputError
from inkstone.model.decoder.config import DecoderConfig
from inkstone.model.files.pieces import Box, Shape, whole
from inkstone.model.files.weights import open_weights


def load_slices(
    directory: Path, rank: int, size: int, dtype: torch.dtype | None = None, device: torch.device | str = "cpu"
) -> dict[str, Tensor]:
    """Our tensors by name, cut for `rank` of `size`. Raises InputError where the shape cannot be cut so."""
    weights = open_weights(directory)
    problems = [f"{directory}: {problem}" for problem in uneven(weights.config, size)]
    if problems:
        raise InputError(problems)
    tensors: dict[str, Tensor] = {}
    for name, shape in weights.shapes.items():
        boxes = rank_boxes(name, shape, weights.config, rank, size)
        parts = [weights.read(name, box, dtype, device) for box in boxes]
        tensors[name] = parts[0] if len(parts) == 1 else torch.cat(parts, dim=split_dimension(name, len(shape)) or 0)
        problems += weights.not_finite(name, tensors[name])
    if problems:
        raise InputError(sorted(set(problems)))
    return tensors


def uneven(config: DecoderConfig, size: int) -> list[str]:
    """Why the decoder cannot be cut into `size` equal parts; empty when it can."""
    heads, groups, width = config.num_heads, config.num_kv_heads, config.intermediate_size
    problems = []
    if heads % size:
        problems.append(f"{heads} heads cannot be shared out evenly among {size} ranks")
    if groups % size and size % groups:
        problems.append(f"{groups} key/value heads cannot be shared out evenly among {size} ranks")
    if width % size:
        problems.append(f"the MLP's {width} columns cannot be shared out evenly among {size} ranks")
    return problems


def split_dimension(name: str, dimensions: int) -> int | None:
    """The dimension along which the ranks share our tensor; None where every rank has all of it."""
    parts = name.split(".")
    kind, module = parts[-1], parts[-2]
    if "experts" in parts and kind in ("gate_up_proj", "gate_proj", "up_proj", "down_proj"):
        return 2 if kind == "down_proj" else 1
    if module in ("o_proj", "down_proj"):
        return dimensions - 1 if kind == "weight" else None
    if module in ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj", "embed_tokens", "lm_head"):
        return 0
    return None


def rank_boxes(name: str, shape: Shape, config: DecoderConfig, rank: int, size: int) -> list[Box]:
    """The blocks of our tensor that `rank` holds, laid end to end along the split dimension."""
    dimension = split_dimension(name, len(shape))
    box = whole(shape)
    if dimension is None:
        return [box]
    rows = shape[dimension]
    if name.endswith("gate_up_proj"):
        half = rows // 2
        ranges = [_share(half, rank, size), range(*(half + edge for edge in _edges(half, rank, size)))]
    elif name.split(".")[-2] in ("k_proj", "v_proj") and size > config.num_kv_heads:
        ranges = [_share(rows, rank * config.num_kv_heads // size, config.num_kv_heads)]
    else:
        ranges = [_share(rows, rank, size)]
    return [(*box[:dimension], part, *box[dimension + 1 :]) for part in ranges]


def _share(count: int, rank: int, size: int) -> range:
    return range(*_edges(count, rank, size))


def _edges(count: int, rank: int, size: int) -> tuple[int, int]:
    return rank * count // size, (rank + 1) * count // size
