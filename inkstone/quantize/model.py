"""A whole model quantised, block after block, and written as a directory that others open.

Calibration flows through blocks that are already rounded, so each one makes up for those before it. A finished block
is a file beside the target (TARGET.partial); a second call with the same settings goes on after the last of them.
"""

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from inkstone.errors import InputError
from inkstone.model.decoder.decoder import Block, Decoder
from inkstone.model.decoder.packed import PackedContext
from inkstone.model.decoder.position import rotary_angles
from inkstone.model.files.directory import carry_files, load_model
from inkstone.model.files.weights import Weights, open_weights, read_values
from inkstone.model.packed.grouped import Grouped
from inkstone.progress import Progress, Silent
from inkstone.quantize.awq import Folded
from inkstone.quantize.blocks import Packed, put_weights, quantise_block
from inkstone.quantize.settings import Quantization
from inkstone.quantize.writing import write_nf4_model, write_quantised
from inkstone.storage import atomic_directory, atomic_file, fingerprint
from inkstone.tokenizer import Tokenizer

_ROWS = 8  # calibration rows computed together
_FOLDED = "folded|"


def quantize_model(
    source: Path, target: Path, how: Quantization, calibration: Path | None = None, progress: Progress | None = None
) -> None:
    """Write the quantised model of `source` to `target`. Raises InputError for what cannot be quantised so."""
    check(source, how)
    rows_BT = _calibration(source, calibration, how) if how.calibrated else None
    work = target.with_name(f"{target.name}.partial")
    with atomic_directory(target) as draft:
        quantize_into(source, draft, how, rows_BT, work, progress or Silent())


def check(source: Path, how: Quantization) -> None:
    """Raises InputError for what is known to be impossible before any text is read."""
    if problems := how.problems():
        raise InputError(problems)
    if hasattr(open_weights(source).checkpoint, "layout"):
        raise InputError(f"{source} is quantized already: quantize the original weights")


def quantize_into(
    source: Path, output: Path, how: Quantization, rows_BT: Tensor | None, work: Path, progress: Progress
) -> None:
    """Fill the empty directory `output`; finished blocks are kept in `work`, for a call that goes on."""
    weights, (values, _) = open_weights(source), read_values(source)
    carry_files(source, output)
    if how.method == "nf4":
        write_nf4_model(output, weights, values)
        return
    model = load_model(source)
    _begin(work, source, weights, how, rows_BT)
    packed: Packed = {}
    changed: Folded = {}
    for layer, (block, folded) in enumerate(_flow(model, rows_BT, work, how, progress)):
        packed |= {f"model.layers.{layer}.{name}": stored for name, stored in block.items()}
        changed |= {f"model.layers.{layer}.{name}": tensor for name, tensor in folded.items()}
    write_quantised(output, weights, packed, changed, how, values)
    shutil.rmtree(work)


def _calibration(source: Path, path: Path | None, how: Quantization) -> Tensor:
    """Rows of token ids [B, T] of a text. Raises InputError where it is too short."""
    if path is None:
        raise InputError(f"--method {how.method} needs --calibration FILE: text like what the model will read")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not readable UTF-8 text: {error}") from error
    return calibration_rows(Tokenizer.load(source).encode(text), how, str(path))


def calibration_rows(ids: Sequence[int], how: Quantization, origin: str) -> Tensor:
    """Rows [B, T] spread evenly over the ids. Raises InputError where they are too few."""
    rows = len(ids) // how.length
    if rows < 8:
        raise InputError(
            f"{origin} has {len(ids)} tokens; calibration needs at least 8 rows of {how.length}: give more text"
        )
    taken = torch.linspace(0, rows - 1, min(rows, how.samples)).long()
    return torch.tensor(ids[: rows * how.length]).view(rows, how.length)[taken]


def _begin(work: Path, source: Path, weights: Weights, how: Quantization, rows_BT: Tensor | None) -> None:
    """The directory of finished blocks, emptied where they were made from something else."""
    config = json.dumps(asdict(weights.config), sort_keys=True)
    sizes = [
        (str(path.name), path.stat().st_size, path.stat().st_mtime_ns) for path in sorted(source.glob("*.safetensors"))
    ]
    rows = [] if rows_BT is None else rows_BT.flatten().tolist()
    mine = fingerprint({"how": asdict(how), "rows": rows, "config": config, "files": sizes})
    stated = work / "fingerprint"
    if work.exists() and (not stated.is_file() or stated.read_text() != mine):
        shutil.rmtree(work)
    work.mkdir(parents=True, exist_ok=True)
    stated.write_text(mine)


@torch.no_grad()
def _flow(
    model: Decoder, rows_BT: Tensor | None, work: Path, how: Quantization, progress: Progress
) -> Iterator[tuple[Packed, Folded]]:
    layers, states = model.model.layers, [] if rows_BT is None else _embed(model, rows_BT)
    for layer in range(len(layers)):
        block = layers[layer]
        assert isinstance(block, Block)
        path = work / f"layer-{layer:05d}.safetensors"
        if path.is_file():
            packed, folded = _read(path)
        else:
            packed, folded = quantise_block(block, partial(_through, model, block, states), how, progress.note)
            _write(path, packed, folded)
        if states and layer + 1 < len(layers):
            put_weights(block, packed, folded)
            states = _through(model, block, states)
        progress.advance(layer + 1, len(layers), "blocks")
        yield packed, folded


def _embed(model: Decoder, rows_BT: Tensor) -> list[Tensor]:
    states = [model.model.embed_tokens(rows) for rows in rows_BT.split(_ROWS)]
    return [model.model.embed_norm(x) for x in states] if model.config.embedding_norm else states


def _through(model: Decoder, block: Block, states: list[Tensor]) -> list[Tensor]:
    out = []
    for x_BTD in states:
        context = PackedContext.whole_rows(x_BTD.shape[0], x_BTD.shape[1])
        context.prepare(model.held, x_BTD.dtype)
        rope = model.config.position == "rope"
        angles = rotary_angles(model.config, context.positions_BT) if rope else None
        out.append(block(x_BTD, angles, context)[0])
    return out


def _write(path: Path, packed: Packed, folded: Folded) -> None:
    tensors = {f"{_FOLDED}{name}": tensor for name, tensor in folded.items()}
    for name, experts in packed.items():
        for number, one in enumerate(experts):
            parts = {"codes": one.unpacked(), "scales": one.scales, "zeros": one.zeros, "order": one.order}
            tensors |= {
                f"{name}|{number}|{one.bits}|{one.group}|{part}": t for part, t in parts.items() if t is not None
            }
    with atomic_file(path) as draft:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, draft)


def _read(path: Path) -> tuple[Packed, Folded]:
    parts: dict[str, dict[str, Tensor]] = {}
    folded: Folded = {}
    for key, tensor in load_file(path).items():
        if key.startswith(_FOLDED):
            folded[key.removeprefix(_FOLDED)] = tensor
            continue
        whole, _, part = key.rpartition("|")
        parts.setdefault(whole, {})[part] = tensor
    packed: Packed = {}
    for key in sorted(parts, key=lambda key: (key.split("|")[0], int(key.split("|")[1]))):
        name, _, bits, group = key.split("|")
        one = parts[key]
        made = Grouped(one["codes"], one["scales"], one["zeros"], int(bits), int(group), one.get("order"))
        packed.setdefault(name, []).append(made)
    return packed, folded
