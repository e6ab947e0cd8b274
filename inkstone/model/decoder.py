"""The decoder: embedding, pre-norm blocks of attention and SwiGLU, final norm, head.

Weights carry the names of Hugging Face Llama, so reading and writing that family is the identity. Weights may be kept
in float32 while the arithmetic runs in `compute_dtype`: every layer casts its weight to the dtype of its input, which
costs one pass over the weights and keeps gradients and the optimizer in float32.

Shapes: B rows, T tokens, D hidden, H heads, K kv heads, d head_dim, V vocabulary.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inkstone.model.attention import AttentionContext, PackedContext
from inkstone.model.config import DecoderConfig
from inkstone.model.position import rotary_angles, rotate


class Linear(nn.Linear):
    """A linear map without bias that computes in the dtype of its input."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.to(x.dtype))


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


class Attention(nn.Module):
    """Grouped-query attention with rotary positions; masking and caching belong to the context."""

    def __init__(self, config: DecoderConfig, layer: int) -> None:
        super().__init__()
        self.layer, self.head_dim = layer, config.head_dim
        self.q_proj = Linear(config.hidden_size, config.num_heads * config.head_dim)
        self.k_proj = Linear(config.hidden_size, config.num_kv_heads * config.head_dim)
        self.v_proj = Linear(config.hidden_size, config.num_kv_heads * config.head_dim)
        self.o_proj = Linear(config.num_heads * config.head_dim, config.hidden_size)

    def forward(self, x_BTD: Tensor, angles: tuple[Tensor, Tensor], context: AttentionContext) -> Tensor:
        heads = (*x_BTD.shape[:2], -1, self.head_dim)
        q_BHTd = rotate(self.q_proj(x_BTD).view(heads).transpose(1, 2), *angles)
        k_BKTd = rotate(self.k_proj(x_BTD).view(heads).transpose(1, 2), *angles)
        v_BKTd = self.v_proj(x_BTD).view(heads).transpose(1, 2)
        out_BHTd = context.attend(self.layer, q_BHTd, k_BKTd, v_BKTd)
        return self.o_proj(out_BHTd.transpose(1, 2).flatten(2))


class MLP(nn.Module):
    """SwiGLU: down(silu(gate x) * up x) (Shazeer 2020, arXiv 2002.05202)."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.gate_proj = Linear(config.hidden_size, config.intermediate_size)
        self.up_proj = Linear(config.hidden_size, config.intermediate_size)
        self.down_proj = Linear(config.intermediate_size, config.hidden_size)

    def forward(self, x_BTD: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x_BTD)) * self.up_proj(x_BTD))


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, config: DecoderConfig, layer: int) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.norm_eps)
        self.self_attn = Attention(config, layer)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.norm_eps)
        self.mlp = MLP(config)

    def forward(self, x_BTD: Tensor, angles: tuple[Tensor, Tensor], context: AttentionContext) -> Tensor:
        x_BTD = x_BTD + self.self_attn(self.input_layernorm(x_BTD), angles, context)
        return x_BTD + self.mlp(self.post_attention_layernorm(x_BTD))


class Trunk(nn.Module):
    """Everything but the head; a module of its own because Hugging Face names it `model.`."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Block(config, layer) for layer in range(config.num_layers))
        self.norm = RMSNorm(config.hidden_size, config.norm_eps)


class Decoder(nn.Module):
    """tokens to logits. `compute_dtype` is the dtype of the arithmetic; default: that of the weights."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.compute_dtype: torch.dtype | None = None
        self.model = Trunk(config)
        self.lm_head = Linear(config.hidden_size, config.vocab_size)
        if config.tie_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight

    @property
    def dtype(self) -> torch.dtype:
        return self.compute_dtype or self.lm_head.weight.dtype

    def hidden(self, tokens_BT: Tensor, context: AttentionContext | None = None) -> Tensor:
        """The final norm's output [B, T, D]; without a context every row is one document."""
        context = context or PackedContext.whole_rows(tokens_BT.shape[0], tokens_BT.shape[1], tokens_BT.device)
        angles = rotary_angles(self.config, context.positions_BT)
        x_BTD = self.model.embed_tokens(tokens_BT).to(self.dtype)
        for block in self.model.layers:
            x_BTD = block(x_BTD, angles, context)
        return self.model.norm(x_BTD)

    def forward(self, tokens_BT: Tensor, context: AttentionContext | None = None) -> Tensor:
        """Logits [B, T, V] in the compute dtype."""
        return self.lm_head(self.hidden(tokens_BT, context))


def initialise(model: Decoder, generator: torch.Generator) -> None:
    """Normal weights of std 0.02, divided by sqrt(2 x layers) where a block adds to the residual (GPT-2)."""
    depth_scale = (2 * model.config.num_layers) ** -0.5
    for name, weight in model.named_parameters():
        if weight.dim() == 1:
            nn.init.ones_(weight)
        else:
            residual = name.endswith(("o_proj.weight", "down_proj.weight"))
            nn.init.normal_(weight, std=0.02 * (depth_scale if residual else 1.0), generator=generator)
