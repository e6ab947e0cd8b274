"""Repairs before any rule looks at a document: the same text, written the ordinary way.

`repair` works on a batch: UTF-8 once read as Latin-1 or GBK is read again where that is unambiguous, control and
invisible characters go, full-width Latin letters and digits become ASCII (Chinese punctuation stays), line ends and
odd spaces become plain ones, the text is NFC. Line structure and indentation stay: verse and code live by them.
"""

import contextlib
import re
import string
import unicodedata
from collections import Counter
from collections.abc import Callable
from functools import cache

import numpy as np
import pyarrow as pa

from inkstone.corpus.judge.kernel import I64, U8, U32, Mask, code_points, decode, encode, member, segment_sums, without

# What the edit table does with a code point.
_KEEP, _CONTROL, _FULLWIDTH, _SPACE, _NEWLINE, _BEFORE_NEWLINE = range(6)

_CP1252 = {byte: bytes([byte]).decode("cp1252", "ignore") or chr(byte) for byte in range(0x80, 0xA0)}
_TO_BYTE = {ord(char): byte for byte, char in _CP1252.items()}
# What the first two bytes of frequent Chinese characters and of ，。 look like in GBK; rare in real text.
_GBK_SIGNS = "锛銆鐨涓鏄浜鍦鍙鏈鍏鎴鐢璇鍚勫垎鍒瀹"
_GBK_SHARE = 25  # one in so many characters beyond ASCII, or more
_ALNUM = string.ascii_letters + string.digits
_BLACK_FLAG = 0x1F3F4
_MAX_MOJIBAKE_ROUNDS = 2  # text can have been damaged twice


Done = Counter[tuple[str, str]]
"""How often each kind of repair was made: ("fullwidth", "documents" or "characters")."""


def repair(texts: pa.StringArray) -> tuple[pa.StringArray, Done]:
    """Repaired texts and what was done."""
    done = Done()
    rows: list[str] = texts.to_pylist()
    points, starts = _reread(rows, *decode(texts), done)
    points, starts = _edit(rows, points, starts, done)
    _tidy_lines(rows, points, starts, done)
    again = _compose(rows, done) | np.logical_or(*_misread(points, starts))
    for row in np.flatnonzero(again).tolist():
        if ungbk(unlatin(rows[row])) != rows[row]:  # what went, or became one letter, stood between its letters
            once_more, more = repair(pa.array([rows[row]]))
            rows[row] = once_more[0].as_py()
            done.update(more)
    return pa.array(rows, pa.string()), done


# --- text that was decoded with the wrong table ------------------------------------------------------------------


def _reread(rows: list[str], points: U32, starts: I64, done: Done) -> tuple[U32, I64]:
    """Repair the rows that look like it."""
    suspects, as_gbk = _misread(points, starts)
    if not suspects.any() and not as_gbk.any():
        return points, starts
    _replace(rows, suspects, unlatin, "mojibake", done)
    _replace(rows, as_gbk, ungbk, "mojibake_gbk", done)
    return decode(pa.array(rows, pa.string()))


def _misread(points: U32, starts: I64) -> tuple[Mask, Mask]:
    """Rows where letters that could open a UTF-8 sequence are many among what is not ASCII, and those full of GBK's."""
    lead = (points - np.uint32(0xC2)) <= 0xF4 - 0xC2
    foreign = segment_sums(points > 0x7F, starts)
    suspects = (segment_sums(lead, starts) * 10 > foreign) & _has_sequence(points, starts, np.flatnonzero(lead))
    as_gbk = segment_sums(member(points, code_points(_GBK_SIGNS)), starts) * _GBK_SHARE > foreign
    return suspects, as_gbk & (foreign > 0)


def _has_sequence(points: U32, starts: I64, leads: I64) -> Mask:
    """Where a letter that could open a UTF-8 sequence stands before one that could go on with it."""
    follows = points[leads + 1]
    opens = leads[((follows >= 0x80) & (follows < 0xC0)) | member(follows, code_points("".join(map(chr, _TO_BYTE))))]
    found = np.zeros(len(starts) - 1, bool)
    found[np.searchsorted(starts, opens, side="right") - 1] = True
    return found


