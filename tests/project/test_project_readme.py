"""The README is the map: its file tree has one phrase for every file, and every file it names exists."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def tree() -> dict[str, str]:
    """Path to phrase, from the README's tree: two spaces of indentation per level."""
    block = re.search(r"```\n(inkstone/\n.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert block
    folders: list[str] = []
    found = {}
    for line in block[1].splitlines():
        level = (len(line) - len(line.lstrip())) // 2
        name, _, phrase = line.strip().partition(" ")
        folders = [*folders[:level], name.rstrip("/")]
        found["/".join(folders)] = phrase.strip()
    return found


def test_every_file_of_the_package_has_its_phrase() -> None:
    places = ("inkstone/**/*.py", "inkstone/**/*.j2", "recipes/*", "benchmarks/*.py", "tools/*.py")
    files = {path.relative_to(ROOT).as_posix() for place in places for path in ROOT.glob(place)}
    # A room's __init__ only lists its public names; the room's own line stands for it.
    wanted = {file for file in files if not file.endswith("__init__.py")}
    phrases = tree()
    assert wanted - phrases.keys() == set()
    assert [file for file in wanted if not phrases[file]] == []


def test_every_file_the_tree_names_exists() -> None:
    missing = [path for path in tree() if not (list(ROOT.glob(path)) if "*" in path else (ROOT / path).exists())]
    assert missing == []
