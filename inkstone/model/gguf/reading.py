"""A GGUF file as a checkpoint: mapped, read tensor by tensor, quantised weights left packed.

    weights = open_gguf(Path("model-q4_k_m.gguf"))

Whatever the head claims is compared with the file's size before anything is built. A quantised file's plain tensors are
read as bfloat16, the dtype that the packed products are fast in.
"""

import math
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from inkstone.errors import InputError
from inkstone.model.families import FAMILIES, Family
from inkstone.model.files.pieces import by_ours, by_theirs, their_shape
from inkstone.model.files.safetensors_file import Entry, forget_pages, map_file
from inkstone.model.files.stored import Checkpoint
from inkstone.model.files.weights import Weights, check_names, decoder_shapes
from inkstone.model.gguf.architectures import FACTORS, layout, read_config
from inkstone.model.gguf.blocks import BLOCKS, unpack
from inkstone.model.packed.as_stored import Stored
from inkstone.storage import reading
from inkstone.tokenizer.foreign.gguf import StoredTensor, read_head

_PLAIN = {0: torch.float32, 1: torch.float16, 30: torch.bfloat16}
_BLOCKS = {block.number: name for name, block in BLOCKS.items()}
_NOT_PACKED = ("token_embd.weight", "ffn_gate_inp.weight")
"""Looked up or used whole; the decoder has no packed form of them."""


class GgufFile(Checkpoint):
    """The tensors by llama.cpp's names; three dimensions [E, N, K] are two, [E x N, K]."""

    def __init__(self, path: Path) -> None:
        """Raises InputError for a type that is not read, and for tensors that do not lie in the file."""
        self.directory, self.optional = path, set()
        self.keys, stored = read_head(path)
        self._map = map_file(path)
        self._data = torch.frombuffer(self._map, dtype=torch.uint8)
        self._stored = {one.name: one for one in stored}
        self.num_bytes = len(self._data)
        problems = [problem for one in stored if (problem := self._problem(one))]
        if len(self._stored) != len(stored):
            problems.append("two tensors have the same name")
        if problems:
            raise InputError([f"{path}: {problem}" for problem in problems[:8]])
        packs = any(one.kind in _BLOCKS for one in stored)
        self.entries = {
            one.name: Entry(_flat(one.shape), torch.bfloat16 if packs else _PLAIN[one.kind]) for one in stored
        }

    def _problem(self, one: StoredTensor) -> str:
        if one.kind not in _PLAIN and one.kind not in _BLOCKS:
            kinds = ", ".join(["f32", "f16", "bf16", *BLOCKS])
            return f"{one.name} is of llama.cpp's type {one.kind}, which is not read; {kinds} are"
        block = BLOCKS[_BLOCKS[one.kind]] if one.kind in _BLOCKS else None
        if block and one.shape[-1] % block.weights:
            return f"{one.name} has rows of {one.shape[-1]}, no multiple of {block.weights}"
        if not all(one.shape) or one.start + self._size(one) > len(self._data):
            return f"{one.name} ends behind the file: it is cut short, or its head is wrong"
        return ""

    def _size(self, one: StoredTensor) -> int:
        count = math.prod(one.shape)
        if one.kind in _PLAIN:
            return count * _PLAIN[one.kind].itemsize
        block = BLOCKS[_BLOCKS[one.kind]]
        return count // block.weights * block.size

    def _bytes(self, name: str) -> Tensor:
        """A view of the mapped file."""
        one = self._stored[name]
        return self._data[one.start : one.start + self._size(one)]

    def is_packed(self, name: str) -> bool:
        one = self._stored[name]
        return one.kind in _BLOCKS and not name.endswith(_NOT_PACKED) and len(one.shape) > 1

    def stored(self, name: str) -> Stored:
        one = self._stored[name]
        if not self.is_packed(name):
            return Stored(_flat(one.shape), {"weight": self.tensor(name)})
        shape, kind = _flat(one.shape), _BLOCKS[one.kind]
        parts = {"bytes": self._bytes(name).view(shape[0], -1)}
        return Stored(shape, parts, lambda parts: unpack(parts["bytes"], kind), by_rows=True)

    def tensor(self, name: str) -> Tensor:
        one = self._stored[name]
        data, shape = self._bytes(name), _flat(one.shape)
        if one.kind in _PLAIN:
            dtype = _PLAIN[one.kind]
            return (data.clone() if one.start % dtype.itemsize else data).view(dtype).view(shape)
        return unpack(data.view(math.prod(shape[:-1]), -1), _BLOCKS[one.kind]).dequantise(torch.float32).view(shape)

    def release(self, name: str) -> None:
        forget_pages(self._map, self._stored[name].start, self._size(self._stored[name]))


def open_gguf(path: Path) -> Weights:
    """Check the whole file. Raises InputError with all missing, unexpected and misshaped tensors at once."""
    with reading(path, "a GGUF file"):
        file = GgufFile(path)
        factors = file.tensor(FACTORS) if FACTORS in file.entries else None
        config = read_config(file.keys, file.entries.keys(), factors, str(path))
        _fits_the_file(config.num_parameters(), file)
        arch = str(file.keys["general.architecture"])
        pieces = layout(config, arch)
    shapes = decoder_shapes(config)
    family = _family(arch)
    check_names(file, {theirs: their_shape(rows, shapes) for theirs, rows in by_theirs(pieces).items()}, family)
    return Weights(config, family, file, by_ours(pieces), shapes)


def _fits_the_file(parameters: int, file: GgufFile) -> None:
    """Two bits a weight is the least that any type has: a shape of more is not in this file."""
    if parameters > 4 * file.num_bytes:
        raise InputError(
            f"{file.directory}: its keys claim {parameters:,} weights, which {file.num_bytes:,} bytes cannot hold"
        )


def _family(arch: str) -> Family:
    return replace(FAMILIES[arch], name=f"{arch} (GGUF)", ignored=(r"^rope_freqs\.weight$",))


def _flat(shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape if len(shape) < 3 else (math.prod(shape[:-1]), shape[-1])
