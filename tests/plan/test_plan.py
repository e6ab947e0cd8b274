"""A plan's figures are those of the real thing: what autograd keeps, what was measured, what does not fit and why."""

import itertools

import numpy as np
import pytest
import torch

from inkstone.errors import InputError
from inkstone.model import DecoderConfig, ModelSettings
from inkstone.plan import estimate, find_device, nearest_fit, training_memory
from inkstone.plan.memory import GIB, adapter_numbers
from inkstone.train import Batch, NextToken, Row, TrainSettings, new_model
from inkstone.tune import SFTSettings
from inkstone.tune.adapter import LoraSettings, PrefixSettings, attach

SHAPES = [
    {},
    {"num_kv_heads": 2},
    {"num_experts": 4, "experts_per_token": 2},
]


def kept_bytes(settings: ModelSettings, length: int, rows: int) -> int:
    """Bytes of the storages, other than weights, that a forward leaves for the backward pass of one block."""
    counts = []
    for layers in (1, 2):
        model = new_model(settings.model_copy(update={"num_layers": layers}), 64, 1)
        model.compute_dtype = torch.bfloat16
        weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
        kept: dict[int, torch.Tensor] = {}

        def keep(tensor: torch.Tensor, weights: set[int] = weights, kept: dict[int, torch.Tensor] = kept) -> object:
            place = tensor.untyped_storage().data_ptr()
            if place not in weights:
                kept[place] = tensor
            return tensor

        ids = np.arange(length)
        row = Row(ids % 64, ids, np.zeros(length, np.int64), np.ones(length, np.float32))
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            NextToken()(model, Batch.stack([row] * rows), {})
        counts.append(sum(tensor.untyped_storage().nbytes() for tensor in kept.values()))
    return counts[1] - counts[0]


@pytest.mark.parametrize("shape", SHAPES)
def test_activations_are_what_autograd_keeps(shape: dict[str, int]) -> None:
    """Counted on real blocks that are not compiled, per layer, weights' casts included."""
    model = ModelSettings(hidden_size=64, num_layers=2, num_heads=4, intermediate_size=160, max_positions=64, **shape)
    length, rows = 64, 8
    settings = TrainSettings(sequence_length=length, batch_tokens=length * rows)
    planned = [
        training_memory(
            model.model_copy(update={"num_layers": layers}).decoder_config(64), settings, is_gpu=False, compiled=False
        ).activations
        for layers in (1, 2)
    ]
    assert (planned[1] - planned[0]) * GIB == pytest.approx(kept_bytes(model, length, rows), rel=0.02)


# (hidden, layers, intermediate, vocabulary, experts, length, micro-batch, optimizer, GiB): peaks on one H100.
MEASURED = [
    (1024, 24, 2752, 32000, 0, 2048, 32768, "adamw", 32.7),
    (2048, 24, 5504, 64000, 0, 4096, 16384, "adamw", 52.7),
    (2048, 24, 5504, 64000, 0, 4096, 16384, "muon", 47.1),
    (1024, 12, 2816, 32000, 8, 2048, 16384, "adamw", 29.2),
]


@pytest.mark.parametrize("point", MEASURED)
def test_memory_is_within_a_tenth_of_what_a_gpu_was_seen_to_take(point: tuple[int, ...]) -> None:
    hidden, layers, wide, vocab, experts, length, micro, optimizer, measured = point
    shape = ModelSettings(
        hidden_size=hidden, num_layers=layers, num_heads=hidden // 64, intermediate_size=wide, max_positions=length,
        tie_embeddings=False, num_experts=experts,
    )  # fmt: skip
    settings = TrainSettings.model_validate(
        {"sequence_length": length, "batch_tokens": 2 * micro, "micro_batch_tokens": micro, "optimizer": optimizer}
    )
    total = training_memory(shape.decoder_config(vocab), settings, is_gpu=True).total
    assert total == pytest.approx(float(measured), rel=0.1)


