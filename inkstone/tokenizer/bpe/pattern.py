"""Where text is cut before merges are looked for: `PATTERN`, and the same cuts for a batch in a few array operations.

The pattern keeps digits single, newlines apart from words and Chinese apart from the rest; a merge never crosses its
borders, so no text can ever spell the name of a control or byte token: each of these names contains such a border.
`borders` gives the pattern's cuts from a table of character classes, about twenty times faster than the regular
expression. The table is asked of the expression's own engine, so both agree on every character; the few characters
whose cut depends on more than their neighbours are `ODD`, and a document that holds one is left to the engine.
"""

from functools import lru_cache

import numpy as np
from tokenizers import Regex, pre_tokenizers

_LETTER = r"[\p{L}\p{M}&&[^\p{Han}]]"
PATTERN = "|".join(
    (
        r"\p{Han}+",
        r"\p{N}",  # one digit at a time
        r"['’](?i:s|t|d|m|re|ve|ll)(?!\p{L})",  # don't -> don 't
        rf" ?{_LETTER}+",
        r" ?[^\s\p{L}\p{M}\p{N}]+",  # punctuation and symbols
        r"[\r\n]+",
        r"[^\S\r\n]+(?= [^\s\p{N}\p{Han}])",  # indentation leaves the last space to the word after it
        r"[^\S\r\n]+",
    )
)
UNICODE = 0x110000
OTHER, HAN, DIGIT, LETTER, NEWLINE, WHITE, ODD = range(7)
_CLASSES = (
    (HAN, r"\p{Han}"),
    (DIGIT, r"[\p{N}&&[^\p{Han}]]"),
    (LETTER, _LETTER),
    (NEWLINE, r"[\r\n]"),
    (WHITE, r"[^\S\r\n]"),
    (ODD, r"[[\p{Han}&&[^\p{L}\p{N}]]\x{17F}]"),  # symbols that are also Chinese; the long s, which equals s in (?i:s)
)
_PLANES = ((0, 0xD800), (0xE000, 0x20000), (0x20000, 0x34000), (0xE0000, 0xE1000))  # the rest is not assigned
_RUNS = "|".join(
    (  # runs in which all of these expressions, and letters, are the same for every character
        r"[\p{Han}&&\p{L}]+",
        r"[\p{Han}&&\p{N}]+",
        r"[\p{Han}&&[^\p{L}\p{N}]]+",
        r"[\p{N}&&[^\p{Han}]]+",
        r"\x{17F}",
        r"[\p{L}&&[^\p{Han}\x{17F}]]+",
        r"[\p{M}&&[^\p{Han}]]+",
        r"[\r\n]+",
        r"[^\S\r\n]+",
    )
)
_SPACE = ord(" ")
_MARK = np.isin(np.arange(128), [ord(letter) for letter in "sStTdDmM"])


def pre_tokenizer() -> pre_tokenizers.PreTokenizer:
    """Cuts text at the borders of `PATTERN`; pieces joined again are the text."""
    return pre_tokenizers.Split(Regex(PATTERN), behavior="isolated")


@lru_cache(maxsize=1)
def classes() -> np.ndarray:
    """The class of every code point, uint8 [0x110000]; the engine is asked about one of each run of equal ones."""
    points = np.concatenate([np.arange(*plane) for plane in _PLANES])
    text = points.astype("<u4").tobytes().decode("utf-32-le")
    pieces = pre_tokenizers.Split(Regex(_RUNS), behavior="isolated").pre_tokenize_str(text)
    starts = np.array([start for _, (start, _) in pieces])
    first = "".join(text[start] for start in starts)
    kinds = np.full(len(first), OTHER, dtype=np.uint8)
    for number, expression in _CLASSES:
        kinds[_matches(expression, first)] = number
    kinds[_matches(r"\p{L}", first)] |= _IS_L
    table = np.full(UNICODE, OTHER, dtype=np.uint8)
    table[points] = np.repeat(kinds, np.diff(starts, append=len(text)))
    table.setflags(write=False)
    return table


_IS_L = 8  # a bit beside the class: after "'s" a letter undoes the contraction, a combining mark does not


def borders(points: np.ndarray, starts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where pieces begin: bool [points], and the documents (bool) that the pattern itself must cut.

    `points` holds the code points of all documents, document i from `starts[i]` on; there is at least one point.
    """
    marked = classes()[points]
    kind = marked & 7
    first = np.zeros(len(points), dtype=bool)
    first[starts[starts < len(points)]] = True
    begins = np.empty(len(points), dtype=bool)
    np.not_equal(kind[1:], kind[:-1], out=begins[1:])
    begins[0] = True
    begins |= first
    begins |= kind == DIGIT
    joins = (points[:-1] == _SPACE) & ((kind[1:] == LETTER) | (kind[1:] == OTHER)) & ~first[1:]
    begins[:-1] |= joins
    begins[1:] &= ~joins
    _join_contractions(points, marked, begins, first)
    odd = np.flatnonzero(kind == ODD)
    left = np.zeros(len(starts), dtype=bool)
    left[np.searchsorted(starts, odd, side="right") - 1] = True
    return begins, left


def _join_contractions(points: np.ndarray, marked: np.ndarray, begins: np.ndarray, first: np.ndarray) -> None:
    """Move the borders of 's, 't, 'd, 'm, 're, 've and 'll where such a piece begins with its apostrophe."""
    marks = np.flatnonzero((points == 0x27) | (points == 0x2019))
    marks = marks[begins[marks]]
    for length, fits in ((1, _one_letter), (2, _two_letters)):
        found = marks[marks + length < len(points)]
        inside = [found + step for step in range(1, length + 1)]
        good = fits(*(points[place] for place in inside))
        for place in inside:
            good &= ~first[place]
        after = np.minimum(found + length + 1, len(points) - 1)
        ends = (found + length + 1 >= len(points)) | first[after]
        good &= ends | (marked[after] & _IS_L == 0)
        begins[found[good] + 1] = False
        begins[after[good & ~ends]] = True


def _one_letter(one: np.ndarray) -> np.ndarray:
    return (one < 128) & _MARK[np.minimum(one, 127)]


def _two_letters(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    one, two = one | 32, two | 32
    return (((one == ord("r")) | (one == ord("v"))) & (two == ord("e"))) | ((one == ord("l")) & (two == ord("l")))


def _matches(expression: str, text: str) -> np.ndarray:
    """Which characters of `text` the engine's character class matches."""
    found = np.ones(len(text), dtype=bool)
    for _, (start, end) in pre_tokenizers.Split(Regex(expression), behavior="removed").pre_tokenize_str(text):
        found[start:end] = False
    return found
