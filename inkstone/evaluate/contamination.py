"""Which benchmark items a corpus holds, and where: `inkstone evaluate contamination CORPUS --tasks cmmlu,gsm8k`.

The search is curation's own (`corpus/judge/benchmarks.py`): runs of eight tokens, a Han character being one, so that
edited copies are found as well; what an item shares with many others says nothing. An item counts as found where a
document holds at least `overlap` of its runs.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path

import pyarrow as pa

from inkstone.corpus.judge.benchmarks import index_texts, overlaps
from inkstone.corpus.judge.kernel import flatten, tokenize
from inkstone.corpus.read.files import find_files
from inkstone.corpus.read.readers import read_batches
from inkstone.errors import InputError
from inkstone.evaluate.tasks import Item
from inkstone.progress import Progress

_AROUND = 20


@dataclass(frozen=True)
class Found:
    """An item in a document: the share of its runs, and the passage with a little around it."""

    item: str
    document: str
    overlap: float
    passage: str


def find_in_corpus(
    items: Sequence[Item], corpus: Iterable[Path], progress: Progress, overlap: float = 0.5, field: str = "text"
) -> list[Found]:
    """Every item of every document, strongest first; what cannot be searched is said.

    Raises InputError where nothing of the corpus can be read.
    """
    texts = [(item.id, text) for item in items for text in item_texts(item)]
    index = index_texts([name for name, _ in texts], [text for _, text in texts])
    said, best, documents = [text for _, text in texts], dict[tuple[str, str], Found](), 0
    unread: list[str] = []
    for batch in read_batches(find_files(corpus), [field], max_document_mb=64.0):
        unread += [record.detail for record in batch.broken]
        tokens = tokenize(flatten(pa.array(batch.texts, pa.string())))
        for document, item, share in zip(*overlaps(tokens, index), strict=True):
            key = index.names[item], batch.ids[document]
            if share >= overlap and (key not in best or share > best[key].overlap):
                best[key] = Found(*key, float(share), _passage(said[item], batch.texts[document]))
        documents += len(batch.texts)
        progress.advance(documents, None, "documents", found=len(best))
    if unread or not documents:
        first = f", the first: {unread[0]}" if unread else ""
        sentence = f"{len(unread)} records could not be read and were not searched{first}"
        if not documents:
            raise InputError(f"{sentence} (--text-field names the field with the text)")
        progress.note(sentence)
    return sorted(best.values(), key=lambda one: (-one.overlap, one.item, one.document))


def item_texts(item: Item) -> Iterator[str]:
    """What is searched for: the question alone, and with its options."""
    names = ("stripped", "question", "query", "prompt", "context")
    question = next((item.texts[name] for name in names if item.texts.get(name)), "")
    turns = "\n".join(item.choices)
    if question:
        yield question
    if turns and turns not in question:
        yield f"{question}\n{turns}" if question else turns


def _passage(item: str, document: str) -> str:
    match = SequenceMatcher(None, document, item, autojunk=False).find_longest_match()
    start = max(0, match.a - match.b - _AROUND)
    return document[start : match.a - match.b + len(item) + _AROUND]
