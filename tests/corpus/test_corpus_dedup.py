"""Duplicates: recall follows the closed form of MinHash, the first stays, chains and short texts do not merge."""

import random
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from inkstone.corpus.judge.kernel import flatten, tokenize
from inkstone.corpus.repeats.dedup import Duplicates, resolve, signatures
from inkstone.corpus.run.parquet_shards import DOCUMENT
from inkstone.corpus.run.passes import MatchTask, match
from inkstone.corpus.run.tables import TaskWriter, load_matches
from inkstone.corpus.settings import CorpusSettings, DedupSettings

PARTITIONS = 3

HAN = [chr(point) for point in range(0x4E00, 0x4E00 + 3000)]


def duplicates(texts: list[str], **settings: object) -> Duplicates:
    """What the passes find: signatures and keys by partition on disk, each partition matched apart."""
    chosen = DedupSettings.model_validate(settings)
    nothing = [""] * len(texts)
    columns = {**dict.fromkeys(DOCUMENT.names, nothing), "text": texts, "quality": pa.nulls(len(texts), pa.float32())}
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        with TaskWriter(place, PARTITIONS, chosen) as out:
            signs = signatures(tokenize(flatten(pa.array(texts, pa.string()))), chosen)
            out.add(pa.RecordBatch.from_pydict(columns, DOCUMENT), signs)
        parts = []
        for part in range(PARTITIONS):
            everything = CorpusSettings(dedup=chosen)
            task = MatchTask((place,), (), everything, part, PARTITIONS, chosen.min_similarity)
            (draft := place / str(part)).mkdir()
            match(task, draft)
            parts.append(draft)
        found = resolve(load_matches(parts))
    of, similarity, near = np.full(len(texts), -1), np.zeros(len(texts)), np.zeros(len(texts), bool)
    of[found.rank], similarity[found.rank], near[found.rank] = found.of, found.similarity, found.near
    return Duplicates(np.arange(len(texts)), of, similarity, near)  # one entry per text, of = -1 where it stays


def shingles(text: str, n: int = 5) -> set[str]:
    return {text[i : i + n] for i in range(len(text) - n + 1)}


def jaccard(one: str, other: str) -> float:
    a, b = shingles(one), shingles(other)
    return len(a & b) / len(a | b)


def random_text(rng: random.Random, length: int = 200) -> str:
    return "".join(rng.choices(HAN, k=length))


def edited(text: str, rng: random.Random, edits: int) -> str:
    chars = list(text)
    for place in rng.sample(range(len(chars)), edits):
        chars[place] = rng.choice(HAN)
    return "".join(chars)


@pytest.mark.parametrize(("edits", "bands", "rows"), [(2, 14, 8), (6, 14, 8), (9, 14, 8), (12, 14, 8), (12, 20, 5)])
def test_recall_is_that_of_the_closed_form(edits: int, bands: int, rows: int) -> None:
    rng = random.Random(edits * bands)
    pairs = [(text, edited(text, rng, edits)) for text in (random_text(rng) for _ in range(400))]
    found = duplicates([text for pair in pairs for text in pair], bands=bands, rows=rows, min_similarity=0)
    recall = np.mean(found.of[1::2] == np.arange(0, 800, 2))
    expected = np.mean([1 - (1 - jaccard(*pair) ** rows) ** bands for pair in pairs])
    assert abs(recall - expected) < 3.5 * np.sqrt(max(expected * (1 - expected), 0.002) / len(pairs))
    assert (found.of[::2] == -1).all()


def test_agreement_estimates_jaccard() -> None:
    rng = random.Random(5)
    pairs = [(text, edited(text, rng, 4)) for text in (random_text(rng) for _ in range(200))]
    found = duplicates([text for pair in pairs for text in pair], bands=56, rows=2, min_similarity=0)
    errors = found.similarity[1::2] - [jaccard(*pair) for pair in pairs]
    assert (found.of[1::2] >= 0).all()
    assert abs(errors.mean()) < 0.01
    assert np.abs(errors).max() < 0.2


def test_the_first_of_a_cluster_stays_and_the_others_name_it() -> None:
    rng = random.Random(2)
    original, other = random_text(rng), random_text(rng)
    found = duplicates([other, original, edited(original, rng, 1), original, edited(original, rng, 1), other])
    assert found.of.tolist() == [-1, -1, 1, 1, 1, 0]
    assert found.near.tolist() == [False, False, True, False, True, False]


def test_likeness_is_not_passed_on_along_a_chain() -> None:
    rng = random.Random(3)
    chain = [random_text(rng, 400)]
    for step in range(1, 40):  # each member differs from the one before in ten characters of its own
        chars = list(chain[-1])
        chars[(step - 1) * 10 : step * 10] = rng.choices(HAN, k=10)
        chain.append("".join(chars))
    found = duplicates(chain, bands=28, rows=4, min_similarity=0.65)
    assert (found.of >= 0).sum() > 10
    for row, original in enumerate(found.of.tolist()):
        if original >= 0:
            assert found.of[original] == -1
            assert jaccard(chain[row], chain[original]) > 0.5


def test_equal_texts_are_found_whatever_their_case_punctuation_and_length() -> None:
    texts = ["Ink, stone!", "ink stone", "墨。", "墨", "Ink stones", "", "。"]
    assert duplicates(texts).of.tolist() == [-1, 0, -1, 2, -1, -1, 5]


def test_texts_shorter_than_a_shingle_are_compared_by_hash_only() -> None:
    texts = ["一二三四", "一二三五", "一二三", "四三二一"]
    assert (duplicates(texts, min_similarity=0).of == -1).all()


def test_unlike_texts_in_one_bucket_both_stay() -> None:
    rng = random.Random(4)
    common = random_text(rng, 40)
    texts = [common + random_text(rng, 120) for _ in range(60)]
    assert (duplicates(texts, bands=100, rows=1).of == -1).all()


def test_each_kind_can_be_switched_off() -> None:
    rng = random.Random(6)
    text = random_text(rng)
    texts = [text, text, edited(text, rng, 1)]
    assert duplicates(texts, exact=False, near=False).of.tolist() == [-1, -1, -1]
    assert duplicates(texts, near=False).of.tolist() == [-1, 0, -1]
    assert duplicates(texts, exact=False).of.tolist() == [-1, 0, 0]


def test_signatures_do_not_depend_on_the_batch() -> None:
    rng = random.Random(7)
    texts = [random_text(rng, rng.randint(0, 4000)) for _ in range(30)]
    settings = DedupSettings()
    whole = signatures(tokenize(flatten(pa.array(texts))), settings)
    for row, text in enumerate(texts):
        alone = signatures(tokenize(flatten(pa.array([text]))), settings)
        assert alone.exact[0] == whole.exact[row]
        assert (alone.minhash[0] == whole.minhash[row]).all()
