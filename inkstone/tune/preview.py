"""What a tuning stage would learn from, before it learns: `inkstone tune preview`, and the console's page of a set.

    seen = as_the_model_sees(settings, files, base_dir)
    seen.rows      # number, side, ids, loss weights: the same objects that training packs

Large sets may be looked at in part; what is counted is then said to be of a part.
"""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar

from inkstone.chat import (
    Preference,
    Problem,
    encode_to_fit,
    find_template,
    read_chats,
    read_preferences,
    read_verdicts,
    require_tokens,
    training_sequences,
)
from inkstone.errors import InputError
from inkstone.tokenizer import Tokenizer
from inkstone.tune.pairs import encode_pair
from inkstone.tune.settings import SFTSettings

Item = TypeVar("Item")
_QUANTILES = (("median", 0.5), ("95 %", 0.95), ("longest", 1.0))


class Seen(NamedTuple):
    """A row by its number among those that can be used; `side` is the answer of a pair, or the verdict on it."""

    number: int
    side: str
    ids: list[int]
    weights: list[float]


@dataclass(frozen=True)
class Preview:
    """Encoded rows, every malformed row, counts, and how many tokens rows have: median, 95 %, longest."""

    rows: list[Seen]
    faults: list[Problem]
    counts: dict[str, int]
    lengths: dict[str, int]


def as_the_model_sees(
    settings: SFTSettings, files: Sequence[Path], base_dir: Path, most: int = 2**62, limit_s: float = math.inf
) -> Preview:
    """Encode the rows of a stage's files. Raises InputError for methods that make their own rows.

    Of more than `most` rows some are encoded, of a file that takes longer than `limit_s` those that came until then;
    `rows_encoded` is then among the counts, and what is counted of tokens is theirs.
    """
    template = find_template(base_dir, None if settings.template == "auto" else settings.template)
    tokenizer, length = Tokenizer.load(base_dir), settings.sequence_length
    require_tokens(template, tokenizer)
    rows: list[Seen] = []
    too_long = cut = looked = 0
    if settings.method == "sft":
        chats = read_chats(files, "skip")
        skipped, read = chats.skipped, len(chats.chats)
        for number, chat in _some(chats.chats, most, limit_s):
            looked += 1
            for messages in training_sequences(chat, template):
                fitted = encode_to_fit(messages, template, tokenizer, length)
                too_long += fitted is None
                if fitted:
                    cut += fitted[2] > 0
                    rows.append(Seen(number, "", *fitted[:2]))
    elif settings.method in ("preference", "reward", "kto"):
        told, skipped = _pairs(settings.method, files)
        read = len(told)
        for number, (pair, sides) in _some(told, most, limit_s):
            looked += 1
            encoded = encode_pair(pair, template, tokenizer, length)
            too_long += encoded is None
            for side, row in zip(sides, (encoded.chosen, encoded.rejected) if encoded else (), strict=False):
                rows.append(Seen(number, side, list(row[0]), list(row[1])))
    else:
        raise InputError(f'method = "{settings.method}" learns from its own answers: there are no rows to show')
    lengths = sorted(len(row.ids) for row in rows) or [0]
    counts = {
        "rows": read,
        **({"rows_encoded": looked} if looked < read else {}),
        "malformed_rows": len(skipped),
        "rows_that_lose_their_oldest_rounds": cut,
        "rows_that_are_too_long": too_long,
        "tokens": sum(lengths),
        "learned_tokens": sum(weight > 0 for row in rows for weight in row.weights),
    }
    quantiles = {name: lengths[int(share * (len(lengths) - 1))] for name, share in _QUANTILES}
    return Preview(rows, skipped, counts, quantiles)


def _some(items: Sequence[Item], most: int, limit_s: float) -> Iterator[tuple[int, Item]]:
    """Numbered items: all of them, or the first tenth of `most` and others spread evenly; what is reached in time."""
    first, until = most // 10, time.monotonic() + limit_s
    step = max(1, math.ceil((len(items) - first) / (most - first)))
    for number, item in enumerate(items, 1):
        if time.monotonic() > until:
            return
        if number <= first or (number - first) % step == 0:
            yield number, item


def _pairs(method: str, files: Sequence[Path]) -> tuple[list[tuple[Preference, tuple[str, ...]]], list[Problem]]:
    """Pairs with the names of the sides to show: of a verdict its own answer, not the mismatch packed with it."""
    if method == "kto":
        verdicts = read_verdicts(files, "skip")
        alone = [(Preference(v.chat[:-1], v.chat[-1].content, ""), v.good) for v in verdicts.verdicts]
        return [(pair, ("good" if good else "bad",)) for pair, good in alone], verdicts.skipped
    pairs = read_preferences(files, "skip")
    return [(pair, ("chosen", "rejected")) for pair in pairs.preferences], pairs.skipped
