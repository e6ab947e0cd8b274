"""The command line: one verb, one page of help. Rooms are imported inside the commands, so --help answers at once."""

import os

from inkstone.allocator import keep_memory


def main() -> None:
    """Entry point; `ending.py` says how a command that fails ends."""
    # Both must come before torch is imported: see allocator.py; the second keeps compiled kernels between runs.
    keep_memory()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    from inkstone.cli.commands import app

    app()
