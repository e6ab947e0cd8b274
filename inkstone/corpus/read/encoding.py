"""Which encoding bytes are in: UTF-8 where that is possible, else GB18030 (GBK), Big5 or UTF-16 where plausible.

    choose_encoding(sample, whole=True)    # "utf-8", "gb18030", "big5hkscs", "utf-16-le" ..., or None: undecided

Nearly any bytes are something in GB18030, so what decodes is not yet text: real Chinese is full of its few hundred most
frequent characters, wrong readings of rare ones. A sample in which nothing stands out is undecided, and the caller
refuses it: text in the wrong characters must never enter a corpus unnoticed.
"""

import codecs
import io
from collections import Counter
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import BinaryIO

import numpy as np
import pyarrow as pa

SAMPLE = 1 << 16
UNDECIDED = "neither UTF-8, GB18030, Big5 nor UTF-16 gives plausible text: set [corpus] encoding, or convert it"
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)  # fmt: skip
_CANDIDATES = ("gb18030", "big5hkscs", "utf-16-le", "utf-16-be")
_LEAST, _CLEAR, _SHORT = 0.25, 0.1, 0.5  # plausibility needed, more than the second best's, and for few characters


@dataclass(frozen=True)
class Reading:
    """How files are read: the most bytes of a row or page, the encoding ("auto" or a name), and which were found."""

    limit: int
    encoding: str = "auto"
    found: Counter[str] = field(default_factory=Counter)

    def encoding_of(self, data: bytes) -> str | None:
        """The encoding of a whole text; None where undecided."""
        return choose_encoding(data[:SAMPLE], len(data) <= SAMPLE) if self.encoding == "auto" else self.encoding


def choose_encoding(sample: bytes, whole: bool) -> str | None:
    """The encoding of a text that is `sample`, or begins with it (not `whole`); None where undecided."""
    if mark := marked_encoding(sample):
        return mark
    utf8 = "utf-8" if _decoded(sample, "utf-8", whole) is not None else None
    if utf8 and 0 not in sample:  # UTF-16 has zeros where it has letters or line ends
        return utf8
    readings = ((_decoded(sample, name, whole), name) for name in _CANDIDATES)
    scores = sorted(((_plausibility(text, name), name) for text, name in readings if text), reverse=True)
    clear = scores and scores[0][0] >= _LEAST and (len(scores) == 1 or scores[0][0] - scores[1][0] >= _CLEAR)
    return scores[0][1] if clear else utf8


def marked_encoding(sample: bytes) -> str | None:
    """The encoding that a byte order mark names."""
    return next((name for mark, name in _MARKS if sample.startswith(mark)), None)


def in_utf8(stream: BinaryIO, encoding: str) -> BinaryIO:
    """A stream's text as UTF-8; reading raises UnicodeDecodeError where it is not in `encoding`."""
    if codecs.lookup(encoding).name == "utf-8":
        return stream
    recoded = pa.transcoding_input_stream(pa.PythonFile(stream, "r"), encoding, "utf-8")
    return io.BufferedReader(recoded, SAMPLE)  # what stands before damage is read first


def _decoded(sample: bytes, encoding: str, whole: bool) -> str | None:
    try:
        return codecs.getincrementaldecoder(encoding)().decode(sample, whole)
    except UnicodeDecodeError:
        return None


def _plausibility(text: str, encoding: str) -> float:
    """Mean weight of the characters, 1 for frequent Chinese ones, below 0 for rare ones, less what chance may add.

    ASCII letters speak for UTF-16, where each has a byte of zeros; in the others they say nothing.
    """
    points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    weights = _weights()[points]
    counted = weights if encoding.startswith("utf") else weights[(points > 0x7F) | (weights < 0)]
    return float(counted.mean() - _SHORT / np.sqrt(len(counted)))


@cache
def _weights() -> np.ndarray:
    weights = np.full(0x110000, -1, np.float32)
    weights[[9, 10, 12, 13, *range(32, 127)]] = 1
    for encoding, first, last in (("gb2312", 0xB0A1, 0xD7F9), ("big5", 0xA440, 0xC67E)):
        codes = np.arange(first, last + 1, dtype=">u2").tobytes()
        common = "".join(codes[place : place + 2].decode(encoding, "ignore") for place in range(0, len(codes), 2))
        weights[[ord(char) for char in common if ord(char) > 127]] = 0.2
    weights[[*range(0x3000, 0x3020), *range(0xFF01, 0xFF60), *map(ord, "“”‘’…—·")]] = 0.2
    frequent = (files("inkstone.corpus.read") / "frequent.txt").read_text("utf-8").split()
    weights[[ord(char) for char in "".join(frequent)]] = 1
    return weights
