"""Give a tokenizer Chinese pieces that it lacks, without changing any id it has.

Pieces are learned from the Chinese in a corpus: first single characters by frequency, then what byte-pair merging
finds. Their merges rank behind all old ones, so text without Chinese is encoded as before, which is checked and said.
What an old merge keeps from ever being produced is left out. How many characters and how many pieces pay is read off
the curve of ALP (average log probability) over a grid of both, as Chinese-Mixtral did.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers

from inkstone.errors import InputError
from inkstone.progress import Progress
from inkstone.tokenizer.bpe.learn import Bounds, learn_merges
from inkstone.tokenizer.bpe.pattern import HAN, UNICODE, classes
from inkstone.tokenizer.bpe.train import split_at_rare
from inkstone.tokenizer.bpe.words import Counter, Words, cut, words_of
from inkstone.tokenizer.documents import Documents, Part, corpus_parts, read_part
from inkstone.tokenizer.foreign.sentencepiece import splits
from inkstone.tokenizer.settings import ExtendSettings
from inkstone.tokenizer.study.alp import alp
from inkstone.tokenizer.study.compression import BYTE_OF
from inkstone.tokenizer.tokenizer import Tokenizer

Spec = dict[str, Any]
_SPARE = 1.3  # pieces learned for each one wanted, since some are known already and some cannot be produced
_STEPS = 6  # sizes tried for each number of characters
_CHECK_CHARACTERS = 5_000_000  # of text without Chinese that must keep its ids


@dataclass(frozen=True)
class Tried:
    """One point of the grid."""

    characters: int
    added: int
    alp: float


@dataclass(frozen=True)
class Extension:
    """The new tokenizer, what was added in order of ids, and how it came to that."""

    tokenizer: Tokenizer
    added: list[str]
    report: dict[str, object]


def extend_tokenizer(
    base: Tokenizer, corpus: Path | Sequence[Path], settings: ExtendSettings, progress: Progress
) -> Extension:
    """Learn from the corpus's Chinese and append to `base`. Raises InputError where an old id would change."""
    parts = corpus_parts(corpus, "train")
    characters, counts, words = _chinese(parts, settings)
    wanted = sorted({min(number, len(characters)) for number in settings.characters}) or [_covering(counts, settings)]
    pieces = _learn(words, characters[: wanted[-1]], settings)
    progress.note("learned Chinese pieces", characters=len(characters), pieces=len(pieces))
    sample = _sample(parts, settings)
    grid = _grid(base, characters, pieces, wanted, sample, settings, progress)
    chosen = choose(grid) if settings.choose == "alp" else max(grid, key=lambda one: one.alp)
    tokenizer, added = append(base, _candidates(base, characters, pieces, chosen.characters), chosen.added)
    checked = check_unchanged(base, tokenizer, _without_chinese(parts, settings))
    report: dict[str, object] = {
        "base_vocab_size": base.vocab_size,
        "vocab_size": tokenizer.vocab_size,
        "added": len(added),
        "added_characters": sum(len(piece) == 1 for piece in added),
        "single_characters": chosen.characters,
        "chosen_by": settings.choose or "add",
        "grid": [asdict(one) for one in grid],
        "tokens": _saved(base, tokenizer, parts, settings),
        "text_without_chinese": {"characters": checked, "ids_changed": 0},
    }
    return Extension(tokenizer, added, report)


def append(base: Tokenizer, candidates: Sequence[str], count: int) -> tuple[Tokenizer, list[str]]:
    """`base` with the first `count` of the candidates that encode to themselves; fewer where there are no more."""
    usable = list(dict.fromkeys(candidates))
    while True:
        added = usable[:count]
        tokenizer = _appended(base, added)
        encoded = tokenizer.encode_batch(added, continued=True)
        lost = {piece for place, piece in enumerate(added) if encoded[place] != [base.vocab_size + place]}
        if not lost:
            return tokenizer, added
        usable = [piece for piece in usable if piece not in lost]


def choose(grid: Sequence[Tried]) -> Tried:
    """The number of characters with the best ALP at its largest size, at the knee of its curve.

    The knee is the point farthest above the straight line between the curve's ends: from there on a further thousand
    pieces give less than they did on average.
    """
    best = max(grid, key=lambda one: (one.added, one.alp)).characters
    curve = [one for one in grid if one.characters == best]
    first, last = curve[0], curve[-1]
    if len(curve) < 3 or last.alp <= first.alp:
        return max(curve, key=lambda one: one.alp)
    across = (last.added - first.added) or 1
    return max(
        curve, key=lambda one: (one.alp - first.alp) / (last.alp - first.alp) - (one.added - first.added) / across
    )


