"""Token shards: an encoded corpus as flat files that are memory-mapped, never loaded.

    train-00000.tokens.bin    little-endian uint16 ids (uint32 where the vocabulary has more than 65,536 tokens)
    train-00000.offsets.bin   int64, documents + 1; document i is tokens[offsets[i]:offsets[i + 1]]
    train-00000.groups.bin    int32 per document: index into train-00000.groups.json, a list of [lang, source]
    heldout-00000.docs.jsonl  one row per held-out document: id, source, lang, bytes, tokens

A document is [bos] + ids + [eos] and never continues in the next shard. `manifest.json` names the tokenizer by its
fingerprint and every file by size and checksum, so a truncated or foreign shard is found before it is trained on.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from inkstone.errors import InkstoneError
from inkstone.storage import reading, verify_manifest, write_json, write_json_lines

Group = tuple[str, str]
"""(lang, source) of a document: the finest grain a mixture can tell apart."""


def token_dtype(vocab_size: int) -> np.dtype[np.unsignedinteger]:
    """The smallest little-endian type that holds every id."""
    return np.dtype("<u2") if vocab_size <= 1 << 16 else np.dtype("<u4")


@dataclass(frozen=True)
class TokenShards:
    """One split of an encoded corpus, memory-mapped."""

    names: list[str]
    tokens: list[np.ndarray]
    offsets: list[np.ndarray]
    lengths: np.ndarray  # int64 [documents], with bos and eos
    first_documents: np.ndarray  # int64 [shards + 1]
    vocab_size: int
    tokenizer: str  # fingerprint
    groups: Sequence[Group] = ()  # sorted
    group_of: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))  # [documents], index into groups

    def __len__(self) -> int:
        return len(self.lengths)

    def document(self, index: int) -> np.ndarray:
        """Ids of a document, [bos] and [eos] included; a view into the map, not a copy."""
        if not 0 <= index < len(self):
            raise IndexError(f"document {index} of {len(self)}")
        shard = int(np.searchsorted(self.first_documents, index, side="right")) - 1
        local = index - int(self.first_documents[shard])
        start, end = self.offsets[shard][local : local + 2]
        return self.tokens[shard][start:end]


@dataclass(frozen=True)
class HeldoutDocument:
    """What is known of a held-out document beside its tokens."""

    id: str
    source: str
    lang: str
    bytes: int
    tokens: int


class ShardWriter:
    """Writes one split; a new shard begins where the next document would exceed `max_tokens`."""

    def __init__(self, directory: Path, split: str, dtype: np.dtype[np.unsignedinteger], max_tokens: int) -> None:
        self.directory = directory
        self.split = split
        self.dtype = dtype
        self.max_tokens = max_tokens
        self.shards: list[str] = []
        self.documents = 0
        self.tokens = 0
        self._lengths: list[np.ndarray] = []
        self._written = 0  # tokens in the shard so far
        self._rows: list[HeldoutDocument] = []
        self._groups: dict[Group, int] = {}
        self._group_of: list[int] = []

    def add(
        self,
        tokens: np.ndarray,
        lengths: np.ndarray,
        groups: Sequence[Group],
        rows: Sequence[HeldoutDocument] = (),
    ) -> None:
        """Append documents: their ids one after the other, how many each has, its group; held-out ones bring `rows`."""
        ends = np.cumsum(lengths)
        first, begin = 0, 0
        while first < len(lengths):
            room = self.max_tokens - self._written
            last = int(np.searchsorted(ends, begin + room, side="right"))
            if last == first and self._written:
                self.close()
                continue
            last = max(last, first + 1)
            self._append(tokens[begin : ends[last - 1]], lengths[first:last], groups[first:last], rows[first:last])
            first, begin = last, int(ends[last - 1])

    def close(self) -> None:
        """Finish the shard that is being written; a split without documents has no shards."""
        if not self._lengths:
            return
        stem = self._stem()
        offsets = np.append(0, np.cumsum(np.concatenate(self._lengths)))
        _append(self.directory / f"{stem}.offsets.bin", offsets.astype("<i8"))
        _append(self.directory / f"{stem}.groups.bin", np.array(self._group_of, dtype="<i4"))
        write_json(self.directory / f"{stem}.groups.json", list(self._groups), indent=None)
        if self._rows:
            write_json_lines(self.directory / f"{stem}.docs.jsonl", map(vars, self._rows))
        self.shards.append(stem)
        self._lengths, self._written, self._rows, self._groups, self._group_of = [], 0, [], {}, []

    def _append(
        self, tokens: np.ndarray, lengths: np.ndarray, groups: Sequence[Group], rows: Sequence[HeldoutDocument]
    ) -> None:
        _append(self.directory / f"{self._stem()}.tokens.bin", tokens.astype(self.dtype))
        self._lengths.append(lengths)
        self._written += len(tokens)
        self._group_of += [self._groups.setdefault(group, len(self._groups)) for group in groups]
        self._rows += rows
        self.documents += len(lengths)
        self.tokens += len(tokens)

    def _stem(self) -> str:
        return f"{self.split}-{len(self.shards):05d}"


def _append(path: Path, values: np.ndarray) -> None:
    """Not `tofile`: on a full disk that raises an OSError without the number that says so."""
    with path.open("ab") as stream:
        stream.write(values.data)


def open_shards(tokens_dir: Path, split: str, tokenizer: str | None = None) -> TokenShards:
    """Memory-map "train" or "heldout" of a tokens directory.

    `tokenizer` is the fingerprint that the reader will use. Raises InkstoneError when the shards were written with
    another one, when a file is missing, truncated or inconsistent, or when there is no such split.
    """
    manifest = verify_manifest(tokens_dir)
    written_with, vocab_size, splits = (manifest.get(name) for name in ("tokenizer", "vocab_size", "splits"))
    if not (isinstance(written_with, str) and isinstance(vocab_size, int) and isinstance(splits, dict)):
        raise InkstoneError(f"{tokens_dir} is not a directory of token shards: run the tokens stage.")
    if tokenizer is not None and tokenizer != written_with:
        raise InkstoneError(
            f"{tokens_dir} was encoded with another tokenizer ({written_with[:12]}, not {tokenizer[:12]}): "
            "run the tokens stage again with this tokenizer."
        )
    if split not in splits:
        raise InkstoneError(f'{tokens_dir} has no split "{split}", only {", ".join(sorted(splits))}.')
    with reading(tokens_dir / "manifest.json", "one of token shards", "run the tokens stage again", InkstoneError):
        dtype = token_dtype(vocab_size)
        names = [str(name) for name in splits[split]["shards"]]
    tokens = [np.memmap(tokens_dir / f"{name}.tokens.bin", dtype=dtype, mode="r") for name in names]
    offsets = [np.memmap(tokens_dir / f"{name}.offsets.bin", dtype="<i8", mode="r") for name in names]
    for name, ids, starts in zip(names, tokens, offsets, strict=True):
        if starts[0] != 0 or starts[-1] != len(ids) or np.any(np.diff(starts) < 0):
            raise InkstoneError(f"{tokens_dir / name}: offsets and tokens do not agree: run the tokens stage again.")
    lengths = [np.diff(starts) for starts in offsets]
    groups, group_of = _read_groups(tokens_dir, names)
    counts = np.array([0, *(len(shard) for shard in lengths)], dtype=np.int64)
    return TokenShards(
        names=names,
        tokens=list(tokens),
        offsets=list(offsets),
        lengths=np.concatenate([np.zeros(0, dtype=np.int64), *lengths]),
        first_documents=np.cumsum(counts),
        vocab_size=vocab_size,
        tokenizer=written_with,
        groups=groups,
        group_of=group_of,
    )


def _read_groups(tokens_dir: Path, names: list[str]) -> tuple[list[Group], np.ndarray]:
    """All groups of a split, sorted, and the index of each document's group."""
    if not all((tokens_dir / f"{name}.groups.bin").is_file() for name in names):
        return [], np.zeros(0, np.int32)  # written before shards told their documents' sources
    tables = [json.loads((tokens_dir / f"{name}.groups.json").read_text(encoding="utf-8")) for name in names]
    groups = sorted({(lang, source) for table in tables for lang, source in table})
    place = {group: index for index, group in enumerate(groups)}
    parts = [np.zeros(0, np.int32)]
    for name, table in zip(names, tables, strict=True):
        local = np.array([place[lang, source] for lang, source in table], np.int32)
        parts.append(local[np.fromfile(tokens_dir / f"{name}.groups.bin", dtype="<i4")])
    return groups, np.concatenate(parts)


def read_heldout_documents(tokens_dir: Path) -> list[HeldoutDocument]:
    """The rows beside the held-out shards; row i describes `open_shards(tokens_dir, "heldout").document(i)`."""
    return [
        HeldoutDocument(**json.loads(line))
        for path in sorted(tokens_dir.glob("heldout-*.docs.jsonl"))
        for line in path.read_text(encoding="utf-8").split("\n")
        if line
    ]
