"""What of a model is copied into memory or onto a GPU, and what stays as its file has it.

    kept = keep(weights, dtype, Offload(mapped=True))       # nothing is copied that the file has
    kept = keep(weights, dtype, Offload(gpu_gib=9.6))       # so much of a GPU, the rest in host memory
    model = load_model(directory, offload=Offload(...))     # which is where this is used

Layers leave from the last one on; of a mixture first their experts, of which a token uses few. On a CPU what has left
is read from the mapped file by the product that wants it, on a GPU it is brought there, and nothing else changes: the
numbers are those of the copied model.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import chain

import torch

from inkstone.errors import InputError
from inkstone.model.decoder.config import DecoderConfig
from inkstone.model.files.pieces import whole
from inkstone.model.files.weights import Weights
from inkstone.model.packed.as_stored import Lane, Stored
from inkstone.model.packed.pack import free_bytes

_GIB = 2**30
_MOVABLE = re.compile(r"model\.layers\.(\d+)\.(?:self_attn|mlp)\.(experts\.)?\w+_proj(?:\.weight)?")
_COPIED = 1.0
"""Bytes of a packed weight that was read into memory: 0.75 (q4_0) to 1.5 (q6_K), where the file has 0.33 to 0.82."""
_UNPACKING = 13
"""Bytes at the peak for each number of a packed weight that is multiplied: codes, float32, result (11.3 to 12.3)."""
_ACTIVATIONS = 2**28

Kept = dict[str, list[list[Stored]]]
"""By our names: one list of the parts that lie below each other, or one for each expert."""


@dataclass(frozen=True)
class Offload:
    """By default, on a CPU, what can be copied into half of the memory that is free is copied."""

    mapped: bool = False
    """Copy nothing; beside a GPU: leave what stays outside in the mapped file, not in pinned memory."""
    gpu_gib: float | None = None
    """Of a GPU's memory, for weights, keys and values, and what a step needs."""
    cache_gib: float = 1.0
    """Of these, for keys and values."""
    device: str = "cuda"

    def check(self) -> None:
        """Raises InputError where there is no such GPU."""
        if self.gpu_gib and self.device.startswith("cuda") and not torch.cuda.is_available():
            raise InputError(
                f"--gpu-memory-gib {self.gpu_gib:g}: there is no GPU here that torch can use; leave it out, and where "
                "the memory is small give --offload"
            )

    def cache_tokens(self, config: DecoderConfig, dtype: torch.dtype) -> int:
        """Tokens whose keys and values fit."""
        each = 2 * config.num_layers * config.num_kv_heads * config.head_dim * dtype.itemsize
        return int(self.cache_gib * _GIB / each)


def leaving(sizes: Mapping[str, float], room: float) -> list[str]:
    """Which weights, by name, have to leave so that the rest of these bytes fits: layer by layer, experts first."""
    groups: dict[tuple[bool, int], list[str]] = {}
    for name in sizes:
        if found := _MOVABLE.fullmatch(name):
            groups.setdefault((not found[2], -int(found[1])), []).append(name)
    left, gone = sum(sizes.values()), list[str]()
    for _, names in sorted(groups.items()):
        if left > room:
            gone += names
            left -= sum(sizes[name] for name in names)
    return gone


def keep(weights: Weights, dtype: torch.dtype, how: Offload, check: bool = True) -> tuple[Kept, str]:
    """The weights that are kept as they are stored, each where it belongs, and a sentence about them.

    Raises InputError where the budget is too small for any model of this shape, and for broken weights.
    """
    names = [name for name in weights.shapes if _MOVABLE.fullmatch(name)]
    packed = {name for name in names if weights.is_packed(name)}
    if how.gpu_gib is None:
        gone = leaving(_copies(weights, names, packed, dtype), 0 if how.mapped else free_bytes() / 2)
        kept = _read(weights, gone, dtype, check)
        size = _bytes(kept) / _GIB
        where = "stay in the mapped file and are read when they are used"
        return kept, f"{_said(gone, weights)} ({size:.2f} GiB) {where}" if gone else ""
    kept = _read(weights, [name for name in names if name in packed], dtype, check)
    gone = leaving(*_on_gpu(weights, kept, dtype, how))
    kept |= _read(weights, [name for name in gone if name not in kept], dtype, check)
    kept = {name: kept[name] for name in weights.shapes if name in kept}
    outside = {name: kept[name] for name in gone}
    pinned = how.device.startswith("cuda") and not how.mapped and _bytes(outside) < free_bytes() / 2
    _put(kept, gone, torch.device(how.device), pinned)
    where = f"stay in {'pinned memory' if pinned else 'the mapped file'} and are brought to the GPU for each product"
    said = f"{_said(gone, weights)} ({_bytes(outside) / _GIB:.2f} GiB) {where}" if gone else "all weights fit the GPU"
    return kept, f"{said}; it keeps keys and values of {how.cache_tokens(weights.config, dtype):,} tokens"


