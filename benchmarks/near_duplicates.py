"""How many edited copies each choice of bands finds, what it costs, and how many unlike documents it removes.

    python benchmarks/near_duplicates.py --data DATA [--mb 40]
    python benchmarks/near_duplicates.py --data DATA --choice 20,6,0.6 --choice 14,8,0

A choice is bands, rows per band, and the smallest agreement with the document that stays (0 = do not check, as tools
that take connected components do). Found = of an injected pair at least one document is removed. Wrong = of all removed
documents those whose true Jaccard similarity (5-token shingles, counted, not estimated) to every document that stays is
below 0.5. The last rows need no run of the other tool: the probability 1 - (1 - J^rows)^bands with its published
numbers, over the true similarity of the injected pairs under its own shingles.
"""

import argparse
import time
from collections import defaultdict
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
from mixed_corpus import Sample, mixed

from inkstone.corpus.judge.kernel import Tokens, flatten, ngram_hashes, tokenize
from inkstone.corpus.repeats.dedup import (
    Duplicates,
    Matches,
    Signatures,
    band_keys,
    equals,
    matches,
    resolve,
    signatures,
)
from inkstone.corpus.settings import DedupSettings

CHOICES = [(14, 8, 0.0), (14, 8, 0.65), (20, 6, 0.65), (20, 6, 0.6), (20, 6, 0.55), (25, 5, 0.6), (25, 5, 0.55),
           (32, 4, 0.55), (40, 5, 0.55)]  # fmt: skip
KINDS = [(lang, kind) for lang in ("zh", "en") for kind in ("exact", "edited_1", "edited_3")]
SHINGLE = 5
ALIKE = 0.5


def tokens_of(samples: list[Sample]) -> list[Tokens]:
    """Tokens of batches of 2,000 documents."""
    texts = [sample.text for sample in samples]
    return [tokenize(flatten(pa.array(texts[at : at + 2000], pa.string()))) for at in range(0, len(texts), 2000)]


def shingle_sets(batches: list[Tokens]) -> list[np.ndarray]:
    """The distinct shingles of every document, sorted."""
    sets = []
    for tokens in batches:
        hashes, offsets = ngram_hashes(tokens, SHINGLE)
        sets += [np.unique(hashes[a:b]) for a, b in pairwise(offsets.tolist())]
    return sets


def jaccard(one: np.ndarray, other: np.ndarray) -> float:
    """Of two sets of sorted distinct values; two empty sets are alike."""
    both = len(np.intersect1d(one, other, assume_unique=True))
    return both / (len(one) + len(other) - both) if len(one) + len(other) else 1.0


def best_similarity(sets: list[np.ndarray], removed: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """True similarity of every removed document to the kept document most like it."""
    sizes = np.array([len(one) for one in sets])
    values = np.concatenate([sets[row] for row in kept])
    owners = np.repeat(kept, sizes[kept])
    order = np.argsort(values, kind="stable")
    values, owners = values[order], owners[order]
    best = np.zeros(len(removed))
    for place, row in enumerate(removed.tolist()):
        low, high = np.searchsorted(values, sets[row], "left"), np.searchsorted(values, sets[row], "right")
        few = (high - low) <= 2000  # a shingle of the shared paragraph says nothing
        hits = np.concatenate([owners[a:b] for a, b in zip(low[few], high[few], strict=True)] or [owners[:0]])
        others, shared = np.unique(hits, return_counts=True)
        for other in others[np.argsort(shared)[-5:]].tolist():
            best[place] = max(best[place], jaccard(sets[row], sets[other]))
        if not len(sets[row]):
            best[place] = 1.0  # shorter than a shingle: removed by the hash of all its tokens
    return best


def recall(samples: list[Sample], gone: np.ndarray) -> dict[tuple[str, str], tuple[int, int]]:
    """(found, injected) for every language and kind."""
    row = {sample.id: index for index, sample in enumerate(samples)}
    counts: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0])
    for index, sample in enumerate(samples):
        if sample.of:
            counts[sample.lang, sample.kind][0] += bool(gone[index] or gone[row[sample.of]])
            counts[sample.lang, sample.kind][1] += 1
    return {key: (found, total) for key, (found, total) in counts.items()}