def check_unchanged(base: Tokenizer, tokenizer: Tokenizer, texts: Iterator[str]) -> int:
    """Characters of text that both encode alike. Raises InputError naming the first id that differs."""
    for name, number in base.vocabulary().items():
        if not tokenizer.has_token(name) or tokenizer.token_id(name) != number:
            raise InputError(f'the extension would change the id of "{name}", which is {number}: nothing was written.')
    checked = 0
    while batch := list(islice(texts, 4096)):
        for text, old, new in zip(batch, base.encode_batch(batch), tokenizer.encode_batch(batch), strict=True):
            if old != new:
                raise InputError(
                    f"the extension would change the ids of text without Chinese, e.g. {text[:40]!r}: nothing was "
                    "written. Add pieces of Chinese characters only."
                )
            checked += len(text)
    return checked


def _chinese(parts: Sequence[Part], settings: ExtendSettings) -> tuple[list[str], np.ndarray, tuple[Words, np.ndarray]]:
    """Chinese characters, the most frequent first, how often each occurs, and the runs of them with their counts."""
    counter = Counter()
    for documents in _documents(parts, settings):
        if len(documents.points):
            words = words_of(documents.points, cut(documents.points, documents.starts), documents.starts)
            kept = np.flatnonzero((classes()[words.points[words.starts[:-1]]] & 7) == HAN)
            points, lengths = words.chosen(kept)
            counter.add(Words(points, np.append(0, np.cumsum(lengths)), words.documents))
    words, counts = counter.result()
    if not len(words):
        raise InputError("the corpus has no Chinese characters to learn pieces from: give it Chinese text.")
    totals = np.bincount(words.points, weights=np.repeat(counts, np.diff(words.starts)), minlength=UNICODE)
    order = np.lexsort((np.arange(UNICODE), -totals))
    order = order[: np.count_nonzero(totals)]
    return [chr(point) for point in order.tolist()], totals[order], (words, counts)


def _covering(counts: np.ndarray, settings: ExtendSettings) -> int:
    share = np.cumsum(counts) / counts.sum()
    return min(int(np.searchsorted(share, settings.character_coverage)) + 1, len(counts))


def _learn(words: tuple[Words, np.ndarray], characters: list[str], settings: ExtendSettings) -> list[str]:
    """Pieces of several characters in the order in which they are learned."""
    alphabet = sorted(characters)
    bounds = Bounds(int(settings.add * _SPARE), settings.max_piece_characters, settings.min_frequency, lambda _: False)
    merges = learn_merges(*split_at_rare(*words, alphabet), alphabet, bounds)
    return list(dict.fromkeys(left + right for left, right in merges))


def _candidates(base: Tokenizer, characters: list[str], pieces: list[str], singles: int) -> list[str]:
    """What `base` lacks: characters among the `singles` most frequent, then pieces made of these."""
    allowed = set(characters[:singles])
    known = base.vocabulary()
    spell = _speller(base)
    every = characters[:singles] + [piece for piece in pieces if allowed.issuperset(piece)]
    return [piece for piece in every if spell(piece) not in known]


def _grid(
    base: Tokenizer,
    characters: list[str],
    pieces: list[str],
    wanted: list[int],
    sample: list[str],
    settings: ExtendSettings,
    progress: Progress,
) -> list[Tried]:
    """ALP for every number of characters and of additions; only the full size unless a knee is looked for."""
    grid = []
    for number in wanted:
        candidates = _candidates(base, characters, pieces, number)
        largest = min(settings.add, len(candidates))
        shares = range(0, _STEPS + 1) if settings.choose == "alp" else [_STEPS]
        for size in sorted({round(largest * share / _STEPS) for share in shares}):
            grid.append(Tried(number, size, round(alp(_appended(base, candidates[:size]), sample), 4)))
            progress.note("tried", characters=number, added=size, alp=grid[-1].alp)
    return grid