def _copies(weights: Weights, names: list[str], packed: Collection[str], dtype: torch.dtype) -> dict[str, float]:
    """Bytes that a CPU's memory would have to give, beside the mapped file."""
    sizes = {name: torch.Size(weights.shapes[name]).numel() * _COPIED for name in packed}
    for name in names:
        shape = weights.shapes[name]
        if name not in packed and weights.view(name, whole(shape), dtype) is None:
            sizes[name] = torch.Size(shape).numel() * dtype.itemsize
    return sizes


def _on_gpu(weights: Weights, kept: Kept, dtype: torch.dtype, how: Offload) -> tuple[dict[str, float], float]:
    """Bytes that each weight takes there, and the bytes for all of them."""
    sizes: dict[str, float] = {}
    most, work = 0.0, 0.0  # of one matrix and the next, and of what it becomes
    for name, shape in weights.shapes.items():
        sizes[name] = torch.Size(shape).numel() * dtype.itemsize
        if name in kept:
            sizes[name] = _bytes({name: kept[name]})
            most = max(2 * part.num_bytes + _UNPACKING * torch.Size(part.shape).numel() for part in kept[name][0])
        elif _MOVABLE.fullmatch(name):
            most = 2 * torch.Size(shape[-2:]).numel() * dtype.itemsize
        work = max(work, most)
    work += how.cache_gib * _GIB + _ACTIVATIONS
    room = (how.gpu_gib or 0) * _GIB - work
    least = sum(size for name, size in sizes.items() if not _MOVABLE.fullmatch(name))
    if room < least:
        # Rounded up: what the sentence names has to do.
        raise InputError(
            f"--gpu-memory-gib {how.gpu_gib:g} is too small for {weights.checkpoint.directory}: embedding, head and "
            f"norms, keys and values ({how.cache_gib:g} GiB) and a step's own memory take "
            f"{-(-(least + work) * 1000 // _GIB) / 1000:.3f}"
        )
    return sizes, room


def _read(weights: Weights, names: Collection[str], dtype: torch.dtype, check: bool) -> Kept:
    """Our weights as they are stored, looked at once. Raises InputError for broken ones."""
    kept: Kept = {}
    problems: list[str] = []
    for name in names:
        kept[name] = stored = weights.stored(name)
        for part in chain(*stored) if check else ():
            if part.unpack is None:
                problems += weights.not_finite(name, part.parts["weight"].to(dtype))
            elif not part.by_rows:
                part.unpacked()  # of other layouts, shapes alone do not say all
        weights.release(name)
    if problems:
        raise InputError(sorted(set(problems)))
    return kept


def _put(kept: Kept, gone: Collection[str], device: torch.device, pinned: bool) -> None:
    """Onto the GPU, or where they are brought from: in the order of the layers, experts as they are chosen."""
    lane, row = Lane(device), list[Stored]()
    for name, experts in kept.items():
        for part in chain(*experts):
            if name not in gone:
                part.each(lambda tensor: tensor.to(device))
                continue
            part.lane = lane
            if pinned:
                part.each(lambda tensor: tensor.pin_memory())
            row += [] if ".experts." in name else [part]
    lane.line_up(row, row[0] if row else None)


def _bytes(kept: Kept) -> int:
    return sum(part.num_bytes for experts in kept.values() for part in chain(*experts))


def _said(gone: Collection[str], weights: Weights) -> str:
    """Of which layers."""
    layers: dict[str, set[str]] = {}
    for name in gone:
        kind = "experts" if ".experts." in name else "other weights" if weights.config.num_experts else "weights"
        layers.setdefault(kind, set()).add(name.split(".")[2])
    count = weights.config.num_layers
    return " and ".join(f"the {kind} of {len(some)} of {count} layers" for kind, some in layers.items())
