"""What is read from a text that a model wrote, and what it is worth. Strict and counted: nothing is ever guessed.

A reader gives no prediction where the text says nothing it can read; that answer is wrong and counts as unparsed.
Readers named after a toolkit read as it does, faults included.
"""

import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher

from inkstone.chat.numbers import last_number, same_number
from inkstone.evaluate.tasks.item import LETTERS, Item


@dataclass(frozen=True)
class Read:
    """What was read, its score from 0 to 1, and other scores of the same text."""

    prediction: str | None
    score: float = 0.0
    also: Mapping[str, float] = field(default_factory=dict)


_OPTION = [
    r"(?:答案|正确答案|[Aa]nswer)\s*(?:应该?)?(?:是|为|选|is)?(?:选项|option)?\s*[:：]?\s*\(?([A-G])(?![A-Za-z])",
    r"(?:故选|应选|选择?|只有选?项?)\s*[:：]?\s*([A-G])(?![A-Za-z])",
    r"([A-G])\s*(?:选项)?\s?(?:是)?(?:正确|对)的?",
    r"^\s*\(?([A-G])(?:[\s.。,，:：)）]|$)",
    r"[\s,，:：(（]([A-G])[)）]?[.。]?\s*$",
    r"(?:^|\s)([A-G])(?:[\s.。,，:：]|$)",
    r"([A-G])",
]


def _letter(letter: str | None, item: Item) -> Read:
    return Read(letter, float(letter in [LETTERS[index] for index in item.gold]))


def first_capital(text: str, item: Item) -> Read:
    """The first capital letter of any kind, so "I think B" says I, as OpenCompass reads it."""
    return _letter(next((letter for letter in text if letter.isupper()), None), item)


def first_option(text: str, item: Item) -> Read:
    """An option's letter by the first expression that finds one, from "the answer is B" down to any letter."""
    allowed = LETTERS[: len(item.choices)]
    matches = (match[1] for pattern in _OPTION for match in re.finditer(pattern, text))
    return _letter(next((letter for letter in matches if letter in allowed), None), item)


def letter_set(text: str, item: Item) -> Read:
    """AGIEval: the first letter A-F or, where several may be right, all letters written, which must be the same set."""
    found = re.findall("[A-F]", text)
    said = "".join(sorted(set(found))) if item.texts.get("several") else "".join(found[:1])
    return Read(said or None, float(said == "".join(LETTERS[index] for index in sorted(item.gold))))


def formula(text: str, item: Item) -> Read:
    """A formula of the first line, compared after normalising."""
    said = plain_formula(text.strip().split("\n")[0])
    return Read(said or None, float(bool(said) and said in [plain_formula(answer) for answer in item.answers]))


def plain_formula(text: str) -> str:
    """The last boxed or dollared part, right of "=", without what only lays it out."""
    boxed = re.findall(r"\\boxed\{(.*)\}|\$(.*?)\$", text)
    text = (boxed[-1][0] or boxed[-1][1]) if boxed else text
    text = text.split("=")[-1].strip().rstrip(".。")
    text = re.sub(r"\\(?:left|right|!|,|;|%|\$|text\{[^}]*\})|\^\{?\\circ\}?|[\s%$]", "", text)
    text = re.sub(r"[dt]frac", "frac", text)
    text = re.sub(r"\\(frac|sqrt)([^{\\])", r"\\\1{\2}", text)
    text = re.sub(r"(\\frac\{[^{}]*\})([^{}\\])", r"\1{\2}", text)
    text = re.sub(r"^(-?\d+)/(\d+)$", r"\\frac{\1}{\2}", text)
    return re.sub(r"(?<![\d])\.(\d)", r"0.\1", text)


def harness_number(text: str, item: Item) -> Read:
    """lm-eval's two filters for GSM8K, and its exact match of texts."""
    strict = re.search(r"#### (\-?[0-9\.\,]+)", text)
    flexible = [one or other for one, other in re.findall(r"(-?[$0-9.,]{2,})|(-?[0-9]+)", text)]
    right = _harness_plain(item.answers[0])
    loose = float(bool(flexible) and _harness_plain(flexible[-1].strip()) == right)
    if strict is None:
        return Read(None, 0.0, {"flexible": loose})
    return Read(strict[1].strip(), float(_harness_plain(strict[1].strip()) == right), {"flexible": loose})


def _harness_plain(text: str) -> str:
    return re.sub(r"\.$", "", re.sub(r"(?s).*#### ", "", re.sub(r"[,$]", "", text))).lower()


def opencompass_number(text: str, item: Item) -> Read:
    """The last word with a digit in the first paragraph, without all but digits and points: -3 is read as 3."""
    words = [word for word in text.partition("\n\n")[0].split(" ") if any(map(str.isdigit, word))]
    said = "".join(one for one in words[-1] if one.isdigit() or one == ".").strip(".") if words else ""
    return Read(said or None, float(said == item.answers[0].rpartition("#### ")[2].replace(",", "")))


def house_number(text: str, item: Item) -> Read:
    """The last number, by value."""
    said = last_number(text)
    return Read(said, float(same_number(said, last_number(item.answers[0]))))


def gaokao(text: str, item: Item) -> Read:
    """GAOKAO-Bench's extractor for the kind of the question; a sub-question each, half points in physics."""
    kind, right = item.texts["kind"], item.answers
    if kind == "single_choice":
        said = re.findall("[A-D]", text)[-1:]
    elif kind == "five_out_of_seven":
        said = re.findall("[A-G]", text)[:5]
    elif kind == "multi_choice":
        dense = "".join(text.split())
        place = dense.find("【答案】")
        letters = "".join(re.findall("[A-D]", dense[place:] if place > 0 else dense[-10:]))
        said = [letters] if letters else []
    else:
        said = re.findall(r"【答案】\s*[:：]*\s*([A-Z])", text)
        said = said if len(said) == len(right) else re.findall("[A-Z]", text)[: len(right)]
    if len(said) != len(right):
        return Read(None)
    if kind == "multi_choice":
        chosen, wanted = set(said[0]), set(right[0])
        return Read(said[0], 1.0 if chosen == wanted else 0.5 if chosen < wanted else 0.0)
    return Read(",".join(said), sum(one == other for one, other in zip(said, right, strict=True)) / len(right))


def span(text: str, item: Item) -> Read:
    """CMRC 2018: F1 by the longest common run of characters and English words; exact match; the best reference."""
    said = _pieces(text.split("\n")[0])
    exact = max(float(said == _pieces(answer)) for answer in item.answers)
    best = max(_overlap(said, _pieces(answer)) for answer in item.answers)
    return Read(text.strip() or None, best, {"exact": exact})


def contains(text: str, item: Item) -> Read:
    """Whether the answer stands in what was written."""
    return Read(text.strip() or None, float(item.answers[0] in text))


def _pieces(text: str) -> list[str]:
    kept = "".join(" " if unicodedata.category(one)[0] in "PSZ" else one for one in text.lower())
    return re.findall(r"[a-z0-9]+|\S", kept)


def _overlap(said: Sequence[str], right: Sequence[str]) -> float:
    match = SequenceMatcher(None, said, right, autojunk=False).find_longest_match()
    return 2 * match.size / (len(said) + len(right)) if match.size else 0.0


READERS: dict[str, Callable[[str, Item], Read]] = {
    "first_capital": first_capital,
    "first_option": first_option,
    "letter_set": letter_set,
    "formula": formula,
    "harness_number": harness_number,
    "opencompass_number": opencompass_number,
    "last_number": house_number,
    "gaokao": gaokao,
    "span": span,
    "contains": contains,
}
