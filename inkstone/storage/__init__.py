"""Ground floor: directories that appear whole or not at all, manifests with checksums, fingerprints.

Standard library only; every other room writes its border through here.
"""

from inkstone.storage.atomic import append_line, atomic_directory, atomic_file, settle
from inkstone.storage.damage import reading
from inkstone.storage.digests import Digests
from inkstone.storage.fingerprint import file_sha256, fingerprint
from inkstone.storage.json_object import read_json_object, write_json, write_json_lines
from inkstone.storage.manifest import read_manifest, verify_manifest, write_manifest

__all__ = [
    "Digests",
    "append_line",
    "atomic_directory",
    "atomic_file",
    "file_sha256",
    "fingerprint",
    "read_json_object",
    "read_manifest",
    "reading",
    "settle",
    "verify_manifest",
    "write_json",
    "write_json_lines",
    "write_manifest",
]
