"""Private data: found by position, checked by its digits and by the words beside it, and masked.

Kinds: e-mail addresses, IPv4 addresses, telephone numbers (Chinese mobile and landline, international with +), Chinese
identity numbers with a valid check digit, bank cards (Luhn, known issuer range), URLs that carry a password, key or
token. One regular expression runs over the stretches of text around an `@`, a run of seven digits, a dotted number or
a URL query, found in the flat array; text without any of them, nearly all of it, is never scanned. It sees text as
`repair` leaves it: full-width letters, digits and full stops inside addresses are ASCII, `（）。` are not.
"""

import re
import string
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache

import numpy as np
import pyarrow as pa

from inkstone.corpus.judge.kernel import I64, U32, Mask, code_points, decode, member
from inkstone.corpus.judge.operator_settings import PrivateSettings

_REACH = 96  # characters looked at around a trigger
_LONGEST = 400  # a match may end this much later
_DASHES = "\u2010\u2011\u2012\u2013\u2014\u2015-"
_SEPARATORS = f" ().（）{_DASHES}"  # what may stand between the digits of one number
_S = f"[ {_DASHES}]"
_OPEN, _CLOSE = "[(（]", f"[)）]{_S}?"
# A dot alone makes a decimal (1391234.5678), two make a number of three groups.
_MOBILE = (
    rf"1[3-9]\d(?:\d{{8}}|{_S}\d{{8}}|{_S}\d{{3}}{_S}\d{{5}}|\.\d{{4}}\.\d{{4}}"
    rf"|{_S}?\d{{4}}{_S}?\d{{4}}(?!{_S}\d{{4}}(?!\d)))(?!\.?\d)"
)
_AREA = r"0(?:10|2\d|[3-9]\d\d)"
_LANDLINE = (
    rf"(?:{_OPEN}{_AREA}{_CLOSE}|{_AREA}{_S})[2-8](?:\d{{6,7}}|\d{{2,3}}{_S}\d{{4}})"
    rf"(?:-\d{{1,5}}|\s?(?:转|(?i:ext\.?|x))\s?\d{{1,5}})?"
)
_AMERICAN = rf"(?:\(\d{{3}}\)[ ]?|\d{{3}}[{_DASHES}])\d{{3}}[{_DASHES}]\d{{4}}|[2-9]\d\d\.[2-9]\d\d\.\d{{4}}"
_PATTERN = re.compile(
    r"(?=[A-Za-z\d+(（])(?:(?P<secret_url>(?:https?|ftp|wss?)://(?:[^\s/@:]+:[^\s/@]+@[^\s\"'<>，。；、）)]+|[^\s?#]*[?#]\S*?"
    r"(?i:access_token|auth_token|token|api_?key|apikey|secret|password|passwd|pwd|session(?:_?id)?|signature|sig|"
    r"x-amz-signature|credential)=[^\s&#\"'<>，。；、）)]{6,}[^\s\"'<>，。；、）)]*))"
    r"|(?P<email>(?<![\w.+%-])[A-Za-z0-9][\w.+%-]{0,63}@(?:(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,62})?\.)+[A-Za-z]{2,24}"
    r"|[A-Za-z0-9][A-Za-z0-9-]{0,62}。(?:com|net|org|edu|gov|cn|io)(?:[.。]cn)?)(?![\w-]))"
    r"|(?P<ip>(?=\d)(?<![\d.A-Za-z_])(?:(?:25[0-5]|2[0-4]\d|1?\d?\d)\.){3}(?:25[0-5]|2[0-4]\d|1?\d?\d)(?![\d_]|\.\d))"
    rf"|(?P<id_number>(?=\d)(?<![\dA-Za-z])[1-9]\d{{5}}{_S}?(?:18|19|20)\d{{2}}(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])"
    rf"{_S}?\d{{3}}[\dXx](?![\dA-Za-z]))"
    rf"|(?P<bank_card>(?=\d)(?<![\w.])[3-6]\d{{3}}(?:{_S}?\d{{4}}){{2}}(?:{_S}?\d{{3,4}})(?:{_S}?\d{{1,3}})?(?![\d]))"
    rf"|(?P<phone>(?=[\d+(（])(?:(?<![\d.])(?:(?:\+|(?<![\w-])(?:00)?)86{_S}?|(?<![\w-])|(?<=tel)|(?<=Tel)|(?<=TEL)|(?<=hone)){_MOBILE}"
    rf"|(?<![\d.])(?:\+|00)86{_S}?{_OPEN}1[3-9]\d{_CLOSE}\d{{4}}{_S}?\d{{4}}(?!\d)"
    rf"|(?<![\d(-]){_LANDLINE}(?![\d-])"
    rf"|(?<![\w+])\+(?!86)[1-9]\d{{0,2}}{_S}?(?:\(\d{{1,4}}\){_S}?)?\d{{1,4}}(?:{_S}?\d{{2,4}}){{2,4}}(?!\d)"
    rf"|(?<![\d.-])(?!\(?[48]00|\(?8[78][78])(?:{_AMERICAN})(?![\d-]|\.\d))))",
    re.ASCII,
)
# Words beside a number, in the characters before and after it.
_BEFORE, _AFTER = 24, 10
_NETWORK = re.compile(
    r"(?<![a-z])(?:ip|ipv4|dns|servers?|ping|host|gateway|address|ssh)(?![a-z])|地址|服务器|域名|网关|解析"
)
_NUMBERING = re.compile(r"(?:第|§|版本|章节|(?<![a-z])(?:v|section|chapter|clause|version|release|rfc|sec\.)s?)\s*$")
_NUMBERED = re.compile(r"\s*(?:节|章|条|款|版)")
_THOUSANDS = re.compile(r"\+\d{1,3}(?: \d{3})+$")
_AMOUNT = re.compile(
    r"revenue|profit|income|sales|grew|rose|gain|increase|total|yuan|dollar|usd|eur|[元万亿￥$€%增涨]|收入|利润|销售"
)
_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
_CARD_STARTS = re.compile(r"(?:62\d{14,17}|4\d{15}|5[1-5]\d{14}|3[47]\d{13}|35\d{14}|6[05]\d{14})$")
_LOCAL_NETWORKS = re.compile(r"(?:0|10|127|192\.168|169\.254|172\.(?:1[6-9]|2\d|3[01])|2(?:2[4-9]|[3-5]\d))\.")


