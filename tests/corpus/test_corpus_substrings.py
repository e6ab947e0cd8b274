"""Exactly the longest repeated runs go, the first occurrence stays, every character is in the corpus or the audit."""

import json
import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inkstone.corpus import CorpusSettings, Workers, curate
from inkstone.corpus.judge.kernel import flatten, tokenize
from inkstone.corpus.repeats.substrings import (
    find_anchors,
    find_passages,
    find_windows,
    sliding_least,
    stand_before,
    twice,
)
from inkstone.corpus.run.tables import partition_of
from inkstone.corpus.settings import SubstringRules
from inkstone.errors import InputError
from inkstone.progress import Silent

SIZE = 10
WORDS = [a + b + c for a in "bcdfgklmnprst" for b in "aeiou" for c in ("n", "r", "st", "ld", "mp", "ck")]


def found_passages(texts: list[str], size: int, batch: int, partitions: int) -> list[list[tuple[int, int]]]:
    """Start and end, in tokens, of what goes from every text, worked out by batch and partition."""
    cut = []
    for first in range(0, len(texts), batch):
        flat = flatten(pa.array(texts[first : first + batch], pa.string()))
        cut.append((flat, tokenize(flat), np.arange(len(flat)) + first))
    anchors = [find_anchors(tokens, ranks, size) for _, tokens, ranks in cut]
    rows = np.concatenate([np.repeat(rows, 1 + (count > size)) for rows, count in anchors])
    parts = [twice(rows[partition_of(rows["key"], partitions) == part]) for part in range(partitions)]
    every = np.concatenate([find_windows(tokens, ranks, size, np.concatenate(parts)) for _, tokens, ranks in cut])
    repeats = [stand_before(every[partition_of(every["key"], partitions) == part], size) for part in range(partitions)]
    windows = np.concatenate(repeats)
    gone: list[list[tuple[int, int]]] = []
    for flat, tokens, ranks in cut:
        mine = windows[np.isin(windows["rank"], ranks)]
        done = find_passages(flat, tokens, mine["rank"] - ranks[0], mine, size)
        of_text: list[list[tuple[int, int]]] = [[] for _ in ranks]
        for document, start, end in zip(done.documents, done.starts, done.ends, strict=True):
            begin = tokens.offsets[document]
            inside = (tokens.starts >= start) & (tokens.ends <= end) & (np.arange(len(tokens.starts)) >= begin)
            which = np.flatnonzero(inside) - begin
            of_text[document].append((int(which[0]), int(which[-1]) + 1))
        gone += of_text
    return gone


def naive_passages(texts: list[str], size: int) -> list[list[tuple[int, int]]]:
    """The same by comparing every place with every other, token by token."""
    tokens = [(number, place, char) for number, text in enumerate(texts) for place, char in enumerate(text)]
    total = len(tokens)
    common = np.zeros((total + 1, total + 1), int)  # tokens that two places have in common from there on
    for one in reversed(range(total)):
        for other in reversed(range(one + 1, total)):
            if tokens[one][2] == tokens[other][2]:
                ends = [place + 1 == total or tokens[place + 1][0] != tokens[place][0] for place in (one, other)]
                common[one, other] = 1 if any(ends) else common[one + 1, other + 1] + 1
    goes: list[set[int]] = [set() for _ in texts]
    for one, (document, place, _) in enumerate(tokens):
        for other in np.flatnonzero(common[one] >= size).tolist():
            later, start, _ = tokens[other]
            if later != document or start - place >= size:
                goes[later].update(range(start, start + common[one, other]))
    return [_runs(sorted(marked)) for marked in goes]


def _runs(places: list[int]) -> list[tuple[int, int]]:
    runs: list[tuple[int, int]] = []
    for place in places:
        if runs and runs[-1][1] == place:
            runs[-1] = (runs[-1][0], place + 1)
        else:
            runs.append((place, place + 1))
    return runs


BLOCK = st.sampled_from(["甲" * 14, "甲乙" * 8, "丙丁戊己庚辛壬癸子丑寅卯", "乙丙丁戊己庚辛", "甲", "乙", "丙"])
TEXT = st.one_of(st.text("甲乙", max_size=45), st.lists(BLOCK, max_size=5).map("".join))


@settings(max_examples=150, deadline=None)
@given(st.lists(TEXT, min_size=1, max_size=5), st.integers(10, 13), st.integers(1, 3), st.integers(1, 3))
def test_all_longest_repeated_runs_go_and_nothing_else(
    texts: list[str], size: int, batch: int, partitions: int
) -> None:
    assert found_passages(texts, size, batch, partitions) == naive_passages(texts, size)


@given(st.lists(st.integers(0, 9), max_size=40), st.integers(1, 30))
def test_the_least_of_a_window(values: list[int], width: int) -> None:
    expected = [min(values[n : n + width]) for n in range(len(values) - width + 1)]
    assert sliding_least(np.array(values, np.uint64), width).tolist() == expected


def prose(rng: random.Random, sentences: int) -> list[str]:
    return [" ".join(rng.choices(WORDS, k=12)).capitalize() + "." for _ in range(sentences)]


def run(files: list[Path], output: Path, **changes: object) -> tuple[dict[str, str], list[dict[str, object]]]:
    chosen = CorpusSettings.model_validate(
        {"substrings": {"min_tokens": 20}, "languages": ["zh", "en", "mixed", "other"], "heldout_fraction": 0,
         "rules": {name: {"min_stop_word_share": 0} for name in ("zh", "en", "mixed")}, **changes}
    )  # fmt: skip
    output.mkdir()
    curate(chosen, list(files), output, Silent(), workers=Workers(1))
    rows = pq.read_table(output / "train").to_pylist()
    return {row["id"]: row["text"] for row in rows}, pq.read_table(output / "audit").to_pylist()


