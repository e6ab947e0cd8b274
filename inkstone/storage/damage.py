"""The one guard around files that others made: whatever a library raises while reading them becomes a sentence.

    with reading(path, "a tokenizer"):
        spec = parse(path.read_bytes())

Libraries answer a damaged or hostile file with KeyError, RecursionError, a panic of Rust, anything. Whoever reads such
a file says so once, here; a `try` per line would always miss one. Only readers stand inside: elsewhere an exception is
a defect of Inkstone and keeps its traceback.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from inkstone.errors import InkstoneError, InputError

_SHOWN = 200  # characters of a library's message


@contextmanager
def reading(
    path: Path | str, what: str, remedy: str = "copy or make it again", error: type[InkstoneError] = InputError
) -> Iterator[None]:
    """Raises `error` naming `path` for what goes wrong inside; sentences and the system's errors pass as they are."""
    try:
        yield
    except (InkstoneError, OSError):
        raise
    except BaseException as cause:
        if not (isinstance(cause, Exception) or type(cause).__name__ == "PanicException"):
            raise
        said = " ".join(str(cause).split())[:_SHOWN]
        why = f"{type(cause).__name__}: {said}" if said else type(cause).__name__
        raise error(f"{path} is damaged, or not {what} ({why}): {remedy}") from cause
