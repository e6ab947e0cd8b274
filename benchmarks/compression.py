"""The compression table: our own 64 K vocabulary against the real ones, on text that its training did not see.

    python benchmarks/compression.py ../shared/data --work /some/directory

Five files of real text are measured: rows in order until 400,000 characters are passed, one document at a time. Ours
is trained without these five files (their kind of text unseen too), and with what follows the measured rows in them;
each time with the languages as they are, and with English counted four times. Prints tokens per character as a Markdown
table. Two cores: about six minutes.
"""

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from inkstone.progress import Silent
from inkstone.tokenizer import TokenizerSettings, train_tokenizer
from inkstone.tokenizer.compare import Measured, Text, compare, read_text

MEASURED = {
    "zh/wiki_cmrc2018": "zh wiki",
    "zh/novels_public_domain": "zh classic novels",
    "zh/python_docs_zh": "zh Python docs",
    "en/wiki_demo": "en wiki",
    "en/books_public_domain": "en books",
}
RIVALS = ("baichuan.gguf", "chatglm2.model", "falcon.gguf", "mpt.gguf", "llama-spm.gguf", "llama-bpe.gguf")
CHARACTERS = 400_000
# Name, whether training sees the rest of the measured files, how often English counts.
VARIANTS = (
    ("ours, files unseen", False, 1),
    ("ours, files unseen, English 4 times", False, 4),
    ("ours, rows unseen", True, 1),
    ("ours, rows unseen, English 4 times", True, 4),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="directory with pretrain/ and tokenizers/")
    parser.add_argument("--work", type=Path, required=True, help="where corpora and vocabularies are written")
    parser.add_argument("--vocab-size", type=int, default=64_000)
    options = parser.parse_args()
    paths = {name: options.data / "pretrain" / f"{name}.jsonl.zst" for name in MEASURED}
    texts = [text for path in paths.values() for text in read_text(path, CHARACTERS)]
    ours = []
    for name, rest, english in VARIANTS:
        output = options.work / name
        if not output.exists():
            corpus = options.work / f"corpus, {name}"
            for split, rows in (("train", training(options.data, rest, english)), ("heldout", iter([]))):
                write(corpus / split, rows)
            started = time.perf_counter(), time.process_time()
            train_tokenizer(TokenizerSettings(vocab_size=options.vocab_size, sample_mb=1000), corpus, output, Silent())
            spent = (now - then for now, then in zip((time.perf_counter(), time.process_time()), started, strict=True))
            print(name, "trained in {:.0f} s, {:.0f} CPU-seconds".format(*spent), flush=True)
        ours.append(output)
    show(compare([*ours, *(options.data / "tokenizers" / name for name in RIVALS)], texts), texts)


def training(data: Path, rest: bool, english: int) -> Iterator[tuple[str, str]]:
    """(text, language) of what is not measured, English `english` times.

    With `rest` also what follows the measured rows in their files.
    """
    for path in sorted((data / "pretrain").glob("*/*.jsonl.zst")):
        name = f"{path.parent.name}/{path.name.split('.')[0]}"
        if name in MEASURED and not rest:
            continue
        for text in read_text(path, fields=("text", "classical", "modern")):
            skipped = 0
            for document in text.documents:
                if name in MEASURED and skipped <= CHARACTERS:
                    skipped += len(document)
                else:
                    yield from [(document, text.lang)] * (english if text.lang == "en" else 1)


def write(folder: Path, rows: Iterator[tuple[str, str]]) -> None:
    """One Parquet file with the columns of a curated corpus that training reads."""
    folder.mkdir(parents=True, exist_ok=True)
    listed = list(rows)
    columns = {
        "id": [str(number) for number in range(len(listed))],
        "text": [text for text, _ in listed],
        "source": ["shared"] * len(listed),
        "lang": [lang for _, lang in listed],
    }
    table = pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()})
    pq.write_table(table, folder / "part-00000.parquet", row_group_size=1024)


def show(rows: list[Measured], texts: list[Text]) -> None:
    print("\n| | vocabulary |", *(f" {title} |" for title in MEASURED.values()), sep="")
    print("|---|---|", *("---|" for _ in texts), sep="")
    for name in dict.fromkeys(row.tokenizer for row in rows):
        mine = [row for row in rows if row.tokenizer == name]
        figures = " | ".join(f"{row.figures['tokens_per_character']:.3f}" for row in mine)
        print(f"| {name} | {mine[0].vocab_size:,} | {figures} |")


if __name__ == "__main__":
    main()
