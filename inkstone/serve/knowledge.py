"""Private knowledge: files cut into passages, those for a question found by BM25, and put before the model.

    knowledge = Knowledge(store)
    knowledge.keep(1, "manual.md", content)            # the bytes of an upload
    hits = knowledge.search(1, "保修多久？", 5)
    messages, hits = ground(loaded, messages, hits, None)

BM25 (Robertson and Zaragoza 2009) counts Chinese characters, alone and by two, and lower-cased words and numbers, so no
segmenter and no second model is needed. Passages are kept in the console's database; the index of a collection is made
from them at the first search after a change.
"""

import io
import json
import math
import re
import threading
import unicodedata
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inkstone.chat import Message, encode_chat
from inkstone.compressed import DAMAGE, SUFFIXES, uncompressed
from inkstone.corpus.read.encoding import SAMPLE, choose_encoding
from inkstone.errors import InputError
from inkstone.serve.guard import Refused
from inkstone.serve.models import Loaded
from inkstone.serve.store import Store

Row = dict[str, Any]
MAX_BYTES, MAX_PASSAGES = 32 * 2**20, 100_000  # of a file, also unpacked
K1, B = 1.2, 0.75
_KEPT = 8  # indexes in memory
WIDTH = 800
"""Of a passage; a Chinese character is as wide as 8/3 others, so that is about 300 of them."""
_SHORT = 40
"""Of a question that may say little without the one before it."""
KINDS = "txt|md|markdown|jsonl", ".txt, .md or .jsonl (save the text of a PDF or a Word file so)"
_HAN = "\u3400-\u9fff\uf900-\ufaff\U00020000-\U000323af"
_ONE_HAN, _RUN = re.compile(f"[{_HAN}]"), re.compile(rf"[{_HAN}]+|[^\W_{_HAN}]+")
_SENTENCE_END = re.compile(r"(?<=[。！？；!?])|(?<=\. )")
_EMPTY = (
    "a an and are as at be by can do does for from had has have how i if in is it its my of on or our that the their "
    "there this to was we were what when where which who why will with you your 的 了 吗 呢 是 什 么 怎 什么 怎么"
)
"""Words of a question that say nothing of what it is about, though few passages may have them."""
_FRAMES = {
    "zh": (
        "请根据以下资料回答问题，并用 [1]、[2] 这样的编号注明出处；资料中没有答案时，请直接说明。",
        "资料：",
        "问题：",
    ),
    "en": (
        "Answer the question from the passages below, and name the ones you use by their numbers, such as [1]. "
        "Where they do not hold the answer, say so.",
        "Passages:",
        "Question: ",
    ),
}


def read_passages(name: str, content: bytes) -> list[tuple[int, str]]:
    """The passages of a file, each with the line it begins in. Raises InputError and Refused in words."""
    stem, _, last = name.rpartition(".")
    if f".{last}" in SUFFIXES:
        try:
            with uncompressed(io.BytesIO(content), f".{last}") as stream:
                content = stream.read(MAX_BYTES + 1)
        except (OSError, *DAMAGE) as error:
            raise InputError(f"{name} is damaged and cannot be unpacked ({error})") from error
        last = stem.rpartition(".")[2]
    if len(content) > MAX_BYTES:
        raise Refused(413, f"{name} has more than {MAX_BYTES // 2**20} MiB of text: split it")
    try:
        encoding = choose_encoding(content[:SAMPLE], len(content) <= SAMPLE) or "utf-8"
        text = content.decode("utf-8-sig" if encoding == "utf-8" else encoding)
    except UnicodeDecodeError as error:
        raise InputError(f"{name} cannot be read as text ({error}): save it as UTF-8") from error
    if "\0" in text:
        raise InputError(f"{name} is not a text: its bytes are those of another kind of file")
    passages = list(_rows(name, text)) if last == "jsonl" else cut(text)
    if not 0 < len(passages) <= MAX_PASSAGES:
        few = f"{name} holds no text" if not passages else f"{name} has more than {MAX_PASSAGES} passages: split it"
        raise InputError(few)
    return passages


