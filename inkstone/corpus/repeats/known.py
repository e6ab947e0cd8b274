"""Curated corpora that a new one is compared with: their documents count as earlier ones and are not read again.

A corpus directory keeps the signatures of its documents in `signatures/`, so adding a crawl costs the new crawl only.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from inkstone.corpus.settings import DedupSettings
from inkstone.errors import InputError

SIGNATURES = "signatures"
_DECIDING = ("shingle_tokens", "bands", "rows", "seed")
_HASHES = 2  # the hash functions; another number says that the same settings give other values


@dataclass(frozen=True)
class KnownCorpus:
    """A part of a known corpus: its name for the audit, and where its signatures are."""

    name: str
    signatures: Path


def describe(settings: DedupSettings) -> dict[str, int]:
    """What must be equal for two signatures to be comparable."""
    return {**{name: getattr(settings, name) for name in _DECIDING}, "hashes": _HASHES}


def open_known(settings: DedupSettings) -> tuple[KnownCorpus, ...]:
    """The parts of all known corpora. Raises InputError naming every one that cannot be compared."""
    problems, found = [], []
    for given in settings.known:
        folder = Path(given).expanduser() / SIGNATURES
        try:
            written = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            problems.append(
                f"[corpus] dedup.known {given}: no curated corpus with signatures is there; name a corpus directory"
            )
            continue
        if written != describe(settings):
            ours = describe(settings)
            other = ", ".join(f"{name} = {written.get(name)}" for name in ours if written.get(name) != ours[name])
            advice = "set [corpus.dedup] alike" if written.get("hashes") == _HASHES else "curate it again"
            problems.append(f"[corpus] dedup.known {given} was made with other signatures ({other}): {advice}")
            continue
        found += [KnownCorpus(given, part) for part in sorted(folder.iterdir()) if part.is_dir()]
    if problems:
        raise InputError(problems)
    return tuple(found)


def known_texts(settings: DedupSettings) -> list[Path]:
    """The documents of all known corpora, for what signatures cannot tell."""
    folders = [Path(given).expanduser() for given in settings.known]
    if missing := [str(folder) for folder in folders if not list((folder / "train").glob("*.parquet"))]:
        raise InputError(
            [f"[corpus] dedup.known {folder} has no train/ folder, and substrings are searched for in the texts "
             "themselves: name a whole corpus, or set substrings.min_tokens = 0" for folder in missing]
        )  # fmt: skip
    return [path for folder in folders for split in ("train", "heldout")
            for path in sorted((folder / split).glob("*.parquet"))]  # fmt: skip
