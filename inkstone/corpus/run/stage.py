"""The corpus stage: raw files in, `train/`, `heldout/`, `audit/`, `signatures/`, `report.json`, `manifest.json` out.

`curate` is the list of its steps; `passes.py` has the work of each task, `kept_tasks.py` runs them. The result depends
on the content of the files and the settings only: not on the order of the inputs, where they lie, how many workers
there are, or whether a run was killed on the way.
"""

import shutil
import time
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from inkstone.compressed import SUFFIXES
from inkstone.corpus.judge.resources import Prepared, PrepareTask, prepare_models
from inkstone.corpus.judge.rules import key_of
from inkstone.corpus.read.files import InputFile, find_files
from inkstone.corpus.repeats import near, substrings
from inkstone.corpus.repeats.dedup import EQUAL, Duplicates, Matches, resolve
from inkstone.corpus.repeats.known import SIGNATURES, KnownCorpus, describe, known_texts, open_known
from inkstone.corpus.repeats.spans import NEAR_BANDS
from inkstone.corpus.run import passes
from inkstone.corpus.run.figures import Figures
from inkstone.corpus.run.kept_tasks import Work, default_processes, run_tasks
from inkstone.corpus.run.report import clusters, report
from inkstone.corpus.run.tables import Tables, load_matches, save
from inkstone.corpus.settings import CorpusSettings
from inkstone.errors import InkstoneError, InputError
from inkstone.progress import Progress
from inkstone.stage import Job, Result, StageKind, deciding
from inkstone.storage import atomic_file, file_sha256, fingerprint, read_manifest, write_json, write_manifest
from inkstone.tasks import Workers

GROUP_BYTES = 32_000_000
"""Small files are read together, up to so many bytes of text; a larger file is a task of its own."""
PARTITION_BYTES = 128_000_000
"""Bytes of text per partition of keys: what one task of `match` or `count` holds in memory is a share of this."""
MIN_DOCUMENTS_FOR_HELDOUT = 20
_CLOSE_COPY = 0.9


def curate(
    settings: CorpusSettings,
    inputs: list[Path | str],
    output: Path,
    progress: Progress,
    scratch: Path | None = None,
    workers: Workers | None = None,
) -> dict[str, object]:
    """Curate `inputs` (files, folders, URLs) into the empty directory `output`; returns the figures of the report.

    `scratch` keeps finished tasks, so that a killed run continues; on a cluster every node must see it under this path.
    Raises InputError where an input is missing or no document is left.
    """
    started = time.perf_counter()
    # Where a run happens must not be in what its tasks are known by, or it could not go on elsewhere.
    settings = settings.model_copy(update={"workers": None, "ray": None})
    others = Counter[str]()
    files = find_files(inputs, others)
    if others:
        kinds = ", ".join(f"{number} {ending or 'without an ending'}" for ending, number in others.most_common(6))
        progress.note(f"{others.total()} files in the input folders are of no kind that is read: {kinds}")
    known = open_known(settings.dedup)
    size = sum(_text_bytes(file) for file in files)
    run = _Runner(settings, scratch or output / "drafts", workers or Workers(default_processes(size / 1e6)), progress)
    partitions = max(1, round(size / PARTITION_BYTES))

    (models,) = run("models", prepare_models, [PrepareTask(tuple(files), settings)])
    made = Prepared(models, fingerprint(read_manifest(models)["files"]))
    groups = _groups(files)
    read = run("read", passes.read, [passes.ReadTask(group, settings, partitions, made) for group in groups],
               [sum(file.size for file in group) for group in groups])  # fmt: skip
    close = _matches(run, "close", read, known, partitions, max(settings.dedup.min_similarity, _CLOSE_COPY))
    gone = run.keep("equal", _rows(resolve(close.only(close.agreement == EQUAL))))
    copies = run.keep("copies", resolve(close).rank)
    regrouped = _regrouped_sentences(run, tuple(read), partitions)
    counted = run("count", passes.count, [passes.CountTask(tuple(read), settings, part, gone, copies, regrouped)
                                          for part in range(partitions)])  # fmt: skip
    rewritten = run("rewrite", passes.rewrite, [
        passes.RewriteTask(tuple(read), n, settings, known, gone, tuple(counted), partitions) for n in range(len(read))
    ])  # fmt: skip
    tables = Tables.open(rewritten, settings.dedup)
    alike = resolve(_matches(run, "alike", rewritten, known, partitions, settings.dedup.min_similarity))
    gone = run.keep("alike", _rows(alike))
    figures = _sum([*read, *rewritten])
    if len(alike.rank) == len(tables):
        raise InputError(_nothing_left(figures))
    floors = _quality_floors(tables, alike, settings)
    held, trained = _heldout_exceptions(tables, alike, settings)
    repeats = _repeated_substrings(run, tables, gone, floors, partitions)
    written = run("write", passes.write, [
        passes.WriteTask(
            tuple(rewritten), n, (read[n], rewritten[n]), settings, known, gone, floors, held, trained, repeats
        ) for n in range(len(rewritten))
    ])  # fmt: skip
    figures.merge(_sum(written))
    if not figures.total("flow", "split:train", last="documents_out"):
        raise InputError(_nothing_left(figures))
    _gather(written, output, settings)
    _check_accounts(figures)
    result = report(figures, clusters(tables, alike), time.perf_counter() - started)
    shutil.rmtree(run.scratch)
    # Before the report, which tells of time: two runs of the same corpus have equal manifests.
    write_manifest(output, {"kind": "corpus", "content": _content(output), "splits": result["splits"]})
    write_json(output / "report.json", result)
    progress.note(_summary(figures), documents=_kept(figures), removed=figures.total("rule", "document", last="count"))
    names = ("documents_in", "documents_out", "characters_in", "characters_out", "splits", "langs", "throughput")
    return {name: result[name] for name in names}


