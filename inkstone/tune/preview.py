"""What a tuning stage would learn from, before it learns: `inkstone tune preview`.

seen = as_the_model_sees(settings, files, base_dir)
seen.rows      # (where it is from, ids, loss weights): the same objects that training packs
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

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

Seen = tuple[str, list[int], list[float]]


@dataclass(frozen=True)
class Preview:
    """Encoded rows, every malformed row in a sentence, and counts."""

    rows: list[Seen]
    faults: list[str]
    counts: dict[str, int]


def as_the_model_sees(settings: SFTSettings, files: Sequence[Path], base_dir: Path) -> Preview:
    """Encode the rows of a stage's files. Raises InputError for methods that make their own rows."""
    template = find_template(base_dir, None if settings.template == "auto" else settings.template)
    tokenizer, length = Tokenizer.load(base_dir), settings.sequence_length
    require_tokens(template, tokenizer)
    rows: list[Seen] = []
    too_long = cut = 0
    if settings.method == "sft":
        chats = read_chats(files, "skip")
        skipped, read = chats.skipped, len(chats.chats)
        for number, chat in enumerate(chats.chats, 1):
            for messages in training_sequences(chat, template):
                fitted = encode_to_fit(messages, template, tokenizer, length)
                too_long += fitted is None
                if fitted:
                    cut += fitted[2] > 0
                    rows.append((f"conversation {number}", *fitted[:2]))
    elif settings.method in ("preference", "reward", "kto"):
        told, skipped = _pairs(settings.method, files)
        read = len(told)
        for number, (pair, names) in enumerate(told, 1):
            encoded = encode_pair(pair, template, tokenizer, length)
            too_long += encoded is None
            for name, side in zip(names, (encoded.chosen, encoded.rejected) if encoded else (), strict=False):
                rows.append((f"row {number}, {name}", *side))
    else:
        raise InputError(f'method = "{settings.method}" learns from its own answers: there are no rows to show')
    learned = sum(weight > 0 for _, _, weights in rows for weight in weights)
    counts = {
        "rows": read,
        "malformed_rows": len(skipped),
        "rows_that_lose_their_oldest_rounds": cut,
        "rows_that_are_too_long": too_long,
        "tokens": sum(len(ids) for _, ids, _ in rows),
        "learned_tokens": learned,
    }
    return Preview(rows, [str(problem) for problem in skipped], counts)


def _pairs(method: str, files: Sequence[Path]) -> tuple[list[tuple[Preference, tuple[str, ...]]], list[Problem]]:
    """Pairs with the names of the sides to show: of a verdict its own answer, not the mismatch packed with it."""
    if method == "kto":
        verdicts = read_verdicts(files, "skip")
        alone = [(Preference(v.chat[:-1], v.chat[-1].content, ""), v.good) for v in verdicts.verdicts]
        return [(pair, ("good" if good else "bad",)) for pair, good in alone], verdicts.skipped
    pairs = read_preferences(files, "skip")
    return [(pair, ("chosen", "rejected")) for pair in pairs.preferences], pairs.skipped
