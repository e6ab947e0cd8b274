"""`inkstone template`: the chat formats we know, what each looks like, and giving one to a model directory."""

from pathlib import Path
from typing import Annotated

import typer

from inkstone.cli.help import Group
from inkstone.cli.visible import visible

template_app = typer.Typer(
    cls=Group, no_args_is_help=True, help="How conversations are written: list, show, attach to a model."
)


@template_app.command("list")
def list_templates() -> None:
    """The known templates, with how the publisher of each samples."""
    from inkstone.chat import TEMPLATES
    from inkstone.cli.table import show_table

    rows = []
    for template in TEMPLATES.values():
        sampling = template.sampling
        how = f"temperature {sampling.temperature:g}, top_p {sampling.top_p:g}" if sampling else "greedy"
        how += f", top_k {sampling.top_k}" if sampling and sampling.top_k else ""
        rows.append([template.name, ", ".join(template.turns), " ".join(template.stop_tokens) or "eos", how])
    show_table(["template", "roles", "stops at", "sampling"], rows, left=4)


@template_app.command("show")
def show_template(
    name: Annotated[str | None, typer.Argument(help="template; default: what --model says", show_default=False)] = None,
    model: Annotated[Path | None, typer.Option(help="model directory whose tokenizer encodes the example")] = None,
) -> None:
    """An example conversation as the template writes it: what the model learns is marked, and the ids with --model."""
    from rich.console import Console

    from inkstone.chat import Message, choose_template, encode_chat, template_named
    from inkstone.errors import InputError

    console = Console(highlight=False, soft_wrap=True, emoji=False)
    if model is not None:
        choice = choose_template(model, name)
        template = choice.template
        console.print(visible(choice.reason), markup=False)
    elif name is not None:
        template = template_named(name)
    else:
        raise InputError("name a template (inkstone template list), or give --model DIRECTORY")
    system = [Message("system", "简短地回答。")] if "system" in template.turns else []
    first, second = [Message("user", "你好"), Message("assistant", "你好！")], [Message("user", "1+1=?")]
    example = [*system, *first, *second, Message("assistant", "2")]
    for segment in template.segments(example):
        style = "bold green" if segment.weight else "cyan" if segment.kind != "text" else ""
        console.print(visible(segment.value), end="", markup=False, style=style)
    console.print()
    if model is not None:
        from inkstone.tokenizer import Tokenizer

        ids, weights = encode_chat(example, template, Tokenizer.load(model))
        console.print(f"ids {ids}", markup=False)
        console.print(f"learned {[token for token, weight in zip(ids, weights, strict=True) if weight]}", markup=False)


@template_app.command("attach")
def attach(
    name: Annotated[str, typer.Argument(help="template, e.g. baichuan", show_default=False)],
    model: Annotated[Path, typer.Argument(help="model directory to make a chat model", show_default=False)],
) -> None:
    """Write a template into a model directory: for us, for other programs, and how its publisher samples."""
    from inkstone.chat import attach_template, template_named
    from inkstone.errors import InputError
    from inkstone.tokenizer import Tokenizer

    if not (model / "config.json").is_file():
        raise InputError(f"{model} is not a model directory: it has no config.json")
    attach_template(template_named(name), Tokenizer.load(model), model)
    typer.echo(model)
