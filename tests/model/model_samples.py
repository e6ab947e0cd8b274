"""A tiny decoder whose every part shows in its logits."""

from dataclasses import replace

import torch

from inkstone.model import Decoder, DecoderConfig
from inkstone.model.decoder.lora import attach_prefix
from inkstone.model.decoder.prefix import draw_prefix

SHAPE = DecoderConfig(
    vocab_size=97,
    hidden_size=32,
    intermediate_size=48,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    max_positions=64,
    rope_theta=500.0,
    tie_embeddings=True,
)


def tiny_model(prefix: int = 0, **changes: object) -> Decoder:
    """Weights are larger than fresh ones and norms differ from 1, so that attention, positions and norms all matter."""
    model = Decoder(replace(SHAPE, **changes))  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(0)
    for name, weight in model.named_parameters():
        noise = torch.randn(weight.shape, generator=generator)
        weight.data = 1 + 0.3 * noise if name.endswith("norm.weight") else 0.25 * noise
    if prefix:
        attach_prefix(model, draw_prefix(model.config, prefix, prefix, generator))
    return model.eval()


def tokens(rows: int, length: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, SHAPE.vocab_size, (rows, length), generator=torch.Generator().manual_seed(seed))
