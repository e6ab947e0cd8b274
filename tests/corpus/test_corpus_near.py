"""Nearly equal sentences count as one; unlike ones, and the two ends of a chain, do not."""

import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from inkstone.corpus import CorpusSettings, Workers, curate
from inkstone.corpus.judge.kernel import flatten, tokenize
from inkstone.corpus.repeats.dedup import resolve
from inkstone.corpus.repeats.near import NAME, describe, pairs, rename, renamed
from inkstone.corpus.repeats.spans import RULES, SENTENCE, Removed, decide, find_spans, limits, remove
from inkstone.corpus.run import stage
from inkstone.corpus.run.tables import partition_of
from inkstone.corpus.settings import LineRules, SentenceRules
from inkstone.progress import Silent

NO_LINES = LineRules(max_line_documents=0, max_menu_documents=0)
NEAR = SentenceRules(max_documents=3, near=True)
HAN = [chr(point) for point in range(0x4E00, 0x4E00 + 3000)]
WORDS = [a + b + c for a in "bcdfgklmnprst" for b in "aeiou" for c in ("n", "r", "st", "ld", "mp", "ck")]


def sentence(tokens: list[str]) -> str:
    return "".join(tokens) + "。" if tokens[0] in HAN else " ".join(tokens) + "."


def edited(tokens: list[str], changes: int, rng: random.Random) -> list[str]:
    """Other tokens in place of some."""
    words, out = HAN if tokens[0] in HAN else WORDS, list(tokens)
    for place in rng.sample(range(len(tokens)), changes):
        out[place] = rng.choice(words)
    return out


def names_of(texts: list[str], rules: SentenceRules, partitions: int = 1) -> np.ndarray:
    """Which sentences count as which, worked out by partition."""
    flat = flatten(pa.array(texts, pa.string()))
    tokens = tokenize(flat)
    rows = describe(find_spans(flat, tokens, NO_LINES, rules), tokens, np.ones(len(texts), bool))
    part = partition_of(rows["key"], partitions)
    found = [pairs(rows[part == number], rules.min_similarity) for number in range(partitions)]
    return renamed(resolve(type(found[0]).joined(found)))


def cleaned(texts: list[str], rules: SentenceRules = NEAR) -> tuple[list[str], list[tuple[int, Removed]]]:
    flat = flatten(pa.array(texts, pa.string()))
    rows = find_spans(flat, tokenize(flat), NO_LINES, rules).rows(flat, 0)
    if rules.near:
        rows = rename(rows, names_of(texts, rules))
    drops = decide(rows, np.ones(len(rows), bool), limits(NO_LINES, rules))
    done = remove(pa.array(texts, pa.string()), drops, drops["rank"], NO_LINES, rules)
    return [text for text, _ in done], [(row, part) for row, (_, parts) in enumerate(done) for part in parts]


@pytest.mark.parametrize("words", [HAN, WORDS], ids=["zh", "en"])
def test_sentences_with_a_changed_token_go_beyond_the_first_documents(words: list[str]) -> None:
    rng = random.Random(2)
    said = rng.sample(words, 20)
    copies = [said, *(edited(said, 1, rng) for _ in range(11))]
    own = [sentence(rng.sample(words, 20)) for _ in copies]
    texts = [f"{first} {sentence(copy)}" for first, copy in zip(own, copies, strict=True)]
    kept, removed = cleaned(texts)
    assert kept[:3] == texts[:3]
    assert all(text.startswith(first) for text, first in zip(kept, own, strict=True))
    assert len(removed) >= 6  # of nine; which of them are found is a matter of chance
    assert "near_repeated_sentence" in {RULES[part.kind] for _, part in removed}
    assert cleaned(texts, SentenceRules(max_documents=3)) == (texts, [])


@pytest.mark.parametrize(("length", "changes", "least"), [(20, 1, 0.9), (20, 2, 0.5), (15, 1, 0.8), (15, 2, 0.2)])
@pytest.mark.parametrize("words", [HAN, WORDS], ids=["zh", "en"])
def test_edited_sentences_are_found_as_often_as_the_page_says(
    words: list[str], length: int, changes: int, least: float
) -> None:
    rng = random.Random(length + changes)
    originals = [rng.sample(words, length) for _ in range(500)]
    texts = [sentence(one) + "\n" + sentence(edited(one, changes, rng)) for one in originals]
    share = len(names_of(texts, NEAR)) / len(texts)
    assert least <= share <= 1


def test_unlike_sentences_stay() -> None:
    rng = random.Random(3)
    texts = [sentence(rng.sample(WORDS[:60], 16)) for _ in range(2000)]  # a small vocabulary, so many share words
    assert len(names_of(texts, NEAR)) == 0
    assert cleaned(texts) == (texts, [])


