"""The two ways a run can go wrong, each carrying one sentence that a user can act on.

Raise `InputError` when the user's files, settings or recipe need a change (the command line exits with 2),
`InkstoneError` when the machine failed us, e.g. a full disk (exits with 1). The sentence says what is wrong, where,
and how to fix it; the command line prints it without a traceback.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager


class InkstoneError(Exception):
    """Something failed that is not the user's input: a full disk, a lost file, a diverged run."""

    exit_code = 1


class InputError(InkstoneError):
    """The user's input needs a change. Several problems are reported together, one per line."""

    exit_code = 2

    def __init__(self, problems: str | Sequence[str]) -> None:
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))


class Absent(InputError):
    """What was asked for by its number or name is not there, or not there any more."""


@contextmanager
def gathering(problems: list[str]) -> Iterator[None]:
    """What a user must change inside is added to `problems`, so that all of it can be said at once."""
    try:
        yield
    except InputError as error:
        problems += error.problems
