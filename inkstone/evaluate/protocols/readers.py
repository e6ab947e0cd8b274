"""What is read from a text that a model wrote, and what it is worth. Strict and counted: nothing is ever guessed.

A reader returns None where the text says nothing it can read; that answer is wrong and counts as unparsed.
"""

import re
from collections.abc import Callable

from inkstone.evaluate.tasks.item import LETTERS, Item

_OPTION = [
    r"(?:答案|正确答案|[Aa]nswer)\s*(?:应该?)?(?:是|为|选|is)?(?:选项|option)?\s*[:：]?\s*\(?([A-G])(?![A-Za-z])",
    r"(?:故选|应选|选择?|只有选?项?)\s*[:：]?\s*([A-G])(?![A-Za-z])",
    r"([A-G])\s*(?:选项)?\s?(?:是)?(?:正确|对)的?",
    r"^\s*\(?([A-G])(?:[\s.。,，:：)）]|$)",
    r"[\s,，:：(（]([A-G])[)）]?[.。]?\s*$",
    r"(?:^|\s)([A-G])(?:[\s.。,，:：]|$)",
    r"([A-G])",
]


def first_capital(text: str, item: Item) -> str | None:
    """The first capital letter of any kind, so "I think B" says I, as OpenCompass reads it."""
    return next((letter for letter in text if letter.isupper()), None)


def first_option(text: str, item: Item) -> str | None:
    """An option's letter by the first expression that finds one, from "the answer is B" down to any letter."""
    allowed = LETTERS[: max(len(item.choices), 1)]
    for pattern in _OPTION:
        for match in re.finditer(pattern, text):
            if match[1] in allowed:
                return match[1]
    return None


def same_letter(said: str, item: Item) -> float:
    return float(said in [LETTERS[index] for index in item.gold])


READERS: dict[str, Callable[[str, Item], str | None]] = {
    "first_capital": first_capital,
    "first_option": first_option,
}
GRADES: dict[str, Callable[[str, Item], float]] = {"letter": same_letter}