def _appended(base: Tokenizer, added: Sequence[str]) -> Tokenizer:
    """`base` with these pieces behind its last id and their merges behind its last merge."""
    spec = base.spec()
    model = spec["model"]
    if model["type"] != "BPE":
        raise InputError(
            f"the base tokenizer is of the kind {model['type']}: only BPE can be extended without changing ids."
        )
    vocabulary: dict[str, int] = model["vocab"]
    vocabulary.update({token["content"]: token["id"] for token in spec["added_tokens"]})
    spell = _speller(base)
    names = [spell(piece) for piece in added]
    vocabulary.update({name: base.vocab_size + place for place, name in enumerate(names)})
    known = dict.fromkeys(vocabulary, 0.0)
    pairs = [pair for name in names for pair in splits(name, known)]
    joined = bool(model["merges"]) and isinstance(model["merges"][0], str)
    if base.model_file is not None:
        model["merges"] = _with_new_splits(model["merges"], set(names), known)
    model["merges"] += [" ".join(pair) if joined else list(pair) for pair in pairs]
    return base.respecified(tokenizers.Tokenizer.from_str(json.dumps(spec)))


def _with_new_splits(merges: list[list[str]], new: set[str], known: dict[str, float]) -> list[list[str]]:
    """Old merges, and where an old piece can now be split into a new one and a rest, that too, as in SentencePiece."""
    result: list[list[str]] = []
    for name, group in groupby(merges, key="".join):
        fresh = any(name[:cut] in new or name[cut:] in new for cut in range(1, len(name)))
        result += map(list, splits(name, known)) if fresh else group
    return result


def _speller(base: Tokenizer) -> Any:
    """How the vocabulary spells a text: as it is, or byte by byte."""
    if not base.byte_level:
        return lambda piece: piece
    letters = {value: letter for letter, value in BYTE_OF.items()}
    return lambda piece: "".join(letters[value] for value in piece.encode("utf-8"))


def _documents(parts: Sequence[Part], settings: ExtendSettings) -> Iterator[Documents]:
    for part in parts:
        yield from read_part(part, settings.invalid_utf8)


def is_chinese(text: str) -> bool:
    """Whether more than three characters in ten are Chinese."""
    points = np.frombuffer(text.encode("utf-32-le"), dtype="<u4")
    return 10 * int(np.count_nonzero((classes()[points] & 7) == HAN)) > 3 * len(points)


def _chinese_of(documents: Documents) -> list[str]:
    """The Chinese documents, and of the others the lines that are: a file may hold many texts in several languages."""
    texts = documents.texts()
    return [one for text in texts for one in ([text] if is_chinese(text) else filter(is_chinese, text.split("\n")))]


def _sample(parts: Sequence[Part], settings: ExtendSettings) -> list[str]:
    """Chinese text from all over the corpus, about `measure_mb` of them, for ALP."""
    total = sum(part.size for part in parts) or 1
    every = max(1, round(total / 1e6 / settings.measure_mb / 3))
    texts: list[str] = []
    size = 0
    for number, documents in enumerate(_documents(parts, settings)):
        if number % every == 0 and size < settings.measure_mb * 1e6:
            chinese = _chinese_of(documents)
            texts += chinese
            size += sum(len(text.encode("utf-8")) for text in chinese)
    return texts


def _without_chinese(parts: Sequence[Part], settings: ExtendSettings) -> Iterator[str]:
    """Lines without a Chinese character."""
    left = _CHECK_CHARACTERS
    for documents in _documents(parts, settings):
        for text in documents.texts():
            for line in text.split("\n"):
                if line and not line.isspace() and not _has_chinese(line):
                    yield line
                    left -= len(line)
        if left < 0:
            return


def _has_chinese(text: str) -> bool:
    if text.isascii():
        return False
    return bool(((classes()[np.frombuffer(text.encode("utf-32-le"), dtype="<u4")] & 7) == HAN).any())


def _saved(base: Tokenizer, tokenizer: Tokenizer, parts: Sequence[Part], settings: ExtendSettings) -> dict[str, object]:
    """Tokens of the corpus's Chinese text before and after."""
    before = after = characters = 0
    for documents in _documents(parts, settings):
        if chinese := _chinese_of(documents):
            before += len(base.encode_flat(chinese)[0])
            after += len(tokenizer.encode_flat(chinese)[0])
            characters += sum(map(len, chinese))
    saved = round(1 - after / before, 4) if before else 0.0
    return {"chinese_characters": characters, "before": before, "after": after, "saved": saved}
