"""Write a corpus as token shards: in parallel by parts, each encoded once for as long as its content stays the same.

A part's key is the content of its file, the tokenizer and the settings that decide the ids. What it becomes is kept
under its key in a store beside the output; the output's files are hard links into it. So a killed run continues with
the parts that are missing, and a corpus to which files were added encodes only those.
"""

import json
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from shutil import copyfile, rmtree

import numpy as np

from inkstone.errors import InputError
from inkstone.progress import Progress
from inkstone.stage import Job, Result, StageKind
from inkstone.storage import atomic_directory, file_sha256, fingerprint, write_json, write_manifest
from inkstone.tasks import Workers, run_calls, start_ahead
from inkstone.tokenizer.bpe.lookup import Encoder
from inkstone.tokenizer.documents import Documents, Part, corpus_parts, read_part
from inkstone.tokenizer.settings import TokensSettings
from inkstone.tokenizer.token_shards import Group, HeldoutDocument, ShardWriter, token_dtype
from inkstone.tokenizer.tokenizer import Tokenizer

_LAYOUT = 1  # grows when the same text would be written otherwise
_ALONE_MB = 16.0  # less text than this is not worth starting processes for
_SUFFIXES = (".tokens.bin", ".offsets.bin", ".groups.bin", ".groups.json", ".docs.jsonl")
_MOST_NAMED = 5
_SPLITS = ("train", "heldout")
Counts = dict[str, dict[str, int]]


@dataclass(frozen=True)
class _Job:
    """One part to encode, as it travels to a process."""

    part: Part
    split: str
    key: str


@dataclass
class _Tools:
    """What every part needs, as it travels to a process: tables, so that a process need not open the tokenizer."""

    settings: TokensSettings
    directory: Path
    vocab_size: int
    first_id: int
    last_id: int
    encoder: Encoder | None  # None where texts go through the tokenizer itself

    @cached_property
    def tokenizer(self) -> Tokenizer:
        return Tokenizer.load(self.directory)

    def encode(self, documents: Documents) -> tuple[np.ndarray, np.ndarray]:
        """Ids of the documents and where each one's end."""
        if self.encoder is not None:
            return self.encoder.encode_points(documents.points, documents.starts)
        return self.tokenizer.encode_flat(documents.texts())


def encode_corpus(
    settings: TokensSettings,
    corpus: Path | Sequence[Path],
    tokenizer_dir: Path,
    output: Path,
    progress: Progress,
    store: Path | None = None,
) -> dict[str, object]:
    """Encode both splits into token shards with a manifest; returns the counts without the file list.

    `store` keeps encoded parts between runs; without one nothing is kept.
    """
    parts = _parts(settings, corpus)
    if _processes(settings, [part for split in _SPLITS for part in parts[split]]) > 1:
        start_ahead(__name__)
    tokenizer = Tokenizer.load(tokenizer_dir)
    own = store is None
    store = store or output / ".parts"
    jobs = _jobs(settings, parts, tokenizer)
    encoded = sum(1 for job in jobs if not (store / job.key).is_dir())
    started = time.monotonic()
    _encode_missing(settings, jobs, tokenizer, tokenizer_dir.absolute(), store, progress)
    seconds = time.monotonic() - started
    facts = _assemble(jobs, store, output, tokenizer)
    if own:
        rmtree(store)
    write_manifest(output, facts)
    progress.note("encoded", parts=len(jobs), parts_encoded_now=encoded, seconds=round(seconds, 2))
    return {**facts, "parts": len(jobs), "parts_encoded_now": encoded}


def _parts(settings: TokensSettings, corpus: Path | Sequence[Path]) -> dict[str, list[Part]]:
    train = corpus_parts(corpus, "train", settings.part_mb)
    if not any(part.size for part in train):
        where = corpus / "train" if isinstance(corpus, Path) and (corpus / "train").is_dir() else corpus
        raise InputError(f"{where} has no text to encode: give the corpus stage more input.")
    return {"train": train, "heldout": corpus_parts(corpus, "heldout", settings.part_mb)}


