"""`DecoderConfig`: everything that decides the decoder's shape and arithmetic, and nothing else.

Names are the field's; `families.py` maps each family's config.json to and from it. Frozen, so that a model's shape
cannot drift from the configuration it was built with.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class DecoderConfig:
    """Shape of a pre-norm decoder: RMSNorm, rotary positions, grouped-query attention, SwiGLU."""

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

    def problems(self) -> list[str]:
        """What makes this shape impossible, one sentence each; empty when it is fine."""
        found = []
        if self.num_heads % self.num_kv_heads:
            found.append(f"num_heads = {self.num_heads} is not a multiple of num_kv_heads = {self.num_kv_heads}")
        if self.head_dim % 2:
            found.append(f"head_dim = {self.head_dim} is odd: rotary positions turn pairs of dimensions")
        return found

    def num_parameters(self) -> int:
        """Trainable numbers, counting a tied embedding once."""
        embeddings = self.vocab_size * self.hidden_size * (1 if self.tie_embeddings else 2)
        attention = self.hidden_size * self.head_dim * 2 * (self.num_heads + self.num_kv_heads)
        mlp = 3 * self.hidden_size * self.intermediate_size
        norms = 2 * self.hidden_size
        return embeddings + self.num_layers * (attention + mlp + norms) + self.hidden_size

    def flops_per_token(self, context_length: int) -> float:
        """Training FLOPs per token: 6 N over matmul weights + full attention (PaLM appendix B; no causal credit)."""
        embeddings = self.vocab_size * self.hidden_size * (1 if self.tie_embeddings else 2)
        matmul = self.num_parameters() - embeddings + self.vocab_size * self.hidden_size
        return 6.0 * matmul + 12.0 * self.num_layers * self.num_heads * self.head_dim * context_length
