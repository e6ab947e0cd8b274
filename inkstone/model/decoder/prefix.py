"""A prefix: keys and values that every document sees before its own, in every layer, and all that is trained.

Prefix tuning (Li & Liang 2021, arXiv 2101.00190), which P-tuning v2 (Liu et al. 2022, 2110.07602) made deep: `numbers`
are what a cache would hold of P virtual tokens, so nothing turns their keys. Where the text stands is a convention:
transformers' cache counts the virtual tokens (`first_position` = P), ChatGLM2's own code does not (0).
"""

import torch
from torch import Tensor, nn

from inkstone.model.decoder.config import DecoderConfig


class Prefix(nn.Module):
    """`numbers` [L, 2, K, P, d]; `of_base`: it came with the model, and is no adapter that is switched off."""

    def __init__(self, numbers_L2KPd: Tensor, first_position: int, of_base: bool = False) -> None:
        super().__init__()
        self.numbers = nn.Parameter(numbers_L2KPd)
        self.length, self.first_position, self.of_base = numbers_L2KPd.shape[3], first_position, of_base
        self.enabled = True

    def layers(self, dtype: torch.dtype) -> tuple[Tensor, ...]:
        """Of each layer, keys and values [2, K, P, d]."""
        return self.numbers.to(dtype).unbind(0)


def draw_prefix(config: DecoderConfig, length: int, first_position: int, generator: torch.Generator) -> Prefix:
    """Normal numbers to begin with."""
    shape = (config.num_layers, 2, config.num_kv_heads, length, config.head_dim)
    return Prefix(torch.randn(shape, generator=generator), first_position)
