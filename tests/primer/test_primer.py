"""The embedded primer, rendered once at half a megabyte: is it balanced, honest, dirty and repeatable?"""

import csv
import gzip
import json
import re
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import zstandard
from pydantic import ValidationError

from inkstone.primer import PrimerSettings, render_primer
from inkstone.primer.arithmetic import held_out
from inkstone.primer.language import Fact, Language
from inkstone.primer.load import LANGS, load_language
from inkstone.progress import Silent
from inkstone.storage import file_sha256

LANGUAGES = [load_language(code) for code in LANGS]
DIRT = {
    *("duplicate", "near_duplicate", "boilerplate", "navigation", "spam", "mojibake", "replacement", "control"),
    *("full_width", "repeated", "short", "symbols", "mixed", "gbk", "broken_json", "missing_text"),
}


def render(directory: Path, **settings: float) -> Path:
    directory.mkdir()
    result = render_primer(PrimerSettings.model_validate({"size_mb": 0.5, **settings}), directory, Silent())
    (directory / "result.json").write_text(json.dumps(result), encoding="utf-8")
    return directory


@pytest.fixture(scope="module")
def primer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return render(tmp_path_factory.mktemp("primer") / "primer")


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def raw_rows(raw: Path, name: str) -> list[str | None]:
    """The texts of a raw file, None for a row that has none; read with nothing of ours."""
    path = raw / name
    data = path.read_bytes()
    if path.suffix == ".txt":
        try:
            return [data.decode("utf-8")]
        except UnicodeDecodeError:
            return [data.decode("gbk")]
    if path.suffix == ".parquet":
        return pq.read_table(path).column("text").to_pylist()
    if path.suffix == ".csv":
        with path.open(encoding="utf-8", newline="") as stream:
            return [row["text"] for row in csv.DictReader(stream)]
    if path.suffix == ".gz":
        data = gzip.decompress(data)
    if path.suffix == ".zst":
        data = zstandard.ZstdDecompressor().decompress(data)
    texts: list[str | None] = []
    for line in data.decode("utf-8").split("\n")[:-1]:
        try:
            text = json.loads(line).get("text")
        except ValueError:
            text = None
        texts.append(text if isinstance(text, str) else None)
    return texts


@pytest.fixture(scope="module")
def labelled(primer: Path) -> list[tuple[str, str, str | None]]:
    """(kind, lang, text) of every raw document, found by its label."""
    files: dict[str, list[str | None]] = {}
    pages = []
    for label in rows(primer / "labels.jsonl"):
        name = label["file"]
        if name not in files:
            files[name] = raw_rows(primer / "raw", name)
        pages.append((label["kind"], label["lang"], files[name][label["row"]]))
    assert len(pages) == sum(map(len, files.values()))
    assert set(files) == {str(path.relative_to(primer / "raw")) for path in (primer / "raw").rglob("*.*")}
    return pages


@pytest.fixture(scope="module")
def training_text(primer: Path, labelled: list[tuple[str, str, str | None]]) -> str:
    """Everything a model may be trained, tuned or shown examples with."""
    texts = [text for _, _, text in labelled if text]
    for name in ("chats.jsonl", "preferences.jsonl", "quiz/dev.jsonl"):
        texts += [json.dumps(row, ensure_ascii=False) for row in rows(primer / name)]
    prompts = json.loads((primer / "prompts.json").read_text(encoding="utf-8"))
    texts += [*prompts["continue"], *prompts["chat"]["zh"], *prompts["chat"]["en"]]
    return "\n".join(texts)


def test_the_same_seed_gives_the_same_bytes_and_another_seed_does_not(primer: Path, tmp_path: Path) -> None:
    again, other = render(tmp_path / "again"), render(tmp_path / "other", seed=2)
    files = sorted(path.relative_to(primer) for path in primer.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(again) for path in again.rglob("*") if path.is_file())
    assert [file_sha256(primer / name) for name in files] == [file_sha256(again / name) for name in files]
    changed = {str(name) for name in files if file_sha256(primer / name) != file_sha256(other / name)}
    assert {
        "raw/web.jsonl.zst",
        "chats.jsonl",
        "preferences.jsonl",
        "quiz/test.jsonl",
        "problems/test.jsonl",
    } <= changed