def write(path: Path, texts: list[str]) -> Path:
    path.write_text("".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts), "utf-8")
    return path


def test_a_copied_passage_goes_from_the_later_document_with_the_signs_around_it(tmp_path: Path) -> None:
    rng = random.Random(1)
    said = "春江潮水连海平海上明月共潮生滟滟随波千万里何处春江无月明"
    around = ["".join(chr(rng.randrange(0x5000, 0x9000)) for _ in range(40)) + "。" for _ in range(6)]
    texts = [
        f"{around[0]}他写道：“{said}！”{around[1]}",
        f"{around[2]}\n“{said}。”\n{around[3]}",
        f"{around[4]}（{said[:24]}）{around[5]}",
    ]
    kept, audit = run([write(tmp_path / "a.jsonl", texts)], tmp_path / "out")
    assert list(kept.values()) == [texts[0], f"{around[2]}\n{around[3]}", f"{around[4]}{around[5]}"]
    gone = [(row["text"], row["value"], row["threshold"]) for row in audit if row["level"] == "substring"]
    assert gone == [(f"“{said}。”\n", 28, 20), (f"（{said[:24]}）", 24, 20)]
    details = {row["detail"] for row in audit if row["rule"] == "repeated_substring"}
    assert details == {"repeats a:a.jsonl:1; corpus.substrings.min_tokens = 20"}


def test_runs_shorter_than_asked_stay_and_zero_switches_the_search_off(tmp_path: Path) -> None:
    rng = random.Random(2)
    said = rng.choices(WORDS, k=20)
    texts = [f"{prose(rng, 3)[0]} {' '.join(said[:19])} {prose(rng, 3)[1]}" for _ in range(4)]
    file = write(tmp_path / "a.jsonl", texts)
    assert list(run([file], tmp_path / "one")[0].values()) == texts
    off, _ = run([file], tmp_path / "two", substrings={"min_tokens": 0})
    assert list(off.values()) == texts
    shorter, audit = run([file], tmp_path / "three", substrings={"min_tokens": 19})
    assert len([row for row in audit if row["level"] == "substring"]) == 3 and len(shorter) == 4


def test_audit_and_corpus_hold_every_character_and_a_document_without_a_rest_is_emptied(tmp_path: Path) -> None:
    rng = random.Random(3)
    pool = prose(rng, 40)
    texts = ["\n".join(prose(rng, 4) + pool[n : n + 3] + prose(rng, 2) + pool[n + 20 : n + 23] + prose(rng, 1))
             for n in range(8)]  # fmt: skip
    texts += ["\n".join(prose(rng, 1) + pool[0:3] + pool[22:24]), "\n\n".join(pool[2:5]), pool[8] + " Oh."]
    kept, audit = run([write(tmp_path / "a.jsonl", texts)], tmp_path / "out")
    emptied = [row for row in audit if row["rule"] == "emptied"]
    assert texts[-2] in [row["text"] for row in emptied] and len(kept) + len(emptied) == len(texts)
    assert len([row for row in audit if row["level"] == "substring"]) >= 6
    for number, text in enumerate(texts, 1):
        name = f"a:a.jsonl:{number}"
        back = kept.get(name, "") or next(str(row["text"]) for row in emptied if row["id"] == name)
        for row in audit:
            if row["id"] == name and row["level"] == "substring":
                place = row["position"]
                assert isinstance(place, int)
                back = back[:place] + str(row["text"]) + back[place:]
        assert back == text


def test_what_goes_for_another_reason_does_not_count_as_before(tmp_path: Path) -> None:
    """The near copy goes as a document; its passage, which the original has not, stays where it stands next."""
    rng = random.Random(4)
    pages, said = prose(rng, 40), prose(rng, 3)
    texts = ["\n".join(pages), "\n".join([*pages, *said]), "\n".join([*prose(rng, 3), *said])]
    kept, audit = run([write(tmp_path / "a.jsonl", texts)], tmp_path / "out")
    assert [row["rule"] for row in audit] == ["near_duplicate"]
    assert list(kept.values()) == [texts[0], texts[2]]


def test_passages_of_known_corpora_go_too_and_their_texts_must_be_there(tmp_path: Path) -> None:
    rng = random.Random(5)
    said = prose(rng, 3)
    old = write(tmp_path / "old.jsonl", ["\n".join(prose(rng, 3) + said)])
    run([old], tmp_path / "known")
    new = write(tmp_path / "new.jsonl", ["\n".join(said + (own := prose(rng, 3)))])
    dedup = {"known": [str(tmp_path / "known")]}
    kept, audit = run([new], tmp_path / "out", dedup=dedup)
    assert list(kept.values()) == ["\n".join(own)]
    assert f"repeats a document of {tmp_path / 'known'}" in str(audit[0]["detail"])
    (tmp_path / "known" / "train" / "part-00000.parquet").unlink()
    with pytest.raises(InputError, match=r"has no train/ folder.*substrings.min_tokens = 0"):
        run([new], tmp_path / "again", dedup=dedup)


def test_lengths_that_would_cut_common_phrases_are_refused() -> None:
    with pytest.raises(ValueError, match="set 10 or more"):
        SubstringRules(min_tokens=5)
