"""The command line: one verb, one page of help. Rooms are imported inside the commands, so --help answers at once."""

import os

from inkstone.allocator import keep_memory


def main() -> None:
    """Entry point; `ending.py` says how a command that fails ends."""
    # Before torch is imported: see allocator.py.
    keep_memory()
    # torch.compile forks workers; without this the tokenizers library would warn and go on with one thread.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    from inkstone.cli.commands import app

    app(prog_name="inkstone")
