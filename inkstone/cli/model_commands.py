"""The verbs of the model room: `inkstone convert` and `inkstone inspect`."""

import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from inkstone.cli.options import refuse_existing
from inkstone.errors import InputError

if TYPE_CHECKING:
    from inkstone.model import Opened

_UNITS = {"MB": 10**6, "GB": 10**9, "MIB": 1 << 20, "GIB": 1 << 30}
DTYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
Dtype = Annotated[Literal["bf16", "fp16", "fp32"] | None, typer.Option(help="of the weights; default: as stored")]


def convert(
    source: Annotated[str, typer.Argument(help="model directory, .gguf file, or a hub's name such as org/model")],
    target: Annotated[Path, typer.Argument(help="directory to write, or a file NAME.gguf", show_default=False)],
    dtype: Dtype = None,
    kind: Annotated[
        str | None,
        typer.Option("--type", metavar="TYPE", help="of a .gguf file: f32, f16, bf16, q8_0, q4_0, q4_k_m, ..."),
    ] = None,
    family: Annotated[
        str | None,
        typer.Option(
            help="layout to write: a family of the README's table, e.g. qwen2; default: what most programs open"
        ),
    ] = None,
    shard_size: Annotated[str, typer.Option(metavar="SIZE", help="largest file, e.g. 5GB")] = "5GB",
) -> None:
    """Write a checkpoint of any family as a directory that other programs open without remote code, or as GGUF."""
    import torch

    from inkstone.cli.progress import show_progress
    from inkstone.model.files.convert import convert_model
    from inkstone.model.files.hub import resolve_source
    from inkstone.model.files.weights import GGUF
    from inkstone.storage import atomic_directory

    limit = size_in_bytes(shard_size)
    refuse_existing(target)
    if target.suffix == GGUF:
        if dtype or family:
            raise InputError("--dtype and --family are for a directory: a .gguf file has --type")
        _convert_to_gguf(resolve_source(source), target, kind)
        return
    if kind is not None:
        raise InputError(f"--type {kind} is for a target NAME.gguf; a directory has --dtype")
    chosen = getattr(torch, DTYPES[dtype]) if dtype else None
    with show_progress("convert") as progress, atomic_directory(target) as draft:
        written = convert_model(
            resolve_source(source), draft, family=family, dtype=chosen, max_shard_bytes=limit, progress=progress
        )
    typer.echo(f"{target} ({written.name})")


def _convert_to_gguf(source: Path, target: Path, kind: str | None) -> None:
    from inkstone.cli.progress import show_progress
    from inkstone.model.gguf import TYPES, write_gguf

    if kind not in TYPES:
        raise InputError(f"a .gguf file needs --type, one of {', '.join(TYPES)}" + (f"; not {kind}" if kind else ""))
    with show_progress("convert") as progress:
        write_gguf(source, target, kind, progress)
    typer.echo(f"{target} ({kind})")


def inspect(
    model: Annotated[str, typer.Argument(help="model directory, config.json or a hub's name")] = "",
    preset: Annotated[str | None, typer.Option("--model", help="a public model by name, e.g. baichuan-7b")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="for programs")] = False,
) -> None:
    """What a model is, what memory it needs and what its directory lacks; config.json alone is enough."""
    from inkstone.cli.inspect import show_facts
    from inkstone.model.files.hub import resolve_source
    from inkstone.model.inspect import inspect_model, inspect_preset

    if bool(model) == bool(preset):
        raise InputError("give either a model directory (or its config.json), or --model NAME")
    if preset:
        facts = inspect_preset(preset)
    else:
        facts = inspect_model(Path(model) if Path(model).is_file() else resolve_source(model))
    if as_json:
        typer.echo(json.dumps(asdict(facts), ensure_ascii=False, indent=1))
    else:
        show_facts(facts)


def open_to_write(model: Path, dtype: str | None, draft: Path | None, **options: Any) -> "Opened":
    """A model that `chat` or `generate` decodes with, and the smaller one that guesses for it.

    `options` are those of `open_directory`.
    """
    import torch

    from inkstone.model import open_directory
    from inkstone.model.opened import with_draft

    kind = getattr(torch, DTYPES[dtype]) if dtype else None
    return with_draft(open_directory(model, kind, prepack=True, **options), draft)


def size_in_bytes(text: str) -> int:
    """5GB, 500MB, 2GiB. Raises InputError for anything else."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([MG]i?B)", text.strip(), re.IGNORECASE)
    size = int(float(match[1]) * _UNITS[match[2].upper()]) if match else 0
    if size <= 0:
        raise InputError(f"--shard-size {text} is not a size: write it as 5GB, 500MB or 2GiB")
    return size
