"""The compression table: our own 64 K vocabulary against the real ones, on text that its training did not see.

    python benchmarks/compression.py ../shared/data --work /some/directory
    python benchmarks/compression.py ../shared/data --work /some/directory --validate      # how the weights were chosen

Five files of real text are measured: rows in order until 400,000 characters are passed, one document at a time. Ours
is trained without these five files (their kind of text unseen too), and with what follows the measured rows in them;
each time with the text as it comes, and with weights. Prints tokens per character as a Markdown table.

The weights come from a rule with three numbers: the share of Chinese, the power of a file's length, the power of a
word's count. They were chosen without the five files: `--validate` leaves out one English and one Chinese file after
the other and trains on the rest; the rule with the largest mean margin over Baichuan's vocabulary on the six files left
out is taken. Two cores: about four minutes, and a minute and a half per line of --validate.
"""

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from inkstone.progress import Silent
from inkstone.tokenizer import TokenizerSettings, train_tokenizer
from inkstone.tokenizer.study.compare import Measured, Text, compare, read_text

MEASURED = {
    "zh/wiki_cmrc2018": "zh wiki",
    "zh/novels_public_domain": "zh classic novels",
    "zh/python_docs_zh": "zh Python docs",
    "en/wiki_demo": "en wiki",
    "en/books_public_domain": "en books",
}
RIVALS = ("baichuan.gguf", "chatglm2.model", "falcon.gguf", "mpt.gguf", "llama-spm.gguf", "llama-bpe.gguf")
CHARACTERS = 400_000
LEFT_OUT = (
    ("en/c4_demo", "zh/oi_wiki"),
    ("en/wikitext2_valid", "zh/wiki_drcd_traditional"),
    ("en/us_speeches", "zh/howtocook"),
)


@dataclass(frozen=True)
class Rule:
    """Chinese counts `chinese` of all; within a language a file counts its characters ** length; words n ** count."""

    chinese: float
    length: float
    count: float


CHOSEN = Rule(0.3, 0.25, 0.45)
TRIED = (
    Rule(0.5, 0.5, 1.0), Rule(0.3, 0.5, 1.0), Rule(0.15, 0.5, 1.0), Rule(0.3, 0.5, 0.6), Rule(0.15, 0.5, 0.6),
    Rule(0.3, 0.5, 0.3), Rule(0.3, 0.25, 0.6), Rule(0.3, 0.25, 0.3), CHOSEN,
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="directory with pretrain/ and tokenizers/")
    parser.add_argument("--work", type=Path, required=True, help="where corpora and vocabularies are written")
    parser.add_argument("--vocab-size", type=int, default=64_000)
    parser.add_argument("--validate", action="store_true", help="try the rules on files that are left out in turns")
    options = parser.parse_args()
    if options.validate:
        validate(options)
        return
    texts = [text for name in MEASURED for text in read_text(path_of(options.data, name), CHARACTERS)]
    ours = [
        learned(f"ours, {seen} unseen", how, options, seen == "rows", set(MEASURED), rule)
        for seen in ("files", "rows")
        for how, rule in (("as it comes", None), ("weighted", CHOSEN))
    ]
    show(compare([*ours, *(options.data / "tokenizers" / name for name in RIVALS)], texts), texts)


def validate(options: argparse.Namespace) -> None:
    """Tokens per character relative to Baichuan's on files left out of training, for every rule."""
    rival = options.data / "tokenizers/baichuan.gguf"
    print("| zh share | length ** | count ** |", *(f" {name} |" for pair in LEFT_OUT for name in pair), sep="")
    print("|---|---|---|", "---|" * (2 * len(LEFT_OUT)), sep="")
    for rule in TRIED:
        cells = []
        for number, pair in enumerate(LEFT_OUT):
            texts = [text for name in pair for text in read_text(path_of(options.data, name), CHARACTERS)]
            how = f"{rule.chinese} {rule.length} {rule.count}"
            output = learned(f"left out {number}", how, options, False, {*MEASURED, *pair}, rule)
            rows = compare([output, rival], texts)
            rates = [float(str(row.figures["tokens_per_character"])) for row in rows]
            cells += [rates[place] / rates[place + len(texts)] - 1 for place in range(len(texts))]
        shown = " | ".join(f"{cell:+.1%}" for cell in cells)
        print(f"| {rule.chinese} | {rule.length} | {rule.count} | {shown} |", flush=True)