def optimal_bands(threshold: float, permutations: int) -> tuple[int, int]:
    """Bands and rows with the least area of false positives and false negatives, weighed alike (datasketch's rule)."""
    low, high = np.linspace(0, threshold, 200), np.linspace(threshold, 1, 200)
    errors = {}
    for rows in range(1, permutations + 1):
        for bands in range(1, permutations // rows + 1):
            wrong = np.trapezoid(1 - (1 - low**rows) ** bands, low)
            missed = np.trapezoid((1 - high**rows) ** bands, high)
            errors[bands, rows] = wrong + missed
    return min(errors, key=lambda choice: errors[choice])


def character_shingles(text: str) -> np.ndarray:
    """Runs of five characters, as Data-Juicer's default for its MinHash."""
    text = text.lower()
    return np.unique(np.array([hash(text[at : at + 5]) for at in range(max(1, len(text) - 4))]))


def expected(samples: list[Sample], sets: list[np.ndarray], bands: int, rows: int) -> list[str]:
    """Closed form over the injected pairs, per kind."""
    row = {sample.id: index for index, sample in enumerate(samples)}
    chances = defaultdict(list)
    for index, sample in enumerate(samples):
        if sample.of:
            alike = jaccard(sets[index], sets[row[sample.of]])
            chances[sample.lang, sample.kind].append(1 - (1 - alike**rows) ** bands)
    return [f"{np.mean(chances[kind]):.3f}" for kind in KINDS]


def find_duplicates(found: Signatures, settings: DedupSettings) -> Duplicates:
    """Compare all documents of signatures held in memory."""
    ranks = np.arange(len(found.exact))
    parts = [equals(found.exact, ranks)] if settings.exact else []
    if settings.near:
        long = ranks[found.has_shingles]
        keys = band_keys(found.minhash[long], settings)
        parts.append(
            matches(
                keys.ravel(), np.repeat(long, settings.bands),
                lambda one, other: (found.minhash[one] == found.minhash[other]).mean(axis=1), settings.min_similarity,
            )
        )  # fmt: skip
    return resolve(Matches.joined(parts))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with zh/ and en/ of .jsonl.zst")
    parser.add_argument("--mb", type=float, default=40)
    parser.add_argument("--choice", action="append", help="bands,rows,min_similarity")
    asked = parser.parse_args()
    samples = mixed(asked.data, asked.mb)
    batches = tokens_of(samples)
    sets = shingle_sets(batches)
    injected = {kind: n for kind, (_, n) in recall(samples, np.zeros(len(samples), bool)).items()}
    print(f"{len(samples)} documents; injected pairs: " + ", ".join(f"{' '.join(k)} {injected[k]}" for k in KINDS))
    print(
        "| bands x rows, agreement | " + " | ".join(" ".join(kind) for kind in KINDS) + " | removed | wrong | CPU s |"
    )
    print("|---" * (len(KINDS) + 4) + "|")
    choices = [tuple(map(float, choice.split(","))) for choice in asked.choice] if asked.choice else CHOICES
    for bands, rows, least in choices:
        settings = DedupSettings(bands=int(bands), rows=int(rows), min_similarity=least)
        started = time.process_time()
        parts = [signatures(tokens, settings) for tokens in batches]
        found = Signatures(
            np.concatenate([part.exact for part in parts]),
            np.concatenate([part.minhash for part in parts]),
            np.concatenate([part.has_shingles for part in parts]),
        )
        gone = np.zeros(len(samples), bool)
        gone[find_duplicates(found, settings).rank] = True
        seconds = time.process_time() - started
        score = recall(samples, gone)
        best = best_similarity(sets, np.flatnonzero(gone), np.flatnonzero(~gone))
        cells = [f"{score[kind][0] / score[kind][1]:.3f}" for kind in KINDS]
        wrong = (best < ALIKE).mean()
        name = f"{int(bands)} x {int(rows)}, {least or 'not checked'}"
        print(f"| {name} | " + " | ".join(cells) + f" | {gone.sum()} | {wrong:.2%} | {seconds:.1f} |", flush=True)
    for bands, rows in ((14, 8), (20, 6)):
        print(f"| closed form {bands} x {rows} | " + " | ".join(expected(samples, sets, bands, rows)) + " | | | |")
    bands, rows = optimal_bands(0.7, 256)
    characters = [character_shingles(sample.text) for sample in samples]
    cells = expected(samples, characters, bands, rows)
    print(f"| closed form, Data-Juicer's {bands} x {rows} on characters | " + " | ".join(cells) + " | | | |")


if __name__ == "__main__":
    main()
