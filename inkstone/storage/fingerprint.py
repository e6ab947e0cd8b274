"""Fingerprints: short names for exact content, so that "is this still fresh?" has one answer.

`fingerprint(value)` hashes plain data (canonical JSON, so the order of keys does not matter); `file_sha256` hashes
bytes on disk. Both are sha256 in hexadecimal.
"""

import hashlib
import json
from pathlib import Path


def fingerprint(value: object) -> str:
    """sha256 of `value` (dicts, lists, strings, numbers, None, Path) as canonical JSON."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=_plain)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def file_sha256(path: Path) -> str:
    """sha256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _plain(value: object) -> str:
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"cannot fingerprint a {type(value).__name__}")
