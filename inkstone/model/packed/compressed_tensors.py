"""compressed-tensors' layouts: `pack-quantized` (W4A16, W8A16) and `int-quantized` (W8A8, one scale per row).

Numbers are signed: stored with half their range added where they are packed, as int8 where they are not. The inputs of
W8A8 are not rounded here: the weights alone decide the result, so it is a little better than the layout asks for.
"""

import torch
from torch import Tensor

from inkstone.errors import InputError
from inkstone.model.packed.grouped import Grouped
from inkstone.model.packed.layout import Layout, Parts, Settings, Shapes
from inkstone.model.packed.words import pack_words, unpack_words


def _weights(settings: Settings) -> Settings:
    groups = settings.get("config_groups") or {}
    found = [group.get("weights") or {} for group in groups.values()]
    if not found or any(one != found[0] for one in found[1:]):
        raise InputError("config_groups must have one group, or groups that quantize weights alike")
    if found[0].get("num_bits") not in (4, 8) or found[0].get("type") != "int":
        raise InputError(
            f"weights of {found[0].get('num_bits')} bits ({found[0].get('type')}) are not read: int 4 or 8"
        )
    one: Settings = found[0]
    return one


def _packed_shape(shapes: Shapes, settings: Settings) -> tuple[int, int]:
    rows, words = shapes["weight_packed"]
    bits = int(_weights(settings)["num_bits"])
    return rows, words * 32 // bits


def _read_packed(parts: Parts, shape: tuple[int, int], settings: Settings) -> Grouped:
    bits = int(_weights(settings)["num_bits"])
    rows, columns = (int(size) for size in parts["weight_shape"])
    if (rows, columns) != shape:
        raise InputError(f"weight_shape {rows} x {columns} contradicts the packed numbers, {shape[0]} x {shape[1]}")
    scales_NG = parts["weight_scale"]
    zeros_NG = torch.full(scales_NG.shape, 2 ** (bits - 1), dtype=torch.int16)
    if (zeros := parts.get("weight_zero_point")) is not None:
        zeros_NG = unpack_words(zeros.T.contiguous(), bits)[:, :rows].T.to(torch.int16)
    group = columns // scales_NG.shape[1]
    if group * scales_NG.shape[1] != columns:
        raise InputError(f"{scales_NG.shape[1]} scales do not divide {columns} columns")
    codes_NK = unpack_words(parts["weight_packed"], bits)[:, :columns]
    order = None
    if (g_idx := parts.get("weight_g_idx")) is not None and bool((g_idx >= 0).all()):
        order = g_idx.long().argsort(stable=True)
        codes_NK = codes_NK[:, order]
    return Grouped(codes_NK, scales_NG, zeros_NG, bits, group, order)


def _int_shape(shapes: Shapes, settings: Settings) -> tuple[int, int]:
    rows, columns = shapes["weight"]
    return rows, columns


def _read_int(parts: Parts, shape: tuple[int, int], settings: Settings) -> Grouped:
    scales_NG = parts["weight_scale"].view(-1, 1).expand(shape[0], 1)
    codes_NK = (parts["weight"].to(torch.int16) + 128).to(torch.uint8)
    return Grouped(codes_NK, scales_NG, torch.full_like(scales_NG, 128, dtype=torch.int16), 8, shape[1])


def write_packed(packed: Grouped) -> dict[str, Tensor]:
    """W4A16 or W8A16."""
    middle = 2 ** (packed.bits - 1)
    codes, groups = packed.unpacked(), torch.arange(packed.shape[1]) // packed.group
    parts = {"weight_scale": packed.scales, "weight_shape": torch.tensor(packed.shape)}
    if packed.order is not None:
        back = packed.order.argsort()
        codes, parts["weight_g_idx"] = codes[:, back], groups[back].int()
    if bool((packed.zeros != middle).any()):
        parts["weight_zero_point"] = pack_words(packed.zeros.T, packed.bits).T.contiguous()
    return {"weight_packed": pack_words(codes, packed.bits), **parts}


def write_int(packed: Grouped) -> dict[str, Tensor]:
    """W8A8: weights of 8 bits with one scale per row."""
    return {"weight": (packed.unpacked().to(torch.int16) - 128).to(torch.int8), "weight_scale": packed.scales}


PACK_QUANTIZED = Layout(
    "pack-quantized",
    ("weight_packed", "weight_scale", "weight_shape"),
    ("weight_zero_point", "weight_g_idx"),
    _packed_shape,
    _read_packed,
    write_packed,
)
INT_QUANTIZED = Layout("int-quantized", ("weight_scale", "weight"), (), _int_shape, _read_int, write_int)