def ungbk(text: str) -> str:
    """Undo "UTF-8 read as GBK", e.g. `涓枃` for `中文`, line by line. What the wrong reading lost stays lost (`�`)."""
    lines = text.split("\n")
    for number, line in enumerate(lines):
        signs = sum(char in _GBK_SIGNS for char in line)
        if not signs:
            continue
        pieces = [piece.replace("€", "\udc80").encode("gb18030", "surrogateescape") for piece in line.split("\ufffd")]
        as_bytes = b"\xff".join(pieces)
        with contextlib.suppress(UnicodeDecodeError):
            lines[number] = as_bytes.decode("utf-8")
            continue
        read = as_bytes.decode("utf-8", "replace")
        if read.count("\ufffd") * 3 < len(read):  # most of the line makes sense: the rest was lost
            lines[number] = read
    return "\n".join(lines)


def unlatin(text: str) -> str:
    """Undo "UTF-8 read as Latin-1 or cp1252", e.g. `æ°´` for `水`; the text itself where that is not what happened.

    A repair is made only where at least nine in ten of the possible lead characters start a complete UTF-8 sequence:
    real French or German does not look like that. A sequence cut off at the end of the text is dropped.
    """
    for _ in range(_MAX_MOJIBAKE_ROUNDS):
        fixed = _unlatin_once(text)
        if fixed == text:
            break
        text = fixed
    return text


def _unlatin_once(text: str) -> str:
    as_bytes = text.translate(_TO_BYTE)  # the same length as the text
    sequence, cut_off = _sequences()
    end_of_text = tail.start() if (tail := cut_off.search(as_bytes)) else len(text)
    spans = [match.span() for match in sequence.finditer(as_bytes, 0, end_of_text)]
    leads = len(re.findall("[\xc2-\xf4]", as_bytes[:end_of_text]))
    surely = any(end - start > 2 for start, end in spans) or len(spans) > 1
    if not surely or len(spans) < 0.9 * leads:
        return text
    pieces, position = [], 0
    for start, end in spans:
        try:
            decoded = as_bytes[start:end].encode("latin-1").decode("utf-8")
        except UnicodeDecodeError:  # overlong or surrogate: leave these characters alone
            continue
        pieces += [text[position:start], decoded]
        position = end
    return "".join([*pieces, text[position:end_of_text]])