def _rows(name: str, text: str) -> Iterator[tuple[int, str]]:
    """Passages of rows of JSON: each row's texts are a document of their own."""
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                values = [value for value in json.loads(line).values() if isinstance(value, str)]
            except (ValueError, AttributeError, RecursionError) as error:
                raise InputError(f"line {number} of {name} is not a JSON object") from error
            # An escape may name half a character, or none.
            document = "\n".join(values).replace("\0", " ").encode("utf-8", "replace").decode()
            for _, passage in cut(document):
                yield number, passage


def width(text: str) -> float:
    """How long a text is, where Chinese says more with fewer characters."""
    return len(text) + len(_ONE_HAN.findall(text)) * 5 / 3


def cut(text: str) -> list[tuple[int, str]]:
    """Passages of at most WIDTH, each with the line it begins in.

    Paragraphs stay whole where they fit, and short ones come together. A passage begins with the last paragraph of the
    one before it where that is short; inside a paragraph, which is only cut at the ends of its sentences, nothing is
    said twice.
    """
    found: list[tuple[int, str]] = []
    now: list[tuple[int, str, float]] = []
    for line, piece, whole in _paragraphs(text):
        size = width(piece) + 1
        if now and sum(one[2] for one in now) + size > WIDTH + 1:
            found.append((now[0][0], "\n".join(one[1] for one in now)))
            shared = now[-1:] if whole and len(now) > 1 and now[-1][2] <= WIDTH / 4 else []
            now = shared if sum(one[2] for one in shared) + size <= WIDTH + 1 else []
        now.append((line, piece, size))
    return [*found, (now[0][0], "\n".join(one[1] for one in now))] if now else found


def _paragraphs(text: str) -> Iterator[tuple[int, str, bool]]:
    """(line, text, whether it begins a paragraph), none wider than WIDTH: paragraphs between blank lines, else lines,
    else sentences, else parts of them."""
    blocks: list[tuple[int, list[str]]] = []
    blank = True
    for number, line in enumerate(text.replace("\r\n", "\n").replace("\r", "\n").split("\n"), 1):
        if line.strip() and blank:
            blocks.append((number, []))
        if line.strip():
            blocks[-1][1].append(line.strip())
        blank = not line.strip()
    for number, lines in blocks:
        if width("\n".join(lines)) <= WIDTH:
            yield number, "\n".join(lines), True
            continue
        for place, line in enumerate(lines, number):
            yield from ((place, part, first) for part, first in _sentences(line))


def _sentences(line: str) -> Iterator[tuple[str, bool]]:
    """Sentences of a line, as many together as fit, and whether they are its beginning."""
    step, first, part, size = WIDTH * 3 // 8, True, "", 0.0
    for sentence in _SENTENCE_END.split(line):
        pieces = [sentence]
        if width(sentence) > WIDTH:
            pieces = [sentence[place : place + step] for place in range(0, len(sentence), step)]
        for piece in pieces:
            if part and size + width(piece) > WIDTH:
                yield part.strip(), first
                first, part, size = False, "", 0.0
            part, size = part + piece, size + width(piece)
    if part.strip():
        yield part.strip(), first


def terms(text: str) -> list[str]:
    """What is counted: Chinese characters alone and by two, lower-cased words and numbers."""
    found: list[str] = []
    for run in _RUN.findall(unicodedata.normalize("NFKC", text).lower()):
        found += [*run, *map("".join, pairwise(run))] if _ONE_HAN.match(run) else [run]
    return found


