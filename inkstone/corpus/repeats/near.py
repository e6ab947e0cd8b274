"""Nearly equal sentences count as one: which sentence each of them counts as.

A sentence is described by the MinHash of its pairs of neighbouring tokens, once for all places where it stands. Of the
sentences that share a band key, one counts as another if at least `min_similarity` of their signatures agree. The one
with the smallest hash represents the others, and every sentence is compared with the representative itself, so likeness
is not passed on along chains, and neither the order of documents nor the partitions matter.

    describe   a batch's sentences as rows; each has its signature, so partitions can be worked on apart
    compare    a partition of the rows: pairs that are nearly equal
    renamed    all pairs: the sentence that each counts as
    regroup    a partition of the spans: the same spans under the keys that they count as
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from inkstone.corpus.judge.kernel import F64, I64, Mask, Tokens, run_heads, running_sums
from inkstone.corpus.repeats.dedup import Duplicates, Matches, band_keys, matches, signatures
from inkstone.corpus.repeats.spans import NEAR, NEAR_BANDS, SENTENCE, Spans
from inkstone.corpus.run.tables import PartitionWriter, Tables, read_rows, save_matches
from inkstone.corpus.settings import CorpusSettings, DedupSettings

_BANDING = DedupSettings(shingle_tokens=2, bands=NEAR_BANDS, rows=4)
_WIDTH = _BANDING.bands * _BANDING.rows
# Of every MinHash value one byte is kept: two that differ look equal in one of 256 cases.
SENTENCE_ROW = np.dtype([("key", "<u8"), ("sentence", "<i8"), ("signature", "u1", (_WIDTH,))])
NAME = np.dtype([("sentence", "<i8"), ("as", "<i8")])


def describe(spans: Spans, tokens: Tokens, keep: Mask) -> np.ndarray:
    """The band keys of the sentences of the documents to keep. A sentence's number is its key without the kind."""
    chosen = np.flatnonzero((spans.keys & np.uint64(3) == SENTENCE) & keep[spans.documents])
    numbers, once = np.unique(spans.keys[chosen] >> np.uint64(2), return_index=True)
    chosen = chosen[once]
    first, last = (np.searchsorted(tokens.starts, places[chosen]) for places in (spans.starts, spans.ends))
    offsets = running_sums(last - first)
    taken = np.repeat(first - offsets[:-1], last - first) + np.arange(offsets[-1])
    own = Tokens(tokens.hashes[taken], tokens.starts[taken], tokens.ends[taken], offsets)
    signs = signatures(own, _BANDING)
    long = signs.has_shingles
    rows = np.empty((int(long.sum()), NEAR_BANDS), SENTENCE_ROW)
    rows["key"] = band_keys(signs.minhash[long], _BANDING)
    rows["sentence"] = numbers[long].astype(np.int64)[:, None]
    rows["signature"] = (signs.minhash[long] >> np.uint32(24)).astype(np.uint8)[:, None]
    return rows.ravel()


@dataclass(frozen=True)
class CompareTask:
    """Compare the sentences whose band keys fall into one of `NEAR_BANDS` times as many partitions as spans have."""

    places: tuple[Path, ...]
    minimum: float
    partition: int


def compare(task: CompareTask, draft: Path) -> None:
    """Pairs of sentences that agree in at least `minimum`, by number."""
    save_matches(pairs(read_rows(task.places, "sentences", task.partition, SENTENCE_ROW), task.minimum), draft)


def pairs(rows: np.ndarray, minimum: float) -> Matches:
    """Sentences that share a band key and agree in at least `minimum` of their signatures."""
    order = np.lexsort((rows["sentence"], rows["key"]))
    key, sentence = rows["key"][order], rows["sentence"][order]
    new = run_heads(key, sentence)
    key, order = key[new], order[new]
    numbers, first, local = np.unique(sentence[new], return_index=True, return_inverse=True)
    signs = rows["signature"][order[first]]

    def agreement(one: I64, other: I64) -> F64:
        score: F64 = (signs[one] == signs[other]).mean(axis=1)
        return score

    found = matches(key, local, agreement, minimum)
    return Matches(numbers[found.later], numbers[found.earlier], found.agreement)


def renamed(found: Duplicates) -> np.ndarray:
    """Which sentence each sentence counts as, by number in order; those that count as themselves are left out."""
    names = np.empty(len(found.rank), NAME)
    names["sentence"], names["as"] = found.rank, found.of
    return names


@dataclass(frozen=True)
class RegroupTask:
    """One partition of the spans; `names` holds the sentences that count as another."""

    places: tuple[Path, ...]
    settings: CorpusSettings
    partition: int
    partitions: int
    names: Path


def regroup(task: RegroupTask, draft: Path) -> None:
    """Write the spans under the keys that they count as, where partitions of those keys are found."""
    rows = Tables.open(list(task.places), task.settings.dedup).partition("spans", task.partition)
    out = PartitionWriter(draft / "spans", task.partitions)
    out.add(rename(rows, np.load(task.names)))
    out.flush()


def rename(rows: np.ndarray, names: np.ndarray) -> np.ndarray:
    """The same spans; sentences that count as another have its key, with the kind NEAR."""
    rows = rows.copy()
    number = (rows["key"] >> np.uint64(2)).astype(np.int64)
    place = np.searchsorted(names["sentence"], number)
    near = (rows["key"] & np.uint64(3) == SENTENCE) & (place < len(names))
    near[near] = names["sentence"][place[near]] == number[near]
    rows["key"][near] = names["as"][place[near]].astype(np.uint64) << np.uint64(2) | np.uint64(NEAR)
    return rows
