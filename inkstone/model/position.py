"""Rotary position embedding (Su et al. 2021, arXiv 2104.09864), in the half-split layout of Hugging Face Llama.

Angles are computed once per forward in float32 and shared by every layer.
"""

import torch
from torch import Tensor

from inkstone.model.config import DecoderConfig


def rotary_angles(config: DecoderConfig, positions_BT: Tensor) -> tuple[Tensor, Tensor]:
    """cos and sin, each [B, 1, T, head_dim / 2] in float32, of position x theta^(-2i / head_dim)."""
    pair = torch.arange(0, config.head_dim, 2, device=positions_BT.device, dtype=torch.float32)
    inverse_frequency = 1.0 / config.rope_theta ** (pair / config.head_dim)
    angles = positions_BT[:, None, :, None].float() * inverse_frequency
    return angles.cos(), angles.sin()


def rotate(x_BHTd: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the pairs (x_i, x_{i + d/2}) by their position's angle; computed in float32, returned in x's dtype."""
    first, second = x_BHTd.float().chunk(2, dim=-1)
    turned = torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
    return turned.to(x_BHTd.dtype)
