"""`inkstone chat`: a conversation on the terminal. Replies stream; the whole conversation is the context."""

import sys
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from inkstone.chat import Message
from inkstone.errors import InputError
from inkstone.generate import SamplingSettings, Speaker, load_speaker, stream_reply

_HELP = "type a message; /reset starts over, /exit or Ctrl-D leaves"


def converse(directory: Path, system: str | None, sampling: SamplingSettings) -> None:
    """Read messages from standard input until it ends; without a terminal only the replies are printed."""
    console = Console(highlight=False, soft_wrap=True, emoji=False)
    talking = sys.stdin.isatty()
    speaker = load_speaker(directory)
    start = [Message("system", system)] if system else []
    history = list(start)
    if talking:
        console.print(f"[dim]{escape(str(directory))}: {_HELP}[/]")
    while (text := _read(console, talking)) is not None and text != "/exit":
        if text == "/reset":
            history = list(start)
        elif text:
            history = _answer(console, speaker, [*history, Message("user", text)], sampling)
    if talking:
        console.print()


def _read(console: Console, talking: bool) -> str | None:
    try:
        return (console.input("[bold cyan]> [/]") if talking else input()).strip()
    except EOFError:
        return None
    except KeyboardInterrupt as stop:
        raise KeyboardInterrupt("left the conversation") from stop


def _answer(console: Console, speaker: Speaker, history: list[Message], sampling: SamplingSettings) -> list[Message]:
    """Print the reply as it comes and return the history with it; Ctrl-C cuts the reply short and keeps what was said.

    A message the model cannot take is refused in a sentence and forgotten, and the conversation goes on.
    """
    reply = ""
    try:
        for delta in stream_reply(speaker, history, sampling):
            reply += delta
            console.print(delta, end="", markup=False)
    except InputError as error:
        # Not among the replies: a program may be reading them.
        Console(stderr=True, highlight=False, soft_wrap=True, emoji=False).print(f"[red]{escape(str(error))}[/]")
        return history[:-1]
    except KeyboardInterrupt:
        console.print("[dim] (cut short)[/]", end="")
    console.print()
    return [*history, Message("assistant", reply)]
