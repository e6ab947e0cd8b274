"""Long passages that stand in an earlier document, or earlier in the same one, go from the later place.

A window of `min_tokens` tokens goes if the same tokens stand before it, in the order of documents and without
overlapping it. Neighbouring windows go as one, so what goes are the longest repeated runs of so many tokens or more,
all of them and nothing else, as a suffix array would find them (Lee et al. 2021), and the first occurrence stays.
Windows are compared by 64-bit hashes: of 10^9 different windows, two fall together by chance once in forty corpora.

No machine needs to see all windows: only those that may repeat are grouped. A window's anchor is the least hash of the
runs of half its length in it (winnowing). It depends on the window's tokens alone, so equal windows have equal anchors,
and it moves slowly: some 13 neighbouring windows share it. One row per anchor tells which occur twice, and only their
windows get rows of their own.

    anchors    a task's documents: its anchors
    shared     a partition of the anchors: those that occur more than once
    windows    a task's documents: every window of such an anchor
    repeats    a partition of the windows: those that stand somewhere before
    cut_out    (in `write`) the documents without them
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from inkstone.corpus.judge.kernel import (
    I64,
    SPACE,
    U64,
    Flat,
    Mask,
    Tokens,
    code_points,
    flatten,
    member,
    ngram_hashes,
    run_heads,
    running_sums,
    tokenize,
    window_positions,
)
from inkstone.corpus.judge.rules import key_of
from inkstone.corpus.repeats.cuts import cut, entry
from inkstone.corpus.repeats.spans import ROW, without_spans
from inkstone.corpus.run.tables import (
    PartitionWriter,
    TaskWriter,
    batches,
    between,
    low_quality,
    map_rows,
    read_rows,
    save,
)
from inkstone.corpus.settings import CorpusSettings

REPEAT = np.dtype([("rank", "<i8"), ("start", "<u4"), ("of", "<i8")])
WINDOW_PARTITIONS = 4  # times as many as those of anchors
_CLOSING = "。！？!?…；;，,、.:：）)】］]」』》〉”’\"'"  # go with the words before them
_OPENING = "（(【［[「『《〈“‘"  # with those behind them
_RULE = "repeated_substring"


@dataclass(frozen=True)
class Texts:
    """A file of documents: the `rows.arrow` of a task, or a shard of a known corpus, whose ranks are negative."""

    path: Path
    first: int  # rank
    documents: int


@dataclass(frozen=True)
class DescribeTask:
    """The documents of one file that are still there: their anchors, or the windows of anchors in `shared`."""

    texts: Texts
    settings: CorpusSettings
    partitions: int
    gone: Path
    least_quality: tuple[tuple[str, float], ...]
    shared: tuple[Path, ...] = ()


@dataclass(frozen=True)
class GroupTask:
    """One partition of the rows that the tasks at `places` left."""

    places: tuple[Path, ...]
    settings: CorpusSettings
    partition: int


def anchors(task: DescribeTask, draft: Path) -> None:
    """Write a row for every anchor."""
    size, out = task.settings.substrings.min_tokens, PartitionWriter(draft / "anchors", task.partitions)
    for ranks, tokens in _documents(task, lambda ranks: np.ones(len(ranks), bool)):
        rows, count = find_anchors(tokens, ranks, size)
        out.add(np.repeat(rows, 1 + (count > size)))  # more windows than that can repeat among themselves
    out.flush()


def find_anchors(tokens: Tokens, ranks: I64, size: int) -> tuple[np.ndarray, I64]:
    """A row for every run of windows that have one anchor (`start` is the first of them), and how many they are."""
    half = size // 2
    grams, offsets = ngram_hashes(tokens, half)
    reach = size - half + 1
    values = sliding_least(grams, reach)[window_positions(offsets, reach)]
    edges = running_sums(np.maximum(np.diff(offsets) - (reach - 1), 0))
    new = run_heads(values)
    new[edges[:-1][edges[:-1] < len(values)]] = True
    heads = np.flatnonzero(new)
    document = np.searchsorted(edges, heads, side="right") - 1
    rows = np.empty(len(heads), ROW)
    rows["key"], rows["rank"], rows["start"] = values[heads], ranks[document], heads - edges[document]
    return rows, np.diff(np.append(heads, len(values)))


def sliding_least(values: U64, width: int) -> U64:
    """The least of every `width` neighbours, from the least of every 2, 4, 8 ..."""
    if len(values) < width:
        return values[:0]
    done = 1
    while 2 * done <= width:
        values = np.minimum(values[:-done], values[done:])
        done *= 2
    return np.minimum(values[: len(values) - (width - done)], values[width - done :])


def shared(task: GroupTask, draft: Path) -> None:
    """Keep the anchors that occur more than once."""
    save(draft / "rows.npy", twice(read_rows(task.places, "anchors", task.partition, ROW)))


def twice(rows: np.ndarray) -> np.ndarray:
    """The rows whose key is not the only one of its kind."""
    _, place, count = np.unique(rows["key"], return_inverse=True, return_counts=True)
    return rows[count[place] > 1]


def windows(task: DescribeTask, draft: Path) -> None:
    """Write a row for every window whose anchor is shared."""
    size, texts = task.settings.substrings.min_tokens, task.texts
    parts = map_rows(task.shared, texts.first, texts.first + texts.documents)
    out = PartitionWriter(draft / "windows", task.partitions)
    for ranks, tokens in _documents(task, lambda ranks: np.isin(ranks, _gather(parts, ranks)["rank"])):
        out.add(find_windows(tokens, ranks, size, _gather(parts, ranks)))
    out.flush()


def find_windows(tokens: Tokens, ranks: I64, size: int, chosen: np.ndarray) -> np.ndarray:
    """A row for every window whose anchor is among `chosen`."""
    rows, count = find_anchors(tokens, ranks, size)
    hashes, offsets = ngram_hashes(tokens, size)
    every = np.empty(len(hashes), ROW)
    every["key"], every["rank"] = hashes, np.repeat(ranks, np.diff(offsets))
    every["start"] = np.arange(len(hashes)) - np.repeat(offsets[:-1], np.diff(offsets))
    return every[np.repeat(np.isin(_places(rows), _places(chosen)), count)]


def repeats(task: GroupTask, draft: Path) -> None:
    """Find the windows that stand somewhere before."""
    rows = read_rows(task.places, "windows", task.partition, ROW)
    save(draft / "rows.npy", stand_before(rows, task.settings.substrings.min_tokens))


def stand_before(rows: np.ndarray, size: int) -> np.ndarray:
    """Of windows in the order of documents those whose tokens stand before them, and in which document first."""
    _, first, place = np.unique(rows["key"], return_index=True, return_inverse=True)
    of = rows[first[place]]
    again = (rows["rank"] != of["rank"]) | (rows["start"] >= of["start"].astype(np.int64) + size)
    found = np.empty(int(again.sum()), REPEAT)
    found["rank"], found["start"], found["of"] = rows["rank"][again], rows["start"][again], of["rank"][again]
    return found


def _documents(task: DescribeTask, wanted: Callable[[I64], Mask]) -> Iterator[tuple[I64, Tokens]]:
    """Ranks and tokens of the wanted documents that are still there, batch by batch."""
    first, gone, least = task.texts.first, np.load(task.gone, "r"), dict(task.least_quality)
    for start, rows in _read(task.texts.path):
        ranks = np.arange(len(rows)) + first + start
        left = wanted(ranks)
        if first >= 0:
            left &= ~np.isin(ranks, between(gone, first + start, first + start + len(rows))["rank"])
            left &= ~low_quality(rows, least)[0]
        if left.any():
            yield ranks[left], tokenize(flatten(rows["text"].filter(pa.array(left))))


def _read(path: Path) -> Iterator[tuple[int, pa.RecordBatch]]:
    if path.suffix == ".arrow":
        yield from batches(pa.ipc.open_file(pa.memory_map(str(path))).read_all())
        return
    start = 0
    for rows in pq.ParquetFile(path).iter_batches(256, columns=["text"]):
        yield start, rows
        start += len(rows)


def _gather(parts: list[np.ndarray], ranks: I64, dtype: np.dtype = ROW) -> np.ndarray:
    """The rows of neighbouring documents, from parts that are each in order."""
    found = [between(part, int(ranks[0]), int(ranks[-1]) + 1) for part in parts] if len(ranks) else []
    return np.concatenate([np.zeros(0, dtype), *found])


def _places(rows: np.ndarray) -> I64:
    """Rank and start as one number; documents of a batch are neighbours, so a rank's lower bits tell them apart."""
    places: I64 = rows["rank"] << 32 | rows["start"].astype(np.int64)
    return places


