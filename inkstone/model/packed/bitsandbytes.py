"""bitsandbytes' layout of NF4: the codes stand under the weight's own name, everything else behind it."""

import json
import math
from typing import Any

import torch
from torch import Tensor

from inkstone.errors import InputError
from inkstone.model.packed.layout import Layout, Parts, Settings
from inkstone.model.packed.nf4 import NESTED_BLOCK, Nf4

_STATE = "weight.quant_state.bitsandbytes__nf4"


def _state(text: Tensor) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(bytes(text.tolist()))
    return found


def state_shape(text: Tensor) -> tuple[int, int]:
    """The weight's shape, from the state that is stored as text."""
    shape: Any = _state(text)["shape"]
    return int(shape[0]), int(shape[1])


def _read(parts: Parts, shape: tuple[int, int], settings: Settings) -> Nf4:
    state = _state(parts[_STATE])
    block = int(state.get("blocksize", 64))
    absmax = parts["weight.absmax"]
    if parts["weight"].numel() != math.ceil(shape[0] * shape[1] / 2) or absmax.numel() != -(
        -shape[0] * shape[1] // block
    ):
        raise InputError("the numbers of codes and magnitudes contradict the shape")
    nested = None
    if "weight.nested_absmax" in parts:
        if state.get("nested_blocksize", NESTED_BLOCK) != NESTED_BLOCK:
            raise InputError(f"magnitudes by {state['nested_blocksize']} are not read, only by {NESTED_BLOCK}")
        offset = float(state.get("nested_offset", 0.0))
        nested = (parts["weight.nested_quant_map"].float(), parts["weight.nested_absmax"].float(), offset)
    return Nf4(parts["weight"], absmax, shape, nested, parts["weight.quant_map"].float(), block)


def write_nf4(packed: Nf4, dtype: str) -> dict[str, Tensor]:
    """The parts of a doubly quantised weight; `dtype` is what it had and what products shall have."""
    assert packed.nested_levels is not None and packed.nested_absmax is not None
    state = {
        "quant_type": "nf4",
        "blocksize": packed.block,
        "dtype": dtype,
        "shape": list(packed.shape),
        "nested_blocksize": NESTED_BLOCK,
        "nested_dtype": "float32",
        "nested_offset": packed.offset,
    }
    return {
        "weight": packed.codes[:, None],
        "weight.absmax": packed.absmax,
        "weight.quant_map": packed.levels,
        "weight.nested_absmax": packed.nested_absmax,
        "weight.nested_quant_map": packed.nested_levels,
        _STATE: torch.tensor(list(json.dumps(state).encode()), dtype=torch.uint8),
    }


BNB_NF4 = Layout(
    "bitsandbytes",
    (_STATE, "weight", "weight.absmax", "weight.quant_map"),
    ("weight.nested_absmax", "weight.nested_quant_map"),
    None,
    _read,
)
