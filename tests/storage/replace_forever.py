"""A child process for the kill tests: replaces DIRECTORY again and again, one generation after the other.

    python replace_forever.py DIRECTORY FIRST_GENERATION [without-exchange]

Every file of a generation holds the same number, so a mixture is seen; "generation N" is printed when N is in place.
"""

import itertools
import sys
from pathlib import Path

from inkstone.storage import atomic, atomic_directory, write_manifest


def main(directory: Path, first: int, system: str) -> None:
    if system == "without-exchange":
        atomic._exchange = lambda one, other: False
    for generation in itertools.count(first):
        with atomic_directory(directory) as draft:
            (draft / "part").mkdir()
            for name in ("a", "b", "part/c"):
                (draft / name).write_text(f"{generation}\n" * 500)
            write_manifest(draft, {"generation": generation})
        print("generation", generation, flush=True)


main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] if len(sys.argv) > 3 else "")