@dataclass
class Masked:
    """Texts with private data replaced, what was found by kind, and which documents hold too much of it."""

    texts: pa.StringArray
    found: dict[str, Counter[int]] = field(default_factory=dict)  # kind: {document: times}

    def per_document(self) -> I64:
        """How many pieces of private data each document holds."""
        counts = np.zeros(len(self.texts), np.int64)
        for places in self.found.values():
            for row, times in places.items():
                counts[row] += times
        return counts


def mask(texts: pa.StringArray, settings: PrivateSettings) -> Masked:
    """Replace private data of the kinds in `settings.kinds` by `settings.replacement`."""
    result = Masked(texts)
    if not settings.kinds:
        return result
    points, starts = decode(texts)
    rows = None
    for row, spans in _candidates(points, starts):
        rows = rows if rows is not None else texts.to_pylist()
        matches = [m for a, b in spans for m in private_spans(rows[row], a, b) if m[2] in settings.kinds]
        if not matches:
            continue
        pieces, at = [], 0
        for start, end, kind in matches:
            if start >= at:
                pieces += [rows[row][at:start], settings.replacement.replace("{kind}", kind)]
                at = end
                result.found.setdefault(kind, Counter())[row] += 1
        rows[row] = "".join([*pieces, rows[row][at:]])
    if result.found and rows is not None:
        result.texts = pa.array(rows, pa.string())
    return result


def private_spans(text: str, start: int = 0, end: int | None = None) -> list[tuple[int, int, str]]:
    """Where private data stands between `start` and `end`: (start, end, kind), in order."""
    found = []
    position = start
    end = len(text) if end is None else end
    while match := _PATTERN.search(text, position, min(end + _LONGEST, len(text))):
        if match.start() >= end:
            break
        kind = str(match.lastgroup)
        value = match.group()
        before, after = text[max(match.start() - _BEFORE, 0) : match.start()], text[match.end() : match.end() + _AFTER]
        if _VALID.get(kind, _always)(value, before.lower(), after.lower()):
            found.append((match.start(), match.end(), kind))
            position = match.end()
        else:
            position = _past(text, match.start())
    return found


def _always(value: str, before: str, after: str) -> bool:
    return True


def _past(text: str, start: int) -> int:
    """The end of the word or number at `start`."""
    while start < len(text) and (text[start].isalnum() or text[start] == "."):
        start += 1
    return start + 1


def valid_identity_number(value: str) -> bool:
    """Whether the last of 18 characters is the check digit of the others (GB 11643, ISO 7064 MOD 11-2)."""
    total = sum(weight * int(digit) for weight, digit in zip(_WEIGHTS, value[:17], strict=True))
    return "10X98765432"[total % 11] == value[17].upper()


def valid_bank_card(value: str) -> bool:
    """Luhn's check over as many digits as an issuer's cards have (UnionPay, Visa, Mastercard, Amex, JCB, Discover)."""
    digits = [int(char) for char in value if char.isdigit()]
    if len(set(digits)) < 4 or not _CARD_STARTS.match("".join(map(str, digits))):
        return False
    doubled = [digit * 2 - 9 * (digit > 4) if place % 2 else digit for place, digit in enumerate(reversed(digits))]
    return sum(doubled) % 10 == 0


