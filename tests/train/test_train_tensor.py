"""Layers and experts split over tensor ranks do what one process does: dense and mixture, RoPE and ALiBi, with FSDP."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_train_ranks import free_port
from train_samples import SHAPE, SampleRows, start, tiny_model, tiny_settings

from inkstone.errors import InputError
from inkstone.model import Decoder, DecoderConfig, save_model
from inkstone.model.decoder.decoder import initialise
from inkstone.progress import Silent
from inkstone.train import InOrder, TrainSettings, join_mesh, train
from inkstone.train.parallelize import empty, gathered, open_model

DENSE = replace(SHAPE, num_heads=4, num_kv_heads=2)
SHAPES = {
    "rope": DENSE,
    "alibi": replace(
        DENSE, position="alibi", num_kv_heads=4, qkv_bias=True, out_bias=True, mlp_bias=True, gated=False,
        norm="layer", activation="gelu_tanh",
    ),
    "mixture": replace(DENSE, num_experts=4, experts_per_token=2, router_aux_loss=0.01, tie_embeddings=False),
}  # fmt: skip
MODEL = "model.safetensors"


def one_rank(
    rank: int, size: int, port: int, config: DecoderConfig, folder: Path, settings: TrainSettings, base: Path | None
) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    mesh = join_mesh(settings.shard, settings.tensor)
    model = open_model(base, mesh) if base else empty(config, mesh)
    if base is None:
        initialise(model, torch.Generator().manual_seed(0))
    held = sum(p.to_local().numel() if hasattr(p, "to_local") else p.numel() for p in model.parameters())
    assert held < config.num_parameters(), "a rank holds its part only"
    train(model, InOrder(SampleRows()), settings, folder / "scratch", Silent(), mesh=mesh)
    whole = gathered(model, mesh)
    if mesh.first:
        save_file({name: p.detach() for name, p in whole.named_parameters()}, folder / MODEL)


def many(folder: Path, config: DecoderConfig, size: int, settings: TrainSettings, base: Path | None = None) -> None:
    folder.mkdir(exist_ok=True)
    port = free_port()
    ranks = [start(one_rank, rank, size, port, config, folder, settings, base) for rank in range(size)]
    for process in ranks:
        process.join(90)
        if process.is_alive():
            process.kill()
    assert [process.exitcode for process in ranks] == [0] * size


def alone(folder: Path, config: DecoderConfig, settings: TrainSettings) -> Decoder:
    model = Decoder(config)
    initialise(model, torch.Generator().manual_seed(0))
    train(model, InOrder(SampleRows()), settings, folder / "scratch", Silent())
    return model


def check(folder: Path, expected: Decoder, other: Path) -> None:
    weights = load_file(folder / MODEL)
    for name, weight in expected.named_parameters():
        torch.testing.assert_close(weights[name], weight.detach(), atol=5e-5, rtol=1e-3)
    lines = [(place / "scratch" / "metrics.jsonl").read_text().splitlines() for place in (folder, other)]
    for split, whole in zip(*lines, strict=True):
        for figure in ("loss", "grad_norm"):
            assert json.loads(split)[figure] == pytest.approx(json.loads(whole)[figure], rel=1e-3)


@pytest.mark.parametrize("kind", ["rope", "mixture", pytest.param("alibi", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("size", "shard"),
    [(2, 1), pytest.param(4, 2, marks=pytest.mark.slow), pytest.param(4, 1, marks=pytest.mark.slow)],
    ids=["tensor", "tensor x shard", "tensor x copies"],
)
def test_split_layers_end_with_the_weights_of_whole_ones(kind: str, size: int, shard: int, tmp_path: Path) -> None:
    plain = {"max_steps": 8, "micro_batch_tokens": 16, "gradient_clip": 0.3}
    many(tmp_path / "many", SHAPES[kind], size, tiny_settings(shard=shard, tensor=2, **plain))
    check(tmp_path / "many", alone(tmp_path / "one", SHAPES[kind], tiny_settings(**plain)), tmp_path / "one")


@pytest.mark.parametrize(
    ("kind", "shard", "tensor"),
    [("rope", 2, 1), ("mixture", 1, 2), pytest.param("mixture", 2, 2, marks=pytest.mark.slow)],
    ids=["shards", "experts", "shards of tensor ranks"],
)
def test_muon_turns_split_matrices_as_if_they_were_whole(kind: str, shard: int, tensor: int, tmp_path: Path) -> None:
    plain = {"max_steps": 6, "micro_batch_tokens": 16, "optimizer": "muon"}
    many(tmp_path / "many", SHAPES[kind], shard * tensor, tiny_settings(shard=shard, tensor=tensor, **plain))
    check(tmp_path / "many", alone(tmp_path / "one", SHAPES[kind], tiny_settings(**plain)), tmp_path / "one")


def test_tensor_and_shard_together_and_a_checkpoint_that_others_read(tmp_path: Path) -> None:
    """Four ranks train six steps, then one process, then two tensor ranks: as if one had done it all."""
    config, plain = SHAPES["rope"], {"micro_batch_tokens": 16, "checkpoint_steps": 3}
    many(tmp_path / "many", config, 4, tiny_settings(shard=2, tensor=2, max_steps=12, **plain))
    whole = alone(tmp_path / "one", config, tiny_settings(max_steps=12, **plain))
    check(tmp_path / "many", whole, tmp_path / "one")
    kept = tmp_path / "many" / "scratch" / "checkpoints"
    shutil.rmtree(kept / "step-00000012")
    (tmp_path / "many" / MODEL).unlink()
    shutil.copytree(tmp_path / "many", tmp_path / "continued")
    continued = alone(tmp_path / "continued", config, tiny_settings(max_steps=12, **plain))
    for name, weight in whole.named_parameters():
        torch.testing.assert_close(dict(continued.named_parameters())[name], weight, atol=5e-5, rtol=1e-3)
    many(tmp_path / "many", config, 2, tiny_settings(tensor=2, max_steps=12, **plain))
    check(tmp_path / "many", whole, tmp_path / "one")


def test_a_base_is_read_in_parts(tmp_path: Path) -> None:
    model = Decoder(DENSE)
    initialise(model, torch.Generator().manual_seed(5))
    save_model(model, tmp_path / "base", bos_id=0, eos_id=1, pad_id=2, stop_ids=[1])
    many(tmp_path / "many", DENSE, 2, tiny_settings(tensor=2, max_steps=1, learning_rate=1e-12), tmp_path / "base")
    found = load_file(tmp_path / "many" / MODEL)
    assert all(torch.allclose(found[name], weight, atol=1e-7) for name, weight in model.named_parameters())


def test_heads_and_processes_that_cannot_be_dealt_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from inkstone.train.tensor_parallel import split_layers

    class Group:
        def size(self) -> int:
            return 2

    with pytest.raises(InputError, match="tensor = 2 does not divide the model's num_kv_heads = 1"):
        split_layers(tiny_model(), Group())  # type: ignore[arg-type]
    monkeypatch.setenv("WORLD_SIZE", "6")
    with pytest.raises(InputError, match="shard = 2 x tensor = 2 does not divide the 6 processes"):
        join_mesh(shard=2, tensor=2)
