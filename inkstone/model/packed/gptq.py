"""GPTQ's layout, versions 1 and 2: input channels packed down the rows of a transposed grid, act-order in `g_idx`.

Version 1 stores every zero less one, version 2 (`checkpoint_format: gptq_v2`) as it is.
"""

import torch
from torch import Tensor

from inkstone.errors import InputError
from inkstone.model.packed.grouped import Grouped
from inkstone.model.packed.layout import Layout, Parts, Settings, Shapes, bits_of, check_groups
from inkstone.model.packed.words import pack_words, unpack_words


def _shape(shapes: Shapes, settings: Settings) -> tuple[int, int]:
    rows, columns = shapes["qweight"]
    return columns, rows * 32 // bits_of(settings, 4, 8)


def _read(parts: Parts, shape: tuple[int, int], settings: Settings) -> Grouped:
    bits = bits_of(settings, 4, 8)
    codes_NK = unpack_words(parts["qweight"].T.contiguous(), bits)
    first = 0 if settings.get("checkpoint_format") == "gptq_v2" else 1
    zeros_NG = (unpack_words(parts["qzeros"], bits)[:, : shape[0]].to(torch.int16) + first).T
    scales_NG = parts["scales"].T
    groups = scales_NG.shape[1]
    given = parts.get("g_idx")
    if given is None or _in_order(given, groups):
        size = int(settings.get("group_size", -1))
        return Grouped(codes_NK, scales_NG, zeros_NG, bits, check_groups(shape[1], groups, size))
    group = check_groups(shape[1], groups, int(settings.get("group_size", -1)))
    order = given.long().argsort(stable=True)
    sorted_groups = given.long()[order]
    if not torch.equal(sorted_groups, torch.arange(shape[1]) // group):
        raise InputError(f"g_idx does not give every group {group} columns")
    return Grouped(codes_NK[:, order], scales_NG, zeros_NG, bits, group, order)


def _in_order(g_idx: Tensor, groups: int) -> bool:
    size = -(-len(g_idx) // groups)
    return torch.equal(g_idx.long(), torch.arange(len(g_idx)) // size)


def write_gptq(packed: Grouped) -> dict[str, Tensor]:
    """Version 1. Raises InputError for a zero of 0, which version 1 cannot say."""
    if bool((packed.zeros < 1).any()):
        raise InputError("GPTQ version 1 cannot say a zero of 0: quantize symmetrically, or choose another layout")
    codes, place = packed.unpacked(), torch.arange(packed.shape[1])
    g_idx = place // packed.group
    if packed.order is not None:
        back = packed.order.argsort()
        codes, g_idx = codes[:, back], g_idx[back]
    return {
        "qweight": pack_words(codes, packed.bits).T.contiguous(),
        "qzeros": pack_words(packed.zeros.T - 1, packed.bits),
        "scales": packed.scales.half().T.contiguous(),
        "g_idx": g_idx.int(),
    }


GPTQ = Layout("gptq", ("qweight", "qzeros", "scales"), ("g_idx",), _shape, _read, write_gptq)
