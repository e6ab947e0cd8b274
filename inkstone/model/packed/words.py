"""Small whole numbers in 32-bit words, the lowest bits first."""

from collections.abc import Sequence

import torch
from torch import Tensor

STRAIGHT = (0, 1, 2, 3, 4, 5, 6, 7)


def unpack_words(words: Tensor, bits: int, order: Sequence[int] = STRAIGHT) -> Tensor:
    """int32 [R, C] to uint8 [R, C x 32/bits]; field i of a word is number `order[i]` of its run."""
    shifts = torch.arange(0, 32, bits, dtype=torch.int32, device=words.device)
    fields = (words[..., None] >> shifts).bitwise_and_(2**bits - 1).to(torch.uint8)
    if bits == 4 and tuple(order) != STRAIGHT:
        fields = fields[..., torch.tensor(order).argsort()]
    return fields.flatten(1)


def pack_words(numbers: Tensor, bits: int, order: Sequence[int] = STRAIGHT) -> Tensor:
    """The way back; the last dimension is filled up with zeros to whole words."""
    each = 32 // bits
    padded = torch.nn.functional.pad(numbers.to(torch.int64), (0, -numbers.shape[1] % each))
    fields = padded.view(len(padded), -1, each)
    if bits == 4 and tuple(order) != STRAIGHT:
        fields = fields[..., torch.tensor(order)]
    total = (fields << torch.arange(0, 32, bits, device=numbers.device)).sum(-1)
    return torch.where(total >= 1 << 31, total - (1 << 32), total).to(torch.int32)
