"""The measuring kernel: one batch of documents as one flat array of code points, then as one flat array of tokens.

`flatten` decodes an Arrow string array once; each document is followed by one newline, so words, lines and n-grams end
at document borders by themselves. `tokenize` cuts tokens: one Han character or kana, or one run of letters and digits.
Everything else in the room (rules, line hashes, shingles) is arithmetic over these two arrays, so nothing loops over
characters in Python and no word segmenter is needed for Chinese.
"""

import unicodedata
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

U8 = NDArray[np.uint8]
U32 = NDArray[np.uint32]
U64 = NDArray[np.uint64]
I64 = NDArray[np.int64]
F64 = NDArray[np.float64]
Mask = NDArray[np.bool_]

# Character classes, in the order of `CLASS_COUNT` columns.
OTHER, SPACE, NEWLINE, HAN, KANA, HANGUL, LATIN, LETTER, DIGIT, PUNCTUATION, SYMBOL, REPLACEMENT = range(12)
CLASS_COUNT = 12

_POINTS = 0x110000
_BASE = np.uint64(0x9E3779B97F4A7C15)  # odd, so it has an inverse modulo 2^64
_HAN_RANGES = ((0x3005, 0x3006), (0x3007, 0x3008), (0x3400, 0x4DC0), (0x4E00, 0xA000), (0xF900, 0xFB00),
               (0x20000, 0x323B0))  # fmt: skip
_KANA_RANGES = ((0x3041, 0x3100), (0x31F0, 0x3200), (0xFF66, 0xFFA0))
_HANGUL_RANGES = ((0x1100, 0x1200), (0x3130, 0x3190), (0xAC00, 0xD7B0))
_SIGNS = "#$%&*+-/<=>@\\^_`{|}~[]"  # punctuation by category, but the stuff of markup and rules of dashes


@dataclass(frozen=True)
class Flat:
    """Documents laid end to end. Document i is points[starts[i]:starts[i + 1] - 1], then one newline."""

    points: U32
    starts: I64  # [documents + 1]
    classes: U8

    def __len__(self) -> int:
        return len(self.starts) - 1

    def class_counts(self) -> I64:
        """Characters of every class in every document, [CLASS_COUNT, documents]; closing newlines not counted."""
        documents = len(self)
        document = np.repeat(np.arange(documents, dtype=np.int32) * CLASS_COUNT, np.diff(self.starts))
        counts = np.bincount(document + self.classes, minlength=documents * CLASS_COUNT)
        by_class = counts.reshape(documents, CLASS_COUNT).T.copy()
        by_class[NEWLINE] -= 1
        return by_class

    def per_document(self, mask: Mask) -> I64:
        """How many positions of each document are set in `mask` (the closing newline included)."""
        return segment_sums(mask, self.starts)


@dataclass(frozen=True)
class Tokens:
    """Tokens of a `Flat`: hashes and positions, document by document (offsets as in Arrow)."""

    hashes: U64
    starts: I64
    ends: I64
    offsets: I64  # [documents + 1]

    def documents(self) -> I64:
        """The document of every token."""
        return np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))

    def span_hashes(self, first: I64, last: I64) -> U64:
        """`hash_spans` over the tokens' hashes; the sums are made once for all callers."""
        return _from_sums(self._sums, first, last)

    @cached_property
    def _sums(self) -> U64:
        return _sums(self.hashes)


def flatten(texts: pa.StringArray) -> Flat:
    """Decode an Arrow string array without nulls."""
    points, starts = decode(texts)
    return Flat(points, starts, class_table()[points])


def decode(texts: pa.StringArray) -> tuple[U32, I64]:
    """Code points of all texts, each with one newline after it, and where each text starts."""
    joined = "\n".join(texts.to_pylist()) + "\n" if len(texts) else ""
    points = np.frombuffer(joined.encode("utf-32-le"), np.uint32)
    return points, running_sums(np.asarray(pc.utf8_length(texts), np.int64) + 1)