@pytest.mark.parametrize("language", LANGUAGES, ids=LANGS)
def test_every_language_has_three_hundred_facts_with_one_answer_each(language: Language) -> None:
    assert len({(fact.relation, fact.key) for fact in language.facts}) == len(language.facts) >= 300
    assert all(fact.key.strip() == fact.key and fact.answer.strip() == fact.answer != "" for fact in language.facts)
    answers = {(fact.relation, fact.key): fact.answer for fact in language.facts}
    if language.code == "zh":
        assert answers["poem", "登鹳雀楼"] == "王之涣"
        assert answers["poem", "夜雨寄北"] == "李商隐"
        assert sum(fact.relation == "poem" for fact in language.facts) >= 70
    else:
        assert answers["book", "Hamlet"] == "William Shakespeare"
        assert answers["book", "One Hundred Years of Solitude"] == "Gabriel García Márquez"
    for relation in language.relations.values():
        assert all("{k}" in text and "{a}" in text for text in relation.statements)
        assert all("{k}" in text and "{a}" not in text for text in (*relation.questions, *relation.heldout))


def test_every_kind_of_dirt_is_there_and_about_half_of_the_bytes_are_clean(
    primer: Path, labelled: list[tuple[str, str, str | None]]
) -> None:
    assert {kind for kind, _, _ in labelled} == DIRT | {"clean"}
    sizes: Counter[str] = Counter()
    for kind, _, text in labelled:
        assert (text is None) == (kind in ("broken_json", "missing_text"))
        sizes[kind] += len((text or "").encode())
    assert sum(sizes.values()) == pytest.approx(0.5e6, rel=0.05)
    assert 0.40 < sizes["clean"] / sum(sizes.values()) < 0.50
    result = json.loads((primer / "result.json").read_text())
    assert result["raw"]["bytes"] == {kind: size for kind, size in sorted(sizes.items()) if size}


def test_dirt_is_what_its_label_says(labelled: list[tuple[str, str, str | None]]) -> None:
    texts: dict[str, list[str]] = {}
    for kind, _, text in labelled:
        texts.setdefault(kind, []).append(text or "")
    clean = set(texts["clean"])
    assert len(clean) == len(texts["clean"])
    assert all(text in clean for text in texts["duplicate"])
    assert not any(text in clean for text in texts["near_duplicate"])
    assert all("\ufffd" in text for text in texts["replacement"])
    assert all(re.search("[\x01-\x08\x0e-\x1f\x7f\u200b\u200e\ufeff]", text) for text in texts["control"])
    assert all(re.search("[Ａ-Ｚａ-ｚ０-９]", text) for text in texts["full_width"])
    assert all(re.search("[\u0080-\u00ff]", text) for text in texts["mojibake"])
    assert all(len(text) <= 8 for text in texts["short"])
    assert not any(re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\ufffdＡ-Ｚａ-ｚ０-９]", text) for text in texts["clean"])


@pytest.mark.parametrize("language", LANGUAGES, ids=LANGS)
def test_every_fact_is_stated_evenly_in_the_clean_text(
    language: Language, labelled: list[tuple[str, str, str | None]]
) -> None:
    documents = [text for kind, lang, text in labelled if kind == "clean" and lang == language.code and text]
    counts = {}
    for fact in language.facts:
        counts[fact] = sum(
            fact.key.lower() in text.lower() and (fact.answer in text or bool(fact.short and fact.short in text))
            for text in documents
        )
    assert min(counts.values()) >= 3, min(counts, key=lambda fact: counts[fact])


def test_heldout_phrasings_and_heldout_pairs_of_numbers_occur_in_no_training_text(
    primer: Path, training_text: str
) -> None:
    assert "登鹳雀楼->王之涣" in training_text
    lower = training_text.lower()
    for language in LANGUAGES:
        for fact in (*language.facts, *language.sums):
            for phrasing in language.relations[fact.relation].heldout:
                assert language.say(phrasing, fact).lower() not in lower
    sums = {tuple(map(int, pair)) for pair in re.findall(r"(?<!\d)(\d\d)\+(\d\d)(?!\d)", training_text)}
    assert len(sums) > 500
    assert not any(held_out(x, y) for x, y in sums)
    problems = [row["question"] for split in ("dev", "test") for row in rows(primer / f"problems/{split}.jsonl")]
    for problem in problems:
        assert problem not in training_text
        x, y = map(int, re.findall(r"\d+", problem))
        assert held_out(x, y)


def test_the_continuation_prompts_are_no_document(labelled: list[tuple[str, str, str | None]], primer: Path) -> None:
    prompts = json.loads((primer / "prompts.json").read_text(encoding="utf-8"))
    documents = {text for _, _, text in labelled}
    assert prompts["continue"][0] == "登鹳雀楼->王之涣\n夜雨寄北->"
    assert prompts["continue"][1] == "Hamlet->Shakespeare\nOne Hundred Years of Solitude->"
    assert prompts["continue"][0] + "李商隐" not in documents
    assert prompts["continue"][1] + "Gabriel García Márquez" not in documents
    assert set(prompts["chat"]) == {"zh", "en"}


