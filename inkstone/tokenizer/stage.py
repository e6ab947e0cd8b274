"""The stage that learns a tokenizer from a corpus, or takes one and may extend it; `write_shards.py` encodes.

The corpus is read in a stream; memory grows with the number of different words, which `sample_mb` bounds.
"""

import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from itertools import compress
from pathlib import Path

from inkstone.errors import InputError
from inkstone.progress import Progress
from inkstone.stage import Job, Result, StageKind
from inkstone.storage import write_json, write_manifest
from inkstone.tokenizer.bpe.train import train
from inkstone.tokenizer.documents import Columns, Part, corpus_parts, count_bytes, read_documents
from inkstone.tokenizer.extend import extend_tokenizer
from inkstone.tokenizer.settings import TokenizerSettings
from inkstone.tokenizer.study.compression import measure
from inkstone.tokenizer.tokenizer import Tokenizer

Group = tuple[str, str]  # (lang, source)


def train_tokenizer(
    settings: TokenizerSettings,
    corpus: Path | Sequence[Path],
    output: Path,
    progress: Progress,
    weights: Path | None = None,
) -> dict[str, object]:
    """Learn from a corpus directory's train split, or from raw files; write the tokenizer and `measure.json`.

    With `weights`, a file as the mixture stage writes it, every domain counts with its weight however long it is.
    """
    parts = corpus_parts(corpus, "train")
    total = count_bytes(parts)
    share = min(1.0, settings.sample_mb * 1e6 / max(total, 1))
    factors = None if weights is None else _factors(weights, parts, settings)
    progress.note("learning the vocabulary", corpus_mb=total / 1e6, sample_mb=total * share / 1e6)
    started = time.monotonic()
    tokenizer, alphabet = train(settings, _sample(parts, share, settings, factors))
    seconds = time.monotonic() - started
    tokenizer.save(output)
    if tokenizer.vocab_size < settings.vocab_size:
        progress.note(
            f"the corpus gave only {tokenizer.vocab_size} tokens of the {settings.vocab_size} asked for; "
            "the model's vocabulary will be that small",
            vocab_size=tokenizer.vocab_size,
        )
    languages = _measure(tokenizer, corpus, settings, output)
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


def take_tokenizer(settings: TokenizerSettings, corpus: Path, output: Path, progress: Progress) -> dict[str, object]:
    """The tokenizer of `settings.base`, with new Chinese pieces from the corpus where `extend` asks for them."""
    tokenizer = Tokenizer.load(Path(settings.base or ""))
    added = 0
    if settings.extend:
        extended = extend_tokenizer(tokenizer, corpus, settings.extend, progress)
        tokenizer, added = extended.tokenizer, len(extended.added)
        write_json(output / "extension.json", extended.report)
    tokenizer.save(output)
    languages = _measure(tokenizer, corpus, settings, output)
    write_manifest(output, {"tokenizer": tokenizer.fingerprint, "vocab_size": tokenizer.vocab_size})
    return {
        "vocab_size": tokenizer.vocab_size,
        "added": added,
        "base": settings.base,
        "fingerprint": tokenizer.fingerprint,
        "heldout": languages,
    }


def _measure(
    tokenizer: Tokenizer, corpus: Path | Sequence[Path], settings: TokenizerSettings, output: Path
) -> dict[str, object]:
    """Compression by language on the held-out split where there is one, kept in measure.json."""
    split = "heldout" if isinstance(corpus, Path) and (corpus / "heldout").is_dir() else "train"
    languages: dict[str, object] = {**measure(tokenizer, _texts_for_measuring(corpus_parts(corpus, split), settings))}
    write_json(output / "measure.json", {"split": split, "languages": languages})
    return languages


