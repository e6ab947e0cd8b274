"""SentencePiece's character map (nmt_nfkc and others), applied as SentencePiece does: the longest known sequence first.

The library's `Precompiled` reads the same map one letter with its accents at a time, so Hangul in parts and rows of
accents come out otherwise, and a mark before an accent can be lost. Here the map, a double-array trie over UTF-8 bytes
with the replacements behind it, is listed once and looked up from left to right.
"""

import re
import struct
from collections.abc import Iterator

import numpy as np

_BYTES = np.arange(1, 256)


class Charsmap:
    """A map from sequences of characters to what stands for them."""

    def __init__(self, content: bytes) -> None:
        """`content` is the `precompiled_charsmap` of a model. Raises ValueError where it is damaged."""
        self._map = dict(_entries(content))
        self._longest: dict[str, int] = {}
        for key in self._map:
            self._longest[key[0]] = max(len(key), self._longest.get(key[0], 0))
        alone = "".join(re.escape(key) for key in self._map if len(key) == 1)
        first = "".join(re.escape(character) for character, size in self._longest.items() if size > 1)
        second = "".join(re.escape(character) for character in {key[1] for key in self._map if len(key) > 1})
        parts = ([f"[{alone}]"] if alone else []) + ([f"[{first}](?=[{second}])"] if first else [])
        self._begin = re.compile("|".join(parts) or r"(?!)")

    def normalize_str(self, text: str) -> str:
        """The text with every known sequence replaced."""
        done: list[str] = []
        at = 0
        while found := self._begin.search(text, at):
            start = found.start()
            for size in range(self._longest[text[start]], 0, -1):
                if (replacement := self._map.get(text[start : start + size])) is not None:
                    done += text[at:start], replacement
                    at = start + size
                    break
            else:
                done.append(text[at : start + 1])
                at = start + 1
        return "".join(done) + text[at:]


def _entries(content: bytes) -> Iterator[tuple[str, str]]:
    """Every sequence with its replacement."""
    if len(content) < 8 or (size := struct.unpack_from("<I", content)[0]) % 4 or 4 + size > len(content):
        raise ValueError("its character map is damaged")
    units = np.frombuffer(content, "<u4", size // 4, offset=4).astype(np.int64)
    replacements = content[4 + size :]
    waiting = [(_offset(int(units[0])), b"")]
    while waiting:
        base, key = waiting.pop()
        places = base ^ _BYTES
        inside = places < len(units)
        for byte in _BYTES[inside][(units[places[inside]] & 0x800000FF) == _BYTES[inside]].tolist():
            unit = int(units[base ^ byte])
            following, longer = base ^ byte ^ _offset(unit), key + bytes([byte])
            if unit >> 8 & 1:
                start = int(units[following]) & 0x7FFFFFFF
                yield longer.decode("utf-8"), replacements[start : replacements.index(0, start)].decode("utf-8")
            waiting.append((following, longer))


def _offset(unit: int) -> int:
    """Where the children of a unit lie, relative to it."""
    return (unit >> 10) << ((unit & 0x200) >> 6)
