"""Tokenizers: training, encoding per core, and reading-encoding-writing, beside the engines that others use.

    python benchmarks/tokenizer.py --text ../shared/data/pretrain          # about 80 MB; several minutes
    python benchmarks/tokenizer.py --text ../shared/data/pretrain --quick  # 20 MB
    python benchmarks/tokenizer.py --text FOLDER --only train              # or: encode, stage

Every measurement is a process of its own: seconds on the clock, CPU-seconds (with children) and peak memory. On a busy
machine compare the CPU-seconds. What is comparable: training gets the same documents and vocabulary size, each trainer
in the set-up that it is used in (ours and `tokenizers` with our pattern; `tokenizers` with a metaspace; sentencepiece
by lines, digits split, byte fallback). Encoding gets the same documents and one thread: ours and `tokenizers` the same
tokenizer.json, with the same ids, checked; sentencepiece its own vocabulary of the same size; tiktoken our pieces as
byte ranks with our pattern (two-byte beginnings of characters added, so ids differ). The stage reads the same Parquet
and writes ids to disk with all cores; datatrove writes its own format.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from measured import cpu_seconds

ALL = ("train", "encode", "stage")
CORES = len(os.sched_getaffinity(0))
TASKS = {
    "train": ("inkstone", "sentencepiece", "tokenizers-pattern", "tokenizers-metaspace"),
    "encode": ("inkstone", "tokenizers", "sentencepiece", "tiktoken"),
    "stage": ("inkstone", "tokenizers", "sentencepiece", "tiktoken", "datatrove"),
}


def main() -> None:
    options = _options()
    if options.task:
        _run_task(options.task, options.work, options.vocab_size)
        return
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        size = _prepare(options.text, work, 20.0 if options.quick else options.megabytes)
        print(f"{size / 1e6:.1f} MB of text, {CORES} cores, load {os.getloadavg()[0]:.1f}; versions: {_versions()}")
        for kind in options.only or ALL:
            for vocab_size in options.vocab_sizes if kind == "train" else options.vocab_sizes[-1:]:
                if kind != "train":
                    for needed in ("inkstone", "sentencepiece"):
                        if not (work / f"{needed}-{vocab_size}").exists():
                            _measure(f"train:{needed}", work, vocab_size, options.timeout)
                _table(kind, work, vocab_size, size, options)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, nargs="+", default=[], help="files or folders of text")
    parser.add_argument("--megabytes", type=float, default=80.0)
    parser.add_argument("--quick", action="store_true", help="20 MB")
    parser.add_argument("--only", choices=ALL, nargs="+")
    parser.add_argument("--vocab-sizes", type=int, nargs="+", default=[16_000, 64_000])
    parser.add_argument("--timeout", type=float, default=900.0, help="seconds after which a measurement is given up")
    parser.add_argument("--task", help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--vocab-size", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not options.text and not options.task:
        parser.error("--text names files or folders of text")
    return options


def _table(kind: str, work: Path, vocab_size: int, size: int, options: argparse.Namespace) -> None:
    print(
        f"\n{kind}, vocabulary {vocab_size}\n{'system':<24}{'s':>8}{'CPU-s':>8}{'MB/CPU-s':>10}{'MiB':>7}{'ours is':>9}"
    )
    ours = None
    for system in TASKS[kind]:
        found = _measure(f"{kind}:{system}", work, vocab_size, options.timeout)
        if isinstance(found, str):
            print(f"{system:<24}{found}")
            continue
        ours = ours or found
        ratio = f"{found['cpu'] / ours['cpu']:.2f}x"
        speed = size / 1e6 / found["cpu"]
        print(f"{system:<24}{found['wall']:>8.1f}{found['cpu']:>8.1f}{speed:>10.1f}{found['mib']:>7.0f}{ratio:>9}"
              f"  wall {found['wall'] / ours['wall']:.2f}x  {found['note']}", flush=True)  # fmt: skip


def _measure(task: str, work: Path, vocab_size: int, timeout: float) -> dict[str, float] | str:
    command = [sys.executable, __file__, "--task", task, "--work", str(work), "--vocab-size", str(vocab_size)]
    threads = "1" if task.startswith("encode") else str(CORES)
    environment = {**os.environ, "RAYON_NUM_THREADS": threads, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "true"}
    with (
        tempfile.TemporaryFile("w+") as said,
        subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT, text=True, env=environment) as process,
    ):
        cpu, mib = _watch(process, timeout)
        said.seek(0)
        lines = said.read().splitlines()
    if process.returncode:
        return f"failed: {lines[-1][:100]}" if process.returncode > 0 else f"more than {timeout:.0f} s"
    found = dict(json.loads(lines[-1]))
    return {**found, "cpu": cpu, "mib": mib} if task.startswith("stage") else found


def _watch(process: "subprocess.Popen[str]", timeout: float) -> tuple[float, float]:
    """CPU-seconds and peak MiB of a process and all that it starts, interpreter and imports included.

    Processes that are not waited for, as a fork server's, do not appear in the parent's own account.
    """
    import psutil

    seconds: dict[int, float] = {}
    peak, end = 0.0, time.monotonic() + timeout
    root = psutil.Process(process.pid)
    while process.poll() is None:
        total = 0.0
        for one in [root, *root.children(recursive=True)] if root.is_running() else []:
            try:
                times = one.cpu_times()
                seconds[one.pid] = times.user + times.system
                total += one.memory_info().rss
            except psutil.Error:
                continue
        peak = max(peak, total / 1024**2)
        if time.monotonic() > end:
            process.kill()
        time.sleep(0.05)
    return sum(seconds.values()), peak


def _run_task(task: str, work: Path, vocab_size: int) -> None:
    kind, system = task.split(":")
    prepare, run = {"train": _training, "encode": _encoding, "stage": _staging}[kind](system, work, vocab_size)
    prepared = prepare()
    before, started = cpu_seconds(), time.monotonic()
    note = run(prepared)
    facts = {"wall": time.monotonic() - started, "cpu": cpu_seconds() - before, "note": note or ""}
    peaks = [resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    print(json.dumps({**facts, "mib": max(peaks) / 1024}))


def _training(system: str, work: Path, size: int):  # type: ignore[no-untyped-def]
    output = work / f"{system}-{size}"

    def inkstone(_: object) -> None:
        from inkstone.progress import Silent
        from inkstone.tokenizer import TokenizerSettings, train_tokenizer

        output.mkdir(exist_ok=True)
        train_tokenizer(TokenizerSettings(vocab_size=size, sample_mb=1e6), work / "corpus", output, Silent())

    def sentencepiece(_: object) -> None:
        import sentencepiece

        output.mkdir(exist_ok=True)
        sentencepiece.SentencePieceTrainer.train(
            input=str(work / "lines.txt"), model_prefix=str(output / "sp"), model_type="bpe", vocab_size=size,
            character_coverage=0.9995 if size > 32_000 else 0.995, split_digits=True, byte_fallback=True,
            normalization_rule_name="identity", remove_extra_whitespaces=False, max_sentence_length=1 << 24,
            num_threads=CORES, minloglevel=2,
        )  # fmt: skip

    def tokenizers_(_: object) -> None:
        import tokenizers
        from tokenizers import models, pre_tokenizers, trainers

        from inkstone.tokenizer.bpe.pattern import pre_tokenizer

        backend = tokenizers.Tokenizer(models.BPE())
        metaspace = [pre_tokenizers.Metaspace(), pre_tokenizers.Digits(True), pre_tokenizers.UnicodeScripts()]
        backend.pre_tokenizer = pre_tokenizer() if "pattern" in system else pre_tokenizers.Sequence(metaspace)
        trainer = trainers.BpeTrainer(vocab_size=size, limit_alphabet=8000, max_token_length=17, show_progress=False)
        backend.train_from_iterator((text for batch in _read(work) for text in batch), trainer=trainer)

    return lambda: None, {"inkstone": inkstone, "sentencepiece": sentencepiece}.get(system, tokenizers_)


def _encoding(system: str, work: Path, size: int):  # type: ignore[no-untyped-def]
    def prepare() -> tuple[object, list[str]]:
        return _engine(system, work, size), [text for batch in _read(work) for text in batch]

    def run(prepared: tuple[object, list[str]]) -> str:
        engine, texts = prepared
        return f"{_encode_all(system, engine, texts):,} tokens"

    return prepare, run


def _staging(system: str, work: Path, size: int):  # type: ignore[no-untyped-def]
    output = work / f"stage-{system}"
    tokenizer = work / f"inkstone-{size}"

    def inkstone(_: object) -> str:
        from inkstone.progress import Silent
        from inkstone.tokenizer import TokensSettings, encode_corpus

        output.mkdir()
        facts = encode_corpus(TokensSettings(part_mb=10), work / "corpus", tokenizer, output, Silent())
        return f"{sum(split['tokens'] for split in facts['splits'].values()):,} tokens"  # type: ignore[attr-defined]

    def datatrove(_: object) -> None:
        from datatrove.executor import LocalPipelineExecutor
        from datatrove.pipeline.readers import ParquetReader
        from datatrove.pipeline.tokens import DocumentTokenizer

        pipeline = [
            ParquetReader(str(work / "corpus" / "train"), text_key="text", id_key="id"),
            DocumentTokenizer(
                str(output), str(tokenizer / "tokenizer.json"), eos_token="<|eos|>", shuffle_documents=False, seed=1
            ),
        ]
        LocalPipelineExecutor(pipeline, tasks=CORES, workers=CORES, logging_dir=str(work / "logs")).run()

    def batches(_: object) -> str:
        import numpy as np

        engine, total = _engine(system, work, size), 0
        with output.open("wb") as stream:
            for batch in _read(work):
                for ids in _encode_some(system, engine, batch, CORES):
                    stream.write(np.asarray(ids, dtype="<u2").tobytes())
                    total += len(ids)
        return f"{total:,} tokens"

    return lambda: None, {"inkstone": inkstone, "datatrove": datatrove}.get(system, batches)


def _engine(system: str, work: Path, size: int) -> object:
    if system == "sentencepiece":
        import sentencepiece

        return sentencepiece.SentencePieceProcessor(model_file=str(work / f"sentencepiece-{size}" / "sp.model"))
    if system == "tiktoken":
        return _tiktoken(work / f"inkstone-{size}")
    if system == "tokenizers":
        import tokenizers

        backend = tokenizers.Tokenizer.from_file(str(work / f"inkstone-{size}" / "tokenizer.json"))
        backend.encode_special_tokens = True
        return backend
    from inkstone.tokenizer import Tokenizer
    from inkstone.tokenizer.bpe.pattern import classes

    tokenizer = Tokenizer.load(work / f"inkstone-{size}")
    _ = tokenizer.encoder
    classes()
    return tokenizer


def _tiktoken(directory: Path) -> object:
    """Our pieces by rank, with the two-byte beginnings that a byte-level BPE needs on its way to a character."""
    import tiktoken

    from inkstone.tokenizer.bpe.pattern import PATTERN

    model = json.loads((directory / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    pieces = [bytes([value]) for value in range(256)]
    names = sorted(model["vocab"], key=model["vocab"].get)[272:]
    singles = [name.encode() for name in names if len(name) == 1]
    pieces += [single[:end] for single in singles for end in range(2, len(single) + 1)]
    pieces += [name.encode() for name in names if len(name) > 1]
    ranks = {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}
    return tiktoken.Encoding("ours", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={})


def _encode_all(system: str, engine, texts: list[str]) -> int:  # type: ignore[no-untyped-def]
    if system == "inkstone":
        return len(engine.encode_flat(texts)[0])
    step = 1024
    batches = (texts[first : first + step] for first in range(0, len(texts), step))
    return sum(len(ids) for batch in batches for ids in _encode_some(system, engine, batch, 1))


def _encode_some(system: str, engine, texts: list[str], threads: int) -> Sequence[Sequence[int]]:  # type: ignore[no-untyped-def]
    if system == "sentencepiece":
        return engine.encode(texts, num_threads=threads)
    if system == "tiktoken":
        return engine.encode_ordinary_batch(texts, num_threads=threads)
    return [found.ids for found in engine.encode_batch_fast(texts, add_special_tokens=False)]


def _read(work: Path) -> Iterator[list[str]]:
    import pyarrow.parquet as pq

    for path in sorted((work / "corpus" / "train").glob("*.parquet")):
        with pq.ParquetFile(path) as parquet:
            for batch in parquet.iter_batches(1024, columns=["text"]):
                yield batch.column(0).to_pylist()


def _prepare(inputs: list[Path], work: Path, megabytes: float) -> int:
    """A corpus of Parquet shards and the same text by lines: documents drawn evenly from all files."""
    import random

    import pyarrow as pa
    import pyarrow.parquet as pq

    from inkstone.corpus.read.files import find_files
    from inkstone.corpus.read.readers import read_batches

    rows = []
    for batch in read_batches(find_files(inputs), ["text", "modern", "classical"], 1e6):
        rows += list(zip(batch.ids, batch.texts, batch.sources, strict=True))
        for broken in batch.broken:
            row = json.loads(broken.text) if broken.rule == "no_text" else {}
            lines = [value for name in ("classical", "modern") if isinstance(value := row.get(name), list)]
            rows += [(f"{broken.id}:{place}", "\n".join(text), broken.source) for place, text in enumerate(lines)]
    random.Random(1).shuffle(rows)
    size = count = 0
    while count < len(rows) and size < megabytes * 1e6:
        size += len(rows[count][1].encode("utf-8"))
        count += 1
    rows = rows[:count]
    (work / "corpus" / "train").mkdir(parents=True)
    (work / "corpus" / "heldout").mkdir()
    for number in range(CORES):
        ids, texts, sources = (list(column) for column in zip(*rows[number::CORES], strict=True))
        table = pa.table({"id": ids, "text": texts, "source": sources, "lang": ["zh"] * len(ids)})
        path = work / "corpus" / "train" / f"part-{number:05d}.parquet"
        pq.write_table(table, path, compression="zstd", row_group_size=1024)
    with (work / "lines.txt").open("w", encoding="utf-8") as stream:
        for _, text, _ in rows:
            stream.write(text.replace("\r", " ").replace("\x00", " ") + "\n")
    return size


def _versions() -> str:
    from importlib.metadata import PackageNotFoundError, version

    found = []
    for name in ("tokenizers", "sentencepiece", "tiktoken", "datatrove", "numpy"):
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            found.append(f"{name} is missing")
    return ", ".join(found)


if __name__ == "__main__":
    main()
