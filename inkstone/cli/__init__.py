"""The command line: one verb, one page of help. Rooms are imported inside the commands, so --help answers at once."""

import os
import sys

from inkstone.allocator import keep_memory


def main() -> None:
    """Entry point: errors for the user are one sentence and an exit code, never a traceback."""
    # Both must come before torch is imported: see allocator.py; the second keeps compiled kernels between runs.
    keep_memory()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    from rich.console import Console

    from inkstone.cli.commands import app
    from inkstone.errors import InkstoneError

    console = Console(stderr=True, highlight=False)
    try:
        app()
    except InkstoneError as error:
        console.print(f"[bold red]error:[/] {_escape(str(error))}", soft_wrap=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt as stop:
        said = str(stop) or "stopped; what was finished is kept, and the same command continues"
        console.print(f"[yellow]{_escape(said)}[/]", soft_wrap=True)
        sys.exit(130)


def _escape(text: str) -> str:
    from rich.markup import escape

    return escape(text)