class _Runner:
    """Runs passes in the scratch directory, one folder each, and says how far they are."""

    def __init__(self, settings: CorpusSettings, scratch: Path, workers: Workers, progress: Progress) -> None:
        self.settings, self.scratch, self.workers, self.progress = settings, scratch, workers, progress
        scratch.mkdir(parents=True, exist_ok=True)
        self.settings_key = fingerprint(deciding(settings))

    def __call__(self, name: str, work: Work, tasks: list[object], sizes: list[int] | None = None) -> list[Path]:
        weights, total, done = sizes or [1] * len(tasks), sum(sizes or []) or len(tasks), 0

        def finished(index: int) -> None:
            nonlocal done
            done += weights[index]
            if sizes:
                self.progress.advance(done, total, "bytes", step=name)

        return run_tasks(self.scratch / name, work, tasks, self.settings_key, self.workers, finished)

    def keep(self, name: str, rows: np.ndarray) -> Path:
        """Write what the driver decided where tasks can read it."""
        path = self.scratch / f"{name}.npy"
        with atomic_file(path) as draft:
            save(draft, rows)
        return path


def _groups(files: list[InputFile]) -> list[tuple[InputFile, ...]]:
    """Files in order, cut into tasks of about `GROUP_BYTES`."""
    groups: list[list[InputFile]] = []
    filled = 0
    for file in files:
        if not groups or filled + _text_bytes(file) > GROUP_BYTES:
            groups.append([])
            filled = 0
        groups[-1].append(file)
        filled += _text_bytes(file)
    return [tuple(group) for group in groups]


def _text_bytes(file: InputFile) -> int:
    """About how much text a file holds; text shrinks to a quarter when it is compressed."""
    return file.size * (4 if str(file.path).endswith((*SUFFIXES, ".parquet")) else 1)


def _matches(
    run: _Runner, name: str, places: list[Path], known: tuple[KnownCorpus, ...], partitions: int, minimum: float
) -> Matches:
    """Pairs of documents; those of known corpora have negative ranks and are never the later one."""
    settings = run.settings
    tasks: list[object] = [
        passes.MatchTask(tuple(places), known, settings, part, partitions, minimum) for part in range(partitions)
    ]
    found = load_matches(run(name, passes.match, tasks))
    before = len(Tables.open([part.signatures for part in known], settings.dedup))
    own = found.later >= before
    return Matches(found.later[own] - before, found.earlier[own] - before, found.agreement[own])


