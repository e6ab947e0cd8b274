"""How a command ends when it does not succeed: one sentence on standard error and an exit code, never a traceback.

1: the machine failed us, 2: the input needs a change, 130: stopped by Ctrl-C. The sentence must be said here, inside
the command group, because Typer itself turns Ctrl-C into a silent exit. Other exceptions are defects of Inkstone and
keep their traceback.
"""

import errno
import os
import sys
from typing import Any

from rich.console import Console
from rich.markup import escape

from inkstone.cli.help import Verbs
from inkstone.cli.visible import visible
from inkstone.errors import InkstoneError


class Ending(Verbs):
    """The command group; what its commands raise becomes a sentence."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except InkstoneError as error:
            _leave(f"[bold red]error:[/] {escape(visible(str(error)))}", error.exit_code)
        except KeyboardInterrupt as stop:
            said = str(stop) or "stopped; nothing half done is left, and the same command goes on from what is finished"
            _leave(f"[yellow]{escape(said)}[/]", 130)
        except OSError as error:
            # A closed pipe (`inkstone ... | head`) is Typer's business; an error without a number is not the system's.
            if error.errno in (None, errno.EPIPE):
                raise
            where = f"{error.filename}: " if error.filename else ""
            _leave(f"[bold red]error:[/] {escape(visible(f'{where}{error.strerror}'))}", InkstoneError.exit_code)


def _leave(sentence: str, code: int) -> None:
    # What a user must change and Ctrl-C reach every process of a torchrun; the first one says it.
    if os.environ.get("RANK", "0") != "0" and code != InkstoneError.exit_code:
        sys.exit(code)
    # No emoji: "chats.jsonl:100: ..." would lose its row number to one.
    Console(stderr=True, highlight=False, emoji=False).print(sentence, soft_wrap=True)
    sys.exit(code)
