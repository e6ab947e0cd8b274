"""A model directory as one GGUF file that llama.cpp runs.

    write_gguf(directory, Path("model-q4_k_m.gguf"), "q4_k_m", progress)

The weights stream: each tensor is made from the mapped source, rounded, written and forgotten. f32 to q5_1 are written
here with llama.cpp's own Python package; the K-quants are made by its quantiser (llama-cpp-python) out of an f16 file.
Norms, biases and routers stay in 32 bits.
"""

import ctypes
import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from inkstone.errors import InputError
from inkstone.model.decoder.config import DecoderConfig
from inkstone.model.families.layout import Piece
from inkstone.model.files.adapter import own_prefix
from inkstone.model.files.directory import read_stop_ids
from inkstone.model.files.pieces import Box, by_theirs, their_shape, their_tensor
from inkstone.model.files.weights import Weights, open_weights
from inkstone.model.gguf.architectures import FACTORS, architecture_of, layout, rope_factors, shape_keys
from inkstone.model.gguf.vocabulary import vocabulary_keys
from inkstone.progress import Progress
from inkstone.storage import atomic_file

_WRITTEN = {"f32": 0, "f16": 1, "bf16": 32, "q4_0": 2, "q4_1": 3, "q5_0": 8, "q5_1": 9, "q8_0": 7}
_BY_LLAMA_CPP = {"q2_k": 10, "q3_k_s": 11, "q3_k_m": 12, "q3_k_l": 13, "q4_k_s": 14, "q4_k_m": 15, "q5_k_s": 16,
                 "q5_k_m": 17, "q6_k": 18}  # fmt: skip
TYPES = tuple({**_WRITTEN, **_BY_LLAMA_CPP})
"""What a file may be: llama.cpp's names."""
_BLOCK = 32


def write_gguf(source: Path, target: Path, kind: str, progress: Progress) -> None:
    """Write the model of `source` as `target`. Raises InputError where llama.cpp could not run it as it is."""
    gguf = _package()
    quantise = _llama_cpp() if kind in _BY_LLAMA_CPP else None
    weights = open_weights(source)
    if own_prefix(source):
        raise InputError(f"{source} has a prefix, which llama.cpp does not know: take its base, or tune it with LoRA")
    arch = architecture_of(weights.config)
    keys = {
        "general.name": source.resolve().stem,
        "general.file_type": _WRITTEN.get(kind, 1),
        **shape_keys(weights.config, arch),
        **vocabulary_keys(source, weights.config.vocab_size, read_stop_ids(source)),
    }
    with atomic_file(target) as draft:
        if quantise is None:
            _write(gguf, weights, arch, keys, draft, kind, progress)
            return
        with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
            plain = Path(scratch) / "f16.gguf"
            _write(gguf, weights, arch, keys, plain, "f16", progress)
            quantise(plain, draft, _BY_LLAMA_CPP[kind])


def _write(
    gguf: Any, weights: Weights, arch: str, keys: dict[str, Any], path: Path, kind: str, progress: Progress
) -> None:
    config, table = weights.config, by_theirs(layout(weights.config, arch))
    writer = gguf.GGUFWriter(path, arch)
    for name, value in keys.items():
        _add(writer, name, value)
    shapes = {theirs: _shape(theirs, their_shape(pieces, weights.shapes), config) for theirs, pieces in table.items()}
    if config.rope_scaling and config.rope_scaling.kind == "llama3":
        shapes[FACTORS] = (config.head_dim // 2,)
    kinds = {name: gguf.GGMLQuantizationType[_kind(name, shape, kind).upper()] for name, shape in shapes.items()}
    for name, shape in shapes.items():
        together, size = gguf.GGML_QUANT_SIZES[kinds[name]]
        writer.add_tensor_info(
            name, shape, np.dtype(np.float32), math.prod(shape) // together * size, raw_dtype=kinds[name]
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    total = sum(map(math.prod, shapes.values()))
    done = 0
    for name, shape in shapes.items():
        tensor = rope_factors(config) if name == FACTORS else _tensor(name, table[name], weights)
        data = tensor.reshape(shape).float().numpy()
        writer.write_tensor_data(gguf.quants.quantize(data, kinds[name]))
        done += tensor.numel()
        progress.advance(done / 1e6, total / 1e6, "M weights")
    writer.close()


def _tensor(theirs: str, pieces: list[Piece], weights: Weights) -> Tensor:
    """One of llama.cpp's tensors, float32."""

    def block_of(name: str, box: Box) -> Tensor:
        block = weights.read(name, box, torch.float32)
        if problems := weights.not_finite(name, block):
            raise InputError(problems)
        return block

    tensor = their_tensor(pieces, weights.shapes, block_of)
    if theirs == "output.weight" and weights.config.normalised_head:
        return tensor / tensor.norm(dim=1, keepdim=True)
    return tensor


def _shape(name: str, shape: tuple[int, ...], config: DecoderConfig) -> tuple[int, ...]:
    """As GGUF has it: experts in a dimension of their own."""
    experts = config.num_experts
    return (experts, shape[0] // experts, shape[1]) if "_exps" in name else shape


def _kind(name: str, shape: tuple[int, ...], wanted: str) -> str:
    """Matrices are rounded, all else is not; rows that no block divides are kept in 16 bits."""
    if len(shape) < 2 or name.endswith("ffn_gate_inp.weight"):
        return "f32"
    return "f16" if wanted.startswith("q") and shape[-1] % _BLOCK else wanted


def _add(writer: Any, name: str, value: object) -> None:
    adders = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
    adders.get(type(value), writer.add_array)(name, value)


def _package() -> Any:
    try:
        import gguf
    except ImportError as error:
        raise InputError("writing GGUF needs llama.cpp's package: pip install 'inkstone[gguf]'") from error
    return gguf


def _llama_cpp() -> Callable[[Path, Path, int], None]:
    """llama.cpp's quantiser of files."""
    try:
        import llama_cpp
    except ImportError as error:
        raise InputError(
            "K-quants are made by llama.cpp itself: pip install llama-cpp-python, or write q8_0, q5_0 or q4_0"
        ) from error

    def quantise(source: Path, target: Path, number: int) -> None:
        how = llama_cpp.llama_model_quantize_default_params()
        how.ftype = number
        failed = llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(how))
        if failed:
            raise InputError(f"llama.cpp's quantiser refused {target.name} ({failed}): write q8_0 or q4_0 instead")

    return quantise
