"""The two stages of this room: learn a tokenizer from a corpus, then write the corpus as token shards.

Both read the corpus stage's Parquet files in a stream; what they hold in memory does not grow with the corpus, except
the trainer's table of distinct words, which `sample_mb` bounds.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from itertools import compress
from pathlib import Path

from inkstone.errors import InputError
from inkstone.progress import Progress
from inkstone.storage import write_manifest
from inkstone.tokenizer.documents import Columns, corpus_files, count_bytes, read_documents
from inkstone.tokenizer.measure import measure
from inkstone.tokenizer.settings import TokenizerSettings, TokensSettings
from inkstone.tokenizer.shards import HeldoutDocument, ShardWriter, token_dtype
from inkstone.tokenizer.tokenizer import Tokenizer
from inkstone.tokenizer.train import train

Counts = dict[str, dict[str, int]]


def train_tokenizer(
    settings: TokenizerSettings, corpus_dir: Path, output: Path, progress: Progress
) -> dict[str, object]:
    """Learn from `corpus_dir/train`, measure on `corpus_dir/heldout`, write the tokenizer and `measure.json`."""
    files = corpus_files(corpus_dir, "train")
    total = count_bytes(files)
    share = min(1.0, settings.sample_mb * 1e6 / max(total, 1))
    progress.note("learning the vocabulary", corpus_mb=total / 1e6, sample_mb=total * share / 1e6)
    started = time.monotonic()
    tokenizer, alphabet = train(settings, _sample(files, share, settings.seed))
    seconds = time.monotonic() - started
    tokenizer.save(output)
    if tokenizer.vocab_size < settings.vocab_size:
        progress.note(
            f"the corpus gave only {tokenizer.vocab_size} tokens of the {settings.vocab_size} asked for; "
            "the model's vocabulary will be that small",
            vocab_size=tokenizer.vocab_size,
        )
    heldout = corpus_files(corpus_dir, "heldout")
    languages = measure(tokenizer, _texts_for_measuring(heldout, settings))
    (output / "measure.json").write_text(
        json.dumps({"split": "heldout", "languages": languages}, ensure_ascii=False, indent=1) + "\n", encoding="utf-8"
    )
    result: dict[str, object] = {
        "vocab_size": tokenizer.vocab_size,
        "vocab_size_asked": settings.vocab_size,
        "characters": len(alphabet.characters),
        "character_coverage": round(alphabet.coverage, 6),
        "sample_bytes": round(total * share),
        "train_seconds": round(seconds, 2),
        "fingerprint": tokenizer.fingerprint,
        "heldout": languages,
    }
    write_manifest(output, {"tokenizer": tokenizer.fingerprint, "vocab_size": tokenizer.vocab_size})
    return result


def encode_corpus(
    settings: TokensSettings, corpus_dir: Path, tokenizer_dir: Path, output: Path, progress: Progress
) -> dict[str, object]:
    """Encode both splits into token shards with a manifest; returns the counts without the file list."""
    tokenizer = Tokenizer.load(tokenizer_dir)
    dtype = token_dtype(tokenizer.vocab_size)
    by_source: Counts = {}
    by_lang: Counts = {}
    splits: dict[str, dict[str, object]] = {}
    for split in ("train", "heldout"):
        writer = ShardWriter(output, split, dtype, settings.max_shard_tokens)
        files = corpus_files(corpus_dir, split)
        if split == "train" and not count_bytes(files):
            raise InputError(f"{corpus_dir / split} has no text to encode: give the corpus stage more input.")
        splits[split] = _encode_split(settings, files, tokenizer, writer, (by_source, by_lang), progress)
    facts: dict[str, object] = {
        "tokenizer": tokenizer.fingerprint,
        "vocab_size": tokenizer.vocab_size,
        "dtype": dtype.name,
        "splits": splits,
        "sources": dict(sorted(by_source.items())),
        "langs": dict(sorted(by_lang.items())),
    }
    write_manifest(output, facts)
    return facts


def _encode_split(
    settings: TokensSettings,
    files: list[Path],
    tokenizer: Tokenizer,
    writer: ShardWriter,
    tables: tuple[Counts, Counts],
    progress: Progress,
) -> dict[str, object]:
    """Encode the files of one split; `tables` (per source, per language) count both splits together."""
    total = count_bytes(files)
    done = characters = 0
    started = time.monotonic()
    for batch in read_documents(files, ["id", "text", "source", "lang"], settings.batch_documents):
        encoded = tokenizer.encode_batch(batch["text"])
        for identity, text, source, lang, ids in zip(*batch.values(), encoded, strict=True):
            size = len(text.encode("utf-8"))
            row = HeldoutDocument(identity, source, lang, size, len(ids) + 2) if writer.split == "heldout" else None
            writer.add([tokenizer.first_id, *ids, tokenizer.last_id], (lang, source), row)
            for table, key in zip(tables, (source, lang), strict=True):
                _count(table, key, size, len(ids) + 2)
            done += size
            characters += len(text)
        seconds = time.monotonic() - started
        progress.advance(
            done / 1e6, total / 1e6, "MB", split=writer.split, mb_per_second=done / 1e6 / max(seconds, 1e-9)
        )
    writer.close()
    return {
        "shards": writer.shards,
        "documents": writer.documents,
        "tokens": writer.tokens,
        "bytes": done,
        "characters": characters,
    }


def _count(table: Counts, key: str, size: int, tokens: int) -> None:
    entry = table.setdefault(key, {"documents": 0, "tokens": 0, "bytes": 0})
    entry["documents"] += 1
    entry["tokens"] += tokens
    entry["bytes"] += size


def _sample(files: list[Path], share: float, seed: int) -> Callable[[], Iterator[str]]:
    """The texts of a share of all documents: the same ones every time, in file order."""

    def texts() -> Iterator[str]:
        for batch in _chosen(files, ["id", "text"], share, seed):
            yield from batch["text"]

    return texts


def _texts_for_measuring(files: list[Path], settings: TokenizerSettings) -> Iterator[tuple[list[str], list[str]]]:
    """(texts, languages) of the held-out documents: all of them, or a sample of `measure_mb`."""
    share = min(1.0, settings.measure_mb * 1e6 / max(count_bytes(files), 1))
    for batch in _chosen(files, ["id", "text", "lang"], share, settings.seed):
        yield batch["text"], batch["lang"]


def _chosen(files: list[Path], columns: list[str], share: float, seed: int) -> Iterator[Columns]:
    """Batches with about `share` of the documents, chosen by a hash of their id, so that order does not matter."""
    bound = int(share * 2**64)
    salt = seed.to_bytes(8, "little", signed=True)
    for batch in read_documents(files, columns):
        if share < 1:
            kept = [_hash(identity, salt) < bound for identity in batch["id"]]
            batch = {name: list(compress(values, kept)) for name, values in batch.items()}
        yield batch


def _hash(identity: str, salt: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(identity.encode("utf-8"), digest_size=8, salt=salt).digest(), "little")
