"""Learn a BPE vocabulary from documents and assemble the tokenizer around it.

Ids: 0-15 control tokens, 16-271 the bytes, then single characters, then merges in the order they were learned. Text is
never rewritten (no normalizer, no metaspace), so decoding gives back exactly what was encoded. A merge never crosses
the borders of `PATTERN`: digits stay single, newlines stay apart from words, and no text can ever spell the name of a
control or byte token, because each of these names contains such a border.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import tokenizers
from tokenizers import AddedToken, decoders, models, trainers

from inkstone.errors import InputError
from inkstone.tokenizer.pattern import UNICODE, pre_tokenizer
from inkstone.tokenizer.settings import TokenizerSettings
from inkstone.tokenizer.tokenizer import CONTROL_TOKENS, Tokenizer

BYTE_TOKENS = tuple(f"<0x{value:02X}>" for value in range(256))
FIXED_TOKENS = len(CONTROL_TOKENS) + len(BYTE_TOKENS)
_HAN = re.compile(
    "[\u2e80-\u2fdf\u3005\u3007\u3021-\u3029\u3038-\u303b\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)
# Below this share of covered characters most of the text would be bytes; such a vocabulary is refused.
_LOWEST_COVERAGE = 0.9


@dataclass(frozen=True)
class Alphabet:
    """The characters that get a token, and the share of the text they cover."""

    characters: list[str]
    coverage: float


def train(settings: TokenizerSettings, texts: Callable[[], Iterable[str]]) -> tuple[Tokenizer, Alphabet]:
    """Learn from `texts()`, which is called twice and must give the same documents both times.

    The vocabulary is smaller than `settings.vocab_size` when the text has too few pairs to merge.
    """
    alphabet = choose_alphabet(count_characters(texts()), settings.vocab_size, settings.character_coverage)
    merges = _learn_merges(_split_at_rare(texts(), alphabet.characters), alphabet.characters, settings)
    return Tokenizer(assemble(alphabet.characters, merges)), alphabet


def count_characters(texts: Iterable[str]) -> np.ndarray:
    """How often every code point occurs: int64 [0x110000]."""
    counts = np.zeros(UNICODE, dtype=np.int64)
    for block in _blocks(texts):
        points = np.frombuffer(block.encode("utf-32-le"), dtype="<u4")
        counts += np.bincount(points, minlength=UNICODE)
    return counts


def choose_alphabet(counts: np.ndarray, vocab_size: int, coverage: float) -> Alphabet:
    """The most frequent characters: enough for `coverage`, at most half of what control tokens and bytes leave.

    Raises InputError when that half covers too little of the text, or when there is no text.
    """
    total = int(counts.sum())
    if total == 0:
        raise InputError("the corpus has no text to train a tokenizer on: give the corpus stage more input.")
    points = np.nonzero(counts)[0]
    points = points[np.lexsort((points, -counts[points]))]  # ties by code point, so that the result is reproducible
    covered = np.cumsum(counts[points]) / total
    wanted = _characters_for(covered, coverage)
    room = (vocab_size - FIXED_TOKENS) // 2
    needed = _characters_for(covered, min(_LOWEST_COVERAGE, coverage))
    if room < needed:
        minimum = FIXED_TOKENS + 2 * needed
        raise InputError(
            f"vocab_size = {vocab_size} is too small for this corpus: beside {FIXED_TOKENS} control and byte tokens it "
            f"has room for {room} single characters, and {needed} are needed to cover "
            f"{min(_LOWEST_COVERAGE, coverage):.1%} of the text. Set vocab_size to at least {minimum}."
        )
    kept = points[: min(wanted, room)]
    return Alphabet(sorted(map(chr, kept.tolist())), float(covered[len(kept) - 1]))


def assemble(characters: list[str], merges: list[tuple[str, str]]) -> tokenizers.Tokenizer:
    """The tokenizer with our order of ids, byte fallback, and control tokens that text cannot produce."""
    pieces = [*CONTROL_TOKENS, *BYTE_TOKENS, *characters, *dict.fromkeys(left + right for left, right in merges)]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    assert len(vocabulary) == len(pieces), "a learned piece has the name of a control or byte token"
    backend = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=merges, byte_fallback=True))
    backend.pre_tokenizer = pre_tokenizer()
    backend.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    backend.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in CONTROL_TOKENS])
    return backend


def _characters_for(covered: np.ndarray, share: float) -> int:
    return min(int(np.searchsorted(covered, share - 1e-12)) + 1, len(covered))


def _learn_merges(texts: Iterable[str], characters: list[str], settings: TokenizerSettings) -> list[tuple[str, str]]:
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizer()
    # `texts` hold no other characters, so the trainer chooses none: its choice among equals is not reproducible.
    # Twice the merges are learned, because some are left out afterwards; the extra ones cost little.
    room = settings.vocab_size - FIXED_TOKENS - len(characters)
    trainer = trainers.BpeTrainer(
        vocab_size=len(characters) + 2 * room,
        min_frequency=settings.min_frequency,
        max_token_length=settings.max_piece_characters + 1,  # the library's bound is exclusive
        special_tokens=[],
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer=trainer)
    learned = [(left, right) for left, right in json.loads(backend.to_str())["model"]["merges"]]
    return keep_merges(learned, room, settings.max_han_characters)


def keep_merges(merges: list[tuple[str, str]], room: int, max_han_characters: int) -> list[tuple[str, str]]:
    """The first merges that give `room` pieces, without Chinese pieces longer than `max_han_characters`.

    What builds on a piece that is left out is longer still, so every kept merge finds its two parts.
    """
    kept: list[tuple[str, str]] = []
    pieces: set[str] = set()
    for left, right in merges:
        piece = left + right
        if len(piece) > max_han_characters and _HAN.match(piece):  # a piece is all Chinese or not at all
            continue
        if piece not in pieces and len(pieces) == room:
            break
        pieces.add(piece)
        kept.append((left, right))
    return kept


def _split_at_rare(texts: Iterable[str], characters: list[str]) -> Iterator[str]:
    """Cut documents at characters outside the alphabet, so that their neighbours are not taken for a pair."""
    rare = re.compile(f"[^{re.escape(''.join(characters))}]+")
    for text in texts:
        yield from rare.split(text)


def _blocks(texts: Iterable[str], characters: int = 1_000_000) -> Iterator[str]:
    """Join texts into blocks of about a million characters."""
    pending: list[str] = []
    size = 0
    for text in texts:
        pending.append(text)
        size += len(text)
        if size >= characters:
            yield "".join(pending)
            pending, size = [], 0
    if pending:
        yield "".join(pending)
