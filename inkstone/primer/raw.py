"""The raw corpus: clean documents and dirt, shuffled into files of every format a crawl arrives in.

    raw/pages/0000.txt ...   one document per file, one of them in GBK
    raw/web.jsonl, web.jsonl.gz, web.jsonl.zst, encyclopedia.parquet, forum.csv
    labels.jsonl             beside raw/: {"file", "row", "kind", "lang"} for every document, to measure curation with

Some JSON Lines rows are broken or have no text. Files carry no timestamps, so the same seed gives the same bytes.
"""

import csv
import gzip
import json
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from inkstone.primer.dirt import makers
from inkstone.primer.documents import Writer
from inkstone.primer.language import Lang, Language

CLEAN_SHARE = 0.46
LANG_SHARE: dict[Lang, float] = {"zh": 0.52, "en": 0.48}
PAGES = 40  # .txt files
BROKEN_ROWS = 0.01  # of the rows of JSON Lines files
FILES = {"web.jsonl": 0.4, "web.jsonl.gz": 0.2, "web.jsonl.zst": 0.15, "encyclopedia.parquet": 0.15, "forum.csv": 0.1}


@dataclass(frozen=True)
class Page:
    """One raw document and what is wrong with it; `kind` is "clean" where nothing is."""

    text: str
    kind: str
    lang: str


@dataclass(frozen=True)
class Label:
    """Where a page went: `row` counts documents of the file from 0, a broken row included."""

    file: str
    row: int
    kind: str
    lang: str


def make_pages(languages: Sequence[Language], size: int, rng: random.Random) -> list[Page]:
    """About `size` bytes of pages, in random order."""
    writers = {language.code: Writer(language, rng) for language in languages}
    clean = {lang: writers[lang].write(round(size * CLEAN_SHARE * LANG_SHARE[lang])) for lang in LANG_SHARE}
    pages = [Page(text, "clean", lang) for lang, texts in clean.items() for text in texts]
    for kind, (share, make) in makers(writers, clean, rng).items():
        left = size * (1 - CLEAN_SHARE) * share
        while left > 0:
            lang = rng.choice(tuple(LANG_SHARE))
            pages.append(Page(make(lang), kind, {"mixed": "mixed", "full_width": "en"}.get(kind, lang)))
            left -= len(pages[-1].text.encode())
    rng.shuffle(pages)
    pages.insert(rng.randrange(PAGES), Page(writers["zh"].story(), "gbk", "zh"))
    return pages


def write_raw(pages: Sequence[Page], raw: Path, rng: random.Random) -> list[Label]:
    """Write the first pages as text files and share the others out among the table files."""
    (raw / "pages").mkdir(parents=True)
    labels = []
    for number, page in enumerate(pages[:PAGES]):
        name = f"pages/{number:04d}.txt"
        (raw / name).write_bytes(page.text.encode("gbk" if page.kind == "gbk" else "utf-8"))
        labels.append(Label(name, 0, page.kind, page.lang))
    start = PAGES
    for index, (name, share) in enumerate(FILES.items()):
        end = len(pages) if index == len(FILES) - 1 else start + round((len(pages) - PAGES) * share)
        labels += _write_table(raw, name, pages[start:end], rng)
        start = end
    return labels


def _write_table(raw: Path, name: str, pages: Sequence[Page], rng: random.Random) -> list[Label]:
    path = raw / name
    rows = [
        {"url": f"https://site{rng.randint(1, 40)}.example/{number}", "text": page.text}
        for number, page in enumerate(pages)
    ]
    labels = [Label(name, row, page.kind, page.lang) for row, page in enumerate(pages)]
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path, compression="zstd")
    elif path.suffix == ".csv":
        with path.open("w", encoding="utf-8", newline="") as stream:
            table = csv.DictWriter(stream, ["url", "text"], lineterminator="\n")
            table.writeheader()
            table.writerows(rows)
    else:
        lines, labels = _json_lines(rows, labels, rng)
        path.write_bytes(_compress(path.suffix, "".join(lines).encode()))
    return labels


def _json_lines(
    rows: Sequence[dict[str, str]], labels: Sequence[Label], rng: random.Random
) -> tuple[list[str], list[Label]]:
    """The rows as lines, with broken ones in between: cut off, without a text, with a text that is no string."""
    lines: list[str] = []
    marks: list[Label] = []
    for row, label in zip(rows, labels, strict=True):
        if rng.random() < BROKEN_ROWS:
            whole = json.dumps(row, ensure_ascii=False)
            kind, line = rng.choice(
                [
                    ("broken_json", whole[: len(whole) // 2]),
                    ("broken_json", "<html>502 Bad Gateway</html>"),
                    ("missing_text", json.dumps({"url": row["url"]})),
                    ("missing_text", json.dumps({"url": row["url"], "text": None})),
                    ("missing_text", json.dumps({"url": row["url"], "text": 404})),
                ]
            )
            marks.append(Label(label.file, len(lines), kind, ""))
            lines.append(line + "\n")
        marks.append(Label(label.file, len(lines), label.kind, label.lang))
        lines.append(json.dumps(row, ensure_ascii=False) + "\n")
    return lines, marks


def _compress(suffix: str, data: bytes) -> bytes:
    if suffix == ".gz":
        return gzip.compress(data, mtime=0)
    return zstandard.ZstdCompressor().compress(data) if suffix == ".zst" else data


def count_pages(pages: Sequence[Page]) -> dict[str, object]:
    """Documents and bytes, clean and per kind of dirt."""
    sizes: Counter[str] = Counter()
    for page in pages:
        sizes[page.kind] += len(page.text.encode())
    return {
        "documents": dict(sorted(Counter(page.kind for page in pages).items())),
        "bytes": dict(sorted(sizes.items())),
        "bytes_total": sum(sizes.values()),
        "clean_share": round(sizes["clean"] / sum(sizes.values()), 4),
    }
