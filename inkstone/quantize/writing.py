"""A quantised model in its family's own names: packed rows put together as the family fuses them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from inkstone.model.families import Piece
from inkstone.model.files.pieces import by_theirs, their_shape
from inkstone.model.files.safetensors_file import Entry
from inkstone.model.files.weight_shards import write_json, write_weights
from inkstone.model.files.weights import Weights
from inkstone.model.packed.awq import write_awq
from inkstone.model.packed.bitsandbytes import write_nf4
from inkstone.model.packed.compressed_tensors import write_int, write_packed
from inkstone.model.packed.gptq import write_gptq
from inkstone.model.packed.grouped import Grouped
from inkstone.model.packed.nf4 import quantise_nf4
from inkstone.quantize.settings import Quantization


def write_quantised(
    directory: Path,
    weights: Weights,
    packed: Mapping[str, list[Grouped]],
    changed: Mapping[str, Tensor],
    how: Quantization,
    values: dict[str, Any],
) -> None:
    """config.json with quantization_config, and the weights; plain ones as they are stored, unless they changed."""
    write = write_int if how.eight_by_eight else {"gptq": write_gptq, "awq": write_awq}.get(how.layout, write_packed)
    table = by_theirs(piece for pieces in weights.pieces.values() for piece in pieces)
    tensors: dict[str, Tensor] = {}
    plain: list[str] = []
    for theirs, pieces in table.items():
        if pieces[0].ours not in packed:
            stored = weights.checkpoint.tensor(theirs)
            tensors[theirs] = changed.get(pieces[0].ours, stored).to(stored.dtype)
            plain += (
                [theirs.removesuffix(".weight")] if theirs.endswith(("lm_head.weight", "output_layer.weight")) else []
            )
            plain += [theirs.removesuffix(".weight")] if theirs.endswith("gate.weight") else []
            continue
        rows = their_shape(pieces, weights.shapes)[0]
        module = theirs.removesuffix(".weight")
        tensors |= {f"{module}.{part}": tensor for part, tensor in write(_joined(pieces, packed, rows)).items()}
    entries = {name: Entry(tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}
    write_weights(directory, entries, lambda name: tensors[name])
    ignore = plain if "lm_head" in plain else [*plain, "lm_head"]
    write_json(directory / "config.json", {**values, "quantization_config": how.config(ignore)})


def write_nf4_model(directory: Path, weights: Weights, values: dict[str, Any]) -> None:
    """A directory in bitsandbytes' NF4: the matrices of the blocks as their family fuses them, one at a time."""
    tensors: dict[str, Tensor] = {}
    for theirs, pieces in by_theirs(piece for made in weights.pieces.values() for piece in made).items():
        stored, ours = weights.checkpoint.tensor(theirs), pieces[0].ours
        if ours.startswith("model.layers.") and stored.dim() == 2 and not ours.endswith("mlp.gate.weight"):
            module, dtype = theirs.removesuffix(".weight"), str(stored.dtype).removeprefix("torch.")
            parts = write_nf4(quantise_nf4(stored), dtype)
            tensors |= {f"{module}.{part}": tensor.contiguous() for part, tensor in parts.items()}
        else:
            tensors[theirs] = stored
    entries = {name: Entry(tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}
    write_weights(directory, entries, lambda name: tensors[name])
    settings = {"quant_method": "bitsandbytes", "load_in_4bit": True, "load_in_8bit": False, **_NF4_SETTINGS}
    write_json(directory / "config.json", {**values, "quantization_config": settings})


_NF4_SETTINGS = {
    "bnb_4bit_quant_type": "nf4",
    "bnb_4bit_use_double_quant": True,
    "bnb_4bit_compute_dtype": "bfloat16",
    "bnb_4bit_quant_storage": "uint8",
}


def _joined(pieces: list[Piece], packed: Mapping[str, list[Grouped]], rows: int) -> Grouped:
    """Their weight out of ours: maps that are fused read the same input, so groups and order are the same."""
    parts = []
    for piece in pieces:
        expert = int(piece.ours_at[0]) if piece.ours_at else 0  # type: ignore[arg-type]
        one = packed[piece.ours][expert]
        parts.append(one.take(piece.ours_at[1]) if len(piece.ours_at) > 1 else one)  # type: ignore[arg-type]
    if len(parts) == 1 and pieces[0].theirs_rows is None:
        return parts[0]
    first = parts[0]
    at = [
        torch.arange(rows)[piece.theirs_rows] if piece.theirs_rows is not None else torch.arange(rows)
        for piece in pieces
    ]
    back = torch.cat(at).argsort()
    codes, scales, zeros = (
        torch.cat(stacked)[back]
        for stacked in ([p.unpacked() for p in parts], [p.scales for p in parts], [p.zeros for p in parts])
    )
    return Grouped(codes, scales, zeros, first.bits, first.group, first.order)
