"""What a layout of packed weights is: the tensors it keeps in a weight's place, and how they are read and written."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from inkstone.errors import InputError
from inkstone.model.packed.grouped import Grouped
from inkstone.model.packed.nf4 import Nf4

Parts = Mapping[str, Tensor]
"""The tensors in a weight's place by what follows the module's name: qweight, scales ..."""
Settings = Mapping[str, Any]
"""quantization_config of config.json."""
Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Layout:
    """One layout; `needed` and `optional` are names of parts, the first needed one tells that a weight is packed."""

    name: str
    needed: tuple[str, ...]
    optional: tuple[str, ...]
    shape: Callable[[Shapes, Settings], tuple[int, int]] | None
    """(N, K) from the shapes of the parts; None where the first needed part says it."""
    read: Callable[[Parts, tuple[int, int], Settings], Grouped | Nf4]
    write: Callable[[Grouped], dict[str, Tensor]] | None = None


def bits_of(settings: Settings, *allowed: int) -> int:
    """The width of a number. Raises InputError for one that is not read."""
    bits = settings.get("bits", settings.get("w_bit"))
    if bits not in allowed:
        raise InputError(f"{bits} bits are not read, only {' and '.join(map(str, allowed))}: quantize it again")
    return int(bits)


def check_groups(columns: int, groups: int, group: int) -> int:
    """The group size, where `groups` of them make `columns`. Raises InputError otherwise."""
    group = columns if group <= 0 else group
    if -(-columns // group) != groups:
        raise InputError(f"{groups} scales in a row of {columns} columns contradict group_size = {group}")
    return group
