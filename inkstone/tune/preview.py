"""What a tuning stage would learn from, before it learns: `inkstone tune preview`, and the console's page of a set.

    seen = as_the_model_sees(settings, files, base_dir, shown=2, on_fault=print)
    seen.rows      # number, side, ids, loss weights: the same objects that training packs

Large sets may be looked at in part; what is counted is then said to be of a part.
"""

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from inkstone.chat import (
    CHATS,
    PREFERENCES,
    VERDICTS,
    Faults,
    Kind,
    Message,
    Preference,
    Problem,
    Template,
    Verdict,
    encode_to_fit,
    find_template,
    require_tokens,
    stream,
    training_sequences,
)
from inkstone.errors import InputError
from inkstone.tokenizer import Tokenizer
from inkstone.tune.pairs import Side, encode_pair
from inkstone.tune.settings import SFTSettings

Item = TypeVar("Item")
_KINDS: dict[str, Kind[Any]] = {"sft": CHATS, "preference": PREFERENCES, "reward": PREFERENCES, "kto": VERDICTS}
_QUANTILES = (("median", 0.5), ("95 %", 0.95), ("longest", 1.0))


class Seen(NamedTuple):
    """A row by its number among those that can be used; `side` is the answer of a pair, or the verdict on it."""

    number: int
    side: str
    ids: list[int]
    weights: list[float]


@dataclass(frozen=True)
class Preview:
    """The first encoded rows, counts of all, and how many tokens rows have: median, 95 %, longest."""

    rows: list[Seen]
    counts: dict[str, int]
    lengths: dict[str, int]


def as_the_model_sees(
    settings: SFTSettings,
    files: Sequence[Path],
    base_dir: Path,
    shown: int,
    on_fault: Callable[[Problem], object],
    most: int = 2**62,
    limit_s: float = math.inf,
) -> Preview:
    """Encode the rows of a stage's files, of which `shown` are kept; `on_fault` is told each malformed one. Raises
    InputError for methods that make their own rows.

    Of more than `most` rows some are encoded, of a file that takes longer than `limit_s` those that came until then;
    `rows_encoded` is then among the counts, and what is counted of tokens is theirs. The files are read twice, row by
    row, so that a set of any size takes little memory.
    """
    template = find_template(base_dir, None if settings.template == "auto" else settings.template)
    tokenizer, kind = Tokenizer.load(base_dir), _KINDS.get(settings.method)
    require_tokens(template, tokenizer)
    if kind is None:
        raise InputError(f'method = "{settings.method}" learns from its own answers: there are no rows to show')
    faults = Faults()
    for one in stream(kind, files, faults):
        if isinstance(one, Problem):
            on_fault(one)
    faults.refuse(files, "skip")
    usable = (one for one in stream(kind, files, Faults()) if not isinstance(one, Problem))
    rows: list[Seen] = []
    lengths: Counter[int] = Counter()
    too_long = cut = looked = learned = 0
    for number, item in _some(usable, faults.usable, most, limit_s):
        looked += 1
        for side, encoded, dropped in _sequences(item, template, tokenizer, settings.sequence_length):
            too_long += encoded is None
            cut += dropped > 0
            if encoded:
                lengths[len(encoded[0])] += 1
                learned += sum(weight > 0 for weight in encoded[1])
                rows += [Seen(number, side, list(encoded[0]), list(encoded[1]))] if len(rows) < shown else []
    counts = {
        "rows": faults.usable,
        **({"rows_encoded": looked} if looked < faults.usable else {}),
        "malformed_rows": faults.malformed,
        "rows_that_lose_their_oldest_rounds": cut,
        "rows_that_are_too_long": too_long,
        "tokens": sum(length * count for length, count in lengths.items()),
        "learned_tokens": learned,
    }
    return Preview(rows, counts, {name: _quantile(lengths, share) for name, share in _QUANTILES})


def _quantile(lengths: Counter[int], share: float) -> int:
    """The length that so many of all do not exceed; 0 where there are none."""
    ordered = sorted(lengths)
    place = int(share * (lengths.total() - 1))
    return next(
        (n for n, upto in zip(ordered, accumulate(lengths[n] for n in ordered), strict=True) if upto > place), 0
    )


def _some(items: Iterable[Item], count: int, most: int, limit_s: float) -> Iterator[tuple[int, Item]]:
    """Numbered items: all of them, or the first tenth of `most` and others spread evenly; what is reached in time."""
    first, until = most // 10, time.monotonic() + limit_s
    step = max(1, math.ceil((count - first) / (most - first)))
    for number, item in enumerate(items, 1):
        if time.monotonic() > until:
            return
        if number <= first or (number - first) % step == 0:
            yield number, item


def _sequences(
    item: list[Message] | Preference | Verdict, template: Template, tokenizer: Tokenizer, length: int
) -> Iterator[tuple[str, Side | None, int]]:
    """What is trained on of an item: its side, ids and weights (None where it is too long), rounds left out."""
    if isinstance(item, list):
        for messages in training_sequences(item, template):
            fitted = encode_to_fit(messages, template, tokenizer, length)
            yield "", fitted and fitted[:2], fitted[2] if fitted else 0
        return
    # Of a verdict its own answer is shown, not the mismatch that is packed with it.
    pair = Preference(item.chat[:-1], item.chat[-1].content, "") if isinstance(item, Verdict) else item
    encoded = encode_pair(pair, template, tokenizer, length)
    if encoded is None:
        yield "", None, 0
    elif isinstance(item, Verdict):
        yield "good" if item.good else "bad", encoded.chosen, 0
    else:
        yield "chosen", encoded.chosen, 0
        yield "rejected", encoded.rejected, 0
