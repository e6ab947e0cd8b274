"""Write a corpus as token shards: in parallel by parts, each encoded once for as long as its content stays the same.

A part's key is the content of its file, the tokenizer and the settings that decide the ids. What it becomes is kept
under its key in a store beside the output; the output's files are hard links into it. So a killed run continues with
the parts that are missing, and a corpus to which files were added encodes only those.
"""

import json
import multiprocessing
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from shutil import copyfile, rmtree

import numpy as np

from inkstone.errors import InkstoneError, InputError
from inkstone.progress import Progress
from inkstone.storage import atomic_directory, file_sha256, fingerprint, write_manifest
from inkstone.tokenizer.documents import Documents, Part, corpus_parts, read_part
from inkstone.tokenizer.encoder import Encoder
from inkstone.tokenizer.settings import TokensSettings
from inkstone.tokenizer.shards import HeldoutDocument, ShardWriter, token_dtype
from inkstone.tokenizer.tokenizer import Tokenizer

_LAYOUT = 1  # grows when the same text would be written otherwise
_ALONE_MB = 16.0  # less text than this is not worth starting processes for
_SUFFIXES = (".tokens.bin", ".offsets.bin", ".groups.bin", ".groups.json", ".docs.jsonl")
_MOST_NAMED = 5
Counts = dict[str, dict[str, int]]


@dataclass(frozen=True)
class _Job:
    """One part to encode, as it travels to a process."""

    part: Part
    split: str
    key: str
    tokenizer: Path
    fingerprint: str
    settings: TokensSettings


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
    tokenizer = Tokenizer.load(tokenizer_dir)
    own = store is None
    store = store or output / ".parts"
    jobs = _jobs(settings, corpus, tokenizer_dir, tokenizer)
    encoded = sum(1 for job in jobs if not (store / job.key).is_dir())
    started = time.monotonic()
    _encode_missing(settings, jobs, store, progress)
    seconds = time.monotonic() - started
    facts = _assemble(jobs, store, output, tokenizer)
    if own:
        rmtree(store)
    write_manifest(output, facts)
    progress.note("encoded", parts=len(jobs), parts_encoded_now=encoded, seconds=round(seconds, 2))
    return {**facts, "parts": len(jobs), "parts_encoded_now": encoded}


def _jobs(
    settings: TokensSettings, corpus: Path | Sequence[Path], tokenizer_dir: Path, tokenizer: Tokenizer
) -> list[_Job]:
    hashes: dict[Path, str] = {}
    jobs = []
    for split in ("train", "heldout"):
        parts = corpus_parts(corpus, split, settings.part_mb)
        if split == "train" and not any(part.size for part in parts):
            where = corpus / split if isinstance(corpus, Path) and (corpus / split).is_dir() else corpus
            raise InputError(f"{where} has no text to encode: give the corpus stage more input.")
        for part in parts:
            hashes.setdefault(part.path, file_sha256(part.path))
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
            jobs.append(_Job(part, split, key, tokenizer_dir.absolute(), tokenizer.fingerprint, settings))
    return jobs


def _encode_missing(settings: TokensSettings, jobs: list[_Job], store: Path, progress: Progress) -> None:
    """Bring every part into the store; in this process where there is little to do."""
    store.mkdir(parents=True, exist_ok=True)
    todo = {job.key: job for job in jobs if not (store / job.key).is_dir()}
    total = sum(job.part.size for job in jobs) / 1e6
    done = total - sum(job.part.size for job in todo.values()) / 1e6
    processes = min(settings.processes or len(os.sched_getaffinity(0)), len(todo))
    if processes <= 1 or sum(job.part.size for job in todo.values()) < _ALONE_MB * 1e6:
        for job in todo.values():
            _encode_part(job, store)
            done += job.part.size / 1e6
            progress.advance(done, total, "MB")
        return
    waiting = iter(todo.values())
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        running: dict[Future[None], _Job] = {}
        try:
            for job in waiting:
                running[pool.submit(_encode_part, job, store)] = job
                if len(running) >= 2 * processes:
                    done = _collect(running, done, total, progress)
            while running:
                done = _collect(running, done, total, progress)
        except BrokenProcessPool as error:
            raise InkstoneError(
                "a process that encoded text was killed, perhaps for want of memory: run the same command again (parts "
                "that were finished are kept), with a smaller processes or batch_documents if it happens again."
            ) from error
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _collect(running: dict[Future[None], _Job], done: float, total: float, progress: Progress) -> float:
    finished, _ = wait(running, return_when=FIRST_COMPLETED)
    for future in finished:
        done += running.pop(future).part.size / 1e6
        future.result()
        progress.advance(done, total, "MB")
    return done


