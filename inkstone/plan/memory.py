"""The memory of a training process at its peak, by part: what autograd really keeps, counted per token and layer.

The formula of a block is what torch saves for its backward pass: compiled, its inputs and those of each product; not
compiled, every norm's wide copy and what the activation made too. A test counts the saved tensors of real blocks and
compares. Against four peaks measured on an H100 (a 369 M, a 1.5 B with AdamW and Muon, a mixture) it is within 10 %. On
a CPU the heap's gaps come on top: shares of what comes and goes in a step, measured, not derived.
"""

from dataclasses import dataclass

from inkstone.model import DecoderConfig
from inkstone.train import TrainSettings
from inkstone.train.loss import CHUNK
from inkstone.tune import SFTSettings
from inkstone.tune.adapter import LoraSettings, PrefixSettings

GIB = 2**30
_GAPS_COMPILED, _GAPS_EAGER = 0.5, 0.9
_EXPLICIT_TOKENS, _TILE = 1024, 128
"""Up to this length a CPU keeps the probabilities of attention, in such tiles (`model/decoder/cpu_attention.py`)."""


@dataclass(frozen=True)
class Memory:
    """GiB of one process at the peak of a step."""

    weights: float
    gradients: float
    optimizer: float
    activations: float
    loss: float
    communication: float
    heap_gaps: float

    @property
    def total(self) -> float:
        return sum(self.parts().values())

    def parts(self) -> dict[str, float]:
        """Name to GiB, in the order of a table."""
        return dict(vars(self))


def training_memory(
    config: DecoderConfig,
    settings: TrainSettings,
    count: int = 1,
    *,
    is_gpu: bool,
    dtype_bytes: int = 2,
    compiled: bool = True,
) -> Memory:
    """What one of `count` processes needs for a step of these settings.

    Weights, gradients and moments are float32 and split over `settings.shard` processes, those of the layers over
    `settings.tensor` too; a cast copy of each block's weights lives as long as its activations. With an adapter only
    its numbers have gradients and moments, and a packed base is dequantised map by map.
    """
    shard, tensor = settings.shard, settings.tensor
    outer = config.num_parameters() - config.num_layers * matrix_numbers(config)
    inner = config.num_layers * matrix_numbers(config) / tensor
    numbers = (inner + outer) / shard
    moments = 8 * numbers if settings.optimizer == "adamw" else 8 * (numbers - inner / shard) + 4 * inner / shard
    trained, stored, packed = numbers, 4 * numbers, False
    if isinstance(settings, SFTSettings) and settings.adapted:
        trained = adapter_numbers(config, settings.adapted)
        moments, packed = 8 * trained, settings.adapted.quantize is not None
        stored = 4 * (outer + trained) + _STORED_BYTES[settings.adapted.quantize] * inner
    tokens = min(settings.micro_tokens, settings.batch_tokens // max(1, count // tensor))
    layer = _layer_bytes(config, settings.sequence_length, dtype_bytes, compiled, is_gpu, tensor) * tokens
    casts = dtype_bytes * inner / (config.num_layers if packed else 1) if dtype_bytes < 4 or packed else 0
    kept = config.num_layers * layer + casts
    if settings.recompute:
        kept = config.num_layers * dtype_bytes * config.hidden_size * tokens + layer + casts / config.num_layers
    head = config.vocab_size * config.hidden_size
    logits = CHUNK * config.vocab_size * (dtype_bytes * 2 + 4 * 3)
    gathered = 2 * 4 * inner / config.num_layers + 4 * head if shard > 1 else 0
    summed = 4 * trained if count > shard * tensor else 0
    loss = 2 * 4 * head + dtype_bytes * 2 * tokens * config.hidden_size + logits
    gaps = 0.0 if is_gpu else (kept + loss) * (_GAPS_COMPILED if compiled else _GAPS_EAGER)
    return Memory(
        weights=stored / GIB,
        gradients=4 * trained / GIB,
        optimizer=moments / GIB,
        activations=kept / GIB,
        loss=loss / GIB,
        communication=(gathered + summed) / GIB,
        heap_gaps=gaps / GIB,
    )


_STORED_BYTES = {None: 4.0, "int8": 1.01, "int4": 0.55, "nf4": 0.52}
"""Of a frozen number, scales included."""


def adapter_numbers(config: DecoderConfig, lora: LoraSettings | PrefixSettings) -> int:
    """Numbers of a low-rank adapter: rank x (in + out) of each map that has one; whole embeddings where asked.

    Of a prefix: keys and values of each virtual token.
    """
    if isinstance(lora, PrefixSettings):
        return config.num_layers * 2 * config.num_kv_heads * config.head_dim * lora.length
    width, heads = config.hidden_size, config.num_heads * config.head_dim
    keys, ffn = config.num_kv_heads * config.head_dim, 0 if config.num_experts else config.intermediate_size
    sides = {"q_proj": (width, heads), "k_proj": (width, keys), "v_proj": (width, keys), "o_proj": (heads, width)}
    if ffn:
        sides |= {"up_proj": (width, ffn), "down_proj": (ffn, width)} | (
            {"gate_proj": (width, ffn)} if config.gated else {}
        )
    pairs = [sides[name] for name in lora.targets if name in sides]
    block = sum(lora.rank * (one + other) + lora.dora * other for one, other in pairs)
    tables = config.vocab_size * width * (1 if config.tie_embeddings else 2) if lora.embeddings else 0
    return config.num_layers * block + tables


def matrix_numbers(config: DecoderConfig) -> int:
    """Numbers in the matrices of one block."""
    attention = config.hidden_size * config.head_dim * 2 * (config.num_heads + config.num_kv_heads)
    mlp = config.hidden_size * config.intermediate_size * (3 if config.gated else 2)
    return attention + mlp * max(1, config.num_experts) + config.num_experts * config.hidden_size


def _layer_bytes(config: DecoderConfig, length: int, b: int, compiled: bool, is_gpu: bool, tensor: int = 1) -> float:
    """Bytes that one token leaves for one layer's backward pass on each of `tensor` ranks; `b` bytes a number."""
    width, ffn = config.hidden_size, config.intermediate_size / tensor
    heads, keys, each = (
        size / tensor
        for size in (config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim, config.num_heads)
    )
    kept = b * (4 * width + 2 * heads)
    if is_gpu or length > _EXPLICIT_TOKENS:
        kept += b * (heads + 2 * keys) + 4 * each
    else:  # keys and values for every head, and the probabilities of the tiles that are not all ahead
        kept += b * (2 * heads + each * (length + min(length, _TILE)) / 2)
    mlp = b * ffn * (3 if config.gated else 2)
    if not compiled:  # each norm keeps a float32 copy, and the MLP what its activation made
        kept += 2 * 4 * width
        mlp += b * ffn
    if config.num_experts:
        mlp = config.experts_per_token * (mlp + 2 * b * width + 20) + 8 * config.num_experts
    return kept + mlp + 8
