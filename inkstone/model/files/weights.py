"""A checkpoint seen through its family: the decoder's tensors, read block by block from whatever the directory holds.

weights = open_weights(directory)                  # everything that is wrong with it is said here, nothing is loaded
weights.read("model.layers.0.self_attn.q_proj.weight", dtype=torch.bfloat16)
weights.read(name, box=(range(0, 512), range(4096)), ...)      # one rank's rows, reading only their bytes
"""

import logging
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from inkstone.errors import InputError
from inkstone.model.decoder.config import DecoderConfig
from inkstone.model.decoder.decoder import Decoder
from inkstone.model.families import Family, family_of, writing_family
from inkstone.model.families.layout import Piece
from inkstone.model.files.pieces import Box, Shape, by_ours, by_theirs, fill_block, their_shape, view_block, whole
from inkstone.model.files.quantised import QuantisedCheckpoint, layout_of
from inkstone.model.files.stored import Checkpoint
from inkstone.model.packed.as_stored import Stored
from inkstone.model.packed.linear import PackedWeight
from inkstone.storage.json_object import read_json_object

GGUF = ".gguf"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Weights:
    """A checkpoint that has every tensor the decoder needs, in the right shape."""

    config: DecoderConfig
    family: Family
    checkpoint: Checkpoint
    pieces: dict[str, list[Piece]]
    shapes: dict[str, Shape]

    @property
    def dtype(self) -> torch.dtype:
        """That of the embedding, as stored."""
        return self.checkpoint.entries[self.pieces["model.embed_tokens.weight"][0].theirs].dtype

    def read(
        self,
        name: str,
        box: Box | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str = "cpu",
        mapped: bool = True,
    ) -> Tensor:
        """Our tensor `name`, or its block `box`: a view of the mapped file where nothing has to change.

        With `mapped = False` it is always a copy. The memory of pages that were copied is given back.
        """
        box = box or whole(self.shapes[name])
        dtype, device = dtype or self.dtype, torch.device(device)
        if mapped and device.type == "cpu" and (view := self.view(name, box, dtype)) is not None:
            return view
        out = torch.empty([len(dimension) for dimension in box], dtype=dtype, device=device)
        fill_block(out, self.pieces[name], self.shapes[name], box, self.checkpoint.tensor)
        self.release(name)
        return out

    def view(self, name: str, box: Box, dtype: torch.dtype) -> Tensor | None:
        """The block as a view of the mapped file; None where something has to change."""
        view = view_block(self.pieces[name], self.shapes[name], box, self.checkpoint.tensor)
        return view if view is not None and view.dtype == dtype else None

    def is_packed(self, name: str) -> bool:
        """Whether all of our tensor is quantised, and may stay so."""
        return all(self.checkpoint.is_packed(piece.theirs) for piece in self.pieces[name])

    def stored(self, name: str) -> list[list[Stored]]:
        """Our tensor `name` as it is stored, in parts below each other: one list, or one for each expert."""
        parts: dict[int, list[Stored]] = {}
        for piece in self.pieces[name]:
            stored, first = self.checkpoint.stored(piece.theirs), piece.ours_at[0] if piece.ours_at else 0
            assert isinstance(first, int), "no family stores several experts' rows in one piece"
            rows = piece.theirs_rows
            parts.setdefault(first, []).append(stored if rows is None else stored.take(rows))
        whole = parts[0][0]
        stacked = len(whole.shape) == 3 and len(parts) == 1  # as the decoder keeps all experts
        return [[whole.take(expert)] for expert in range(whole.shape[0])] if stacked else list(parts.values())

    def packed(self, name: str) -> list[list[PackedWeight]] | None:
        """`stored`, read into memory where it is packed; else None: it is a plain tensor."""
        if not self.is_packed(name):
            return None
        return [[part.unpacked() for part in parts] for parts in self.stored(name)]  # type: ignore[misc]

    def release(self, name: str) -> None:
        """Give back the memory of the pages that our tensor was read from."""
        for theirs in {piece.theirs for piece in self.pieces[name]}:
            self.checkpoint.release(theirs)

    def unused_head(self) -> str:
        """A sentence where a head is stored that differs from the embedding it is tied to; else nothing."""
        theirs, table = "lm_head.weight", self.pieces["model.embed_tokens.weight"][0].theirs
        if not self.config.tie_embeddings or theirs not in self.checkpoint.entries:
            return ""
        head, embedding = self.checkpoint.tensor(theirs), self.checkpoint.tensor(table)
        if head.shape == embedding.shape and torch.equal(head, embedding):
            return ""
        return f"tie_word_embeddings is true: {theirs}, which differs from {table}, is not used"

    def not_finite(self, name: str, tensor: Tensor) -> list[str]:
        """What is wrong, in their names, if `tensor`, read from our `name`, holds NaN or infinity; else nothing.

        One pass at memory speed: NaN and infinity survive a sum. Only where the sum is not finite (it may have
        overflowed) is every number looked at.
        """
        if bool(tensor.sum().isfinite()) or bool(tensor.isfinite().all()):
            return []
        stored = {piece.theirs: self.checkpoint.tensor(piece.theirs) for piece in self.pieces[name]}
        bad = [theirs for theirs, values in stored.items() if not bool(values.isfinite().all())]
        sentences = [f"{self.checkpoint.directory}: {theirs} holds NaN or infinite values" for theirs in bad]
        short = str(tensor.dtype).removeprefix("torch.")
        return sentences or [
            f"{self.checkpoint.directory}: {theirs} has values too large for {short}: use bfloat16 or float32"
            for theirs in stored
        ]


