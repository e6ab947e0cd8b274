"""The tensors of a checkpoint directory by their own names, whatever files they lie in; nothing is read until used.

    checkpoint = Checkpoint(directory)
    checkpoint.entries["model.norm.weight"].shape
    checkpoint.tensor("model.norm.weight")

Read are safetensors (one file, or shards with an index) and, where there are none, legacy `pytorch_model*.bin` through
PyTorch's weights-only reader, which runs no code. An index may only name files inside its directory.
"""

import pickle
import re
import zipfile
from pathlib import Path, PurePosixPath
from typing import Protocol

import torch
from torch import Tensor

from inkstone.errors import InputError
from inkstone.model.files.safetensors_file import Entry, SafetensorsFile
from inkstone.model.packed.as_stored import Stored
from inkstone.storage import read_json_object, reading

INDEX = "model.safetensors.index.json"
_LAYOUTS = (
    (INDEX, "model.safetensors"),
    ("pytorch_model.bin.index.json", "pytorch_model.bin"),
)


class _File(Protocol):
    entries: dict[str, Entry]

    def tensor(self, name: str) -> Tensor: ...

    def release(self, name: str) -> None: ...


class Checkpoint:
    """All tensors of a directory; `entries` in the order in which they lie on disk, so that reading goes forward."""

    def __init__(self, directory: Path) -> None:
        """Raises InputError when a file is missing, damaged, outside the directory or holds more than tensors."""
        self.directory = directory
        self.entries: dict[str, Entry] = {}
        self._file_of: dict[str, _File] = {}
        self.optional: set[str] = set()
        """Tensors that say nothing (zeros), which an architecture may have no place for."""
        self.num_bytes = 0
        for path in weight_files(directory):
            file = SafetensorsFile(path) if path.suffix == ".safetensors" else PickleFile(path)
            self.num_bytes += path.stat().st_size
            for name, entry in file.entries.items():
                if name in self.entries:
                    raise InputError(
                        f"{directory}: {name} is in {path.name} and in an earlier file: remove one of them"
                    )
                self.entries[name], self._file_of[name] = entry, file

    def is_packed(self, name: str) -> bool:
        """Whether it is quantised, and may stay so."""
        return False

    def stored(self, name: str) -> Stored:
        """The tensor as it lies in its file, quantised or not."""
        return Stored(self.entries[name].shape, {"weight": Checkpoint.tensor(self, name)})

    def tensor(self, name: str) -> Tensor:
        """A view of the mapped file."""
        return self._file_of[name].tensor(name)

    def release(self, name: str) -> None:
        """Give back the memory of the tensor's pages."""
        self._file_of[name].release(name)


def weight_files(directory: Path) -> list[Path]:
    """The files that hold the weights, all there. Raises InputError naming what is missing."""
    for index, single in _LAYOUTS:  # as transformers looks for them: where both are there, the index is an old one
        if (directory / single).is_file():
            return [directory / single]
        if (directory / index).is_file():
            return _indexed_files(directory / index)
    shards = sorted(path.name for path in directory.glob("*-of-*") if path.suffix in (".safetensors", ".bin"))
    if shards:
        raise InputError(f"{directory} has {shards[0]} but no index of its shards ({INDEX}): copy the index as well")
    raise InputError(f"{directory} has no weights: model.safetensors, {INDEX} or pytorch_model.bin is needed")


def _indexed_files(index: Path) -> list[Path]:
    with reading(index, "an index of shards"):
        names = sorted(set(read_json_object(index)["weight_map"].values()))
        paths = [PurePosixPath(name) for name in names]
    # By name only: the files of a hub's cache are links that lead elsewhere.
    outside = [f"{index} names {path}, outside its directory: do not trust it" for path in paths if _leaves(path)]
    if outside:
        raise InputError(outside)
    files = [index.parent / path for path in paths]
    missing = [f"{index.parent} is incomplete: {file.name} is missing" for file in files if not file.is_file()]
    if missing:
        raise InputError(missing)
    return files


def _leaves(path: PurePosixPath) -> bool:
    return path.is_absolute() or ".." in path.parts or "\\" in str(path) or path.suffix not in (".safetensors", ".bin")


def _is_plain(name: object, value: object) -> bool:
    """Neither sparse nor quantised nor without its numbers."""
    if not (isinstance(name, str) and isinstance(value, Tensor)):
        return False
    plain = value.layout == torch.strided and value.device.type == "cpu"
    return plain and not value.is_quantized and not value.is_complex()


class PickleFile:
    """A legacy `pytorch_model.bin`, or an adapter's: tensors only, mapped where it is a zip (everything since 2020)."""

    def __init__(self, path: Path) -> None:
        try:
            with reading(path, "a file of tensors"):
                loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
        except InputError as damage:
            error = damage.__cause__
            if not isinstance(error, pickle.UnpicklingError):
                raise
            code = re.search(r"GLOBAL ([\w.]+)", str(error))
            named = f" ({code[1]})" if code else ""
            raise InputError(
                f"{path} cannot be read without running code in it{named}, or is damaged; it is refused and nothing in "
                "it was run: get the model's safetensors weights"
            ) from error
        if not isinstance(loaded, dict) or not all(map(_is_plain, loaded, loaded.values())):
            raise InputError(f"{path} is not a table of plain tensors by name: get the model's safetensors weights")
        self._tensors: dict[str, Tensor] = {name: value.detach() for name, value in loaded.items()}
        self.entries = {name: Entry(tuple(value.shape), value.dtype) for name, value in self._tensors.items()}

    def tensor(self, name: str) -> Tensor:
        return self._tensors[name]

    def release(self, name: str) -> None:
        pass