def encode(points: U32, starts: I64) -> pa.StringArray:
    """The inverse of `decode`."""
    if len(starts) == 1:
        return pa.array([], pa.string())
    joined = points[:-1].tobytes().decode("utf-32-le")
    bounds = starts.tolist()
    return pa.array([joined[a : b - 1] for a, b in pairwise(bounds)], pa.string())


def without(points: U32, starts: I64, drop: Mask) -> tuple[U32, I64]:
    """Flat texts without the marked positions; the newline that closes a text must not be marked."""
    return points[~drop], starts - running_sums(segment_sums(drop, starts))


def tokenize(flat: Flat) -> Tokens:
    """Cut a flat batch into tokens; hashes ignore letter case, and traditional against simplified."""
    single = (flat.classes == HAN) | (flat.classes == KANA)
    word = (flat.classes >= HANGUL) & (flat.classes <= DIGIT)
    before = np.empty_like(word)
    before[:1] = False
    before[1:] = word[:-1]
    after = np.empty_like(word)
    after[-1:] = False
    after[:-1] = word[1:]
    starts = np.flatnonzero(single | (word & ~before))
    ends = np.flatnonzero(single | (word & ~after)) + 1
    offsets = np.searchsorted(starts, flat.starts)
    hashes = hash_spans(_character_hashes()[flat.points], starts, ends)
    return Tokens(hashes, starts, ends, offsets)


def hash_spans(values: U64, starts: I64, ends: I64) -> U64:
    """One 64-bit hash per span values[start:end], equal for equal content wherever it stands.

    A polynomial in an odd base modulo 2^64 over prefix sums, shifted back by the base's inverse, then mixed.
    """
    return _from_sums(_sums(values), starts, ends)


def _sums(values: U64) -> U64:
    """Sums of all values before each place, times the base to the power of their place."""
    return running_sums(values * _powers(_table_size(len(values)))[0][: len(values)], np.uint64)


def _from_sums(sums: U64, starts: I64, ends: I64) -> U64:
    _, inverses = _powers(_table_size(len(sums) - 1))
    return mix((sums[ends] - sums[starts]) * inverses[starts] + (ends - starts).astype(np.uint64))


def _table_size(length: int) -> int:
    return 1 << max(12, length.bit_length())


def ngram_hashes(tokens: Tokens, n: int) -> tuple[U64, I64]:
    """Hashes of all windows of `n` tokens that stay inside one document, and the window count as offsets."""
    offsets = running_sums(np.maximum(np.diff(tokens.offsets) - (n - 1), 0))
    return mix(_windows(tokens.hashes, n)[window_positions(tokens.offsets, n)]), offsets


def ngram_base() -> np.uint64:
    """The base of the polynomials over tokens."""
    return _BASE


def _windows(hashes: U64, n: int) -> U64:
    """Polynomial of every window of `n` values, each window put together from two halves."""
    if n == 1 or len(hashes) < n:
        return hashes[: len(hashes) if n == 1 else 0]
    half = n // 2
    left = _windows(hashes, n - half)
    joined = left[: len(hashes) - n + 1] * np.uint64(pow(int(_BASE), half, 1 << 64))
    joined += (left if half == n - half else _windows(hashes, half))[n - half :][: len(joined)]
    return joined


def window_positions(offsets: I64, n: int) -> I64:
    """First token of every window of `n` tokens that stays inside one document."""
    inside = np.ones(int(offsets[-1]), bool)
    for back in range(1, n):
        last = offsets[1:] - back
        inside[last[last >= offsets[:-1]]] = False
    return np.flatnonzero(inside)


def segment_sums(values: NDArray[np.generic], offsets: I64) -> I64:
    """Sum of `values` (booleans or integers) in each segment; empty segments give 0."""
    if values.dtype == np.bool_:
        return np.diff(np.searchsorted(np.flatnonzero(values), offsets))
    return np.diff(running_sums(values)[offsets])


def running_sums(values: NDArray[np.generic], kind: type[np.generic] = np.int64) -> NDArray[Any]:
    """The sum of all values before each place, and of all; of lengths, where each segment starts: [values + 1]."""
    sums = np.zeros(len(values) + 1, kind)
    np.cumsum(values, out=sums[1:])
    return sums


