"""Several tokenizers on the same texts: the rows of the compression table.

Texts are read as the corpus room reads them, in file order, until a number of characters is passed in each language;
every document is encoded by itself, as a tokenizer sees it in training.
"""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from inkstone.corpus.read.files import find_files
from inkstone.corpus.read.readers import read_batches
from inkstone.errors import InputError
from inkstone.tokenizer.study.alp import alp
from inkstone.tokenizer.study.compression import measure
from inkstone.tokenizer.tokenizer import Tokenizer

_MAX_DOCUMENT_MB = 1024.0


@dataclass(frozen=True)
class Text:
    """The documents of one language in one file or folder, and how many records of it could not be read."""

    name: str
    lang: str
    documents: list[str]
    broken: int

    @property
    def label(self) -> str:
        return f"{self.lang} {self.name}"


@dataclass(frozen=True)
class Measured:
    """What one tokenizer makes of one text; `figures` are those of `measure`, with alp and mb_per_second."""

    tokenizer: str
    vocab_size: int
    text: str
    lang: str
    figures: dict[str, float]


def read_text(path: Path, characters: int | None = None, fields: Sequence[str] = ("text",)) -> list[Text]:
    """The first documents of a file or folder until `characters` are passed, by language; `fields` hold their text.

    Raises InputError where there is no text.
    """
    found: dict[str, list[str]] = {}
    sizes: dict[str, int] = {}
    broken: list[str] = []
    for batch in read_batches(find_files([path]), list(fields), _MAX_DOCUMENT_MB):
        broken += [record.detail for record in batch.broken]
        for text, meta in zip(batch.texts, batch.metas, strict=True):
            lang = json.loads(meta).get("lang") or _language(text)
            if characters is None or sizes.get(lang, 0) <= characters:
                found.setdefault(lang, []).append(text)
                sizes[lang] = sizes.get(lang, 0) + len(text)
        if characters is not None and sizes and min(sizes.values()) > characters:
            break
    if not found:
        raise InputError(f"{path} holds no text to measure on{': ' + broken[0] if broken else ''}.")
    name = path.name.split(".")[0]
    return [Text(name, lang, documents, len(broken)) for lang, documents in sorted(found.items())]


def compare(
    tokenizers: Sequence[Path], texts: Sequence[Text], told: Callable[[str], None] = lambda _: None
) -> list[Measured]:
    """A row for every tokenizer and text, in their order; `told` hears what is measured next."""
    rows = []
    for path, name in zip(tokenizers, _names(tokenizers), strict=True):
        tokenizer = Tokenizer.load(path)
        for text in texts:
            told(f"{name} on {text.label}")
            figures = measure(tokenizer, [(text.documents, [text.lang] * len(text.documents))])[text.lang]
            figures["alp"] = round(alp(tokenizer, text.documents), 2)
            figures["mb_per_second"] = round(_speed(tokenizer, text.documents), 2)
            rows.append(Measured(name, tokenizer.vocab_size, text.name, text.lang, figures))
    return rows


def _speed(tokenizer: Tokenizer, documents: list[str]) -> float:
    """MB of UTF-8 encoded in a second, with all the threads the library takes."""
    size = sum(len(text.encode("utf-8")) for text in documents)
    started = time.perf_counter()
    tokenizer.encode_batch(documents)
    return size / 1e6 / max(time.perf_counter() - started, 1e-9)


def _language(text: str) -> str:
    """A guess where the file does not say: Chinese where Han characters are three of ten letters."""
    letters = [letter for letter in text if letter.isalpha()]
    han = sum("\u3400" <= letter <= "\u9fff" for letter in letters)
    return "zh" if han >= 0.3 * max(len(letters), 1) and han else "en"


def _names(paths: Sequence[Path]) -> list[str]:
    """Short names that differ: a file without its ending, a directory with its parent where two are called alike."""
    short = [path.resolve().name if path.is_dir() else path.stem for path in paths]
    twice = {name for name in short if short.count(name) > 1}
    return [
        f"{path.resolve().parent.name}/{path.name}" if name in twice else name
        for path, name in zip(paths, short, strict=True)
    ]