def _regrouped_sentences(run: _Runner, read: tuple[Path, ...], partitions: int) -> tuple[Path, ...]:
    """Spans under the key that each counts as; nothing where only equal sentences count as one."""
    settings = run.settings.sentences
    if not (settings.near and settings.max_documents):
        return ()
    found = run("sentences", near.compare, [near.CompareTask(read, settings.min_similarity, part)
                                            for part in range(partitions * NEAR_BANDS)])  # fmt: skip
    names = run.keep("names", near.renamed(resolve(load_matches(found))))
    return tuple(run("regroup", near.regroup, [near.RegroupTask(read, run.settings, part, partitions, names)
                                               for part in range(partitions)]))  # fmt: skip


def _repeated_substrings(
    run: _Runner, tables: Tables, gone: Path, floors: tuple[tuple[str, float], ...], partitions: int
) -> tuple[Path, ...]:
    """Windows of tokens that stand somewhere before; nothing where these are not looked for."""
    settings = run.settings
    if not settings.substrings.min_tokens:
        return ()
    old = [(path, pq.read_metadata(path).num_rows) for path in known_texts(settings.dedup)]
    files = [
        *old,
        *zip((place / "rows.arrow" for place in tables.places), np.diff(tables.offsets).tolist(), strict=True),
    ]
    first = np.cumsum([0, *(size for _, size in files)]) - sum(size for _, size in old)  # own documents begin at 0
    texts = [substrings.Texts(path, int(rank), size) for (path, size), rank in zip(files, first, strict=False)]
    describe = partial(substrings.DescribeTask, settings=settings, gone=gone, least_quality=floors)

    def grouped(name: str, work: Work, places: list[Path], number: int) -> tuple[Path, ...]:
        tasks: list[object] = [substrings.GroupTask(tuple(places), settings, part) for part in range(number)]
        return tuple(run(name, work, tasks))

    anchors = run("anchors", substrings.anchors, [describe(text, partitions=partitions) for text in texts])
    shared = grouped("shared", substrings.shared, anchors, partitions)
    most = partitions * substrings.WINDOW_PARTITIONS
    windows = run("windows", substrings.windows, [describe(text, partitions=most, shared=shared) for text in texts])
    return grouped("repeats", substrings.repeats, windows, most)


def _rows(gone: Duplicates) -> np.ndarray:
    rows = np.empty(len(gone.rank), passes.GONE)
    rows["rank"], rows["of"], rows["similarity"], rows["near"] = gone.rank, gone.of, gone.similarity, gone.near
    return rows


def _quality_floors(tables: Tables, alike: Duplicates, settings: CorpusSettings) -> tuple[tuple[str, float], ...]:
    """The quality score below which each source's documents go."""
    if not settings.quality.min_quantile:
        return ()
    scores: dict[str, list[np.ndarray]] = {}
    for number in range(len(tables.places)):
        rows, first = tables.rows(number).select(["source", "quality"]), int(tables.offsets[number])
        gone = alike.rank[np.searchsorted(alike.rank, first) : np.searchsorted(alike.rank, first + len(rows))]
        counted = np.asarray(pc.is_valid(rows["quality"]))
        counted[gone - first] = False
        sources, which = np.unique(rows["source"].to_numpy(), return_inverse=True)
        found = np.asarray(pc.fill_null(rows["quality"], 0.0), np.float32)
        for place, source in enumerate(sources.tolist()):
            scores.setdefault(source, []).append(found[counted & (which == place)])
    quantile, joined = settings.quality.min_quantile, {name: np.concatenate(scores[name]) for name in sorted(scores)}
    return tuple((name, float(np.quantile(f.astype(float), quantile))) for name, f in joined.items() if len(f))


def _heldout_exceptions(tables: Tables, alike: Duplicates, settings: CorpusSettings) -> tuple[str | None, str | None]:
    """(document to hold out, document to keep) where chance would hold out none, or all, of a small corpus."""
    left = len(tables) - len(alike.rank)
    if not settings.heldout_fraction or left * settings.heldout_fraction > 50:
        return None, None
    gone = set(alike.rank.tolist())
    ids = [id for number in range(len(tables.places)) for id in tables.rows(number)["id"].to_pylist()]
    places = {id: passes.hash_share(id) for rank, id in enumerate(ids) if rank not in gone}
    held = [id for id, place in places.items() if place < settings.heldout_fraction]
    lowest, highest = min(places, key=places.__getitem__), max(places, key=places.__getitem__)
    return (
        lowest if not held and left >= MIN_DOCUMENTS_FOR_HELDOUT else None,
        highest if len(held) == left else None,
    )