def _sample(
    parts: Sequence[Part], share: float, settings: TokenizerSettings, factors: dict[Group, float] | None
) -> Iterator[tuple[list[str], float]]:
    """The texts of a share of all documents, in lists of equal weight."""
    for batch in _chosen(parts, share, settings):
        if factors is None:
            yield batch["text"], 1.0
            continue
        by_weight: dict[float, list[str]] = {}
        for text, lang, source in zip(batch["text"], batch["lang"], batch["source"], strict=True):
            by_weight.setdefault(factors[lang, source], []).append(text)
        for weight, texts in by_weight.items():
            if weight:
                yield texts, weight


def _factors(path: Path, parts: Sequence[Part], settings: TokenizerSettings) -> dict[Group, float]:
    """What one character of each (lang, source) counts, so that the domains' shares of all text are the weights."""
    characters: dict[Group, int] = {}
    for batch in read_documents(parts, settings.invalid_utf8):
        for text, lang, source in zip(batch["text"], batch["lang"], batch["source"], strict=True):
            characters[lang, source] = characters.get((lang, source), 0) + len(text)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        weights = {str(name): float(weight) for name, weight in content["weights"].items()}
        domains = {
            name: [(str(lang), str(source)) for lang, source in domain["groups"]]
            for name, domain in content.get("domains", {}).items()
        } or {f"{lang}/{source}": [(lang, source)] for lang, source in characters}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f'{path} is not a mixture ({error!r}): it needs {{"weights": {{domain: number}}}}.') from error
    domain_of = {group: name for name, groups in domains.items() for group in groups}
    lost = sorted("/".join(group) for group in characters if domain_of.get(group) not in weights)
    unknown = sorted(name for name in weights if not any(domain_of.get(group) == name for group in characters))
    problems = [
        f"{path}: the corpus has {name}, which no weight covers: give it one, 0 to leave it out." for name in lost
    ]
    problems += [f"{path}: the corpus has no text of the domain {name}." for name in unknown]
    if not problems and (min(weights.values()) < 0 or sum(weights.values()) <= 0):
        problems.append(f"{path}: weights must not be negative, nor all 0.")
    if problems:
        raise InputError(problems)
    sizes = dict.fromkeys(weights, 0)
    for group, count in characters.items():
        sizes[domain_of[group]] += count
    scale = sum(sizes.values()) / sum(weights.values())
    return {group: weights[domain_of[group]] * scale / max(sizes[domain_of[group]], 1) for group in characters}


def _texts_for_measuring(parts: Sequence[Part], settings: TokenizerSettings) -> Iterator[tuple[list[str], list[str]]]:
    """(texts, languages): all documents, or a sample of `measure_mb`."""
    share = min(1.0, settings.measure_mb * 1e6 / max(count_bytes(parts), 1))
    for batch in _chosen(parts, share, settings):
        yield batch["text"], batch["lang"]


def _chosen(parts: Sequence[Part], share: float, settings: TokenizerSettings) -> Iterator[Columns]:
    """Batches with about `share` of the documents, chosen by a hash of their id, so that order does not matter."""
    bound = int(share * 2**64)
    salt = settings.seed.to_bytes(8, "little", signed=True)
    for batch in read_documents(parts, settings.invalid_utf8):
        if share < 1:
            kept = [_hash(identity, salt) < bound for identity in batch["id"]]
            batch = {name: list(compress(values, kept)) for name, values in batch.items()}
        yield batch


def _hash(identity: str, salt: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(identity.encode("utf-8"), digest_size=8, salt=salt).digest(), "little")


def _run(job: Job) -> Result:
    settings = job.of(TokenizerSettings)
    learn_or_take = take_tokenizer if settings.base else train_tokenizer
    return learn_or_take(settings, job.run_dir / "corpus", job.output, job.progress)


def _files_of(base: str) -> list[str]:
    """What the tokenizer of a base depends on: not its weights."""
    return [f"{base}/*token*"] if Path(base).is_dir() else [base]


TOKENIZER = StageKind(
    "tokenizer",
    ("tokenizer",),
    _run,
    needs=lambda *_: ["corpus"],
    inputs=lambda settings, _: _files_of(settings.base) if settings.base else [],
    version=2,
)