def test_likeness_is_not_passed_on_along_a_chain() -> None:
    rng = random.Random(4)
    chain = [rng.sample(HAN, 20)]
    for place in range(20):
        chain.append([rng.choice(HAN) if n == place else token for n, token in enumerate(chain[-1])])
    names = names_of([sentence(link) for link in chain], NEAR)
    assert len(names) and not np.isin(names["as"], names["sentence"]).any()
    flat = flatten(pa.array([sentence(link) for link in chain], pa.string()))
    numbers = (find_spans(flat, tokenize(flat), NO_LINES, NEAR).keys >> np.uint64(2)).astype(np.int64).tolist()
    for later, stays in names.tolist():
        assert abs(numbers.index(later) - numbers.index(stays)) <= 8  # of the 20 links between the ends


def test_partitions_and_the_order_of_documents_do_not_matter() -> None:
    rng = random.Random(5)
    originals = [rng.sample(HAN, 18) for _ in range(40)]
    texts = [sentence(edited(one, n % 4, rng)) for one in originals for n in range(8)]
    whole = names_of(texts, NEAR)
    assert len(whole) > 80
    assert np.array_equal(whole, names_of(texts, NEAR, partitions=5))
    assert np.array_equal(whole, names_of(texts[::-1], NEAR))


def test_without_near_copies_nothing_is_renamed() -> None:
    flat = flatten(pa.array([sentence(HAN[:20])], pa.string()))
    rows = find_spans(flat, tokenize(flat), NO_LINES, NEAR).rows(flat, 0)
    assert np.array_equal(rename(rows, np.zeros(0, NAME)), rows)
    assert (rows["key"] & np.uint64(3)).tolist() == [SENTENCE]


def write_corpus(folder: Path) -> dict[str, str]:
    """Thirty documents that each have an edited copy of one sentence, and one that is nothing else; texts by name."""
    rng = random.Random(6)
    said = rng.sample(WORDS, 20)
    texts = {}
    for number in range(30):
        lines = [sentence(rng.sample(WORDS, 12)).capitalize() for _ in range(8)]
        copy = f"The {sentence(edited(said, number % 2, rng))}"
        lines[4] = f"{lines[4]} {copy} {lines[5]}"
        texts[f"{number:02d}"] = "\n".join(lines)
    texts["99"] = copy
    for name, text in texts.items():
        (folder / f"{name}.txt").write_text(text)
    return texts


def run(folder: Path, output: Path, near: bool, workers: int = 1) -> tuple[dict[str, str], list[dict[str, object]]]:
    settings = CorpusSettings.model_validate(
        {"sentences": {"max_documents": 4, "near": near}, "languages": ["zh", "en", "mixed", "other"],
         "rules": {name: {"min_stop_word_share": 0} for name in ("en", "mixed")}, "heldout_fraction": 0}
    )  # fmt: skip
    output.mkdir()
    curate(settings, [folder], output, Silent(), workers=Workers(workers))
    rows = pq.read_table(output / "train").to_pylist()
    return {row["id"]: row["text"] for row in rows}, pq.read_table(output / "audit").to_pylist()


def test_a_curated_corpus_and_its_audit_hold_every_character_whatever_the_partitions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder := tmp_path / "in").mkdir()
    texts = write_corpus(folder)
    near, audit = run(folder, tmp_path / "one", near=True)
    exact, exact_audit = run(folder, tmp_path / "exact", near=False)
    gone = [row for row in audit if row["rule"] == "near_repeated_sentence"]
    assert len(gone) > len([row for row in audit if row["rule"] == "repeated_sentence"]) / 2
    assert {row["rule"] for row in exact_audit if row["level"] == "sentence"} == {"repeated_sentence"}
    assert len([row for row in audit if row["level"] == "sentence"]) > len(exact_audit)
    assert "corpus.sentences.max_documents = 4" in str(gone[0]["detail"]) and "nearly equal" in str(gone[0]["detail"])
    assert sorted(exact) == sorted(near) and len(near) == len(texts)
    assert texts["99"] in near.values()  # it would be empty, so it keeps its only sentence
    assert texts["99"] in {str(row["text"]).strip() for row in gone}
    for name, text in near.items():
        for row in [row for row in audit if row["id"] == name]:
            place = row["position"]
            assert isinstance(place, int)
            text = text[:place] + str(row["text"]) + text[place:]
        assert text in texts.values()
    monkeypatch.setattr(stage, "PARTITION_BYTES", sum(map(len, texts.values())) / 5)
    monkeypatch.setattr(stage, "GROUP_BYTES", 6_000)
    other, other_audit = run(folder, tmp_path / "many", near=True, workers=2)
    assert other == near
    assert sorted(map(str, other_audit)) == sorted(map(str, audit))