class Bm25:
    """An index of texts: for each term the texts that have it and how often."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.postings: dict[str, array[int]] = {}
        lengths = np.zeros(len(texts))
        for number, text in enumerate(texts):
            counts = Counter(terms(text))
            lengths[number] = counts.total()
            for term, count in counts.items():
                self.postings.setdefault(term, array("I")).extend((number, count))
        mean = lengths.mean() if lengths.any() else 1.0
        self.norm = K1 * (1 - B + B * lengths / mean)

    def scores(self, query: Sequence[str]) -> NDArray[np.float64]:
        """Of every text: the sum over the different terms of idf f (k1 + 1) / (f + k1 (1 - b + b length / mean))."""
        scores = np.zeros(len(self.norm))
        for term in dict.fromkeys(query):
            numbers, counts = np.array(self.postings.get(term, ()), np.int64).reshape(-1, 2).T
            idf = math.log(1 + (len(self.norm) - len(numbers) + 0.5) / (len(numbers) + 0.5))
            scores[numbers] += idf * counts * (K1 + 1) / (counts + self.norm[numbers])
        return scores


class Knowledge:
    """The collections of a database, with the indexes of those that were last searched."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._indexes: dict[int, tuple[float, list[int], Bm25]] = {}  # the last searched at the end
        self._lock = threading.Lock()

    def keep(self, collection: int, name: str, content: bytes) -> Row:
        """Cut an uploaded file and keep its passages, in the place of what the file held before."""
        passages = read_passages(name, content)
        self.store.keep_file(collection, name, passages)
        return {"name": name, "passages": len(passages)}

    def search(self, collection: int, query: str, top: int) -> list[Row]:
        """The best passages for a question, with their score. Raises Absent for a collection that is not there."""
        changed = self.store.row("collections", collection)["changed"]
        with self._lock:
            known = self._indexes.pop(collection, None)
        if known is None or known[0] != changed:
            rows = self.store.passages(collection)
            known = changed, [row["id"] for row in rows], Bm25([row["text"] for row in rows])
        with self._lock:
            self._indexes = dict([*self._indexes.items(), (collection, known)][-_KEPT:])
        asked = terms(query)
        scores = known[2].scores([term for term in asked if term not in _EMPTY.split()] or asked)
        best = [int(place) for place in np.argsort(-scores, kind="stable")[:top] if scores[place] > 0]
        found = [self.store.row("passages", known[1][place]) for place in best]
        return [
            {"file": row["file"], "place": row["place"], "text": row["text"], "score": round(float(scores[place]), 4)}
            for row, place in zip(found, best, strict=True)
        ]


def looked_for(turns: Sequence[Row]) -> str:
    """The last question; where it is short ("and its warranty?", "那保修呢？"), with the one before it."""
    *before, last = [turn["content"] for turn in turns if turn["role"] == "user" or turn is turns[-1]]
    return "\n".join([*before[-1:], last]) if width(last) < _SHORT else last


def ground(loaded: Loaded, turns: list[Row], hits: list[Row], most: int | None) -> tuple[list[Row], list[Row]]:
    """The conversation with passages before its last question, as many of the best as the model's context takes beside
    an answer of `most` tokens; and all of them, those that are given with their `number`."""
    opened, system = loaded.opened, [turn for turn in turns[:1] if turn["role"] == "system"]
    positions, question = opened.model.max_positions, turns[-1]["content"]
    # The room that `prompt_to_fit` leaves a prompt; rounds before the question go first, as in any long conversation.
    room = max(positions - (most or loaded.sampling.max_new_tokens), positions // 2)
    if opened.template is None:
        raise InputError(f"{loaded.name} has no chat template: choose another model")
    room = min(room, opened.template.fit.max_prompt_tokens or room)
    given: list[Row] = []
    for hit in hits:
        asked = [*system, {"role": "user", "content": framed(question, [*given, hit])}]
        messages = [Message(turn["role"], turn["content"]) for turn in asked]
        if len(encode_chat(messages, opened.template, opened.tokenizer, add_generation_prompt=True)[0]) <= room:
            given.append(hit)
    told = [{**hit, "number": given.index(hit) + 1 if hit in given else None} for hit in hits]
    return [*turns[:-1], {"role": "user", "content": framed(question, given)}], told


def framed(question: str, passages: Sequence[Row]) -> str:
    """What the model is given for a question: the numbered passages, then the question, in the question's language."""
    if not passages:
        return question
    what, before, asks = _FRAMES["zh" if _ONE_HAN.search(question) else "en"]
    told = "\n\n".join(f"[{number}] {one['file']}\n{one['text']}" for number, one in enumerate(passages, 1))
    return f"{what}\n\n{before}\n\n{told}\n\n{asks}{question}"