@cache
def _sequences() -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Complete UTF-8 sequences written as Latin-1 characters, and an incomplete one at the end of a text."""
    more = "[\x80-\xbf]"
    complete = f"[\xc2-\xdf]{more}|[\xe0-\xef]{more}{{2}}|[\xf0-\xf4]{more}{{3}}"
    return re.compile(complete), re.compile(f"(?:[\xc2-\xf4]|[\xe0-\xf4]{more}|[\xf0-\xf4]{more}{{2}})$")


# --- characters ---------------------------------------------------------------------------------------------------


def _edit(rows: list[str], points: U32, starts: I64, done: Done) -> tuple[U32, I64]:
    """Apply the edit table: replace and drop single characters."""
    kinds, replacements = _edit_table()
    kind = kinds[points]
    if not kind.any():
        return points, starts
    kind[:-1][(points[:-1] == 13) & (points[1:] == 10)] = _BEFORE_NEWLINE  # CR LF is one line end
    fixed = replacements[points]
    stops = np.flatnonzero(kind == _FULLWIDTH)
    stops = stops[points[stops] == 0xFF0E]  # a full-width full stop: between ASCII letters or digits it is theirs
    stops = stops[~(member(fixed[stops - 1], ascii := code_points(_ALNUM)) & member(fixed[stops + 1], ascii))]
    kind[stops], fixed[stops] = _KEEP, 0xFF0E
    tags = np.flatnonzero(kind == _CONTROL)
    tags = tags[(points[tags] - np.uint32(0xE0020)) < 0x60]
    for run in np.split(tags, np.flatnonzero(np.diff(tags) > 1) + 1) if len(tags) else ():
        if points[run[0] - 1] == _BLACK_FLAG and points[run[-1]] == 0xE007F:  # of a country's part, e.g. Wales
            kind[run] = _KEEP
    for name, code in (("control", _CONTROL), ("fullwidth", _FULLWIDTH), ("spaces", _SPACE)):
        _count(done, name, kind == code, starts)
    _count(done, "line_ends", kind >= _NEWLINE, starts)
    drop = (kind == _CONTROL) | (kind == _BEFORE_NEWLINE)
    points, starts = without(fixed, starts, drop)
    rows[:] = encode(points, starts).to_pylist()
    return points, starts


@cache
def _edit_table() -> tuple[U8, U32]:
    kinds = np.zeros(0x110000, np.uint8)
    replacements = np.arange(0x110000, dtype=np.uint32)
    keep = {"\t", "\n", "\u200c", "\u200d"}  # the joiners shape emoji and some scripts
    for point in (*range(0x3000), *range(0xFE00, 0x10000), *range(0xE0000, 0xE0100)):
        char, category = chr(point), unicodedata.category(chr(point))
        if category in ("Cc", "Cf") and char not in keep:
            kinds[point] = _CONTROL
        elif category == "Zs" and char != " ":
            kinds[point], replacements[point] = _SPACE, ord(" ")
    kinds[0x3000], replacements[0x3000] = _SPACE, ord(" ")
    kinds[[0xFFFE, 0xFFFF]] = _CONTROL
    for point in (0x0B, 0x0C, 0x0D, 0x85, 0x2028, 0x2029):
        kinds[point], replacements[point] = _NEWLINE, ord("\n")
    for sign in _ALNUM + ".\"#$%&'*+-/<=>@\\^_`{|}":  # ，：；！？（）［］～ are Chinese punctuation and stay
        point = ord(sign) + 0xFEE0
        kinds[point], replacements[point] = _FULLWIDTH, ord(sign)
    return kinds, replacements


def _tidy_lines(rows: list[str], points: U32, starts: I64, done: Done) -> None:
    """No spaces at line ends, no more than one blank line in a row, none at either end of a document."""
    newline = points == 10
    before_newline = points[:-1][newline[1:]]
    trailing = np.zeros(len(points), bool)
    trailing[:-1][newline[1:]] = (before_newline == 32) | (before_newline == 9)
    blank = np.zeros(len(points), bool)
    blank[:-2] = newline[:-2] & newline[1:-1] & newline[2:]
    blank[starts[:-1]] |= newline[starts[:-1]]
    blank[np.maximum(starts[1:] - 2, 0)] |= newline[np.maximum(starts[1:] - 2, 0)]
    _replace(rows, segment_sums(trailing, starts) > 0, _without_trailing_spaces, "spaces_at_line_ends", done)
    _replace(rows, (segment_sums(blank | trailing, starts) > 0), tidy_blank_lines, "blank_lines", done)


def _without_trailing_spaces(text: str) -> str:
    return re.sub(r"[ \t]+$", "", text, flags=re.MULTILINE)


def tidy_blank_lines(text: str) -> str:
    """At most one blank line in a row, none at either end."""
    return re.sub(r"\n{3,}", "\n\n", text).strip("\n")


def _compose(rows: list[str], done: Done) -> Mask:
    """NFC: a letter and its accent are one character. Says which rows changed."""
    foreign = np.zeros(len(rows), bool)
    if not unicodedata.is_normalized("NFC", "\n".join(rows)):
        foreign[:] = [not unicodedata.is_normalized("NFC", text) for text in rows]
        _replace(rows, foreign, lambda text: unicodedata.normalize("NFC", text), "nfc", done)
    return foreign


def _replace(rows: list[str], suspects: Mask, change: Callable[[str], str], name: str, done: Done) -> None:
    """Change the suspect rows in place; characters are counted by length where it differs, else whole documents."""
    documents = characters = 0
    for row in np.flatnonzero(suspects).tolist():
        changed = change(rows[row])
        if changed != rows[row]:
            documents += 1
            characters += abs(len(rows[row]) - len(changed)) or len(changed)
            rows[row] = changed
    _record(done, name, documents, characters)


def _count(done: Done, name: str, mask: Mask, starts: I64) -> None:
    counts = segment_sums(mask, starts)
    _record(done, name, int(np.count_nonzero(counts)), int(counts.sum()))


def _record(done: Done, name: str, documents: int, characters: int) -> None:
    if documents:
        done[name, "documents"] += documents
        done[name, "characters"] += characters
