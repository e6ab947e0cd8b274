"""The decoder: embedding, pre-norm blocks of attention and MLP or experts, final norm, head.

One decoder serves every family: `DecoderConfig` says which norm, positions, biases, MLP and head it has. Weights carry
the names of Hugging Face Llama and Mixtral, so reading and writing those is the identity. Weights may be kept in
float32 while the arithmetic runs in `compute_dtype`: every layer casts its weight to the dtype of its input, which
costs one pass over the weights and keeps gradients and the optimizer in float32.

Shapes: B rows, T tokens, D hidden, H heads, K kv heads, d head_dim, V vocabulary, E experts.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from inkstone.model.decoder.attention import AttentionContext
from inkstone.model.decoder.config import DecoderConfig
from inkstone.model.decoder.experts import ExpertProduct, MixtureMLP, matmul_runs
from inkstone.model.decoder.packed import PackedContext
from inkstone.model.decoder.position import rotary_angles, rotate
from inkstone.model.decoder.prefix import Prefix

T = TypeVar("T")
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"silu": F.silu, "gelu_tanh": partial(F.gelu, approximate="tanh")}


class Linear(nn.Linear):
    """A linear map that computes in the dtype of its input."""

    def __init__(self, in_features: int, out_features: int, bias: bool = False) -> None:
        super().__init__(in_features, out_features, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.to(x.dtype), None if self.bias is None else self.bias.to(x.dtype))


MakeLinear = Callable[[int, int, bool], nn.Module]
"""(in features, out features, bias) to a linear map."""


class NormalisedHead(Linear):
    """A head whose rows count with length 1 (Baichuan 2). Lengths are measured once per version of the weight."""

    _measured: tuple[tuple[int, int], Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            return F.linear(x, self.unit_weight().to(x.dtype))
        version = (self.weight.data_ptr(), self.weight._version)
        if self._measured is None or self._measured[0] != version:
            length_V = torch.linalg.vector_norm(self.weight, dim=1, dtype=torch.float32).clamp(min=1e-12)
            self._measured = (version, length_V)
        return (super().forward(x).float() / self._measured[1]).to(x.dtype)

    def unit_weight(self) -> Tensor:
        """The weight [V, D] with rows of length 1, differentiable."""
        return F.normalize(self.weight, dim=1)


class RMSNorm(nn.Module):
    """x / rms(x) x weight, in float32 (Zhang & Sennrich 2019, arXiv 1910.07467)."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return normed.to(x.dtype) * self.weight.to(x.dtype)