def _jobs(settings: TokensSettings, parts: dict[str, list[Part]], tokenizer: Tokenizer) -> list[_Job]:
    hashes: dict[Path, str] = {}
    jobs = []
    for split in _SPLITS:
        for part in parts[split]:
            if part.path not in hashes:
                hashes[part.path] = file_sha256(part.path)
            key = fingerprint(
                {
                    "layout": _LAYOUT,
                    "file": hashes[part.path],
                    "groups": [part.first_group, part.last_group],
                    "raw": [part.raw.label, part.raw.source, part.raw.format] if part.raw else None,
                    "split": split,
                    "tokenizer": tokenizer.fingerprint,
                    "max_shard_tokens": settings.max_shard_tokens,
                    "invalid_utf8": settings.invalid_utf8,
                }
            )
            jobs.append(_Job(part, split, key))
    return jobs


def _processes(settings: TokensSettings, parts: Sequence[Part]) -> int:
    """How many processes these parts are worth."""
    if sum(part.size for part in parts) < _ALONE_MB * 1e6:
        return 1
    return min(settings.processes or len(os.sched_getaffinity(0)), len(parts))


def _encode_missing(
    settings: TokensSettings, jobs: list[_Job], tokenizer: Tokenizer, directory: Path, store: Path, progress: Progress
) -> None:
    """Bring every part into the store; in this process where there is little to do."""
    store.mkdir(parents=True, exist_ok=True)
    todo = {job.key: job for job in jobs if not (store / job.key).is_dir()}
    if not todo:
        return
    total = sum(job.part.size for job in jobs) / 1e6
    left = sum(job.part.size for job in todo.values()) / 1e6
    done = total - left
    encoder = None if tokenizer.has_prefix else tokenizer.encoder
    tools = _Tools(settings, directory, tokenizer.vocab_size, tokenizer.first_id, tokenizer.last_id, encoder)
    workers = Workers(_processes(settings, [job.part for job in todo.values()]))
    calls = [(job, store) for job in todo.values()]
    fewer = "fewer [tokens] processes or a smaller batch_mb"
    for number, _ in run_calls(partial(_encode_part, tools), calls, workers, __name__, fewer):
        done += calls[number][0].part.size / 1e6
        progress.advance(done, total, "MB")


def _encode_part(tools: _Tools, job: _Job, store: Path) -> None:
    """Encode one part into the store, where it appears whole or not at all."""
    settings = tools.settings
    groups: dict[Group, int] = {}
    columns: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []  # of every document: group, bytes, tokens
    characters = 0
    repaired: list[str] = []
    with atomic_directory(store / job.key) as draft:
        writer = ShardWriter(draft, job.split, token_dtype(tools.vocab_size), settings.max_shard_tokens)
        for documents in read_part(job.part, settings.invalid_utf8, settings.batch_mb):
            tokens, lengths = _with_ends(tools, *tools.encode(documents))
            named = list(zip(documents.langs, documents.sources, strict=True))
            rows = _rows(documents, lengths) if job.split == "heldout" else []
            writer.add(tokens, lengths, named, rows)
            numbers = np.array([groups.setdefault(group, len(groups)) for group in named], dtype=np.int64)
            columns.append((numbers, documents.sizes, lengths))
            characters += len(documents.points)
            repaired += documents.repaired
        writer.close()
        counts = _counts(groups, columns)
        facts = {
            "shards": len(writer.shards),
            "documents": writer.documents,
            "tokens": writer.tokens,
            "bytes": sum(entry["bytes"] for _, entry in counts),
            "characters": characters,
            "repaired": len(repaired),
            "repaired_first": repaired[:_MOST_NAMED],
            "sources": _sums((source, entry) for (_, source), entry in counts),
            "langs": _sums((lang, entry) for (lang, _), entry in counts),
        }
        write_json(draft / "part.json", facts, indent=None)


