"""The number that an answer ends with: how word problems are scored and rewarded. Nothing is guessed."""

import re
import unicodedata
from decimal import Decimal

# A minus sign after a digit, letter or bracket is a subtraction; commas count only between groups of three digits.
_NUMBER = re.compile(r"(?:(?<![\w)])-)?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?")


def last_number(text: str) -> str | None:
    """The last number in `text`, without thousands separators; full-width digits and minus signs are read too."""
    found = _NUMBER.findall(unicodedata.normalize("NFKC", text).replace("\N{MINUS SIGN}", "-"))
    return found[-1].replace(",", "") if found else None


def same_number(one: str | None, other: str | None) -> bool:
    """Equality of value: "7", "7.0" and "7.00" are the same; None equals nothing."""
    return one is not None and other is not None and Decimal(one) == Decimal(other)
