"""What the blocks of a quantised GGUF tensor hold, as codes with a scale and a zero for each group: `Grouped`.

    grouped = unpack(bytes_NB, "q4_K", columns)      # [N, row bytes] uint8

llama.cpp's types keep 32 or 256 weights in a block. w = d q, or d q - m; K-quants have a second level of scales in 6 or
4 bits. Layouts are llama.cpp's (ggml-quants), as facts; the oracle is the `gguf` package, to the bit in float32.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from inkstone.model.packed.grouped import Grouped

Parts = tuple[Tensor, Tensor, Tensor]
"""codes [M, B] uint8, scales [M, G], mins [M, G] of M blocks of B weights: w = scale x code - min."""


@dataclass(frozen=True)
class Block:
    """One type: its number in the file, weights and bytes of a block, bits that a code needs, how it is read."""

    number: int
    weights: int
    size: int
    bits: int
    read: Callable[[Tensor], Parts]


def unpack(data_NB: Tensor, kind: str) -> Grouped:
    """The packed weight of whole rows of blocks."""
    block = BLOCKS[kind]
    rows = data_NB.shape[0]
    codes, scales, mins = block.read(data_NB.reshape(-1, block.size))
    group = block.weights // scales.shape[1]
    # A scale of 0 with a minimum would have no zero: such a group is constant, and any tiny scale says so.
    scales = scales.where((scales != 0) | (mins == 0), torch.full_like(scales, 1e-12))
    zeros = torch.where(mins == 0, torch.zeros_like(mins), mins / scales)
    return Grouped(codes.view(rows, -1), scales.view(rows, -1), zeros.view(rows, -1), block.bits, group)


def _half(data: Tensor, at: int) -> Tensor:
    """The 16-bit float at byte `at` of each block, [M, 1] float32."""
    return data[:, at : at + 2].contiguous().view(torch.float16).float()


def _nibbles(data: Tensor) -> Tensor:
    """Low halves of the bytes, then high ones."""
    return torch.cat((data & 15, data >> 4), dim=1)


def _fifth(data: Tensor) -> Tensor:
    """32 bits, one for each weight, as 16 or 0."""
    bits = data[:, :, None] >> torch.arange(8, dtype=torch.uint8) & 1
    return bits.flatten(1) * 16


def _q4_0(data: Tensor) -> Parts:
    scale = _half(data, 0)
    return _nibbles(data[:, 2:]), scale, 8 * scale


def _q4_1(data: Tensor) -> Parts:
    return _nibbles(data[:, 4:]), _half(data, 0), -_half(data, 2)


def _q5_0(data: Tensor) -> Parts:
    scale = _half(data, 0)
    return _nibbles(data[:, 6:]) | _fifth(data[:, 2:6]), scale, 16 * scale


def _q5_1(data: Tensor) -> Parts:
    return _nibbles(data[:, 8:]) | _fifth(data[:, 4:8]), _half(data, 0), -_half(data, 2)


def _q8_0(data: Tensor) -> Parts:
    scale = _half(data, 0)
    return data[:, 2:] ^ 128, scale, 128 * scale


def _six_bits(packed: Tensor) -> tuple[Tensor, Tensor]:
    """8 scales and 8 minima of 6 bits out of 12 bytes (q4_K, q5_K)."""
    first, second, third = packed[:, :4], packed[:, 4:8], packed[:, 8:]
    scales = torch.cat((first & 63, (third & 15) | first >> 6 << 4), dim=1)
    mins = torch.cat((second & 63, third >> 4 | second >> 6 << 4), dim=1)
    return scales.float(), mins.float()


def _q4_k(data: Tensor) -> Parts:
    scales, mins = _six_bits(data[:, 4:16])
    codes = data[:, 16:].view(-1, 4, 32)
    codes = torch.stack((codes & 15, codes >> 4), dim=2).flatten(1)
    return codes, _half(data, 0) * scales, _half(data, 2) * mins


def _q5_k(data: Tensor) -> Parts:
    scales, mins = _six_bits(data[:, 4:16])
    low = data[:, 48:].view(-1, 4, 32)
    low = torch.stack((low & 15, low >> 4), dim=2).view(-1, 8, 32)
    high = data[:, None, 16:48] >> torch.arange(8, dtype=torch.uint8)[:, None] & 1
    return (low | high << 4).flatten(1), _half(data, 0) * scales, _half(data, 2) * mins


def _q6_k(data: Tensor) -> Parts:
    low, high = data[:, :128].view(-1, 2, 64), data[:, 128:192].view(-1, 2, 32)
    low = torch.cat((low & 15, low >> 4), dim=2).view(-1, 2, 4, 32)
    high = high[:, :, None] >> torch.tensor([0, 2, 4, 6], dtype=torch.uint8)[:, None] & 3
    scales = _half(data, 208) * data[:, 192:208].view(torch.int8).float()
    return (low | high << 4).flatten(1), scales, 32 * scales


def _two_bits(data: Tensor) -> Tensor:
    """64 bytes as 256 codes: for each 32 bytes, four planes of two bits."""
    planes = data.view(-1, 2, 1, 32) >> torch.tensor([0, 2, 4, 6], dtype=torch.uint8)[:, None] & 3
    return planes.flatten(1)


def _q2_k(data: Tensor) -> Parts:
    scales = data[:, :16]
    return _two_bits(data[:, 16:80]), _half(data, 80) * (scales & 15).float(), _half(data, 82) * (scales >> 4).float()


def _q3_k(data: Tensor) -> Parts:
    high = data[:, None, :32] >> torch.arange(8, dtype=torch.uint8)[:, None] & 1
    codes = _two_bits(data[:, 32:96]) | high.flatten(1) << 2
    low, top = data[:, 96:104], data[:, 104:108]
    fours = torch.cat((low & 15, low >> 4), dim=1)
    twos = torch.cat([top >> shift & 3 for shift in (0, 2, 4, 6)], dim=1)
    scales = _half(data, 108) * ((fours | twos << 4).float() - 32)
    return codes, scales, 4 * scales


BLOCKS = {
    "q4_0": Block(2, 32, 18, 4, _q4_0),
    "q4_1": Block(3, 32, 20, 4, _q4_1),
    "q5_0": Block(6, 32, 22, 8, _q5_0),
    "q5_1": Block(7, 32, 24, 8, _q5_1),
    "q8_0": Block(8, 32, 34, 8, _q8_0),
    "q2_K": Block(10, 256, 84, 4, _q2_k),
    "q3_K": Block(11, 256, 110, 4, _q3_k),
    "q4_K": Block(12, 256, 144, 4, _q4_k),
    "q5_K": Block(13, 256, 176, 8, _q5_k),
    "q6_K": Block(14, 256, 210, 8, _q6_k),
}
"""By llama.cpp's names. Codes of 2 and 3 bits are kept in 4, of 5 and 6 in 8."""