def ratio(part: I64 | F64, whole: I64 | F64) -> F64:
    """0 where there is nothing to be a part of."""
    return np.asarray(part / np.maximum(whole, 1), float)


def member(values: NDArray[np.unsignedinteger], table: NDArray[np.unsignedinteger]) -> Mask:
    """Which values occur in a small sorted table. A bitmap of 16 bits first, so most values cost one look-up."""
    possible = np.zeros(1 << 16, bool)
    possible[table & np.uint64(0xFFFF)] = True
    found = possible[values & values.dtype.type(0xFFFF)]
    if len(table):
        index = np.flatnonzero(found)
        place = np.minimum(np.searchsorted(table, values[index]), len(table) - 1)
        found[index] = table[place] == values[index]
    return found


def run_heads(*columns: NDArray[np.generic]) -> Mask:
    """Where a run of rows that are equal in all columns begins."""
    heads = np.ones(len(columns[0]), bool)
    heads[1:] = np.logical_or.reduce([column[1:] != column[:-1] for column in columns])
    return heads


@cache
def code_points(chars: str) -> U32:
    """The characters of a string as a table for `member`."""
    return np.array(sorted({ord(char) for char in chars}), np.uint32)


def mix(values: NDArray[np.unsignedinteger]) -> U64:
    """Spread 64-bit (or smaller) integers over the whole range (the finaliser of splitmix64)."""
    mixed = values.astype(np.uint64)
    shifted = np.empty_like(mixed)
    mixed += _BASE
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
        np.right_shift(mixed, np.uint64(shift), out=shifted)
        mixed ^= shifted
        if factor != 1:
            mixed *= np.uint64(factor)
    return mixed


@cache
def class_table() -> U8:
    """Class of every code point."""
    by_category = {"L": LETTER, "M": LETTER, "N": DIGIT, "P": PUNCTUATION, "S": SYMBOL, "Z": SPACE, "C": OTHER}
    table = np.zeros(_POINTS, np.uint8)
    table[:0x20000] = [by_category[unicodedata.category(chr(point))[0]] for point in range(0x20000)]
    latin = [point for point in range(0x250) if table[point] == LETTER]
    table[latin] = LATIN
    table[0x1E00:0x1F00] = LATIN
    for ranges, kind in ((_HAN_RANGES, HAN), (_KANA_RANGES, KANA), (_HANGUL_RANGES, HANGUL)):
        for first, last in ranges:
            table[first:last] = kind
    table[0x30FB] = PUNCTUATION  # the middle dot between foreign names, also in Chinese
    table[[ord(sign) for sign in _SIGNS]] = SYMBOL
    table[ord("\t")] = SPACE
    table[ord("\n")] = NEWLINE
    table[0xFFFD] = REPLACEMENT
    return table


@cache
def _character_hashes() -> U64:
    """Hash of every code point: the same for both letter cases (where lower case is one code point) and scripts."""
    return mix(fold_table())


@cache
def fold_table() -> U32:
    """Each code point's lower case, or the simplified form of a traditional Han character (OpenCC, by character)."""
    from opencc import OpenCC

    folded = np.arange(_POINTS, dtype=np.uint32)
    folded[:0x20000] = [ord(low) if len(low := chr(point).lower()) == 1 else point for point in range(0x20000)]
    han = [point for first, last in _HAN_RANGES for point in range(first, last)]
    simplified = OpenCC("t2s").convert("\n".join(map(chr, han))).split("\n")
    folded[han] = [ord(char) if len(char) == 1 else point for point, char in zip(han, simplified, strict=True)]
    return folded


@cache
def _powers(size: int) -> tuple[U64, U64]:
    """Powers of the base and of its inverse modulo 2^64; `size` is a power of two, so few tables exist."""
    inverse = np.uint64(pow(int(_BASE), -1, 1 << 64))
    tables = []
    for base in (_BASE, inverse):
        table = np.full(size, base, np.uint64)
        table[0] = 1
        tables.append(np.multiply.accumulate(table))
    return tables[0], tables[1]
