"""`inkstone generate`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from inkstone.cli.model_commands import DTYPES, Dtype, open_to_write
from inkstone.cli.options import Draft, GpuGib, Lookup, Mapped, Quantize, Where, refuse_existing


def generate(
    model: Annotated[Path, typer.Argument(help="model directory, e.g. runs/primer/sft", show_default=False)],
    prompts: Annotated[
        Path,
        typer.Option(metavar="FILE", help="rows of JSON with prompt (a text) or messages; .jsonl, .json, .gz, .zst"),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="JSON lines, in the prompts' order")],
    n: Annotated[int, typer.Option("--n", min=1, help="answers to each prompt")] = 1,
    temperature: Annotated[
        float | None, typer.Option(min=0, help="0 is greedy; default: generation_config.json")
    ] = None,
    top_p: Annotated[float | None, typer.Option(min=0.01, max=1)] = None,
    top_k: Annotated[int | None, typer.Option(min=0, help="0 keeps all tokens")] = None,
    min_p: Annotated[float | None, typer.Option(min=0, max=1)] = None,
    repetition_penalty: Annotated[float | None, typer.Option(min=0.01, help="1 is none")] = None,
    max_new_tokens: Annotated[int | None, typer.Option(min=1, help="longest answer in tokens")] = None,
    stop: Annotated[list[str] | None, typer.Option(help="text that ends an answer; repeatable")] = None,
    schema: Annotated[Path | None, typer.Option(metavar="FILE", help="JSON schema that answers must satisfy")] = None,
    seed: Annotated[int, typer.Option(help="of the draws when temperature is above 0")] = 0,
    rows: Annotated[int, typer.Option(min=1, help="requests decoded together")] = 32,
    adapter: Annotated[Path | None, typer.Option(metavar="DIR", help="PEFT directory with an adapter for it")] = None,
    template: Annotated[
        str | None, typer.Option(metavar="NAME", help="how conversations are written, where the directory does not say")
    ] = None,
    dtype: Dtype = None,
    device: Where = "cpu",
    quantize: Quantize = None,
    lookup: Lookup = 0,
    draft: Draft = None,
    offload: Mapped = False,
    gpu_memory_gib: GpuGib = None,
) -> None:
    """Answer a file of prompts. A killed call goes on where it was; nothing is computed while a row is at fault."""
    from inkstone.cli.progress import show_progress
    from inkstone.generate import SamplingSettings, read_sampling
    from inkstone.generate.batch import BatchWork, answer_file
    from inkstone.model.files.offload import Offload
    from inkstone.storage.json_object import read_json_object

    refuse_existing(output)
    chosen = {
        "temperature": temperature,
        "top_p": top_p,
        "top_k": top_k,
        "min_p": min_p,
        "repetition_penalty": repetition_penalty,
        "max_new_tokens": max_new_tokens,
    }
    wanted = read_json_object(schema) if schema else None
    stays = Offload(offload, gpu_memory_gib)
    opened = open_to_write(
        model, dtype, draft, device=device, template=template, adapter=adapter, quantize=quantize, offload=stays
    )
    given = {key: value for key, value in chosen.items() if value is not None}
    sampling = SamplingSettings(**read_sampling(model).model_dump() | given | {"seed": seed})
    whose = json.dumps(
        [str(path) if path else None for path in (model, adapter)] + [template, DTYPES.get(dtype or ""), quantize]
    )
    with show_progress("generate") as progress:
        work = BatchWork(sampling, whose, n, stop or [], wanted, rows, lookup)
        answer_file(opened, prompts, output, work, progress)
    typer.echo(output)