class LayerNorm(nn.LayerNorm):
    """Mean 0, variance 1, then weight and bias, in float32."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__(size, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        normed = F.layer_norm(x.float(), self.normalized_shape, self.weight.float(), self.bias.float(), self.eps)
        return normed.to(x.dtype)


def norm(config: DecoderConfig) -> nn.Module:
    """A fresh norm of the kind that `config` names."""
    return (LayerNorm if config.norm == "layer" else RMSNorm)(config.hidden_size, config.norm_eps)


Angles = tuple[Tensor, Tensor] | None
"""cos and sin of rotary positions; None where there are none."""


HiddenAndRouting = tuple[Tensor, list[Tensor]]
"""Hidden states [B, T, D], and router logits [B T, E] of each layer that has experts."""


class Attention(nn.Module):
    """Grouped-query attention; masking, ALiBi and caching belong to the context."""

    def __init__(self, config: DecoderConfig, layer: int, linear: MakeLinear = Linear) -> None:
        super().__init__()
        self.layer, self.head_dim = layer, config.head_dim
        query_size, key_size = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
        self.q_proj = linear(config.hidden_size, query_size, config.qkv_bias)
        self.k_proj = linear(config.hidden_size, key_size, config.qkv_bias)
        self.v_proj = linear(config.hidden_size, key_size, config.qkv_bias)
        self.o_proj = linear(query_size, config.hidden_size, config.out_bias)
        self.q_norm = RMSNorm(config.head_dim, config.norm_eps) if config.qk_norm else nn.Identity()
        self.k_norm = RMSNorm(config.head_dim, config.norm_eps) if config.qk_norm else nn.Identity()

    def forward(
        self, x_BTD: Tensor, angles: Angles, context: AttentionContext, prefix_2KPd: Tensor | None = None
    ) -> Tensor:
        heads = (*x_BTD.shape[:2], -1, self.head_dim)
        q_BHTd = self.q_norm(self.q_proj(x_BTD).view(heads)).transpose(1, 2)
        k_BKTd = self.k_norm(self.k_proj(x_BTD).view(heads)).transpose(1, 2)
        v_BKTd = self.v_proj(x_BTD).view(heads).transpose(1, 2)
        if angles is not None:
            q_BHTd, k_BKTd = rotate(q_BHTd, *angles), rotate(k_BKTd, *angles)
        out_BHTd = context.attend(self.layer, q_BHTd, k_BKTd, v_BKTd, prefix_2KPd)
        return self.o_proj(out_BHTd.transpose(1, 2).flatten(2))


class MLP(nn.Module):
    """down(act(gate x) * up x) (Shazeer 2020, arXiv 2002.05202), or plainly down(act(up x))."""

    def __init__(self, config: DecoderConfig, linear: MakeLinear = Linear) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[config.activation]
        self.gated = config.gated
        if config.gated:
            self.gate_proj = linear(config.hidden_size, config.intermediate_size, config.mlp_bias)
        self.up_proj = linear(config.hidden_size, config.intermediate_size, config.mlp_bias)
        self.down_proj = linear(config.intermediate_size, config.hidden_size, config.mlp_bias)

    def forward(self, x_BTD: Tensor) -> Tensor:
        if not self.gated:
            return self.down_proj(self.activation(self.up_proj(x_BTD)))
        return self.down_proj(self.activation(self.gate_proj(x_BTD)) * self.up_proj(x_BTD))


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, config: DecoderConfig, layer: int, linear: MakeLinear, experts: ExpertProduct) -> None:
        super().__init__()
        self.input_layernorm = norm(config)
        self.self_attn = Attention(config, layer, linear)
        self.post_attention_layernorm = norm(config)
        self.routed = config.num_experts > 0
        self.mlp = MixtureMLP(config, experts) if self.routed else MLP(config, linear)

    def forward(
        self, x_BTD: Tensor, angles: Angles, context: AttentionContext, prefix_2KPd: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """The residual stream after the block, and the router's logits [N, E] where it has experts.

        They are returned, not collected in a list: activation checkpointing would append them twice, and the list's
        length would make every layer another program to torch.compile.
        """
        x_BTD = x_BTD + self.self_attn(self.input_layernorm(x_BTD), angles, context, prefix_2KPd)
        normed_BTD = self.post_attention_layernorm(x_BTD)
        out_BTD, logits_NE = self.mlp(normed_BTD) if self.routed else (self.mlp(normed_BTD), None)
        return x_BTD + out_BTD, logits_NE


class Trunk(nn.Module):
    """Everything but the head; a module of its own because Hugging Face names it `model.`."""

    def __init__(self, config: DecoderConfig, linear: MakeLinear, experts: ExpertProduct) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        if config.embedding_norm:
            self.embed_norm = norm(config)
        self.layers = nn.ModuleList(Block(config, layer, linear, experts) for layer in range(config.num_layers))
        self.norm = norm(config)
        self.prefix: Prefix | None = None
        self.recompute = False
        """Keep only each block's input for the backward pass and compute the rest again."""

    def forward(self, tokens_BT: Tensor, context: AttentionContext, dtype: torch.dtype) -> HiddenAndRouting:
        """Hidden states [B, T, D] computed in `dtype` with a prepared context; router logits of layers with experts."""
        prefix = self.prefix if self.prefix and self.prefix.enabled else None
        positions_BT = context.positions_BT + (prefix.first_position if prefix else 0)
        x_BTD, angles = self.begin(tokens_BT, positions_BT, dtype)
        routing: list[Tensor] = []
        prefixes = prefix.layers(dtype) if prefix else [None] * len(self.layers)
        for block, prefix_2KPd in zip(self.layers, prefixes, strict=True):
            given = (x_BTD, angles, context, prefix_2KPd)
            if self.recompute and torch.is_grad_enabled():
                x_BTD, logits_NE = checkpoint(block, *given, use_reentrant=False)
            else:
                x_BTD, logits_NE = block(*given)
            routing += [] if logits_NE is None else [logits_NE]
        return self.norm(x_BTD), routing

    def begin(self, tokens_BT: Tensor, positions_BT: Tensor, dtype: torch.dtype) -> tuple[Tensor, Angles]:
        """What the first block reads [B, T, D], and the angles that all share."""
        angles = rotary_angles(self.config, positions_BT) if self.config.position == "rope" else None
        x_BTD = self.embed_tokens(tokens_BT).to(dtype)
        return self.embed_norm(x_BTD) if self.config.embedding_norm else x_BTD, angles


