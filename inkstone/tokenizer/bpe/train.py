"""Learn a BPE vocabulary from documents and assemble the tokenizer around it.

Ids: 0-15 control tokens, 16-271 the bytes, then single characters, then pieces in the order they were learned. Text is
never rewritten (no normalizer, no metaspace), so decoding gives back exactly what was encoded. Words are cut by
`PATTERN` for learning only, and no piece crosses its borders: digits stay single, newlines stay apart from words, and
no text can ever spell the name of a control or byte token, because each of these names contains such a border.
Encoding needs no cuts then: it is SentencePiece's, and a `.model` with the same ids can be written (`model_file.py`).
"""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import tokenizers
from tokenizers import AddedToken, decoders, models

from inkstone.errors import InputError
from inkstone.tokenizer.bpe.learn import Bounds, learn_merges
from inkstone.tokenizer.bpe.lookup import LONGEST_WORD
from inkstone.tokenizer.bpe.pattern import LETTER, UNICODE, WHITE, classes
from inkstone.tokenizer.bpe.words import BLOCK_CHARACTERS, Counter, Words, code_points, cut, together, words_of
from inkstone.tokenizer.foreign.sentencepiece import SPACE, splits
from inkstone.tokenizer.settings import TokenizerSettings
from inkstone.tokenizer.tokenizer import CONTROL_TOKENS, Tokenizer

BYTE_TOKENS = tuple(f"<0x{value:02X}>" for value in range(256))
FIXED_TOKENS = len(CONTROL_TOKENS) + len(BYTE_TOKENS)
_HAN = re.compile(
    "[\u2e80-\u2fdf\u3005\u3007\u3021-\u3029\u3038-\u303b\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)
# Below this share of covered characters most of the text would be bytes; such a vocabulary is refused.
_LOWEST_COVERAGE = 0.9
_RESOLUTION = 16  # what an occurrence in the text of least weight counts, since counts are whole numbers


@dataclass(frozen=True)
class Alphabet:
    """The characters that get a token, and the share of the text they cover."""

    characters: list[str]
    coverage: float


def train(settings: TokenizerSettings, texts: Iterable[tuple[list[str], float]]) -> tuple[Tokenizer, Alphabet]:
    """Learn from lists of documents, each with the weight that one occurrence in them has.

    The vocabulary is smaller than `settings.vocab_size` when the text has too few pairs to merge.
    """
    words, counts, one = count_words(texts, settings.count_power)
    found = count_characters(words, counts)
    found[ord(SPACE)] = 0  # SentencePiece takes it for a space: as bytes it is told apart
    alphabet = choose_alphabet(found, settings.vocab_size, settings.character_coverage)
    alphabet = Alphabet(sorted({" ", *alphabet.characters}), alphabet.coverage)
    room = settings.vocab_size - FIXED_TOKENS - len(alphabet.characters)
    bounds = Bounds(
        pieces=room,
        longest=settings.max_piece_characters,
        min_frequency=settings.min_frequency * one,
        unwanted=lambda piece: len(piece) > settings.max_han_characters and _HAN.match(piece) is not None,
    )
    merges = learn_merges(*split_at_rare(words, counts, alphabet.characters), alphabet.characters, bounds)
    return Tokenizer(assemble(alphabet.characters, merges)), alphabet


def count_words(texts: Iterable[tuple[list[str], float]], power: float = 1.0) -> tuple[Words, np.ndarray, int]:
    """The different words, what each counts, and what one plain occurrence counts in this scale.

    A word that occurs n times in texts of one weight counts like n ** `power`, scaled so that these texts weigh as much
    as before: rare words, of which new text has others, then shape the pieces more than the repetitions of a few.
    """
    counters: dict[float, Counter] = {}
    for documents, weight in texts:
        counter = counters.setdefault(weight, Counter())
        for block in together(documents, len, BLOCK_CHARACTERS):
            points, starts = code_points(block)
            counter.add(words_of(points, cut(points, starts, LONGEST_WORD), starts))
    if power == 1 and len(counters) <= 1:
        return *next(iter(counters.values()), Counter()).result(), 1
    one = math.ceil(_RESOLUTION / min(counters, default=1.0))
    total = Counter()
    for weight, counter in counters.items():
        words, counts = counter.result()
        lengths, damped = np.diff(words.starts), counts.astype(np.float64) ** power
        total.add(words, damped * (one * weight * float(counts @ lengths) / max(float(damped @ lengths), 1.0)))
    return *total.result(), one


def count_characters(words: Words, counts: np.ndarray) -> np.ndarray:
    """How often every code point occurs: int64 [0x110000]."""
    weights = np.repeat(counts, np.diff(words.starts))
    return np.bincount(words.points, weights=weights, minlength=UNICODE).astype(np.int64)


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


def assemble(characters: list[str], learned: list[tuple[str, str]]) -> tokenizers.Tokenizer:
    """The tokenizer with our order of ids, byte fallback, and control tokens that text cannot produce.

    Any two neighbours that make a piece may be joined, also in another way than it was learned.
    """
    made = list(dict.fromkeys(left + right for left, right in learned))
    pieces = [*CONTROL_TOKENS, *BYTE_TOKENS, *characters, *made]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    assert len(vocabulary) == len(pieces), "a learned piece has the name of a control or byte token"
    known = dict.fromkeys([*characters, *made], 0.0)
    merges = [pair for piece in sorted(made, key=_goes_last) for pair in splits(piece, known)]
    backend = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=merges, byte_fallback=True))
    backend.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    backend.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in CONTROL_TOKENS])
    return backend


def _goes_last(piece: str) -> int:
    """Pieces that stand elsewhere than in the words they were learned from take what the others leave.

    Runs of spaces leave the last space to the word behind them, and 's and 't leave a quoted 'such to itself.
    """
    first, last = (int(classes()[ord(piece[end])]) & 7 for end in (0, -1))
    if first == WHITE and last == WHITE:
        return 2
    return int(piece[0] in "'’" and last == LETTER)


def _characters_for(covered: np.ndarray, share: float) -> int:
    return min(int(np.searchsorted(covered, share - 1e-12)) + 1, len(covered))


def split_at_rare(words: Words, counts: np.ndarray, characters: list[str]) -> tuple[Words, np.ndarray]:
    """Words as places in `characters`, cut at all others, so that their neighbours are not taken for a pair."""
    places = np.full(UNICODE, -1, dtype=np.int64)
    places[[ord(character) for character in characters]] = np.arange(len(characters))
    symbols = places[words.points]
    rare = symbols < 0
    begins = rare | np.append(False, rare)[:-1]
    begins[words.starts[:-1]] = True
    starts = np.append(np.flatnonzero(begins), len(symbols))
    kept = ~rare[starts[:-1]]
    lengths = np.diff(starts)[kept]
    weights = np.repeat(counts, np.diff(words.starts))[starts[:-1][kept]]
    return Words(symbols[~rare].astype(np.uint32), np.append(0, np.cumsum(lengths)), words.documents), weights
