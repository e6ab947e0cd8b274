"""Give a model rows for the new tokens of an extended tokenizer: each is the mean of its old sub-tokens' rows.

Embedding and head get their own means; where the head is tied there is only one. Every other tensor is copied shard by
shard without being loaded, so a model larger than memory can be extended. Old rows stay bit for bit as they are.
"""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from inkstone.errors import InputError
from inkstone.model.files.directory import carry_files
from inkstone.model.files.rewrite import rewrite_weights, vocabulary_of
from inkstone.model.files.weight_shards import MAX_SHARD_BYTES
from inkstone.tokenizer import Extension, Tokenizer

_KEPT = ("chat_template", "model_max_length")
_ROWS = 4096  # new rows computed together
_STALE = ("tokenizer.model", "added_tokens.json", "special_tokens_map.json", "tokenizer.json", "tokenizer_config.json")


def extend_model(
    source: Path,
    base: Tokenizer,
    extension: Extension,
    output: Path,
    pad_to: int = 1,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> dict[str, object]:
    """Write `source` with the extended vocabulary into the directory `output`; returns what was done.

    The number of rows is rounded up to a multiple of `pad_to`; rows without a token are the mean of all old rows.
    """
    names = vocabulary_of(source)
    if base.vocab_size > names.rows:
        raise InputError(
            f"{source}: the tokenizer has {base.vocab_size} tokens and the embedding {names.rows} rows: "
            "they do not belong together."
        )
    rows = math.ceil(max(extension.tokenizer.vocab_size, names.rows) / pad_to) * pad_to
    parts = base.encode_batch(extension.added, continued=True)
    grow = _grower(parts, base.vocab_size, rows)
    changes = {name: grow for name in (names.embedding, names.head) if name is not None}
    rewrite_weights(source, output, changes, max_shard_bytes)
    carry_files(source, output)
    for name in _STALE:
        (output / name).unlink(missing_ok=True)
    extension.tokenizer.save(output)
    _keep_from_config(source / "tokenizer_config.json", output / "tokenizer_config.json")
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    config |= dict.fromkeys(names.config_keys, rows)
    (output / "config.json").write_text(json.dumps(config, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    return {
        "rows_before": names.rows,
        "rows": rows,
        "new_rows": len(parts),
        "sub_tokens_per_new_row": round(sum(map(len, parts)) / max(len(parts), 1), 3),
        "tied": names.head is None,
    }


def _keep_from_config(old: Path, new: Path) -> None:
    """What the tokenizer's configuration says beside the tokenizer: its template and the longest text."""
    if not old.is_file():
        return
    kept = {name: value for name, value in json.loads(old.read_text(encoding="utf-8")).items() if name in _KEPT}
    text = json.dumps(json.loads(new.read_text(encoding="utf-8")) | kept, ensure_ascii=False, indent=2)
    new.write_text(text + "\n", encoding="utf-8")


def _grower(parts: Sequence[Sequence[int]], first: int, rows: int) -> Callable[[Tensor], Tensor]:
    """A function from the old matrix [old rows, ...] to the new one [rows, ...]; new token i takes row `first` + i."""
    lengths = np.array([len(part) for part in parts], dtype=np.int64)
    flat = torch.from_numpy(np.fromiter((token for part in parts for token in part), dtype=np.int64))
    owner = torch.from_numpy(np.repeat(np.arange(len(parts)), lengths))
    ends = np.append(0, np.cumsum(lengths))

    def grow(old: Tensor) -> Tensor:
        new = torch.empty((rows, *old.shape[1:]), dtype=old.dtype)
        new[: old.shape[0]] = old
        if rows > old.shape[0]:
            new[old.shape[0] :] = old.to(torch.float32).mean(0).to(old.dtype)
        for start in range(0, len(parts), _ROWS):
            stop = min(start + _ROWS, len(parts))
            span = slice(int(ends[start]), int(ends[stop]))
            sums = torch.zeros((stop - start, *old.shape[1:]), dtype=torch.float32)
            sums.index_add_(0, owner[span] - start, old[flat[span]].to(torch.float32))
            counts = torch.from_numpy(lengths[start:stop]).view(-1, *([1] * (old.dim() - 1)))
            new[first + start : first + stop] = (sums / counts).to(old.dtype)
        return new

    return grow