class Decoder(nn.Module):
    """tokens to logits. `compute_dtype` is the dtype of the arithmetic; default: that of the weights.

    Every projection in the blocks is made by `linear`, and experts multiply through `experts`: quantised, low-rank or
    float8 arithmetic is another argument. `lm_head` may be replaced by any module of the hidden states (a reward of
    size 1). `held` says which heads this process has: all, or those of a tensor-parallel rank (`config.heads_of`).
    `compiled` says whether the blocks are, so that a loss is too. `known_ids`: how many ids the tokenizer has, where
    known; an embedding may be padded beyond them, and what generates or scores leaves the rest out. `cache_tokens`: how
    many keys and values there is memory for, where that was promised.
    """

    def __init__(
        self, config: DecoderConfig, linear: MakeLinear = Linear, experts: ExpertProduct = matmul_runs
    ) -> None:
        super().__init__()
        self.config = self.held = config
        self.compute_dtype: torch.dtype | None = None
        self.known_ids: int | None = None
        self.cache_tokens: int | None = None
        self.compiled = False
        self.model = Trunk(config, linear, experts)
        head = NormalisedHead if config.normalised_head else Linear
        self.lm_head = head(config.hidden_size, config.vocab_size)
        if config.tie_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight

    @property
    def dtype(self) -> torch.dtype:
        return self.compute_dtype or self.model.embed_tokens.weight.dtype

    @property
    def device(self) -> torch.device:
        """Where tokens go in."""
        return self.model.embed_tokens.weight.device

    @property
    def max_positions(self) -> int:
        """What the config says, less what a prefix takes of it."""
        return self.config.max_positions - (self.model.prefix.first_position if self.model.prefix else 0)

    @property
    def position_limit(self) -> int | None:
        """Longest sequence beside a prefix; None where positions extrapolate (`DecoderConfig.position_limit`)."""
        limit = self.config.position_limit
        return limit and limit - self.config.max_positions + self.max_positions

    def hidden(self, tokens_BT: Tensor, context: AttentionContext | None = None) -> Tensor:
        """The final norm's output [B, T, D]; without a context every row is one document."""
        return self.hidden_and_routing(tokens_BT, context)[0]

    def hidden_and_routing(self, tokens_BT: Tensor, context: AttentionContext | None = None) -> HiddenAndRouting:
        """`hidden`, and the router's logits [B T, E] of each layer that has experts, first layer first."""
        context = context or PackedContext.whole_rows(tokens_BT.shape[0], tokens_BT.shape[1], tokens_BT.device)
        prefix = self.model.prefix
        context.prepare(self.held, self.dtype, prefix.length if prefix and prefix.enabled else 0)
        return self.model(tokens_BT, context, self.dtype)

    def compute(self, function: Callable[..., T], *arguments: Any) -> T:
        """`function(self, *arguments)` as one forward: where weights are sharded, this is what gathers them."""
        return function(self, *arguments)

    def head_weight(self) -> Tensor:
        """The matrix [V, D] that turns hidden states into logits, differentiable; what a loss multiplies with."""
        head = self.lm_head
        return head.unit_weight() if isinstance(head, NormalisedHead) else head.weight

    def forward(self, tokens_BT: Tensor, context: AttentionContext | None = None) -> Tensor:
        """Logits [B, T, V] in the compute dtype."""
        return self.lm_head(self.hidden(tokens_BT, context))


def initialise(model: Decoder, generator: torch.Generator) -> None:
    """Normal weights of std 0.02, divided by sqrt(2 x layers) where a block adds to the residual (GPT-2)."""
    depth_scale = (2 * model.config.num_layers) ** -0.5
    for name, weight in model.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(weight)
        elif weight.dim() == 1:
            nn.init.ones_(weight)
        else:
            residual = name.removesuffix(".weight").endswith(("o_proj", "down_proj"))
            std = 0.02 * (depth_scale if residual else 1.0)
            _draw_normal(weight, std, generator)


@torch.no_grad()
def _draw_normal(weight: Tensor, std: float, generator: torch.Generator) -> None:
    """The same draws on any number of ranks: a sharded weight is drawn whole, and each rank keeps its part."""
    if not hasattr(weight, "device_mesh"):
        nn.init.normal_(weight, std=std, generator=generator)
        return
    from torch.distributed.tensor import DTensor, distribute_tensor  # a second of imports that only ranks need

    assert isinstance(weight, DTensor)
    drawn = nn.init.normal_(torch.empty(weight.shape), std=std, generator=generator)
    weight.copy_(distribute_tensor(drawn, weight.device_mesh, weight.placements, src_data_rank=None))