def facts_of_question(language: Language, question: str) -> set[Fact]:
    """Every fact that one of its phrasings asks for in exactly these words."""
    return {
        fact
        for fact in (*language.facts, *language.sums)
        for phrasing in (*language.relations[fact.relation].questions, *language.relations[fact.relation].heldout)
        if language.say(phrasing, fact) == question
    }


@pytest.mark.parametrize("split", ["dev", "test"])
def test_every_quiz_question_has_one_right_option_and_it_is_the_tables(primer: Path, split: str) -> None:
    languages = dict(zip(LANGS, LANGUAGES, strict=True))
    questions = rows(primer / f"quiz/{split}.jsonl")
    assert len({row["id"] for row in questions}) == len(questions)
    for row in questions:
        assert len(set(row["choices"])) == 4
        (fact,) = facts_of_question(languages[row["lang"]], row["question"])
        assert row["choices"].index(fact.answer) == row["answer"]
        assert row["choices"].count(fact.answer) == 1


def test_the_quiz_is_balanced_and_its_splits_share_no_fact(primer: Path) -> None:
    dev, test = rows(primer / "quiz/dev.jsonl"), rows(primer / "quiz/test.jsonl")
    subjects = {(language.code, r.subject) for language in LANGUAGES for r in language.relations.values()}
    assert Counter((row["lang"], row["subject"]) for row in dev) == dict.fromkeys(subjects, 5)
    assert {(row["lang"], row["subject"]) for row in test} == subjects
    assert {row["phrasing"] for row in dev} == {"seen"}
    assert 500 <= len(test) <= 600
    assert Counter(row["phrasing"] for row in test)["unseen"] == pytest.approx(0.4 * len(test), abs=2)
    positions = Counter(row["answer"] for row in test)
    assert max(positions.values()) - min(positions.values()) <= 4
    for language in LANGUAGES:
        asked = [
            {
                fact
                for row in split
                if row["lang"] == language.code
                for fact in facts_of_question(language, row["question"])
            }
            for split in (dev, test)
        ]
        assert not asked[0] & asked[1]


def test_word_problems_are_answered_by_adding_their_numbers(primer: Path) -> None:
    counts = {}
    for split in ("dev", "test"):
        problems = rows(primer / f"problems/{split}.jsonl")
        counts[split] = Counter(row["lang"] for row in problems)
        for row in problems:
            x, y = map(int, re.findall(r"\d+", row["question"]))
            assert row["answer"] == str(x + y)
            final = {"zh": f"答案是 {x + y}。", "en": f"The answer is {x + y}."}[row["lang"]]
            assert row["solution"].endswith(final)
    assert counts == {"dev": {"zh": 10, "en": 10}, "test": {"zh": 60, "en": 60}}


def test_every_worked_sum_in_the_training_text_is_right(training_text: str) -> None:
    sums = re.findall(r"(?<![\d+])(\d+(?:\+\d+)+)=(\d+)", re.sub("[\u0080-\uffff]", " ", training_text))
    assert len(sums) > 1000
    wrong = [s for s in sums if sum(map(int, s[0].split("+"))) != int(s[1])]
    assert len(wrong) < 0.03 * len(sums)  # near duplicates lose characters


def test_chats_alternate_and_end_with_the_assistant(primer: Path) -> None:
    chats = [row["messages"] for row in rows(primer / "chats.jsonl")]
    assert len(chats) == pytest.approx(250, abs=10)
    for chat in chats:
        roles = [message["role"] for message in chat]
        turns = roles[1:] if roles[0] == "system" else roles
        assert turns == ["user", "assistant"] * (len(turns) // 2)
        assert turns
        assert all(message["content"].strip() == message["content"] != "" for message in chat)
    lengths = {sum(message["role"] == "user" for message in chat) for chat in chats}
    assert lengths >= {1, 2, 3, 4, 5}
    assert max(lengths) <= 8
    assert any(chat[0]["role"] == "system" for chat in chats)


def test_preferences_prefer_something_else_than_they_reject(primer: Path) -> None:
    pairs = rows(primer / "preferences.jsonl")
    assert {pair["lang"] for pair in pairs} == {"zh", "en"}
    for pair in pairs:
        assert [message["role"] for message in pair["prompt"]] == ["user"]
        assert pair["chosen"] != pair["rejected"]


@pytest.mark.parametrize("wrong", [{"size_mb": 0.1}, {"size_mb": 21}, {"seed": -1}, {"sise_mb": 8}])
def test_settings_refuse_what_cannot_be_rendered(wrong: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        PrimerSettings.model_validate(wrong)
