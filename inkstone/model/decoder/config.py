"""`DecoderConfig`: everything that decides the decoder's shape and arithmetic, and nothing else.

Names are the field's; `families/` maps each family's config.json to and from it. Frozen, so that a model's shape
cannot drift from the configuration it was built with.
"""

from dataclasses import dataclass, replace
from typing import Literal


@dataclass(frozen=True)
class RopeScaling:
    """How rotary angles are stretched beyond the length a model was first trained on.

    `linear` divides positions by `factor`. `dynamic` (NTK) raises the base for sequences longer than
    `original_positions`. `llama3` divides low frequencies by `factor`, keeps high ones and blends between. `yarn` does
    so too, with its borders given as turns within `original_positions` and lengthened queries and keys.
    """

    kind: Literal["linear", "dynamic", "llama3", "yarn"]
    factor: float
    original_positions: int
    low_frequency_factor: float = 1.0
    high_frequency_factor: float = 4.0
    """With `yarn` these two are beta_slow and beta_fast."""
    attention_factor: float = 1.0
    """`yarn`: what queries and keys are multiplied with."""
    truncate: bool = True
    """`yarn`: whether the borders of blending are rounded to whole pairs."""


# Beyond these a config.json is damaged or hostile; a shape is built (without memory for its weights) to count it.
_MOST = {"num_layers": 2048, "num_experts": 8192, "num_heads": 2**20, "hidden_size": 2**24, "vocab_size": 2**26}


@dataclass(frozen=True)
class DecoderConfig:
    """Shape of a pre-norm decoder; the defaults are Llama's: RMSNorm, rotary positions, gated SiLU, no biases."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    max_positions: int
    rope_theta: float = 10000.0
    norm_eps: float = 1e-5
    tie_embeddings: bool = False
    norm: Literal["rms", "layer"] = "rms"
    embedding_norm: bool = False
    position: Literal["rope", "alibi"] = "rope"
    rotary_dim: int | None = None
    """Dimensions of each head that rotary positions turn; None: all of them."""
    rope_scaling: RopeScaling | None = None
    sliding_window: int | None = None
    """A token sees itself and the `sliding_window` - 1 tokens before it; None: all."""
    qk_norm: bool = False
    """Each head's query and key pass an RMS norm before they turn (Qwen3)."""
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    gated: bool = True
    activation: Literal["silu", "gelu_tanh"] = "silu"
    num_experts: int = 0
    """0: one dense MLP per block."""
    experts_per_token: int = 2
    normalised_shares: bool = True
    """A token's chosen experts have shares that sum to 1; else those of a softmax over all experts."""
    router_aux_loss: float = 0.0
    """Weight of the load-balancing loss in training."""
    normalised_head: bool = False
    """The output head's rows are divided by their length (Baichuan 2)."""
    first_head: int = 0
    """The model's number of the first head held here; see `heads_of`."""
    all_heads: int | None = None
    """Heads of the whole model where only a part is held here; None: all are."""

    def heads_of(self, rank: int, size: int) -> "DecoderConfig":
        """What a tensor-parallel rank holds of the heads: its contexts and caches are made from this."""
        heads, groups = self.num_heads // size, max(1, self.num_kv_heads // size)
        return replace(self, num_heads=heads, num_kv_heads=groups, first_head=rank * heads, all_heads=self.num_heads)

    def problems(self) -> list[str]:
        """What makes this shape impossible, one sentence each; empty when it is fine."""
        found = [
            f"{name} = {getattr(self, name)} is larger than any model's ({most} at most)"
            for name, most in _MOST.items()
            if getattr(self, name) > most
        ]
        if self.num_heads % self.num_kv_heads:
            found.append(f"num_heads = {self.num_heads} is not a multiple of num_kv_heads = {self.num_kv_heads}")
        if self.position == "rope" and self.rotary_dim is None and self.head_dim % 2:
            found.append(f"head_dim = {self.head_dim} is odd: rotary positions turn pairs of dimensions")
        if self.rotary_dim is not None and (self.rotary_dim % 2 or not 0 < self.rotary_dim <= self.head_dim):
            found.append(f"rotary_dim = {self.rotary_dim} must be even and at most head_dim = {self.head_dim}")
        if self.sliding_window is not None and self.sliding_window < 1:
            found.append(f"sliding_window = {self.sliding_window} lets a token see nothing: it must be at least 1")
        if self.num_experts and not 1 <= self.experts_per_token <= self.num_experts:
            found.append(f"experts_per_token = {self.experts_per_token} must be 1 to num_experts = {self.num_experts}")
        if self.num_experts and (self.mlp_bias or not self.gated):
            found.append("experts are gated and have no biases: unset mlp_bias and gated = false")
        return found

    @property
    def angles_depend_on_length(self) -> bool:
        """Whether a token's rotary angles depend on how long its sequence is in the end (dynamic scaling)."""
        return self.rope_scaling is not None and self.rope_scaling.kind == "dynamic"

    @property
    def position_limit(self) -> int | None:
        """Longest sequence the arithmetic is meant for; None where positions extrapolate (ALiBi)."""
        if self.position == "alibi":
            return None
        if self.rope_scaling and self.angles_depend_on_length:
            return int(self.rope_scaling.factor * self.max_positions)
        if self.rope_scaling and self.rope_scaling.kind == "yarn":
            return max(self.max_positions, int(self.rope_scaling.factor * self.rope_scaling.original_positions))
        return self.max_positions

    def num_parameters(self) -> int:
        """Trainable numbers, counting a tied embedding once."""
        return self._embeddings() + self.num_layers * self._block(max(1, self.num_experts)) + self._norms_outside()

    def num_active_parameters(self) -> int:
        """Those that one token meets: of the experts, only the chosen ones."""
        mlps = self.experts_per_token if self.num_experts else 1
        return self._embeddings() + self.num_layers * self._block(mlps) + self._norms_outside()

    def flops_per_token(self, context_length: int) -> float:
        """Training FLOPs per token: 6 N over matmul weights + full attention (PaLM appendix B; no causal credit)."""
        matmul = self.num_active_parameters() - self._embeddings() + self.vocab_size * self.hidden_size
        return 6.0 * matmul + 12.0 * self.num_layers * self.num_heads * self.head_dim * context_length

    def _embeddings(self) -> int:
        return self.vocab_size * self.hidden_size * (1 if self.tie_embeddings else 2)

    def _norm(self) -> int:
        return self.hidden_size * (2 if self.norm == "layer" else 1)

    def _norms_outside(self) -> int:
        return self._norm() * (2 if self.embedding_norm else 1)

    def _block(self, mlps: int) -> int:
        qkv = self.head_dim * (self.num_heads + 2 * self.num_kv_heads)
        attention = self.hidden_size * (qkv + self.head_dim * self.num_heads)
        attention += self.qkv_bias * qkv + self.out_bias * self.hidden_size + self.qk_norm * 2 * self.head_dim
        up = self.intermediate_size * (2 if self.gated else 1)
        mlp = self.hidden_size * (up + self.intermediate_size) + self.mlp_bias * (up + self.hidden_size)
        return attention + mlps * mlp + self.num_experts * self.hidden_size + 2 * self._norm()