def _sum(places: list[Path]) -> Figures:
    figures = Figures()
    for place in places:
        figures.merge(Figures.load(place / "figures.json"))
    return figures


def _gather(written: list[Path], output: Path, settings: CorpusSettings) -> None:
    """Move every task's files into the corpus, numbered through; a folder that stays empty gets one empty shard."""
    for name in ("train", "heldout", "audit"):
        (output / name).mkdir()
        shards = [shard for place in written for shard in sorted((place / name).glob("*.parquet"))]
        filled = [shard for shard in shards if pq.read_metadata(shard).num_rows] or shards[:1]
        for number, shard in enumerate(filled):
            shard.rename(output / name / f"part-{number:05d}.parquet")
    for number, place in enumerate(written):
        target = output / SIGNATURES / f"{number:05d}"
        target.parent.mkdir(exist_ok=True)
        (place / SIGNATURES).rename(target)
    write_json(output / SIGNATURES / "settings.json", describe(settings.dedup), indent=None)


def _kept(figures: Figures) -> int:
    return sum(figures.total("flow", f"split:{name}", last="documents_out") for name in ("train", "heldout"))


def _check_accounts(figures: Figures) -> None:
    """Every document that was read is in the corpus or in the audit."""
    read, removed = figures.total("flow", "read", last="documents_out"), figures.total("rule", "document", last="count")
    if read != _kept(figures) + removed:
        raise InkstoneError(
            f"corpus: {read} documents were read, but {_kept(figures)} kept and {removed} audited; this is a defect of "
            "Inkstone, please report it."
        )


def _nothing_left(figures: Figures) -> list[str]:
    """Why the corpus is empty and which settings decide it."""
    broken, read = figures.total("rule", "record", last="count"), figures.total("flow", "read", last="documents_out")
    if not read:
        first = "; ".join(str(record["detail"]) for record in figures.unreadable[:3])
        return [
            f"corpus: no document could be read; {broken} records are unreadable: {first or 'the files are empty'}."
        ]
    problems = [f"corpus: none of the {read} documents is left ({broken} records were unreadable)."]
    counts = {(key[2], key[3]): n for key, n in figures.numbers.items()
              if key[:2] == ("rule", "document") and key[-1] == "count"}  # fmt: skip
    for (rule, lang), number in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:5]:
        problems.append(f"  {rule} removed {number} documents in {lang}: to relax it set {key_of(rule, lang)}.")
    return problems


def _content(output: Path) -> str:
    """Names the documents themselves, whatever the report says about time."""
    shards = sorted([*output.glob("train/*.parquet"), *output.glob("heldout/*.parquet")])
    return fingerprint({shard.relative_to(output).as_posix(): file_sha256(shard) for shard in shards})


def _summary(figures: Figures) -> str:
    parts = {
        level: figures.total("rule", level, last="count")
        for level in ("document", "line", "sentence", "substring", "record")
    }
    read_as = ", ".join(f"{n} as {key[2]}" for key, n in sorted(figures.numbers.items())
                        if key[:2] == ("count", "encoding") and key[2] not in ("utf-8", "undecided"))  # fmt: skip
    return (
        f"kept {_kept(figures)} of {figures.total('flow', 'read', last='documents_out')} documents; removed "
        f"{parts['document']} documents, {parts['line']} lines, {parts['sentence']} sentences and {parts['substring']} "
        f"substrings, {parts['record']} records were unreadable (see audit/ and report.json)"
        + (f"; files and pages that are not UTF-8 were read, {read_as}" if read_as else "")
    )


def corpus_files(settings: CorpusSettings) -> list[str]:
    """Every file and folder that the corpus is made from: raw text, known corpora, benchmarks, word lists, a model."""
    words = [given.file for given in settings.word_lists.values()]
    model = [settings.quality.model] if settings.quality.model else []
    return [*settings.inputs, *settings.dedup.known, *settings.decontaminate, *words, *model]


def _run(job: Job) -> Result:
    settings = job.of(CorpusSettings)
    chosen = settings.workers or settings.ray
    workers = Workers(settings.workers or 1, settings.ray) if chosen else None
    return curate(settings, job.resolve(settings.inputs), job.output, job.progress, job.scratch / "passes", workers)


CORPUS = StageKind("corpus", ("corpus",), _run, inputs=lambda settings, _: corpus_files(settings), version=4)
