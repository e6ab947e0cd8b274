"""A tiny decoder with opinions: weights large enough that every prompt gets its own answer."""

import random

import torch

from inkstone.model import Decoder, DecoderConfig

SHAPE = DecoderConfig(
    vocab_size=61,
    hidden_size=32,
    intermediate_size=48,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    max_positions=48,
    tie_embeddings=False,
)


def tiny_model(shape: DecoderConfig = SHAPE) -> Decoder:
    model = Decoder(shape)
    generator = torch.Generator().manual_seed(3)
    for weight in model.parameters():
        noise = torch.randn(weight.shape, generator=generator)
        weight.data = 1 + 0.3 * noise if weight.dim() == 1 else 0.25 * noise
    return model.eval()


def prompts(lengths: list[int], seed: int = 0) -> list[list[int]]:
    draw = random.Random(seed)
    return [[draw.randrange(SHAPE.vocab_size) for _ in range(length)] for length in lengths]
