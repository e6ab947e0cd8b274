"""A checkpoint with some of its tensors changed, or none, in its own names and layout, streamed shard by shard.

    names = vocabulary_of(source)
    rewrite_weights(source, draft, {names.embedding: grow, names.head: grow})

For what changes a few tensors of a large model, e.g. a vocabulary's new rows: the rest passes through, mapped, without
being understood.
"""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from inkstone.errors import InputError
from inkstone.model.files.safetensors_file import Entry
from inkstone.model.files.stored import Checkpoint
from inkstone.model.files.weight_shards import MAX_SHARD_BYTES, write_weights
from inkstone.model.files.weights import open_weights, read_values

_VOCABULARY_KEYS = ("vocab_size", "padded_vocab_size")


@dataclass(frozen=True)
class Vocabulary:
    """Where a checkpoint keeps its vocabulary, in its own names."""

    embedding: str
    head: str | None
    """None: tied to the embedding."""
    config_keys: tuple[str, ...]
    """Keys of config.json that hold the vocabulary's size."""
    rows: int


def vocabulary_of(directory: Path) -> Vocabulary:
    """Raises InputError when the directory is not a complete model of a supported family."""
    weights = open_weights(directory)
    values, _ = read_values(directory)
    embedding = weights.pieces["model.embed_tokens.weight"][0].theirs
    head = weights.pieces["lm_head.weight"][0].theirs if "lm_head.weight" in weights.pieces else None
    keys = tuple(key for key in _VOCABULARY_KEYS if key in values)
    return Vocabulary(embedding, head, keys, weights.checkpoint.entries[embedding].shape[0])


def rewrite_weights(
    source: Path,
    target: Path,
    changes: Mapping[str, Callable[[Tensor], Tensor]],
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Write the weights of `source` into the directory `target`, each tensor named in `changes` through its function.

    A function gets the mapped tensor, which it must not write into, and may return another shape or dtype. In memory
    are the changed tensors and one other. Raises InputError naming every tensor of `changes` that is not there.
    """
    checkpoint = Checkpoint(source)
    unknown = [f"{source} has no tensor {name}" for name in changes if name not in checkpoint.entries]
    if unknown:
        raise InputError(unknown)
    # The shapes must be known before the first byte is written.
    changed = {name: change(checkpoint.tensor(name)) for name, change in changes.items()}
    entries = dict(checkpoint.entries)
    entries.update({name: Entry(tuple(tensor.shape), tensor.dtype) for name, tensor in changed.items()})
    last: str | None = None

    def tensor_of(name: str) -> Tensor:
        nonlocal last
        if last is not None:
            checkpoint.release(last)
        last = name
        return changed[name] if name in changed else checkpoint.tensor(name)

    target.mkdir(parents=True, exist_ok=True)
    write_weights(target, entries, tensor_of, max_shard_bytes)


def copy_model(source: Path, target: Path) -> None:
    """The weights of `source`, as they are stored, and its config.json, into the directory `target`."""
    rewrite_weights(source, target, {})
    shutil.copyfile(source / "config.json", target / "config.json")