# --- taking them out ---------------------------------------------------------------------------------------------


def cut_out(
    rows: pa.RecordBatch, ranks: I64, parts: list[np.ndarray], settings: CorpusSettings,
    names: Callable[[I64], dict[int, str]], out: TaskWriter,
) -> tuple[pa.RecordBatch, I64]:  # fmt: skip
    """The rows without their repeated passages, and which of them stay; `names` gives the ids of documents."""
    found = _gather(parts, ranks, REPEAT)
    found = found[np.isin(found["rank"], ranks)]
    affected, place = np.unique(np.searchsorted(ranks, found["rank"]), return_inverse=True)
    touched = rows.take(pa.array(affected))
    flat = flatten(touched["text"])
    size = settings.substrings.min_tokens
    passages = find_passages(flat, tokenize(flat), place, found, size)
    called, setting = names(passages.of), key_of(_RULE, "")
    asked: dict[int, list[tuple[int, int, int, int]]] = {}
    for number, (row, start, end) in enumerate(zip(*passages.bounds(flat), strict=True)):
        asked.setdefault(row, []).append((start, end, 0, number))
    texts, cuts = [], []
    for row, text in enumerate(touched["text"].to_pylist()):
        text, removed = without_spans(text, asked[row])
        texts.append(text)
        mine = []
        for part in removed:
            detail = f"repeats {called[int(passages.of[part.documents])]}; {setting} = {size}"
            one = entry(touched, row, _RULE, float(passages.tokens[part.documents]), float(size), detail)
            one.level, one.text, one.position = "substring", part.text, part.position
            mine.append(one)
        cuts.append(mine)
    why = "tokens left without the passages that stand before"
    stay, kept, _ = cut(rows, affected, texts, cuts, settings, why, out)
    return stay, kept


