"""Checksums remembered by a file's size, time and inode: large inputs are read once, not at every call.

    digests = Digests(run_dir / ".digests.json")
    digests.sha256(path)
    digests.save()

A file that was written less than two seconds before it was read is not remembered: its clock could not tell a second
write from the first.
"""

import json
import time
from pathlib import Path

from inkstone.errors import InkstoneError
from inkstone.storage.atomic import atomic_file
from inkstone.storage.fingerprint import file_sha256
from inkstone.storage.json_object import read_json_object
from inkstone.storage.manifest import verify_manifest

_CLOCK_NS = 2_000_000_000


class Digests:
    """What is known of files; a memory that cannot be read is an empty one."""

    def __init__(self, memory: Path) -> None:
        self.memory, self.changed = memory, False
        try:
            self.known: dict[str, list[object]] = read_json_object(memory)
        except (OSError, InkstoneError):
            self.known = {}

    def sha256(self, path: Path) -> str:
        """sha256 of the file, read only when it is not the file that was read before."""
        facts = path.stat()
        state = [facts.st_size, facts.st_mtime_ns, facts.st_ino]
        kept = self.known.get(str(path))
        if isinstance(kept, list) and kept[:3] == state and len(kept) == 4:
            return str(kept[3])
        digest = file_sha256(path)
        if time.time_ns() - facts.st_mtime_ns > _CLOCK_NS:
            self.known[str(path)] = [*state, digest]
            self.changed = True
        return digest

    def damage(self, directory: Path, contents: bool = True) -> str:
        """What is wrong with a directory that has a manifest.json, with the sizes or also the `contents` of its files.

        Empty where nothing is, or there is no manifest.
        """
        if not (directory / "manifest.json").is_file():
            return ""
        try:
            verify_manifest(directory, contents=contents, sha256=self.sha256)
        except InkstoneError as error:
            return str(error)
        return ""

    def save(self) -> None:
        """Keep what was learned, if anything was; where the disk takes nothing, the files are read again."""
        if self.changed:
            with atomic_file(self.memory) as draft:
                draft.write_text(json.dumps(self.known), encoding="utf-8")
