"""What loading and converting cost in memory, measured on a checkpoint of 140 MB in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from checkpoint_samples import CONFIGS, tensors_of
from safetensors.torch import save_file

MIB = 1 << 20
SLACK = 25  # MiB: what torch imports on first use, and allocators
SHARDS = 4
LARGE = {
    **CONFIGS["mixtral"], "vocab_size": 8000, "hidden_size": 512, "intermediate_size": 1024, "num_hidden_layers": 5,
    "num_attention_heads": 8, "num_local_experts": 8,
}  # fmt: skip

pytestmark = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc")


@pytest.mark.parametrize("stored", ["bfloat16", "float32"])
def test_loading_peaks_below_size_plus_a_shard_a_rank_at_its_share_and_converting_below_a_shard(
    stored: str, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    size, shard = write_shards(source, getattr(torch, stored))
    command = [sys.executable, str(Path(__file__).with_name("memory_probe.py")), str(source), str(tmp_path / "target")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "MALLOC_TRIM_THRESHOLD_": "0"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    peak_of = json.loads(done.stdout)
    assert size * 0.9 < peak_of["load"][0] < size + shard + SLACK
    assert peak_of["slice"][1] < size / 4 * 1.1 + SLACK
    # Embedding, head and attention of a float32 checkpoint are copied in bfloat16, experts never.
    assert peak_of["offload"][1] < size / 6 + SLACK
    assert peak_of["convert"][0] < shard + SLACK < size
    matrix = LARGE["vocab_size"] * LARGE["hidden_size"] * torch.finfo(getattr(torch, stored)).bits // 8 // MIB
    assert peak_of["extend"][0] < 4 * matrix + SLACK < size  # embedding and head, old and new


def write_shards(directory: Path, dtype: torch.dtype) -> tuple[int, int]:
    """Write the checkpoint; MiB of the whole model in bfloat16 and of the largest shard."""
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(LARGE))
    tensors = {name: tensor.mul_(0.02).to(dtype) for name, tensor in tensors_of(LARGE).items()}
    weight_map = {name: f"model-{n % SHARDS + 1:05d}-of-{SHARDS:05d}.safetensors" for n, name in enumerate(tensors)}
    for file in set(weight_map.values()):
        save_file({name: tensors[name] for name in tensors if weight_map[name] == file}, directory / file)
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    largest = max(path.stat().st_size for path in directory.glob("*.safetensors"))
    return 2 * sum(tensor.numel() for tensor in tensors.values()) // MIB, largest // MIB
