"""`inkstone chat`: a conversation on the terminal. Replies stream; the whole conversation is the context."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch
from rich.console import Console
from rich.markup import escape

from inkstone.chat import Message
from inkstone.cli.line_editor import MISSING, line_reader
from inkstone.cli.visible import visible
from inkstone.errors import InputError
from inkstone.generate import SamplingSettings, build_prompt, read_sampling, stream_reply
from inkstone.model import Opened, open_directory
from inkstone.model.files.offload import Offload
from inkstone.model.opened import with_draft

_HINT = "type a message; /help says more"
_COMMANDS = """/help   these lines; they never go to the model
/reset  forget the conversation and start over
/exit   leave; so does Ctrl-D
Enter sends, Alt-Enter breaks the line, Up brings back what you sent, Ctrl-C clears the line or cuts a reply short"""

# Where neither the command line nor generation_config.json says how to sample.
_SAMPLING = SamplingSettings(top_p=0.95, max_new_tokens=128)


def converse(
    directory: Path,
    system: str | None,
    asked: dict[str, float | int | None],
    template: str | None = None,
    show_prompt: bool = False,
    dtype: str | None = None,
    adapter: Path | None = None,
    quantize: Literal["int8", "int4", "nf4"] | None = None,
    lookup: int = 0,
    draft: Path | None = None,
    device: str = "cpu",
    offload: Offload | None = None,
) -> None:
    """Read messages from standard input until it ends; without a terminal only the replies are printed.

    `asked` are the sampling options of the command line; those that are None are the directory's.
    """
    console = Console(highlight=False, soft_wrap=True, emoji=False)
    talking = sys.stdin.isatty()
    opened = open_directory(
        directory,
        getattr(torch, dtype) if dtype else None,
        device,
        template=template,
        chat=True,
        adapter=adapter,
        quantize=quantize,
        prepack=True,
        offload=offload,
    )
    opened = with_draft(opened, draft)
    given = {key: value for key, value in asked.items() if value is not None}
    sampling = SamplingSettings(**read_sampling(directory, _SAMPLING).model_dump() | given)
    start = [Message("system", system)] if system else []
    history = list(start)
    if talking:
        console.print(f"[dim]{escape(str(directory))}: {_HINT}[/]")
        console.print(f"[dim]template {escape(visible(opened.why_template))}; {escape(_how(sampling))}[/]")
    read = _reader(console) if talking else input
    while (text := _read(read)) is not None and text != "/exit":
        if text == "/reset":
            history = list(start)
        elif text == "/help":
            _aside().print(f"[dim]{_COMMANDS}[/]")
        elif text:
            history = _answer(console, opened, [*history, Message("user", text)], sampling, show_prompt, lookup)
    if talking:
        console.print()


def _reader(console: Console) -> Callable[[], str]:
    """How a message is typed on this terminal."""
    try:
        return line_reader()
    except ImportError:
        console.print(f"[dim]{escape(MISSING)}[/]")
        return lambda: console.input("[bold cyan]> [/]")


def _aside() -> Console:
    """For what is not among the replies: a program may be reading those."""
    return Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)


def _read(read: Callable[[], str]) -> str | None:
    try:
        return read().strip()
    except EOFError:
        return None
    except KeyboardInterrupt as stop:
        raise KeyboardInterrupt("left the conversation") from stop


def _how(sampling: SamplingSettings) -> str:
    """The sampling in a few words."""
    if sampling.temperature == 0:
        return "greedy"
    shown = {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": sampling.top_k}
    return ", ".join(f"{key} {value:g}" for key, value in shown.items())


def _answer(
    console: Console,
    opened: Opened,
    history: list[Message],
    sampling: SamplingSettings,
    show_prompt: bool,
    lookup: int,
) -> list[Message]:
    """Print the reply as it comes and return the history with it; Ctrl-C cuts the reply short and keeps what was said.

    A message the model cannot take is refused in a sentence and forgotten, and the conversation goes on.
    """
    reply = ""
    aside = _aside()
    try:
        if show_prompt:
            ids = build_prompt(opened, history, sampling)
            aside.print(f"[dim]{escape(visible(opened.tokenizer.decode(ids)))}⟨{len(ids)} tokens⟩[/]")
        for delta in stream_reply(opened, history, sampling, lookup):
            reply += delta
            console.print(visible(delta) if console.is_terminal else delta, end="", markup=False)
    except InputError as error:
        aside.print(f"[red]{escape(visible(str(error)))}[/]")
        return history[:-1]
    except KeyboardInterrupt:
        console.print("[dim] (cut short)[/]", end="")
    console.print()
    return [*history, Message("assistant", reply)]
