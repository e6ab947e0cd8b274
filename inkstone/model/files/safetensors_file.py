"""The safetensors format, one tensor at a time: mapped when reading, streamed when writing.

    file = SafetensorsFile(path)
    tensor = file.tensor("model.norm.weight")            # a view of the mapped file: nothing is read until it is used
    write_safetensors(path, entries, tensor_of)          # holds one tensor, however large the file

The library `safetensors` writes a file from tensors that are all in memory and cannot give pages back once they are
read; the format itself is eight bytes of header length, a JSON header and the tensors' bytes. The library is the
oracle of the tests. The mapping is private: writing into a tensor never reaches the file.
"""

import json
import math
import mmap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from inkstone.errors import InputError
from inkstone.storage import atomic_file, reading

_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_LONGEST_HEADER = 100_000_000  # bytes; the library's own limit
# Without it the system may refuse a private mapping larger than its memory; Python names the flag from 3.13 on.
_NO_RESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000 if hasattr(mmap, "MAP_POPULATE") else 0)


@dataclass(frozen=True)
class Entry:
    """What is known of a stored tensor before it is read."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def num_bytes(self) -> int:
        return torch.Size(self.shape).numel() * self.dtype.itemsize


class SafetensorsFile:
    """A mapped file. The mapping lives as long as a tensor that was taken from it."""

    def __init__(self, path: Path) -> None:
        """Raises InputError when the file is truncated or its header does not describe it."""
        self.path = path
        size = path.stat().st_size
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if size < 8 or length > size - 8:
                raise _damaged(path, f"it has {size} bytes, its header alone claims {length + 8 if size >= 8 else 8}")
            if length > _LONGEST_HEADER:
                raise _damaged(path, f"its header claims {length} bytes")
            self.entries, self._starts = _read_header(path, stream.read(length), size - 8 - length)
        self._data, self._map = 8 + length, map_file(path)

    def tensor(self, name: str) -> Tensor:
        """A view of the file; its pages are read when they are used."""
        entry, start = self.entries[name], self._data + self._starts[name]
        count = torch.Size(entry.shape).numel()
        if count == 0:
            return torch.empty(entry.shape, dtype=entry.dtype)
        if start % entry.dtype.itemsize:  # written by something else than the library, which aligns
            flat = torch.frombuffer(self._map, dtype=torch.uint8, count=entry.num_bytes, offset=start).clone()
            return flat.view(entry.dtype).view(entry.shape)
        return torch.frombuffer(self._map, dtype=entry.dtype, count=count, offset=start).view(entry.shape)

    def release(self, name: str) -> None:
        """Give back the memory of a tensor's pages (they are read again if it is used again)."""
        forget_pages(self._map, self._data + self._starts[name], self.entries[name].num_bytes)


def map_file(path: Path) -> mmap.mmap:
    """The file's pages, read when they are used; what is written there stays private."""
    with path.open("rb") as stream:
        return mmap.mmap(
            stream.fileno(), 0, flags=mmap.MAP_PRIVATE | _NO_RESERVE, prot=mmap.PROT_READ | mmap.PROT_WRITE
        )


def forget_pages(mapped: mmap.mmap, start: int, num_bytes: int) -> None:
    """Give back the memory of the whole pages in between."""
    first = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
    length = start + num_bytes - first
    if length >= mmap.PAGESIZE:
        mapped.madvise(mmap.MADV_DONTNEED, first, length // mmap.PAGESIZE * mmap.PAGESIZE)


def write_safetensors(path: Path, entries: Mapping[str, Entry], tensor_of: Callable[[str], Tensor]) -> None:
    """Write the tensors in order, asking `tensor_of` for one at a time; `path` appears when it is complete."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    start = 0
    # Wide types first, as the library does, so that every tensor stays aligned.
    ordered = sorted(entries.items(), key=lambda item: -item[1].dtype.itemsize)
    for name, entry in ordered:
        offsets = [start, start + entry.num_bytes]
        header[name] = {"dtype": _NAMES[entry.dtype], "shape": list(entry.shape), "data_offsets": offsets}
        start += entry.num_bytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with atomic_file(path) as draft, draft.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for name, entry in ordered:
            tensor = tensor_of(name).contiguous()
            assert (tuple(tensor.shape), tensor.dtype) == (entry.shape, entry.dtype), f"{name} is not as announced"
            stream.write(tensor.view(-1).view(torch.uint8).numpy().data)


def _read_header(path: Path, text: bytes, data_bytes: int) -> tuple[dict[str, Entry], dict[str, int]]:
    with reading(path, "a safetensors file"):
        header = json.loads(text.decode("utf-8"))  # and nothing else: the library refuses UTF-16 and byte order marks
        header.pop("__metadata__", None)
        rows = []
        for name, values in header.items():
            dtype, shape, (start, stop) = values["dtype"], tuple(values["shape"]), values["data_offsets"]
            if not all(type(number) is int and 0 <= number < 2**63 for number in (*shape, start, stop)):
                raise _damaged(path, f"the shape or the place of {name} cannot be")
            rows.append((name, str(dtype), shape, start, stop))
    entries: dict[str, Entry] = {}
    starts: dict[str, int] = {}
    expected = 0
    for name, dtype, shape, start, stop in sorted(rows, key=lambda row: row[3:]):
        if dtype not in _DTYPES:
            raise InputError(f"{path}: {name} has the type {dtype}, which is not read: convert it to BF16, F16 or F32")
        entries[name], starts[name] = Entry(shape, _DTYPES[dtype]), start
        size = math.prod(shape) * _DTYPES[dtype].itemsize
        if stop - start != size or start != expected:
            raise _damaged(path, f"its header gives {name} the bytes {start} to {stop}, which cannot be")
        expected = stop
    if expected != data_bytes:
        raise _damaged(path, f"its header describes {expected} bytes of tensors, it holds {data_bytes}")
    return entries, starts


def _damaged(path: Path, why: str) -> InputError:
    return InputError(f"{path} is damaged ({why}): copy or make it again")
