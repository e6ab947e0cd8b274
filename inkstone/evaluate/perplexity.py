"""Bits per byte on held-out documents: comparable between tokenizers, where perplexity per token is not.

For each document: the sum of -log2 p over all its tokens and the end token, given the begin token, divided by the
UTF-8 bytes of its text. A document longer than the model's positions is measured in consecutive windows that each
start again from the begin token, so its later windows are predicted without their past.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from inkstone.errors import InputError
from inkstone.evaluate.kept import Kept
from inkstone.evaluate.tally import evenly
from inkstone.generate import score
from inkstone.model import Decoder
from inkstone.progress import Progress
from inkstone.storage import read_manifest
from inkstone.tokenizer import HeldoutDocument, Tokenizer, open_shards, read_heldout_documents


@dataclass(frozen=True)
class Document:
    """Held-out token ids without the begin token (the end token is the last), and what they are as text."""

    facts: HeldoutDocument
    ids: list[int]


_TOGETHER = 64
Row = tuple[Document, float]  # and the summed log-probability of its ids


def other_tokenizer(tokens_dir: Path, tokenizer: Tokenizer) -> bool:
    """Whether the token shards were written with another tokenizer, so that their ids mean something else."""
    return read_manifest(tokens_dir).get("tokenizer") != tokenizer.fingerprint


def read_heldout(tokens_dir: Path, token_limit: int) -> list[Document]:
    """Documents of the held-out split, evenly spread where there are more than `token_limit` tokens."""
    shards = open_shards(tokens_dir, "heldout")
    facts = read_heldout_documents(tokens_dir)
    if len(facts) != len(shards):
        raise InputError(
            f"{tokens_dir} lists {len(facts)} held-out documents but holds {len(shards)}: delete it and encode again."
        )
    total = int(shards.lengths.sum())
    limit = len(shards) if total <= token_limit else max(1, len(shards) * token_limit // total)
    return [Document(facts[index], shards.document(index)[1:].tolist()) for index in evenly(len(shards), limit)]


def windows(ids: Sequence[int], bos: int, max_positions: int) -> list[tuple[list[int], list[int]]]:
    """(context, continuation) pairs that predict every id once, each pair within the model's positions."""
    size = max_positions - 1
    return [([bos], list(ids[start : start + size])) for start in range(0, len(ids), size)]


def bits_per_byte(logprobs: Sequence[float], bytes_: int) -> float:
    """Natural-log probabilities of all tokens, turned into bits per UTF-8 byte."""
    return -math.fsum(logprobs) / math.log(2) / bytes_


def run_heldout(
    model: Decoder, bos: int, documents: list[Document], progress: Progress, kept: Kept
) -> dict[str, object]:
    """Overall, per language and per source."""
    cut = [windows(document.ids, bos, model.max_positions) for document in documents]

    def answer(missing: list[int]) -> Iterator[tuple[int, float]]:
        # Whole groups, so that a document is computed beside the same others after a kill.
        for first in sorted({index // _TOGETHER * _TOGETHER for index in missing}):
            group = range(first, min(first + _TOGETHER, len(documents)))
            scored = iter(score(model, [pair for index in group for pair in cut[index]]))
            yield from ((index, sum(next(scored).logprob for _ in cut[index])) for index in group)

    logprobs, seconds = kept.ask("heldout", [str(index) for index in range(len(documents))], answer)
    progress.advance(len(documents), len(documents), "documents", seconds=round(seconds, 1))
    rows = list(zip(documents, logprobs, strict=True))
    return _figures(rows) | {
        "windowed_documents": sum(len(pairs) > 1 for pairs in cut),
        "by_lang": _grouped(rows, [document.facts.lang for document in documents]),
        "by_source": _grouped(rows, [document.facts.source for document in documents]),
        "seconds": round(seconds, 3),
    }


def _grouped(rows: list[Row], keys: list[str]) -> dict[str, object]:
    return {
        key: _figures([row for row, own in zip(rows, keys, strict=True) if own == key]) for key in sorted(set(keys))
    }


def _standard_error(rate: float, rows: list[Row]) -> float | None:
    """Of a sum of bits over a sum of bytes, were the documents drawn anew: by how far each is from the common rate."""
    if len(rows) < 2:
        return None
    apart = [-logprob / math.log(2) - rate * document.facts.bytes for document, logprob in rows]
    size = sum(document.facts.bytes for document, _ in rows)
    return math.sqrt(math.fsum(one * one for one in apart) * len(rows) / (len(rows) - 1)) / size


def _figures(rows: list[Row]) -> dict[str, object]:
    size = sum(document.facts.bytes for document, _ in rows)
    logprobs = [logprob for _, logprob in rows]
    tokens = sum(len(document.ids) for document, _ in rows)
    rate = bits_per_byte(logprobs, size)
    return {
        "bits_per_byte": rate,
        "stderr": _standard_error(rate, rows),
        "nats_per_token": -math.fsum(logprobs) / tokens,
        "documents": len(rows),
        "tokens": tokens,
        "bytes": size,
    }
