"""Weights written as shards with an index, one tensor in memory at a time.

The shapes are known before the first byte is written, so shards are planned, named and streamed. What an earlier
checkpoint left in the directory is removed once the new one is complete, so that no reader finds a mixture.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

from torch import Tensor

from inkstone.model.files.safetensors_file import Entry, write_safetensors
from inkstone.model.files.stored import INDEX

MAX_SHARD_BYTES = 5_000_000_000


def write_weights(
    directory: Path,
    entries: Mapping[str, Entry],
    tensor_of: Callable[[str], Tensor],
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Write the tensors in order: model.safetensors, or numbered shards of at most `max_shard_bytes` and their index.

    `tensor_of` is asked once for each name. A tensor larger than a shard has one of its own.
    """
    shards = plan_shards(entries, max_shard_bytes)
    names = [f"model-{number:05d}-of-{len(shards):05d}.safetensors" for number in range(1, len(shards) + 1)]
    if len(shards) == 1:
        names = ["model.safetensors"]
    for name, shard in zip(names, shards, strict=True):
        write_safetensors(directory / name, shard, tensor_of)
    if len(shards) > 1:
        total = sum(entry.num_bytes for entry in entries.values())
        weight_map = {tensor: name for name, shard in zip(names, shards, strict=True) for tensor in shard}
        write_json(directory / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})
    else:
        (directory / INDEX).unlink(missing_ok=True)
    for path in directory.glob("model*.safetensors"):
        if path.name not in names:
            path.unlink()


def plan_shards(entries: Mapping[str, Entry], max_shard_bytes: int) -> list[dict[str, Entry]]:
    """The tensors in order, cut into shards."""
    shards: list[dict[str, Entry]] = [{}]
    used = 0
    for name, entry in entries.items():
        if used and used + entry.num_bytes > max_shard_bytes:
            shards.append({})
            used = 0
        shards[-1][name] = entry
        used += entry.num_bytes
    return shards


def write_json(path: Path, values: Mapping[str, object]) -> None:
    path.write_text(json.dumps(values, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