def _encode_part(job: _Job, store: Path) -> None:
    """Encode one part into the store, where it appears whole or not at all."""
    tokenizer, encoder = _opened(job.tokenizer, job.fingerprint)
    by_source: Counts = {}
    by_lang: Counts = {}
    size = characters = 0
    repaired: list[str] = []
    with atomic_directory(store / job.key) as draft:
        writer = ShardWriter(draft, job.split, token_dtype(tokenizer.vocab_size), job.settings.max_shard_tokens)
        for documents in read_part(job.part, job.settings.invalid_utf8, job.settings.batch_documents):
            tokens, lengths = _with_ends(tokenizer, *_encode(tokenizer, encoder, documents))
            groups = list(zip(documents.langs, documents.sources, strict=True))
            rows = _rows(documents, lengths) if job.split == "heldout" else []
            writer.add(tokens, lengths, groups, rows)
            for source, lang, text, count in zip(
                documents.sources, documents.langs, documents.sizes.tolist(), lengths.tolist(), strict=True
            ):
                _count(by_source, source, text, count)
                _count(by_lang, lang, text, count)
            size += int(documents.sizes.sum())
            characters += len(documents.points)
            repaired += documents.repaired
        writer.close()
        facts = {
            "shards": len(writer.shards),
            "documents": writer.documents,
            "tokens": writer.tokens,
            "bytes": size,
            "characters": characters,
            "repaired": len(repaired),
            "repaired_first": repaired[:_MOST_NAMED],
            "sources": by_source,
            "langs": by_lang,
        }
        (draft / "part.json").write_text(json.dumps(facts, ensure_ascii=False) + "\n", encoding="utf-8")


@lru_cache(maxsize=2)
def _opened(directory: Path, _: str) -> tuple[Tokenizer, Encoder | None]:
    tokenizer = Tokenizer.load(directory)
    return tokenizer, tokenizer.encoder()


def _encode(tokenizer: Tokenizer, encoder: Encoder | None, documents: Documents) -> tuple[np.ndarray, np.ndarray]:
    """Ids of the documents and where each one's end; by the library for a kind of tokenizer unknown to `Encoder`."""
    if encoder is not None and not tokenizer.has_prefix:
        return encoder.encode_points(documents.points, documents.starts)
    return tokenizer.encode_flat(documents.texts())


def _with_ends(tokenizer: Tokenizer, ids: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The ids of every document between the tokens that begin and end one, and their numbers."""
    lengths = np.diff(ends, prepend=0) + 2
    lasts = np.cumsum(lengths) - 1
    tokens = np.empty(len(ids) + 2 * len(ends), dtype=np.int32)
    inner = np.ones(len(tokens), dtype=bool)
    inner[lasts] = inner[lasts - lengths + 1] = False
    tokens[inner] = ids
    tokens[lasts - lengths + 1] = tokenizer.first_id
    tokens[lasts] = tokenizer.last_id
    return tokens, lengths


def _rows(documents: Documents, lengths: np.ndarray) -> list[HeldoutDocument]:
    columns = (documents.ids, documents.sources, documents.langs, documents.sizes.tolist(), lengths.tolist())
    return [HeldoutDocument(*row) for row in zip(*columns, strict=True)]


def _assemble(jobs: list[_Job], store: Path, output: Path, tokenizer: Tokenizer) -> dict[str, object]:
    """Link the parts' shards into `output` under running numbers and add up their counts; forget unused parts."""
    splits: dict[str, dict[str, object]] = {}
    by_source: Counts = {}
    by_lang: Counts = {}
    repaired: list[str] = []
    for split in ("train", "heldout"):
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
            _add(by_source, facts["sources"])
            _add(by_lang, facts["langs"])
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
        "sources": dict(sorted(by_source.items())),
        "langs": dict(sorted(by_lang.items())),
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


def _count(table: Counts, key: str, size: int, tokens: int) -> None:
    entry = table.setdefault(key, {"documents": 0, "tokens": 0, "bytes": 0})
    entry["documents"] += 1
    entry["tokens"] += tokens
    entry["bytes"] += size


def _add(table: Counts, other: Counts) -> None:
    for key, counts in other.items():
        entry = table.setdefault(key, {"documents": 0, "tokens": 0, "bytes": 0})
        for name, count in counts.items():
            entry[name] += count
