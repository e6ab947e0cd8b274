"""A quantised checkpoint seen as a plain one: packed weights have their plain name and shape.

    checkpoint = QuantisedCheckpoint(directory, values["quantization_config"])
    checkpoint.tensor("model.layers.0.self_attn.q_proj.weight")     # dequantised now
    checkpoint.stored("model.layers.0.self_attn.q_proj.weight")     # packed, and not read yet

So every family's table, `inkstone convert` and the slices of tensor-parallel ranks read all layouts.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from inkstone.errors import InputError
from inkstone.model.files.safetensors_file import Entry
from inkstone.model.files.stored import Checkpoint
from inkstone.model.packed.as_stored import Stored
from inkstone.model.packed.awq import AWQ
from inkstone.model.packed.bitsandbytes import BNB_NF4, state_shape
from inkstone.model.packed.compressed_tensors import INT_QUANTIZED, PACK_QUANTIZED
from inkstone.model.packed.gptq import GPTQ
from inkstone.model.packed.grouped import Grouped
from inkstone.model.packed.layout import Layout, Parts
from inkstone.model.packed.nf4 import Nf4
from inkstone.storage.damage import reading


def layout_of(settings: Mapping[str, Any], where: str) -> Layout:
    """The layout that a quantization_config names. Raises InputError for one that is not read."""
    if not isinstance(settings, Mapping):
        raise InputError(f"{where}: quantization_config = {settings!r} is not a table of settings")
    method = settings.get("quant_method")
    if method == "bitsandbytes" and settings.get("bnb_4bit_quant_type") == "nf4" and settings.get("load_in_4bit"):
        return BNB_NF4
    if method == "compressed-tensors":
        found = {layout.name: layout for layout in (PACK_QUANTIZED, INT_QUANTIZED)}.get(str(settings.get("format")))
        if found:
            return found
        raise InputError(f"{where}: compressed-tensors' format {settings.get('format')} is not read: pack-quantized "
                         "and int-quantized are")  # fmt: skip
    if method in ("gptq", "awq"):
        return GPTQ if method == "gptq" else AWQ
    raise InputError(
        f"{where}: the weights are quantized ({method}), which is not read; gptq, awq, compressed-tensors and "
        "bitsandbytes NF4 are: get one of these, or the original weights"
    )


class QuantisedCheckpoint(Checkpoint):
    """`entries` has the packed weights under their plain names and no trace of their parts."""

    def __init__(self, directory: Path, settings: Mapping[str, Any]) -> None:
        """Raises InputError with every weight whose parts are missing or contradict each other."""
        super().__init__(directory)
        self.settings, self.layout = settings, layout_of(settings, str(directory / "config.json"))
        self._stored = dict(self.entries)
        self._modules: dict[str, tuple[int, int]] = {}
        problems: list[str] = []
        marker = f".{self.layout.needed[0]}"
        for name in [name for name in self._stored if name.endswith(marker)]:
            module = name.removesuffix(marker)
            try:
                with reading("it", f"what {self.layout.name} stores"):
                    self._adopt(module)
            except InputError as error:
                problems.append(f"{directory}: {module}: {error}")
        if problems:
            raise InputError(problems)

    def _adopt(self, module: str) -> None:
        parts = self._parts(module)
        missing = [part for part in self.layout.needed if part not in parts]
        if missing:
            raise InputError(f"{', '.join(missing)} is missing beside {self.layout.needed[0]}")
        if self.layout.shape is None:
            shape = state_shape(super().tensor(parts[self.layout.needed[0]]))
        else:
            shapes = {part: self._stored[name].shape for part, name in parts.items()}
            shape = self.layout.shape(shapes, self.settings)
        for name in parts.values():
            self.entries.pop(name, None)
        self.entries[f"{module}.weight"] = Entry(shape, torch.float32)
        self._modules[module] = shape
        # Some writers keep a bias of zeros beside every weight.
        bias = f"{module}.bias"
        if bias in self.entries and not bool(super().tensor(bias).any()):
            self.optional.add(bias)

    def _parts(self, module: str) -> dict[str, str]:
        names = {part: f"{module}.{part}" for part in (*self.layout.needed, *self.layout.optional)}
        return {part: name for part, name in names.items() if name in self._stored}

    def is_packed(self, name: str) -> bool:
        return name.removesuffix(".weight") in self._modules

    def stored(self, name: str) -> Stored:
        module = name.removesuffix(".weight")
        if not self.is_packed(name):
            return super().stored(name)
        parts = {part: Checkpoint.tensor(self, stored) for part, stored in self._parts(module).items()}
        return Stored(self._modules[module], parts, partial(self._unpack, module))

    def _unpack(self, module: str, parts: Parts) -> Grouped | Nf4:
        try:
            with reading("it", f"what {self.layout.name} stores"):
                return self.layout.read(parts, self._modules[module], self.settings)
        except InputError as error:
            raise InputError(f"{self.directory}: {module}: {error}") from error

    def tensor(self, name: str) -> Tensor:
        return self.stored(name).dequantise(torch.float32) if self.is_packed(name) else super().tensor(name)

    def release(self, name: str) -> None:
        module = name.removesuffix(".weight")
        names = self._parts(module).values() if module in self._modules else [name]
        for stored in names:
            super().release(stored)
