"""What the operators need beside the batch and the settings: quality model, benchmark index, word lists.

`prepare_models` makes them once per run and writes them into a directory; every process opens that directory once.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
from safetensors.numpy import load_file, save_file

from inkstone.corpus.judge.benchmarks import Benchmarks, load_benchmarks
from inkstone.corpus.judge.kernel import mix
from inkstone.corpus.judge.operator_settings import QualitySettings
from inkstone.corpus.judge.quality import QualityModel, load_quality, save_quality, train
from inkstone.corpus.judge.repair import repair
from inkstone.corpus.read.files import InputFile, find_files, is_url
from inkstone.corpus.read.readers import read_batches
from inkstone.corpus.settings import CorpusSettings
from inkstone.errors import InputError, gathering
from inkstone.storage import write_json

Phrases = tuple[str, ...]


@dataclass(frozen=True)
class Models:
    """None and {} where the settings ask for none."""

    quality: QualityModel | None = None
    benchmarks: Benchmarks | None = None
    word_lists: dict[str, Phrases] = field(default_factory=dict)


@dataclass(frozen=True)
class PrepareTask:
    """What the models of a run are made from."""

    files: tuple[InputFile, ...]
    settings: CorpusSettings


@dataclass(frozen=True)
class Prepared:
    """Where the models of a run are, and what names their content."""

    place: Path
    digest: str


def prepare_models(task: PrepareTask, directory: Path) -> None:
    """Train or copy the quality model and index the benchmarks into the empty `directory`.

    Raises InputError with everything that is wrong with the files the settings name.
    """
    problems: list[str] = []
    with gathering(problems):
        write_json(directory / "word_lists.json", read_word_lists(task.settings))
    with gathering(problems):
        if quality := _quality(task.settings, list(task.files)):
            (directory / "quality").mkdir()
            save_quality(quality, directory / "quality")
    with gathering(problems):
        if benchmarks := load_benchmarks(task.settings.decontaminate):
            _save_benchmarks(benchmarks, directory)
    if problems:
        raise InputError(problems)


@lru_cache(maxsize=2)
def open_models(made: Prepared) -> Models:
    """The models of a run, read once per process."""
    directory = made.place
    quality = load_quality(directory / "quality") if (directory / "quality").exists() else None
    lists = json.loads((directory / "word_lists.json").read_text("utf-8"))
    return Models(quality, _open_benchmarks(directory), {name: tuple(words) for name, words in lists.items()})


def read_word_lists(settings: CorpusSettings) -> dict[str, Phrases]:
    """The user's word lists. Raises InputError naming every list that cannot be used."""
    problems, lists = [], {}
    for name, given in settings.word_lists.items():
        try:
            lines = Path(given.file).expanduser().read_text("utf-8-sig").split("\n")
        except (OSError, UnicodeDecodeError) as error:
            problems.append(f"[corpus.word_lists.{name}] {given.file}: cannot be read ({error})")
            continue
        words = {line.strip() for line in lines if line.strip() and not line.startswith("#")}
        lists[name] = tuple(sorted(word for word in words if any(char.isalnum() for char in word)))
        if not lists[name]:
            problems.append(f"[corpus.word_lists.{name}] {given.file}: holds no word: one word or phrase per line")
    if problems:
        raise InputError(problems)
    return lists


# --- quality -----------------------------------------------------------------------------------------------------


def _quality(settings: CorpusSettings, files: list[InputFile]) -> QualityModel | None:
    wanted = settings.quality
    if wanted.model and wanted.good:
        raise InputError("[corpus.quality] has both a model and good sources: keep one of them")
    if wanted.model:
        return load_quality(Path(wanted.model).expanduser())
    if not wanted.good:
        return None
    good, bad = sample(settings, files, set(wanted.good))
    return train(good, bad, wanted.seed)


def sample(settings: CorpusSettings, files: list[InputFile], good: set[str] | None) -> tuple[list[str], list[str]]:
    """Documents of the good sources (None: all) and of the others, up to `sample_mb` each, drawn over all files."""
    wanted = settings.quality
    share = min(1.0, 2 * wanted.sample_mb * 1e6 / max(sum(file.size for file in files), 1))
    texts: tuple[list[str], list[str]] = ([], [])
    room = [wanted.sample_mb * 1e6, wanted.sample_mb * 1e6]
    seen: set[str] = set()
    for batch in read_batches(files, settings.text_fields, settings.max_document_mb, settings.encoding):
        if not batch.ids:
            continue
        place = mix(np.array([hash_of(id) for id in batch.ids], np.uint64)) / 2.0**64
        rows = np.flatnonzero(place < share).tolist()
        fixed, _ = repair(pa.array([batch.texts[row] for row in rows], pa.string()))
        for row, text in zip(rows, fixed.to_pylist(), strict=True):
            seen.add(batch.sources[row])
            side = good is not None and batch.sources[row] not in good
            if room[side] > 0:
                texts[side].append(text)
                room[side] -= len(text.encode())
        if max(room if good is not None else room[:1]) <= 0:
            break
    if missing := sorted((good or set()) - seen):
        have = ", ".join(sorted(seen)[:20])
        raise InputError(f"[corpus.quality] good: no document of {', '.join(missing)} was found; sources are {have}")
    return texts


def read_examples(names: list[str], text_fields: list[str], sample_mb: float) -> list[str]:
    """Repaired texts of the files that paths, globs and URLs name, up to `sample_mb`, drawn evenly over all files."""
    paths: list[Path | str] = []
    for name in names:
        path = Path(name).expanduser()
        found = (
            [] if is_url(name) or path.exists() else sorted(Path(path.anchor).glob(str(path.relative_to(path.anchor))))
        )
        paths += [name] if is_url(name) else found or [path]
    everything = CorpusSettings(text_fields=text_fields, quality=QualitySettings(sample_mb=sample_mb))
    texts, _ = sample(everything, find_files(paths), good=None)
    return texts


def hash_of(id: str) -> int:
    """A number that depends on the id alone."""
    return int.from_bytes(id.encode()[-8:].rjust(8, b"\0"), "big")


# --- benchmarks --------------------------------------------------------------------------------------------------


def _save_benchmarks(found: Benchmarks, directory: Path) -> None:
    save_file(
        {"hashes": found.hashes, "item": found.item, "sizes": found.sizes, "possible": found.possible},
        directory / "benchmarks.safetensors",
    )
    lines: Iterable[str] = (name.replace("\n", " ") + "\n" for name in (str(found.too_short), *found.names))
    (directory / "benchmarks.txt").write_text("".join(lines), encoding="utf-8")


def _open_benchmarks(directory: Path) -> Benchmarks | None:
    if not (directory / "benchmarks.safetensors").exists():
        return None
    arrays = load_file(directory / "benchmarks.safetensors")
    too_short, *names = (directory / "benchmarks.txt").read_text("utf-8").split("\n")[:-1]
    return Benchmarks(
        arrays["hashes"], arrays["item"], arrays["sizes"], tuple(names), arrays["possible"], int(too_short)
    )
