"""`inkstone convert`: a checkpoint of any family into what the rest of the world opens without remote code.

    convert_model(source, target)                          # Baichuan-7B becomes a llama; Baichuan-13B keeps its names
    convert_model(source, target, dtype=torch.float32)

The weights stream: every tensor of the target is made from the mapped source, written and forgotten, so memory is one
tensor's, whatever the model's size. Tokenizer, template and generation settings are carried along.
"""

from pathlib import Path

import torch
from torch import Tensor

from inkstone.chat.library import own_jinja
from inkstone.errors import InkstoneError, InputError
from inkstone.model.families import Family, writing_family
from inkstone.model.files.directory import carry_files, read_stop_ids
from inkstone.model.files.pieces import Box, by_theirs, their_shape, their_tensor
from inkstone.model.files.safetensors_file import Entry
from inkstone.model.files.weight_shards import MAX_SHARD_BYTES, write_json, write_weights
from inkstone.model.files.weights import GGUF, Weights, config_values, open_weights, read_values
from inkstone.progress import Progress, Silent
from inkstone.tokenizer import Tokenizer

_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")


def convert_model(
    source: Path,
    target: Path,
    *,
    family: str | None = None,
    dtype: torch.dtype | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    progress: Progress | None = None,
) -> Family:
    """Write the model of `source` into the directory `target` and return the family it was written as.

    `family`: the layout to write (default: the one most programs open); `dtype`: default as stored. Raises InputError
    when the source cannot be loaded, holds NaN, does not fit the dtype, or cannot be said in that family's config.
    """
    progress = progress or Silent()
    weights = open_weights(source)
    if unused := weights.unused_head():
        progress.note(f"{source}: {unused}")
    writer = writing_family(weights.config, family)
    dtype = dtype or weights.dtype
    values, _ = read_values(source)
    read_stop_ids(source)  # damage in what is carried over is said before anything is written
    ids: dict[str, object] = {key: values.get(key) for key in _IDS}
    target.mkdir(parents=True, exist_ok=True)
    if source.suffix == GGUF:
        _unpack_companions(source, target, ids)
    carry_files(source, target)
    _write_weights(weights, writer, dtype, target, max_shard_bytes, progress)
    write_json(target / "config.json", config_values(writer, weights.config, dtype, ids))
    if not (target / "generation_config.json").is_file():
        write_json(target / "generation_config.json", {key: value for key, value in ids.items() if value is not None})
    _make_tokenizer_fast(target, progress)
    return writer


def _unpack_companions(source: Path, target: Path, ids: dict[str, object]) -> None:
    """What stands beside the weights of a directory is inside a GGUF file."""
    tokenizer = Tokenizer.load(source)
    tokenizer.save(target)
    ids |= {"bos_token_id": tokenizer.bos_id, "eos_token_id": tokenizer.eos_id, "pad_token_id": tokenizer.pad_id}
    stops = sorted(read_stop_ids(source)) or tokenizer.end_ids
    write_json(target / "generation_config.json", {**ids, "eos_token_id": stops})
    if jinja := own_jinja(source):
        (target / "chat_template.jinja").write_text(jinja, encoding="utf-8")


def _make_tokenizer_fast(target: Path, progress: Progress) -> None:
    """Write tokenizer.json where a vocabulary came without one, or with code: others open it without running any."""
    config = target / "tokenizer_config.json"
    asks_for_code = config.is_file() and '"auto_map"' in config.read_text(encoding="utf-8")
    if (target / "tokenizer.json").is_file() and not asks_for_code:
        return
    try:
        Tokenizer.load(target).save(target, with_model=False)
    except InkstoneError as error:
        progress.note(f"The weights are converted; there is no tokenizer.json beside them: {error}")


def _write_weights(
    weights: Weights, writer: Family, dtype: torch.dtype, target: Path, max_shard_bytes: int, progress: Progress
) -> None:
    table = by_theirs(writer.layout(weights.config, ()))
    entries = {theirs: Entry(their_shape(pieces, weights.shapes), dtype) for theirs, pieces in table.items()}
    total = sum(entry.num_bytes for entry in entries.values())
    problems: set[str] = set()
    written, last = 0, ""

    def block_of(name: str, box: Box) -> Tensor:
        block = weights.read(name, box, dtype)
        problems.update(weights.not_finite(name, block))
        return block

    def tensor_of(theirs: str) -> Tensor:
        nonlocal written, last
        for piece in table.get(last, ()):
            weights.release(piece.ours)
        last = theirs
        tensor = their_tensor(table[theirs], weights.shapes, block_of)
        written += entries[theirs].num_bytes
        progress.advance(written / 1e6, total / 1e6, "MB")
        return tensor

    write_weights(target, entries, tensor_of, max_shard_bytes)
    if problems:
        raise InputError(sorted(problems))
