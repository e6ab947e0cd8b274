"""The decoder's exchangeable parts: linear maps, the product of experts, the head, and a rank's share of the heads."""

from dataclasses import replace

import pytest
import torch
from model_samples import SHAPE, tiny_model, tokens
from torch import Tensor, nn

from inkstone.model import BlockPool, CacheContext, Decoder, PackedContext, Span
from inkstone.model.decoder.decoder import Attention
from inkstone.model.decoder.experts import matmul_runs
from inkstone.model.decoder.position import alibi_slopes, head_slopes, rotary_angles


class Rounded(nn.Module):
    """A linear map whose weight is kept in 8 bits, a scale per row."""

    def __init__(self, in_features: int, out_features: int, bias: bool = False) -> None:
        super().__init__()
        self.register_buffer("codes", torch.zeros(out_features, in_features, dtype=torch.int8))
        self.register_buffer("scales", torch.zeros(out_features, 1))
        self.bias = nn.Parameter(torch.zeros(out_features)) if bias else None

    def take(self, weight: Tensor) -> None:
        self.scales = weight.abs().amax(1, keepdim=True) / 127
        self.codes = (weight / self.scales).round().to(torch.int8)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, (self.codes * self.scales).to(x.dtype), self.bias)


@torch.no_grad()
@pytest.mark.parametrize("changes", [{}, {"gated": False, "qkv_bias": True}], ids=["gated", "plain, biases"])
def test_every_projection_of_the_blocks_is_made_by_the_one_argument(changes: dict[str, object]) -> None:
    plain, row = tiny_model(**changes), tokens(2, 11)
    other = Decoder(plain.config, linear=Rounded)
    missing, unexpected = other.load_state_dict(plain.state_dict(), strict=False)
    for name in unexpected:
        other.get_submodule(name.removesuffix(".weight")).take(plain.get_parameter(name))
    projections = 6 if changes else 7
    assert len(unexpected) == projections * SHAPE.num_layers and not any("bias" in name for name in missing)
    assert other.device == plain.device and other.dtype == torch.float32
    likeness = nn.functional.cosine_similarity(other(row).flatten(), plain(row).flatten(), dim=0)
    assert 0.99 < likeness < 1 - 1e-6


@torch.no_grad()
def test_experts_multiply_by_the_given_product_however_they_are_kept() -> None:
    plain, row = tiny_model(num_experts=4), tokens(2, 11)

    def by_code(x_MD: Tensor, kept: nn.Module, ends_E: Tensor) -> Tensor:
        return matmul_runs(x_MD, kept.codes * kept.scale, ends_E)

    class Codes(nn.Module):
        def __init__(self, weight: Tensor) -> None:
            super().__init__()
            self.scale = weight.abs().max() / 2**14
            self.register_buffer("codes", (weight / self.scale).round().to(torch.int16))

    other = Decoder(plain.config, experts=by_code)
    other.load_state_dict(plain.state_dict())
    for block in other.model.layers:
        for name in ("gate_up_proj", "down_proj"):
            weight = getattr(block.mlp.experts, name)
            delattr(block.mlp.experts, name)
            setattr(block.mlp.experts, name, Codes(weight))
    torch.testing.assert_close(other(row), plain(row), atol=1e-2, rtol=1e-2)


def test_the_head_may_be_any_module_of_the_hidden_states() -> None:
    model, row = tiny_model(tie_embeddings=False), tokens(2, 11)
    model.lm_head = nn.Sequential(nn.Linear(SHAPE.hidden_size, 1).double(), nn.Tanh())
    model.lm_head.register_forward_pre_hook(lambda _, given: given[0].double())
    values = model(row)
    assert values.shape == (2, 11, 1) and model.dtype == torch.float32 and model.device.type == "cpu"
    torch.testing.assert_close(values, model.lm_head(model.hidden(row)))


CUTS = {
    "alibi, a slope per head": {"position": "alibi", "num_heads": 6, "num_kv_heads": 6},
    "alibi, grouped queries": {"position": "alibi"},
    "ranks that share a key/value head": {"position": "alibi", "num_kv_heads": 1},
    "rope in a window": {"sliding_window": 5},
}


@torch.no_grad()
@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("cached", [False, True], ids=["packed", "cached"])
def test_the_outputs_of_two_halves_of_the_heads_add_up_to_the_whole(cut: str, cached: bool) -> None:
    model = tiny_model(**CUTS[cut])
    config, whole = model.config, model.model.layers[0].self_attn
    x = torch.randn(2, 20, config.hidden_size, generator=torch.Generator().manual_seed(1))
    positions, ids = (torch.arange(20) % 12).expand(2, -1), (torch.arange(20) // 12).expand(2, -1)
    if cached:
        positions = torch.arange(20).expand(2, -1)
    angles = rotary_angles(config, positions) if config.position == "rope" else None

    def attention(part: Attention, held: object) -> Tensor:
        spans = [Span([0, 1], 0, 20), Span([3, 2], 0, 20)]
        kept = CacheContext(BlockPool(1, 4), spans)
        context = kept if cached else PackedContext.documents(positions, ids)
        context.prepare(held, torch.float32)  # type: ignore[arg-type]
        return part(x, angles, context)

    halves = []
    for rank in range(2):
        held = config.heads_of(rank, 2)
        half = Attention(held, 0)
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            weight = whole.get_parameter(f"{name}.weight")
            shared = weight.shape[0] == config.head_dim and name in ("k_proj", "v_proj")
            cut_here = weight if shared else weight.chunk(2, dim=1 if name == "o_proj" else 0)[rank]
            half.get_submodule(name).weight = nn.Parameter(cut_here)
        halves.append(attention(half, held))
    torch.testing.assert_close(sum(halves), attention(whole, config), atol=1e-4, rtol=1e-5)


def test_a_rank_has_its_own_heads_slopes_and_no_more_cache_than_it_needs() -> None:
    config = replace(SHAPE, position="alibi", num_heads=40, num_kv_heads=40)
    slopes = [head_slopes(config.heads_of(rank, 4)) for rank in range(4)]
    assert torch.equal(torch.cat(slopes), alibi_slopes(40))
    pool, held = BlockPool(1, 1), config.heads_of(3, 4)
    context = CacheContext(pool, [Span([0], 0, 8)])
    context.prepare(held, torch.float32)
    Attention(held, 0)(torch.randn(1, 8, SHAPE.hidden_size), None, context)
    assert pool.keys.shape == (1, 1, 16, 10, SHAPE.head_dim)