def _with_ends(tools: _Tools, ids: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The ids of every document between the tokens that begin and end one, and their numbers."""
    lengths = np.diff(ends, prepend=0) + 2
    lasts = np.cumsum(lengths) - 1
    tokens = np.empty(len(ids) + 2 * len(ends), dtype=np.int32)
    inner = np.ones(len(tokens), dtype=bool)
    inner[lasts] = inner[lasts - lengths + 1] = False
    tokens[inner] = ids
    tokens[lasts - lengths + 1] = tools.first_id
    tokens[lasts] = tools.last_id
    return tokens, lengths


def _rows(documents: Documents, lengths: np.ndarray) -> list[HeldoutDocument]:
    columns = (documents.ids, documents.sources, documents.langs, documents.sizes.tolist(), lengths.tolist())
    return [HeldoutDocument(*row) for row in zip(*columns, strict=True)]


def _assemble(jobs: list[_Job], store: Path, output: Path, tokenizer: Tokenizer) -> dict[str, object]:
    """Link the parts' shards into `output` under running numbers and add up their counts; forget unused parts."""
    splits: dict[str, dict[str, object]] = {}
    by_source: list[tuple[str, dict[str, int]]] = []
    by_lang: list[tuple[str, dict[str, int]]] = []
    repaired: list[str] = []
    for split in _SPLITS:
        names: list[str] = []
        sums = dict.fromkeys(("documents", "tokens", "bytes", "characters", "repaired"), 0)
        for job in jobs:
            if job.split != split:
                continue
            facts = json.loads((store / job.key / "part.json").read_text(encoding="utf-8"))
            for number in range(facts["shards"]):
                names.append(f"{split}-{len(names):05d}")
                for source, target in _files(store / job.key, f"{split}-{number:05d}", output, names[-1]):
                    _link(source, target)
            for name in sums:
                sums[name] += facts[name]
            repaired += facts["repaired_first"]
            by_source += facts["sources"].items()
            by_lang += facts["langs"].items()
        splits[split] = {
            "shards": names,
            **{name: count for name, count in sums.items() if name != "repaired" or count},
        }
    used = {job.key for job in jobs}
    for folder in store.iterdir():
        if folder.name not in used:
            rmtree(folder)
    facts = {
        "tokenizer": tokenizer.fingerprint,
        "vocab_size": tokenizer.vocab_size,
        "dtype": token_dtype(tokenizer.vocab_size).name,
        "splits": splits,
        "sources": dict(sorted(_sums(by_source).items())),
        "langs": dict(sorted(_sums(by_lang).items())),
    }
    return {**facts, "repaired": repaired[:_MOST_NAMED]} if repaired else facts


def _files(part: Path, stem: str, output: Path, name: str) -> Iterator[tuple[Path, Path]]:
    for suffix in _SUFFIXES:
        if (part / f"{stem}{suffix}").exists():
            yield part / f"{stem}{suffix}", output / f"{name}{suffix}"


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        copyfile(source, target)


def _counts(
    groups: dict[Group, int], columns: list[tuple[np.ndarray, np.ndarray, np.ndarray]]
) -> list[tuple[Group, dict[str, int]]]:
    """Documents, bytes and tokens of every group."""
    if not columns:
        return []
    numbers, sizes, lengths = (np.concatenate(column) for column in zip(*columns, strict=True))
    sums = [np.bincount(numbers, weights, len(groups)).astype(np.int64).tolist() for weights in (None, lengths, sizes)]
    names = ("documents", "tokens", "bytes")
    return [(group, dict(zip(names, row, strict=True))) for group, *row in zip(groups, *sums, strict=True)]


def _sums(entries: Iterable[tuple[str, dict[str, int]]]) -> Counts:
    """Entries of the same name added up."""
    table: Counts = {}
    for key, counts in entries:
        entry = table.setdefault(key, dict.fromkeys(counts, 0))
        for name, count in counts.items():
            entry[name] += count
    return table


def _run(job: Job) -> Result:
    corpus, tokenizer, store = job.run_dir / "corpus", job.run_dir / "tokenizer", job.run_dir / ".tokens.parts"
    return encode_corpus(job.of(TokensSettings, "tokens"), corpus, tokenizer, job.output, job.progress, store)


TOKENS = StageKind("tokens", ("tokens",), _run, needs=lambda *_: ["corpus", "tokenizer"], when="tokenizer")