@dataclass(frozen=True)
class Passages:
    """Repeated passages of a batch: positions in its flat text, how many tokens, and where each stands before."""

    documents: I64
    starts: I64
    ends: I64
    tokens: I64
    of: I64

    def bounds(self, flat: Flat) -> tuple[list[int], list[int], list[int]]:
        """Document, and start and end in its text."""
        first = flat.starts[self.documents]
        return self.documents.tolist(), (self.starts - first).tolist(), (self.ends - first).tolist()


def find_passages(flat: Flat, tokens: Tokens, documents: I64, found: np.ndarray, size: int) -> Passages:
    """Join windows (REPEAT rows of `documents`) to passages, with the signs that belong to their words."""
    starts = tokens.offsets[documents] + found["start"]
    order = np.argsort(starts)
    starts, of = starts[order], found["of"][order]
    document = documents[order]
    new = np.ones(len(starts), bool)
    new[1:] = (starts[1:] > starts[:-1] + size) | (document[1:] != document[:-1])
    first = np.flatnonzero(new)
    last = np.append(first[1:], len(starts))[: len(first)] - 1
    head, tail = starts[first], starts[last] + size
    space = flat.classes == SPACE
    begins = _before(member(flat.points, code_points(_OPENING)), tokens.starts[head])
    ends = _behind(space, _behind(member(flat.points, code_points(_CLOSING)), tokens.ends[tail - 1]))
    begins = np.where(flat.points[ends] == 10, _before(space, begins), begins)  # no spaces left at the end of a line
    return Passages(document[first], begins, ends, tail - head, of[first])


def _before(signs: Mask, places: I64) -> I64:
    """Each place moved back over signs."""
    others = np.flatnonzero(~signs)
    return np.append(others, -1)[np.searchsorted(others, places) - 1] + 1


def _behind(signs: Mask, places: I64) -> I64:
    """Each place moved on over signs; the newline that closes a document is none."""
    others = np.flatnonzero(~signs)
    return others[np.searchsorted(others, places)]
