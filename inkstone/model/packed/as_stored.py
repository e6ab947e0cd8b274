"""A weight that is kept as its file has it, wherever that is, and made ready anew for each product.

    weight = Stored((N, K), {"bytes": view_of_the_mapped_file}, unpack)
    weight.lane = Lane(torch.device("cuda"))       # or: its parts stay in host memory and are brought for each product

Nothing is held beside what the file has: pages of a mapped file come and go as the system sees fit, and a GPU has two
weights of those that are brought, the one that is multiplied and the next one.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from threading import Lock

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inkstone.model.packed.grouped import Grouped
from inkstone.model.packed.nf4 import Nf4

Unpack = Callable[[Mapping[str, Tensor]], Grouped | Nf4]


class Stored(nn.Module):
    """A weight [N, K], or all experts' [E, N, K]. Without `unpack` its one part is the weight itself.

    `by_rows`: row n of every part is row n of the weight.
    """

    def __init__(
        self, shape: Sequence[int], parts: Mapping[str, Tensor], unpack: Unpack | None = None, by_rows: bool = False
    ) -> None:
        super().__init__()
        self.shape: tuple[int, ...] = tuple(shape)
        self.parts, self.unpack, self.by_rows = dict(parts), unpack, by_rows
        self.lane: Lane | None = None

    @property
    def num_bytes(self) -> int:
        return sum(part.nbytes for part in self.parts.values())

    def each(self, change: Callable[[Tensor], Tensor]) -> None:
        """Put every part elsewhere."""
        self.parts = {name: change(part) for name, part in self.parts.items()}

    def take(self, rows: slice | int | Tensor) -> "Stored":
        """Some rows, in this order, or one expert."""
        shape = torch.empty(self.shape, device="meta")[rows].shape
        if (unpack := self.unpack) is None or self.by_rows:
            return Stored(shape, {name: part[rows] for name, part in self.parts.items()}, unpack, self.by_rows)
        assert not isinstance(rows, int), "experts are packed one by one, or by rows"
        return Stored(shape, self.parts, lambda parts: unpack(parts).take(rows))

    def unpacked(self) -> Grouped | Nf4 | Tensor:
        """The weight in the form that is multiplied, where it is multiplied."""
        parts = self.lane.bring(self) if self.lane else self.parts
        if self.unpack is None:
            return parts["weight"]
        device = next(iter(parts.values())).device
        with nullcontext() if device.type == "cpu" else device:
            return self.unpack(parts)

    def dequantise(self, dtype: torch.dtype) -> Tensor:
        weight = self.unpacked()
        return weight.to(dtype) if isinstance(weight, Tensor) else weight.dequantise(dtype)

    def product(self, x: Tensor) -> Tensor:
        """x W^T in x's dtype, with the numbers that the unpacked weight gives."""
        weight = self.unpacked()
        if isinstance(weight, Tensor):
            return F.linear(x, weight.to(x.dtype))
        fast = weight.product(x)
        return F.linear(x, weight.dequantise(x.dtype)) if fast is None else fast


class Lane:
    """Brings weights from host memory to `device`, the next one while one is multiplied, on a stream of its own."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self.after: dict[Stored, Stored | None] = {}
        """What is wanted after a weight, where that is known."""
        self.coming: dict[Stored, dict[str, Tensor]] = {}
        self.num_bytes = 0
        """Brought so far."""
        self._lock = Lock()  # an adapter's engine shares the weights of its base's

    def line_up(self, weights: Sequence[Stored], last: Stored | None = None) -> None:
        """They will be wanted in this order, then `last`."""
        self.after.update(zip(weights, [*weights[1:], last], strict=False))

    def bring(self, weight: Stored) -> dict[str, Tensor]:
        """The weight's parts on the device, ready for what this thread does next there."""
        with self._lock:
            self._start(weight)
            parts = self.coming.pop(weight)
            if self.stream is not None:
                current = torch.cuda.current_stream(self.device)
                # Until the products before are done their weights take memory: without this wait all would be brought.
                current.synchronize()
                current.wait_stream(self.stream)
                for part in parts.values():
                    part.record_stream(current)
            if (following := self.after.get(weight)) is not None:
                self._start(following)
            return parts

    def _start(self, weight: Stored) -> None:
        if weight in self.coming:
            return
        # What was expected and is not wanted (another expert was chosen, a step was cut short) makes room.
        self.coming.clear()
        self.num_bytes += weight.num_bytes
        with nullcontext() if self.stream is None else torch.cuda.stream(self.stream):
            parts = weight.parts.items()
            self.coming[weight] = {name: part.to(self.device, non_blocking=True, copy=True) for name, part in parts}
