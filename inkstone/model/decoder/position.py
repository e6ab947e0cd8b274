"""Where a token stands: rotary angles (Su et al. 2021, arXiv 2104.09864) and ALiBi slopes (Press et al., 2108.12409).

Rotary positions are in the half-split layout of Hugging Face Llama; angles are computed once per forward in float32 and
shared by every layer. ALiBi needs no angles: each head subtracts its slope times the distance from its scores.
"""

import math

import torch
from torch import Tensor

from inkstone.model.decoder.config import DecoderConfig, RopeScaling


def rotary_angles(config: DecoderConfig, positions_BT: Tensor) -> tuple[Tensor, Tensor]:
    """cos and sin, each [B, 1, T, rotary_dim / 2] in float32, of position x theta^(-2i / rotary_dim), scaled."""
    size = config.rotary_dim or config.head_dim
    pair = torch.arange(0, size, 2, device=positions_BT.device, dtype=torch.float32)
    scaling, theta = config.rope_scaling, config.rope_theta
    positions = positions_BT[:, None, :, None].float()
    if scaling and scaling.kind == "dynamic":
        theta_B111 = _dynamic_theta(theta, scaling, size, positions_BT)[:, None, None, None]
        angles = positions * (1.0 / theta_B111 ** (pair / size)).float()
        return angles.cos(), angles.sin()
    inverse_frequency = 1.0 / theta ** (pair / size)
    if scaling and scaling.kind == "linear":
        inverse_frequency = inverse_frequency / scaling.factor
    if scaling and scaling.kind == "llama3":
        inverse_frequency = _llama3(inverse_frequency, scaling)
    if scaling and scaling.kind == "yarn":
        inverse_frequency = _yarn(inverse_frequency, scaling, theta, size)
    angles = positions * inverse_frequency
    length = scaling.attention_factor if scaling else 1.0
    return angles.cos() * length, angles.sin() * length


def _dynamic_theta(theta: float, scaling: RopeScaling, size: int, positions_BT: Tensor) -> Tensor:
    """The base of each row [B], float64: larger the further the row reaches beyond the original length."""
    length_B = (positions_BT.amax(-1) + 1).clamp(min=scaling.original_positions).double()
    stretch_B = scaling.factor * length_B / scaling.original_positions - (scaling.factor - 1)
    return theta * stretch_B ** (size / (size - 2))


def _llama3(inverse_frequency: Tensor, scaling: RopeScaling) -> Tensor:
    """Waves longer than the original length / low factor are slowed; those shorter than / high factor are kept."""
    turns = scaling.original_positions * inverse_frequency / (2 * math.pi)
    low, high = scaling.low_frequency_factor, scaling.high_frequency_factor
    kept = ((turns - low) / (high - low)).clamp(0, 1)
    return inverse_frequency * (kept + (1 - kept) / scaling.factor)


def _yarn(inverse_frequency: Tensor, scaling: RopeScaling, theta: float, size: int) -> Tensor:
    """Peng et al. 2023 (arXiv 2309.00071): pairs that turn often within the original length are kept, others slowed.

    Between the two borders, which are numbers of turns made into (fractional) numbers of pairs, they are blended.
    """
    turns = (scaling.high_frequency_factor, scaling.low_frequency_factor)
    first, last = (
        size * math.log(scaling.original_positions / (turn * 2 * math.pi)) / (2 * math.log(theta)) for turn in turns
    )
    if scaling.truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, size - 1)
    pair = torch.arange(size // 2, device=inverse_frequency.device)
    slowed = ((pair - first) / (last - first if last != first else 0.001)).clamp(0, 1)
    return inverse_frequency * (1 - slowed + slowed / scaling.factor)


def rotate(x_BHTd: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the pairs (x_i, x_{i + r/2}) of the first r = 2 x angles dimensions; in float32, returned in x's dtype."""
    turning = 2 * cos.shape[-1]
    if turning < x_BHTd.shape[-1]:
        turned, kept = x_BHTd.split((turning, x_BHTd.shape[-1] - turning), dim=-1)
        return torch.cat((rotate(turned, cos, sin), kept), dim=-1)
    first, second = x_BHTd.float().chunk(2, dim=-1)
    turned = torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
    return turned.to(x_BHTd.dtype)


def head_slopes(config: DecoderConfig, device: torch.device | str = "cpu") -> Tensor | None:
    """ALiBi slopes of the heads that `config` holds [H], which may be a part of the model's; None without ALiBi."""
    held = slice(config.first_head, config.first_head + config.num_heads)
    return alibi_slopes(config.all_heads or config.num_heads, device)[held] if config.position == "alibi" else None


def alibi_slopes(num_heads: int, device: torch.device | str = "cpu") -> Tensor:
    """Slope of each head [H], float32: 2^(-8/m), 2^(-16/m), ... for the power of two m <= heads, then those between.

    The heads beyond m take every second slope of 2m heads, so 40 heads have 32 slopes and 8 between them.
    """
    power = 1 << (num_heads.bit_length() - 1)
    exponents = [8 * (head + 1) / power for head in range(power)]
    exponents += [4 * (2 * head + 1) / power for head in range(num_heads - power)]
    return torch.tensor([2.0**-exponent for exponent in exponents], device=device)
