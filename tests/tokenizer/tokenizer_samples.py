"""A small bilingual corpus in the corpus stage's format."""

import random
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from inkstone.tokenizer.bpe.words import Words

CHINESE = [
    "山高水长，",
    "明月照我还。",
    "春风又绿江南岸，",
    "天下大事必作于细。",
    "学而时习之，不亦说乎？",
    "共 1234 人。",
]
ENGLISH = [
    "the river runs to the sea, ",
    "don't stop reading. ",
    "In 2024 it's late; ",
    "    return value\n",
    "x = 10\n\n",
]


def write_split(corpus: Path, split: str, rows: list[tuple[str, str, str, str]]) -> None:
    """Write rows of (id, text, source, lang) as one Parquet file of a split."""
    (corpus / split).mkdir(parents=True, exist_ok=True)
    columns = {
        name: pa.array([row[place] for row in rows], pa.string())
        for place, name in enumerate(("id", "text", "source", "lang"))
    }
    table = pa.table(
        {**columns, "quality": pa.nulls(len(rows), pa.float32()), "meta": pa.array(["{}"] * len(rows), pa.string())}
    )
    pq.write_table(table, corpus / split / "part-00000.parquet", row_group_size=64)


def make_rows(count: int, seed: int) -> list[tuple[str, str, str, str]]:
    draw = random.Random(seed)
    rows = []
    for number in range(count):
        lang, sentences = draw.choice([("zh", CHINESE), ("en", ENGLISH)])
        text = "".join(draw.choice(sentences) for _ in range(draw.randint(1, 12)))
        rows.append((f"doc-{seed}-{number}", text, f"books-{lang}", lang))
    return rows


def texts_of(words: Words) -> list[str]:
    """The words as strings."""
    text = words.points.tobytes().decode("utf-32-le")
    return [text[first:last] for first, last in pairwise(words.starts.tolist())]
