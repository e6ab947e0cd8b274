"""Data-Juicer's filters and MinHash on the documents of `curate.py`, run by a Python of its own that has it.

    python -m venv DJ && DJ/bin/pip install py-data-juicer scipy ray aiohttp           # it needs more than it declares
    python benchmarks/curate.py --data DATA --mb 3 --data-juicer DJ/bin/python

rules     seven filters that need no download: lengths, letters, signs, repeated characters and words, longest lines
minhash   its near duplicates of documents: of characters (by default words between spaces, of which Chinese has none),
          the rest as it is by default: windows of five, 256 values

One process, offline; prints wall and CPU seconds from reading JSONL to written Parquet, after imports, as JSON.
"""

import contextlib
import json
import os
import resource
import sys
import time
from pathlib import Path

FILTERS = (
    "text_length", "character_repetition", "word_repetition", "special_characters", "alphanumeric",
    "average_line_length", "maximum_line_length",
)  # fmt: skip


def main(part: str, corpus: Path, output: Path) -> None:
    os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", HF_DATASETS_CACHE=str(output / "cache"))
    with contextlib.redirect_stdout(sys.stderr):
        import datasets
        from data_juicer.core.data import NestedDataset
        from data_juicer.ops import load_ops
        from loguru import logger

        logger.remove()
        chosen = {"document_minhash_deduplicator": {"tokenization": "character"}}
        if part == "rules":
            chosen = {f"{name}_filter": {} for name in FILTERS}
        operators = load_ops([{name: {"num_proc": 1, **given}} for name, given in chosen.items()])
        started, used = time.perf_counter(), _cpu_seconds()
        files = sorted(map(str, corpus.glob("*.jsonl")))
        rows = NestedDataset(datasets.load_dataset("json", data_files=files, split="train"))
        rows = rows.process(operators, work_dir=str(output / "work"), open_monitor=False)
        (output / "kept").mkdir()
        rows.to_parquet(str(output / "kept" / "part.parquet"))
    print(json.dumps({"wall": time.perf_counter() - started, "cpu": _cpu_seconds() - used}))


def _cpu_seconds() -> float:
    return sum(
        u.ru_utime + u.ru_stime for u in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
