"""`manifest.json`: what a directory holds, with sizes and sha256, so that damage is found before it is used.

A stage writes its files, then `write_manifest(directory, {...facts})` last. A reader calls `verify_manifest` to check
sizes (cheap, always) or contents (`contents=True`).
"""

from collections.abc import Callable, Mapping
from pathlib import Path

from inkstone.errors import InkstoneError
from inkstone.storage.fingerprint import file_sha256
from inkstone.storage.json_object import read_json_object, write_json

NAME = "manifest.json"


def write_manifest(directory: Path, facts: Mapping[str, object], digests: Mapping[str, str] | None = None) -> None:
    """Write `facts` and the checksum of every file under `directory`; `digests` are those that are known already."""
    files = {}
    for path in sorted(directory.rglob("*")):
        if path.is_file() and path.name != NAME:
            name = path.relative_to(directory).as_posix()
            digest = (digests or {}).get(name) or file_sha256(path)
            files[name] = {"bytes": path.stat().st_size, "sha256": digest}
    write_json(directory / NAME, {**facts, "files": files})


def read_manifest(directory: Path) -> dict[str, object]:
    """The facts and the file list. Raises InkstoneError when there is no readable manifest."""
    remedy = "delete the directory and run its stage again"
    try:
        manifest = read_json_object(directory / NAME, remedy, InkstoneError)
    except OSError as error:
        raise InkstoneError(f"{directory} has no readable {NAME} ({error}): {remedy}") from error
    if not (isinstance(manifest.get("files"), dict) and all(map(_is_entry, manifest["files"].values()))):
        raise InkstoneError(f"{directory / NAME} lists no files with their sizes and sha256: {remedy}")
    return manifest


def _is_entry(entry: object) -> bool:
    return isinstance(entry, dict) and isinstance(entry.get("bytes"), int) and isinstance(entry.get("sha256"), str)


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
