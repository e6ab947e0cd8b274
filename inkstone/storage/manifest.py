"""`manifest.json`: what a directory holds, with sizes and sha256, so that damage is found before it is used.

A stage writes its files, then `write_manifest(directory, {...facts})` last. A reader calls `verify_manifest` to check
sizes (cheap, always) or contents (`contents=True`).
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

from inkstone.errors import InkstoneError
from inkstone.storage.fingerprint import file_sha256

NAME = "manifest.json"


def write_manifest(directory: Path, facts: Mapping[str, object]) -> None:
    """Write `facts` and the checksum of every file under `directory`."""
    files = {
        path.relative_to(directory).as_posix(): {"bytes": path.stat().st_size, "sha256": file_sha256(path)}
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.name != NAME
    }
    text = json.dumps({**facts, "files": files}, ensure_ascii=False, indent=1)
    (directory / NAME).write_text(text + "\n", encoding="utf-8")


def read_manifest(directory: Path) -> dict[str, object]:
    """The facts and the file list. Raises InkstoneError when there is no readable manifest."""
    try:
        manifest = json.loads((directory / NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InkstoneError(
            f"{directory} has no readable {NAME} ({error}): delete the directory and run its stage again."
        ) from error
    if not (isinstance(manifest, dict) and isinstance(manifest.get("files"), dict)):
        raise InkstoneError(f"{directory / NAME} lists no files: delete the directory and run its stage again.")
    return manifest


def verify_manifest(
    directory: Path, contents: bool = False, sha256: Callable[[Path], str] = file_sha256
) -> dict[str, object]:
    """Check every listed file's size (and sha256 with `contents`) and return the manifest.

    Raises InkstoneError naming the damaged files.
    """
    manifest = read_manifest(directory)
    files = manifest["files"]
    assert isinstance(files, dict)
    damaged = []
    for name, entry in files.items():
        path = directory / name
        if not path.is_file():
            damaged.append(f"{name} is missing")
        elif path.stat().st_size != entry["bytes"]:
            damaged.append(f"{name} has {path.stat().st_size} bytes, not {entry['bytes']}")
        elif contents and sha256(path) != entry["sha256"]:
            damaged.append(f"{name} has changed since it was written")
    if damaged:
        raise InkstoneError(f"{directory} is damaged ({'; '.join(damaged)}): delete it and run its stage again.")
    return manifest