def public_address(value: str, before: str = "", after: str = "") -> bool:
    """Whether an IPv4 address can name a person's machine: no local network, mask, version (1.8.0.5) or section."""
    if _LOCAL_NETWORKS.match(value) or _NUMBERING.search(before) or _NUMBERED.match(after):
        return False
    return sum(map(int, value.split("."))) >= 64 or bool(_NETWORK.search(before) or _NETWORK.search(after))


def telephone(value: str, before: str = "", after: str = "") -> bool:
    """Whether what looks like a number with + is one: +1 has ten digits after it, +100 000 000 is an amount."""
    digits = re.sub(r"\D", "", value)
    if value.startswith("+1"):
        return len(digits) == 11 and digits[1] > "1" and not _THOUSANDS.match(value)
    amount = len(digits) < 11 or digits.endswith("000") or _AMOUNT.search(before) or _AMOUNT.search(after)
    return not (_THOUSANDS.match(value) and amount)


_VALID: dict[str, Callable[[str, str, str], bool]] = {
    "id_number": lambda value, before, after: valid_identity_number(re.sub(_S, "", value)),
    "bank_card": lambda value, before, after: valid_bank_card(value),
    "email": lambda value, before, after: not value.startswith(("git@", "noreply@", "no-reply@")),
    "ip": public_address, "phone": telephone,
}  # fmt: skip


# --- where to look -----------------------------------------------------------------------------------------------


def _candidates(points: U32, starts: I64) -> list[tuple[int, list[tuple[int, int]]]]:
    """Documents with triggers, and the stretches around them as positions in the document."""
    begins, ends, reach = _triggers(points)
    if not len(begins):
        return []
    row = np.searchsorted(starts, begins, side="right") - 1
    first = np.maximum(begins - reach, starts[row])
    order = np.argsort(first, kind="stable")
    first, row = first[order], row[order]
    last = np.maximum.accumulate(np.minimum((ends + reach)[order], starts[row + 1] - 1))
    fresh = np.ones(len(begins), bool)
    fresh[1:] = (row[1:] != row[:-1]) | (first[1:] > last[:-1])
    opening = np.flatnonzero(fresh)
    closing = np.append(opening[1:], len(begins)) - 1
    spans: dict[int, list[tuple[int, int]]] = {}
    for a, b in zip(opening.tolist(), closing.tolist(), strict=True):
        start = int(starts[row[a]])
        spans.setdefault(int(row[a]), []).append((int(first[a]) - start, int(last[b]) - start))
    return list(spans.items())


def _triggers(points: U32) -> tuple[I64, I64, I64]:
    """Where private data can be: begin, end, and how far around it to look.

    An @ between characters of an address, a `://`, three dots between digits, and seven digits or more with at most two
    separators between neighbours.
    """
    digit = points - np.uint32(48) <= 9
    before, after = _neighbours()
    at = np.flatnonzero(points == ord("@"))
    at = at[before[np.minimum(points[at - 1], 128)] & after[np.minimum(points[at + 1], 128)]]
    url = np.flatnonzero(points == ord(":"))
    url = url[(points[url + 1] == 47) & (points[np.minimum(url + 2, len(points) - 1)] == 47)]
    dots = np.flatnonzero(points == ord("."))
    dots = dots[digit[dots - 1] & digit[dots + 1]]
    dots = dots[:-2][dots[2:] - dots[:-2] <= 8]
    single = np.concatenate([at, url, dots])
    digits = np.flatnonzero(digit)
    gap = np.diff(digits)
    apart = np.flatnonzero(gap > 1)
    linked = member(points[digits[apart] + 1], separators := code_points(_SEPARATORS))
    linked &= member(points[digits[apart + 1] - 1], separators) & (gap[apart] <= 3)
    breaks = apart[~linked]
    opening, closing = np.append(0, breaks + 1)[: len(digits)], np.append(breaks, len(digits) - 1)[: len(digits)]
    many = closing - opening >= 6
    begins = np.concatenate([single, digits[opening[many]]])
    ends = np.concatenate([single, digits[closing[many]] + 1])
    return begins, ends, np.where(np.arange(len(begins)) < len(single), _REACH, 1)


@cache
def _neighbours() -> tuple[Mask, Mask]:
    """What stands before and after the @ of an address; 128 is all that is not ASCII."""
    alone = string.ascii_letters + string.digits
    tables = np.zeros((2, 129), bool)
    for table, chars in zip(tables, (alone + "_.+%-", alone), strict=True):
        table[[ord(char) for char in chars]] = True
    return tables[0], tables[1]