def open_weights(directory: Path) -> Weights:
    """Check the whole directory or GGUF file. Raises InputError with all missing, unexpected and misshaped tensors."""
    if directory.suffix == GGUF:
        return _gguf(directory)
    values, where = read_values(directory)
    family = family_of(values, where)
    config = family.read_config(values, where)
    settings = values.get("quantization_config")
    checkpoint = QuantisedCheckpoint(directory, settings) if settings else Checkpoint(directory)
    shapes = decoder_shapes(config)
    pieces = family.layout(config, checkpoint.entries.keys())
    check_names(checkpoint, {theirs: their_shape(rows, shapes) for theirs, rows in by_theirs(pieces).items()}, family)
    return Weights(config, family, checkpoint, by_ours(pieces), shapes)


def _gguf(path: Path) -> Weights:
    from inkstone.model.gguf.reading import open_gguf  # which is made of what is here

    return open_gguf(path)


def read_values(source: Path) -> tuple[dict[str, Any], str]:
    """config.json (of a directory, or given itself) and its path for messages; says that code it names is not run.

    A GGUF file's is the one that its model would be saved with.
    """
    if source.suffix == GGUF:
        weights = _gguf(source)
        return config_values(writing_family(weights.config), weights.config, weights.dtype, {}), str(source)
    path = source if source.suffix == ".json" else source / "config.json"
    try:
        values = read_json_object(path)
    except (FileNotFoundError, NotADirectoryError) as error:
        inside = sorted(path.parent for path in source.glob("*/config.json"))
        inside.sort(key=lambda directory: not (directory / "chat_template.json").is_file())
        hint = f"; there are models inside: {', '.join(map(str, inside[:4]))}" if inside else ""
        if (source / "adapter_config.json").is_file():
            hint = f"; it is an adapter: give its base, and --adapter {source}"
        raise InputError(f"{source} is not a model directory: it has no config.json{hint}") from error
    if values.get("auto_map"):
        _say_code_is_ignored(path)
    if settings := values.get("quantization_config"):
        layout_of(settings, str(path))
    return values, str(path)


def config_values(
    family: Family, config: DecoderConfig, dtype: torch.dtype, ids: dict[str, object]
) -> dict[str, object]:
    """The contents of config.json: the family's, with the dtype and the token ids."""
    return {**family.write_config(config), **ids, "torch_dtype": str(dtype).removeprefix("torch."), "use_cache": True}


@cache
def _say_code_is_ignored(path: Path) -> None:
    """Once for each file: a directory's configuration is read by several rooms."""
    _log.warning("%s names code of its own (auto_map): ignored, no code from a checkpoint is ever run", path)


def decoder_shapes(config: DecoderConfig) -> dict[str, Shape]:
    """Name and shape of every tensor of the decoder; a tied head is not listed."""
    with torch.device("meta"):
        return {name: tuple(weight.shape) for name, weight in Decoder(config).named_parameters()}


def check_names(checkpoint: Checkpoint, expected: dict[str, Shape], family: Family) -> None:
    """Raises InputError with every tensor that is missing, unexpected or of another shape."""
    found = checkpoint.entries
    ignored = [re.compile(pattern) for pattern in family.ignored]
    problems = {name: "is missing" for name in expected if name not in found}
    for name, entry in found.items():
        if name in checkpoint.optional and name not in expected:
            continue
        if name not in expected and not any(pattern.search(name) for pattern in ignored):
            problems[name] = "is not part of this architecture"
        elif name in expected and entry.shape != expected[name]:
            problems[name] = f"has shape {entry.shape}, expected {expected[name]}"
        elif name in expected and not entry.dtype.is_floating_point:
            problems[name] = f"holds {str(entry.dtype).removeprefix('torch.')}, not floating-point numbers"
    if problems:
        raise InputError([f"{checkpoint.directory}: {sentence}" for sentence in _together(problems)])


def _together(problems: dict[str, str]) -> list[str]:
    """One sentence per kind of tensor: what is wrong in many layers is said once, with the layers' numbers."""
    groups: dict[tuple[str, str], list[str]] = {}
    for name, problem in problems.items():
        groups.setdefault((re.sub(r"\d+", "#", name), problem), []).append(name)
    sentences = []
    for (pattern, problem), names in groups.items():
        numbers = [re.findall(r"\d+", name) for name in names]
        said = pattern
        for values in zip(*numbers, strict=True):
            different = sorted({int(value) for value in values})
            said = said.replace("#", str(different[0]) if len(different) == 1 else f"{{{_ranges(different)}}}", 1)
        sentences.append(f"{said} {problem}")
    return sorted(sentences)


def _ranges(numbers: list[int]) -> str:
    """0-3,7 for [0, 1, 2, 3, 7]."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