def learned(name: str, how: str, options: argparse.Namespace, rest: bool, held: set[str], rule: Rule | None) -> Path:
    """Train a vocabulary on all but the `held` files, or all but their first rows, unless it is there already."""
    output: Path = options.work / f"{name}, {how}"
    if output.exists():
        return output
    corpus = options.work / f"corpus, {name}"
    sizes = write_corpus(corpus, options.data, rest, held)
    weights = None
    if rule is not None:
        weights = options.work / f"{output.name}.json"
        weights.write_text(json.dumps({"weights": weights_of(rule, sizes)}))
    settings = TokenizerSettings(
        vocab_size=options.vocab_size, sample_mb=1000, measure_mb=0.1, count_power=rule.count if rule else 1.0
    )
    started = time.perf_counter(), time.process_time()
    train_tokenizer(settings, corpus, output, Silent(), weights)
    spent = (now - then for now, then in zip((time.perf_counter(), time.process_time()), started, strict=True))
    if not options.validate:
        print(output.name, "trained in {:.0f} s, {:.0f} CPU-seconds".format(*spent), flush=True)
    return output


def weights_of(rule: Rule, sizes: dict[str, int]) -> dict[str, float]:
    """What every file counts, from its characters."""
    powers = {name: size**rule.length for name, size in sizes.items()}
    shares = {"zh": rule.chinese, "en": 1 - rule.chinese}
    totals = {lang: sum(power for name, power in powers.items() if name.startswith(lang)) for lang in shares}
    return {name: power / totals[name[:2]] * shares[name[:2]] for name, power in powers.items()}


def write_corpus(folder: Path, data: Path, rest: bool, held: set[str]) -> dict[str, int]:
    """A curated corpus of all files but the `held` ones, or with what follows their first rows; characters of each."""
    sizes: dict[str, int] = {}
    for path in sorted((data / "pretrain").glob("*/*.jsonl.zst")):
        name = f"{path.parent.name}/{path.name.split('.')[0]}"
        if rest or name not in held:
            rows = list(rows_of(path, CHARACTERS if name in held else -1))
            sizes[name] = sum(map(len, rows))
            write(folder / "train" / f"{path.parent.name}-{path.name.split('.')[0]}.parquet", name, rows)
    write(folder / "heldout" / "none.parquet", "zh/none", [])
    return sizes


def rows_of(path: Path, skip: int) -> Iterator[str]:
    """Documents behind the first `skip` characters."""
    for text in read_text(path, fields=("text", "classical", "modern")):
        for document in text.documents:
            if skip >= 0:
                skip -= len(document)
            else:
                yield document


def write(path: Path, name: str, rows: Sequence[str]) -> None:
    """One Parquet file with the columns of a curated corpus that training reads."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lang, source = name.split("/")
    ids = [f"{name}-{number}" for number in range(len(rows))]
    columns = {"id": ids, "text": rows, "source": [source] * len(rows), "lang": [lang] * len(rows)}
    table = pa.table({key: pa.array(values, pa.string()) for key, values in columns.items()})
    pq.write_table(table, path, row_group_size=1024)


def path_of(data: Path, name: str) -> Path:
    return data / "pretrain" / f"{name}.jsonl.zst"


def show(rows: list[Measured], texts: list[Text]) -> None:
    print("\n| | vocabulary |", *(f" {title} |" for title in MEASURED.values()), sep="")
    print("|---|---|", *("---|" for _ in texts), sep="")
    for name in dict.fromkeys(row.tokenizer for row in rows):
        mine = [row for row in rows if row.tokenizer == name]
        figures = " | ".join(f"{row.figures['tokens_per_character']:.4f}" for row in mine)
        print(f"| {name} | {mine[0].vocab_size:,} | {figures} |")


if __name__ == "__main__":
    main()
