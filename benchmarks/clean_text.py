"""What curation takes away from clean text: from the collections its limits were set on, and from others.

    python benchmarks/clean_text.py --data DIR [--only NAME] [--also FOLDER] [--keep OUT]

DIR is a folder with pretrain/, sft/, eval/ (as in docs/corpus.md). Every collection goes through the whole stage by
itself with default settings. The limits of the rules were looked at on pretrain/ except the bitext; nobody had looked
at the others when they were first measured. With --keep the corpora stay, to be read with `inkstone curate audit`.
"""

import argparse
import io
import json
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from inkstone.corpus import CorpusSettings, curate
from inkstone.corpus.read.files import open_bytes
from inkstone.errors import InputError
from inkstone.progress import Silent

HELD_OUT = {  # file, and the fields that make up a document; the rows of a passage that several questions share are one
    "classical books (bitext)": ("pretrain/zh/classical_modern_bitext.jsonl.zst", ["classical"]),
    "their modern translations": ("pretrain/zh/classical_modern_bitext.jsonl.zst", ["modern"]),
    "Wikipedia passages (BoolQ)": ("eval/en_extra/boolq.jsonl.gz", ["query"]),
    "novels' passages (LAMBADA)": ("eval/en_extra/lambada_openai.jsonl.gz", ["context"]),
    "GSM8K with solutions": ("eval/gsm8k/train.jsonl.gz", ["question", "answer"]),
    "gaokao questions with answers": ("eval/gaokao_bench/subjective.jsonl.gz", ["question", "answer"]),
    "gaokao multiple choice": ("eval/gaokao_bench/objective.jsonl.gz", ["question"]),
    "AGIEval passages": ("eval/agieval/*.jsonl.gz", ["passage"]),
    "code (HumanEval)": ("eval/humaneval/HumanEval.jsonl.gz", ["prompt", "canonical_solution"]),
    "Alpaca, en": ("sft/alpaca_en_15k.jsonl.gz", ["instruction", "input", "output"]),
    "Alpaca, zh": ("sft/alpaca_zh_14k.jsonl.gz", ["instruction", "input", "output"]),
    "LIMA": ("sft/lima.jsonl.gz", ["instruction", "input", "output"]),
    "Open Assistant, zh": ("sft/oasst1_zh_sft.jsonl.gz", ["instruction", "input", "output"]),
    "ShareGPT, zh": ("sft/sharegpt_zh_1k.jsonl.gz", ["conversations"]),
    "MOSS": ("sft/moss_multiturn.jsonl.gz", ["messages"]),
    "KdConv dialogues, zh": ("sft/kdconv_multiturn_zh.jsonl.gz", ["messages"]),
}


def collections(data: Path, also: list[Path]) -> Iterator[tuple[str, list[str]]]:
    """Name and documents of every collection."""
    for path in sorted(data.glob("pretrain/*/*.jsonl.zst")):
        if "bitext" not in path.name:
            yield path.name.split(".")[0], documents([path], ["text"])
    for name, (glob, fields) in HELD_OUT.items():
        yield name, documents(sorted(data.glob(glob)), fields)
    for folder in also:
        texts = [path.read_text("utf-8", errors="ignore") for path in sorted(folder.rglob("*")) if path.is_file()]
        yield folder.name, texts


def documents(paths: list[Path], fields: list[str]) -> list[str]:
    texts = []
    for path in paths:
        with open_bytes(path) as stream, io.TextIOWrapper(stream, encoding="utf-8") as lines:
            texts += ["\n\n".join(filter(None, (_text(row.get(field)) for field in fields)))
                      for row in map(json.loads, lines)]  # fmt: skip
    return list(dict.fromkeys(filter(None, texts)))


def _text(value: Any) -> str:
    """A field, or the turns of a conversation as paragraphs."""
    if isinstance(value, list):
        turns = [turn if isinstance(turn, str) else turn.get("content") or turn.get("value") or "" for turn in value]
        return "\n\n".join(turns)
    return value or ""


def measure(name: str, texts: list[str], folder: Path) -> str:
    """One row of the table."""
    file, out = folder / "collection.jsonl", folder / "out"
    file.write_text("".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts), "utf-8")
    out.mkdir()
    try:
        curate(CorpusSettings(), [file], out, Silent())
    except InputError as error:
        return f"| {name} | {len(texts)} | {error} |"
    audit = pq.read_table(out / "audit", columns=["level", "rule"])
    removed = {level: Counter(audit.filter(pc.field("level") == level)["rule"].to_pylist())
               for level in ("document", "line", "sentence")}  # fmt: skip
    kept = [pq.read_table(out / split, columns=["text"])["text"] for split in ("train", "heldout")]
    left, characters = sum(map(len, kept)), sum(pc.sum(pc.utf8_length(part)).as_py() or 0 for part in kept)
    copies = sum(count for rule, count in removed["document"].items() if "duplicate" in rule)
    rules = Counter({rule: count for rule, count in removed["document"].items() if "duplicate" not in rule})
    most = ", ".join(f"{rule} {count}" for rule, count in rules.most_common(4))
    return (
        f"| {name} | {len(texts)} | {rules.total()} ({100 * rules.total() / len(texts):.2f} %) | {copies} | "
        f"{removed['line'].total()} + {removed['sentence'].total()} | {100 * left / len(texts):.1f} % | "
        f"{100 * characters / max(sum(map(len, texts)), 1):.1f} % | {most} |"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--only", default="", help="collections whose name holds this")
    parser.add_argument("--also", type=Path, action="append", default=[], help="a folder of text files more")
    parser.add_argument("--keep", type=Path, help="where the curated corpora stay")
    given = parser.parse_args()
    print(
        "| collection | documents | rules | duplicates | lines + sentences | documents stay | characters stay | rules |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for number, (title, found) in enumerate(collections(given.data, given.also)):
        if given.only in title:
            with tempfile.TemporaryDirectory() as scratch:
                place = given.keep / f"{number:02d}" if given.keep else Path(scratch)
                place.mkdir(parents=True, exist_ok=True)
                print(measure(title, found, place), flush=True)
