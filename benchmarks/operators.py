"""What each operator of the corpus room costs on one core, and what becomes of a labelled mixture of dirt.

    python benchmarks/operators.py --data DIR [--megabytes 80] [--substrings]

DIR is a folder with pretrain/*/*.jsonl.zst and raw/dirty_labelled.jsonl.gz. CPU-seconds count, not wall time. With
--substrings only what each pass of curation costs in time and disk, with repeated substrings looked for.
curate.py has the comparison with datatrove.
"""

import argparse
import gzip
import json
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from inkstone.corpus import CorpusSettings, Workers, curate
from inkstone.corpus.judge.benchmarks import find_contamination, load_benchmarks
from inkstone.corpus.judge.kernel import flatten, tokenize
from inkstone.corpus.judge.measures import measure
from inkstone.corpus.judge.operators import operate
from inkstone.corpus.judge.private import mask
from inkstone.corpus.judge.quality import train
from inkstone.corpus.judge.repair import repair
from inkstone.corpus.judge.resources import Models
from inkstone.corpus.judge.rules import judge
from inkstone.corpus.read.readers import BATCH_CHARACTERS, Batch
from inkstone.corpus.run import kept_tasks
from inkstone.progress import Silent


def documents(data: Path, megabytes: float) -> list[tuple[str, str]]:
    """(language folder, text), file by file in turn until there are enough."""
    files = [_texts(path) for path in sorted(data.glob("pretrain/*/*.jsonl.zst"))]
    found, size = [], 0.0
    for number in range(max(len(texts) for _, texts in files)):
        for lang, texts in files:
            if number < len(texts) and size < megabytes * 1e6:
                found.append((lang, texts[number]))
                size += len(texts[number].encode())
    return found


def _texts(path: Path) -> tuple[str, list[str]]:
    text = zstandard.ZstdDecompressor().stream_reader(path.read_bytes()).read().decode()
    rows = (json.loads(line) for line in text.split("\n") if line)
    return path.parent.name, [row["text"] for row in rows if "text" in row]


def batches(texts: list[str]) -> list[pa.StringArray]:
    cut: list[list[str]] = [[]]
    size = 0
    for text in texts:
        cut[-1].append(text)
        size += len(text)
        if size >= BATCH_CHARACTERS:
            cut.append([])
            size = 0
    return [pa.array(part, pa.string()) for part in cut if part]


def speeds(texts: list[str], data: Path) -> None:
    megabytes = sum(len(text.encode()) for text in texts) / 1e6
    parts, seconds, settings = batches(texts), Counter[str](), CorpusSettings()

    def timed(name: str, work: Callable[..., Any], *arguments: Any) -> Any:
        started = time.process_time()
        result = work(*arguments)
        seconds[name] += time.process_time() - started
        return result

    half = len(texts) // 2
    model = timed("quality: train on 2 x 3000 documents", train, texts[: min(half, 3000)], texts[-min(half, 3000) :])
    index = load_benchmarks([str(data / "eval/cmmlu/test.jsonl.gz"), str(data / "eval/mmlu/test.jsonl.gz")])
    assert index is not None
    for part in parts[:3]:
        measure(flatten(part), tokenize(flatten(part)))  # tables are built once
    for part in parts:
        fixed, _ = timed("repair", repair, part)
        timed("private data", mask, fixed, settings.pii)
        flat = timed("flatten", flatten, fixed)
        tokens = timed("tokens", tokenize, flat)
        measures = timed("measures of the rules", measure, flat, tokens)
        timed("judge", judge, settings, measures, tokens)
        timed("decontamination", find_contamination, tokens, index)
        timed("quality: score", model.score, tokens)
        timed("quality: perplexity", model.perplexity, tokens)
        rows = part.to_pylist()
        batch = Batch(["s:f:1"] * len(rows), rows, ["s"] * len(rows), ["{}"] * len(rows))
        timed("all operators, default settings", operate, batch, settings, Models())
    print(f"{megabytes:.1f} MB, {len(texts)} documents, one core")
    for name, spent in seconds.items():
        shown = f"{megabytes / spent:7.1f} MB/s" if "train" not in name else ""
        print(f"  {name:40} {spent:7.2f} CPU-s {shown}")
    rules = sum(seconds[name] for name in ("flatten", "tokens", "measures of the rules", "judge"))
    print(f"  {'rules = flatten + tokens + measures + judge':40} {rules:5.2f} CPU-s {megabytes / rules:7.1f} MB/s")


def substrings(data: Path) -> None:
    """CPU-seconds and disk of every pass, with runs of 50 tokens looked for."""
    seconds, size, run = Counter[str](), Counter[str](), kept_tasks._task

    def timed(work: kept_tasks.Work, argument: object, place: Path, key: str) -> None:
        started = time.process_time()
        run(work, argument, place, key)
        seconds[place.parent.name] += time.process_time() - started
        size[place.parent.name] += sum(path.stat().st_size for path in place.rglob("*") if path.is_file())

    kept_tasks._task = timed  # type: ignore[assignment]
    settings = CorpusSettings.model_validate({"substrings": {"min_tokens": 50}})
    for lang in ("en", "zh"):
        seconds.clear()
        size.clear()
        with tempfile.TemporaryDirectory() as folder:
            curate(settings, [data / "pretrain" / lang], Path(folder), Silent(), workers=Workers(1))
            report = json.loads((Path(folder) / "report.json").read_text("utf-8"))
        megabytes = report["steps"][0]["bytes_in"] / 1e6
        found = next(rule for rule in report["rules"] if rule["rule"] == "repeated_substring")
        share = found["characters"] / report["characters_in"]
        print(f"{lang}, {megabytes:.1f} MB: {found['count']} runs, {share:.2%} of the characters")
        for name, spent in seconds.items():
            print(f"  {name:10} {spent:6.2f} CPU-s {size[name] / 1e6 / megabytes:6.3f} MB per MB")


def mixture(data: Path) -> None:
    """What becomes of every kind of the labelled mixture."""
    with gzip.open(data / "raw/dirty_labelled.jsonl.gz", "rt", encoding="utf-8") as lines:
        kinds = [json.loads(line)["kind"] for line in lines]
    benchmarks = [str(data / "eval" / name) for name in ("cmmlu/test.jsonl.gz", "gsm8k/test.jsonl.gz")]
    with tempfile.TemporaryDirectory() as folder:
        curate(CorpusSettings(decontaminate=benchmarks), [data / "raw/dirty_labelled.jsonl.gz"], Path(folder), Silent())
        audit = pq.read_table(Path(folder) / "audit", filters=[("level", "==", "document")]).to_pylist()
    rules: dict[str, Counter[str]] = {kind: Counter() for kind in sorted(set(kinds))}
    for row in audit:
        rules[kinds[int(row["id"].rsplit(":", 1)[1]) - 1]][row["rule"]] += 1
    total = Counter(kinds)
    for kind, counts in rules.items():
        most = ", ".join(f"{rule} {count}" for rule, count in counts.most_common(4))
        print(f"  {kind:18} {total[kind]:5} documents, {sum(counts.values()):4} removed: {most}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--megabytes", type=float, default=80)
    parser.add_argument("--substrings", action="store_true", help="only the passes of curation, with substrings")
    given = parser.parse_args()
    if given.substrings:
        substrings(given.data)
    else:
        speeds([text for _, text in documents(given.data, given.megabytes)], given.data)
        mixture(given.data)
