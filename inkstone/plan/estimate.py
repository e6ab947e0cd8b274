"""A plan of a training run: does it fit, the nearest setting that does, tokens per second, hours, disk, traffic.

Speed is a range: the share of a device's peak that this loop was seen to reach, from the worst to the best of its kind
(docs/train.md says where each was measured). What nobody measured is not given.
"""

from dataclasses import dataclass

from inkstone.model import DecoderConfig
from inkstone.plan.hardware import Device
from inkstone.plan.memory import GIB, Memory, adapter_numbers, matrix_numbers, training_memory
from inkstone.train import TrainSettings
from inkstone.tune import SFTSettings

_SHARE_OF_PEAK = {"dense": (0.35, 0.60), "experts": (0.20, 0.40), "cpu": (0.35, 0.75)}
"""Least and most of the device's products, by the convention of `DecoderConfig.flops_per_token`."""
_SCALING = (0.85, 1.0)
"""What is left of each process's speed beside others."""
_ROOM = 0.92
"""Share of the device's memory that a run may plan for: the driver, the allocator's gaps."""


@dataclass(frozen=True)
class Estimate:
    """What a run takes on `count` devices. `tokens` and what follows from it are None where the data is not known."""

    device: Device
    count: int
    memory: Memory
    parameters: int
    trained: int
    tokens_per_second: tuple[float, float]
    tokens: int | None
    checkpoint_gib: float
    traffic_gib: float
    """Bytes that each process sends in a step."""

    @property
    def fits(self) -> bool:
        return self.memory.total <= _ROOM * self.device.memory_gib

    @property
    def hours(self) -> tuple[float, float] | None:
        """Least and most."""
        slow, fast = self.tokens_per_second
        return None if self.tokens is None else (self.tokens / fast / 3600, self.tokens / slow / 3600)


def estimate(
    config: DecoderConfig, settings: TrainSettings, device: Device, count: int = 1, tokens: int | None = None
) -> Estimate:
    """The plan of training `config` with these settings on `count` devices."""
    gpu = device.is_gpu
    memory = training_memory(
        config,
        settings,
        count,
        is_gpu=gpu,
        dtype_bytes=4 if settings.dtype == "float32" else 2,
        compiled=settings.compile != "off",
    )
    low, high = _SHARE_OF_PEAK["cpu" if not gpu else "experts" if config.num_experts else "dense"]
    work = config.flops_per_token(settings.sequence_length) * (4 / 3 if settings.recompute else 1)
    trained = config.num_parameters()
    if isinstance(settings, SFTSettings) and settings.adapted:
        work *= 2 / 3  # frozen weights need no gradient of their own
        trained = adapter_numbers(config, settings.adapted)
    peak = device.tflops * 1e12 * count / work
    keep = _SCALING if count > 1 else (1.0, 1.0)
    moments = memory.optimizer * settings.shard * settings.tensor
    return Estimate(
        device=device,
        count=count,
        memory=memory,
        parameters=config.num_parameters(),
        trained=trained,
        tokens_per_second=(peak * low * keep[0], peak * high * keep[1]),
        tokens=tokens,
        checkpoint_gib=4 * trained / GIB + moments,
        traffic_gib=_traffic(config, settings, count) / GIB,
    )


def _traffic(config: DecoderConfig, settings: TrainSettings, count: int) -> float:
    """Bytes each process sends in a step: gradients once, and sharded weights for every forward and backward.

    A ring over n processes sends (n - 1) / n of the data for a gather or a scatter, twice that for a sum.
    """
    tensor, shard = settings.tensor, settings.shard
    whole, copies = 4.0 * config.num_parameters() / tensor, count // (shard * tensor)
    micro_batches = max(1, settings.batch_tokens // max(1, count // tensor) // settings.micro_tokens)
    sharded = (shard - 1) / shard * whole * micro_batches * 3
    summed = 2 * (copies - 1) / copies * whole / shard
    # Four sums in each layer (two forward, two backward) of a micro-batch's hidden states, in 16 bits.
    hidden = 2.0 * settings.micro_tokens * config.hidden_size
    split = 2 * (tensor - 1) / tensor * hidden * 4 * config.num_layers * micro_batches
    # Muon gathers its momenta, in 16 bits.
    parts = shard * tensor if settings.optimizer == "muon" else 1
    gathered = (parts - 1) / parts * 2 * config.num_layers * matrix_numbers(config)
    return sharded + summed + split + gathered


def nearest_fit(
    config: DecoderConfig, settings: TrainSettings, device: Device, count: int, tokens: int | None = None
) -> tuple[dict[str, int | bool], Estimate] | None:
    """The smallest change of machine settings that fits, or None; tried in the order of what it costs."""
    rows = [settings.sequence_length * 2**power for power in range(24)]
    micro = [size for size in reversed(rows) if size < settings.micro_tokens and settings.batch_tokens % size == 0]
    shards = [size for size in range(2, count + 1) if count % size == 0]
    changes: list[dict[str, int | bool]] = [{"micro_batch_tokens": size} for size in micro]
    changes += [{"recompute": True}, {"recompute": True, "micro_batch_tokens": settings.sequence_length}]
    changes += [{"shard": size} for size in shards]
    changes += [{"shard": size, "recompute": True} for size in shards]
    last = {"recompute": True, "micro_batch_tokens": settings.sequence_length}
    changes += [{"shard": size, **last} for size in shards]
    for change in changes:
        made = estimate(config, settings.model_copy(update=change), device, count, tokens)
        if made.fits:
            return change, made
    return None


def fewest_devices(config: DecoderConfig, settings: TrainSettings, device: Device) -> int | None:
    """How many of the device it takes with everything that saves memory; None beyond 4,096."""
    least = {"recompute": True, "micro_batch_tokens": settings.sequence_length}
    for count in (2**power for power in range(13)):
        changed = settings.model_copy(update={**least, "shard": count})
        if estimate(config, changed, device, count).fits:
            return count
    return None