SEVEN_B = DecoderConfig(
    vocab_size=64000, hidden_size=4096, intermediate_size=11008, num_layers=32, num_heads=32, num_kv_heads=32,
    head_dim=128, max_positions=4096,
)  # fmt: skip
LONG = TrainSettings(sequence_length=4096, batch_tokens=4194304, micro_batch_tokens=16384)


def test_what_does_not_fit_gets_the_cheapest_change_that_does() -> None:
    device = find_device("h200")
    assert not estimate(SEVEN_B, LONG, device, 8).fits
    found = nearest_fit(SEVEN_B, LONG, device, 8)
    assert found is not None
    change, made = found
    assert made.fits and set(change) <= {"micro_batch_tokens", "recompute", "shard"}
    assert nearest_fit(SEVEN_B, LONG, find_device("4090"), 1) is None


def test_sharding_divides_what_is_kept_and_more_devices_are_faster() -> None:
    device = find_device("h100")
    whole, split = (estimate(SEVEN_B, LONG.model_copy(update={"shard": n}), device, 8) for n in (1, 8))
    for part in ("weights", "gradients", "optimizer"):
        assert whole.memory.parts()[part] == pytest.approx(8 * split.memory.parts()[part])
    speeds = [estimate(SEVEN_B, LONG, device, count).tokens_per_second for count in (1, 2, 8)]
    assert all(low[0] < high[0] and low[1] < high[1] for low, high in itertools.pairwise(speeds))


def test_muon_sends_the_momenta_of_split_matrices_too() -> None:
    device, matrices = find_device("h200"), 32 * (4096 * 4096 * 4 + 4096 * 11008 * 3)
    settings = LONG.model_copy(update={"shard": 8})
    sent = [
        estimate(SEVEN_B, settings.model_copy(update={"optimizer": kind}), device, 8).traffic_gib * 2**30
        for kind in ("adamw", "muon")
    ]
    assert sent[1] - sent[0] == pytest.approx(7 / 8 * 2 * matrices, rel=1e-3)


def test_unknown_hardware_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(InputError, match=r"unknown hardware.*did you mean h100"):
        find_device("h101")


@pytest.mark.parametrize(
    ("shape", "lora"),
    [
        ({}, {"rank": 4}),
        ({"num_kv_heads": 2}, {"rank": 8, "dora": True, "targets": ["q_proj", "v_proj", "down_proj"]}),
        ({"num_experts": 4, "experts_per_token": 2}, {"rank": 4}),
        ({}, {"rank": 4, "embeddings": True}),
        ({"num_kv_heads": 2}, {"length": 7}),
    ],
)
def test_an_adapters_numbers_are_those_that_train(shape: dict[str, int], lora: dict[str, object]) -> None:
    settings = (PrefixSettings if "length" in lora else LoraSettings).model_validate(lora)
    model = new_model(ModelSettings(hidden_size=64, num_layers=2, num_heads=4, intermediate_size=160, **shape), 96, 1)
    attach(model, settings, 1, whole=True)
    trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    assert adapter_numbers(model.config, settings) == trained


def test_an_adapter_needs_a_part_of_the_memory_and_a_packed_base_a_part_of_that() -> None:
    """Baichuan-7B's shape: published QLoRA runs of 7 B models take 7 to 16 GB, LoRA on 16-bit bases 18 to 24."""
    config = ModelSettings(
        hidden_size=4096, num_layers=32, num_heads=32, intermediate_size=11008, max_positions=4096, tie_embeddings=False
    ).decoder_config(64_000)
    shared = {"inputs": ["x"], "sequence_length": 1024, "batch_tokens": 1024}
    tunings = [{}, {"adapter": "lora"}, {"adapter": "lora", "lora": {"quantize": "nf4"}}]
    made = [
        estimate(config, SFTSettings.model_validate({**shared, **more}), find_device("h100"), 1, 10**6)
        for more in tunings
    ]
    whole, lora, packed = (one.memory.total for one in made)
    assert whole > 100 and lora < 0.5 * whole and 8 < packed < 20
    assert made[1].tokens_per_second[0] == pytest.approx(1.5 * made[0].tokens_per_second[0])
