"""The stage as a whole: nothing is lost, nothing depends on order or place, what stays is clean and unique."""

import gzip
import json
import random
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from inkstone.corpus import CorpusSettings, curate
from inkstone.corpus.read import readers
from inkstone.corpus.run import stage
from inkstone.errors import InputError
from inkstone.progress import Field, Silent
from inkstone.storage import verify_manifest

DATA = Path(__file__).parents[2].parent / "shared/data"
POEMS = ["白日依山尽，黄河入海流。\n欲穷千里目，更上一层楼。", "床前明月光，疑是地上霜。\n举头望明月，低头思故乡。"]
NOTICE = "转载本站文章请注明出处并附上原文链接地址。"
Row = dict[str, object]


def story(rng: random.Random, sentences: int = 12) -> str:
    """A document of words of its own."""
    syllables = ["ka", "ri", "mo", "ten", "sul", "va", "en", "dor", "ni", "pa", "lu", "the", "and", "of"]
    words = ["".join(rng.choices(syllables, k=rng.randint(1, 3))) for _ in range(sentences * 8)]
    lines = [" ".join(words[n : n + 8]).capitalize() + "." for n in range(0, len(words), 8)]
    return "The story of a river.\n" + "\n".join(lines)


def dirty_rows(rng: random.Random) -> list[Row]:
    """Two hundred documents, some of which are to go for every kind of reason."""
    good = [story(rng) for _ in range(120)]
    near = ["\n".join([*text.split("\n")[:-1], "A different end."]) for text in good[:10]]
    noted = [f"{story(rng)}\n{NOTICE}\nSkip to content" for _ in range(20)]
    bad = ["short", "★☆" * 50, good[3] + ("\n" + good[3]) * 4, "Широка страна моя родная, много в ней лесов и рек"]
    emptied = [f"{NOTICE}\nSkip to content"] + [f"{NOTICE}\nSkip to content\n第{n}" for n in range(3)]
    texts = [*good, *good[20:40], *near, *noted, *bad, *emptied, *POEMS]
    rng.shuffle(texts)
    return [{"text": text, "source": f"shelf{n % 3}", "n": n} for n, text in enumerate(texts)]


def write_inputs(folder: Path, rows: list[Row]) -> list[Path]:
    folder.mkdir(parents=True)
    third = len(rows) // 3
    names = [folder / "a.jsonl", folder / "b.jsonl.gz", folder / "c.json"]
    names[0].write_bytes(_jsonl(rows[:third]) + b'{"text": \n{"title": "none"}\n')
    names[1].write_bytes(gzip.compress(_jsonl(rows[third : 2 * third])))
    names[2].write_text(json.dumps(rows[2 * third :]), encoding="utf-8")
    (folder / "poem.txt").write_text(POEMS[0], encoding="utf-8")
    (folder / "latin.txt").write_bytes("L’été, déjà à Besançon.".encode("cp1252"))
    return [*names, folder / "poem.txt", folder / "latin.txt"]


def _row(row: Row) -> int:
    return int(str(row["id"]).rsplit(":", 1)[1])


def _jsonl(rows: list[Row]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


SETTINGS = CorpusSettings.model_validate({"lines": {"max_line_documents": 15}})


def run(inputs: list[Path], output: Path, settings: CorpusSettings = SETTINGS) -> tuple[Row, list[Row], list[Row]]:
    """Report, kept documents and audit."""
    output.mkdir(parents=True)
    curate(settings, inputs, output, Silent())
    kept = [row for split in ("train", "heldout") for row in pq.read_table(output / split).to_pylist()]
    text = (output / "report.json").read_text("utf-8")
    return json.loads(text, parse_constant=pytest.fail), kept, pq.read_table(output / "audit").to_pylist()


@pytest.fixture(scope="module")
def curated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Row, list[Row], list[Row], Path, list[Row]]:
    base = tmp_path_factory.mktemp("corpus")
    rows = dirty_rows(random.Random(1))
    return *run(write_inputs(base / "in", rows), base / "out"), base / "out", rows


def test_every_document_is_kept_or_in_the_audit_exactly_once(curated) -> None:  # type: ignore[no-untyped-def]
    report, kept, audit, _, rows = curated
    removed = [row["id"] for row in audit if row["level"] == "document"]
    records = [row for row in audit if row["level"] == "record"]
    ids = [row["id"] for row in kept] + removed
    assert len(ids) == len(set(ids)) == report["documents_in"] == len(rows) + 1
    assert Counter(row["rule"] for row in records) == {"json": 1, "no_text": 1, "encoding": 1}
    assert report["unreadable"]["count"] == 3


def test_every_character_is_kept_or_in_the_audit(curated) -> None:  # type: ignore[no-untyped-def]
    """Removed lines and sentences put back at their positions give the documents as they came, to the character."""
    _, kept, audit, _, rows = curated
    texts = {row["id"]: row["text"] for row in kept}
    texts.update({row["id"]: row["text"] for row in audit if row["level"] == "document"})
    parts = [row for row in audit if row["level"] in ("line", "sentence")]
    for row in sorted(parts, key=lambda row: (row["id"], row["position"])):
        text, position = texts[row["id"]], row["position"]
        texts[row["id"]] = text[:position] + row["text"] + text[position:]
    assert parts
    assert Counter(texts.values()) == Counter([*(str(row["text"]) for row in rows), POEMS[0]])


def test_the_reasons_are_the_right_ones(curated) -> None:  # type: ignore[no-untyped-def]
    _, kept, audit, _, _ = curated
    rules = Counter(row["rule"] for row in audit if row["level"] == "document")
    assert rules["exact_duplicate"] >= 21  # twenty stories and a poem
    assert rules["near_duplicate"] == 10
    assert rules["too_short"] == 1
    assert rules["repeated_lines"] == 1
    assert rules["language"] == 2
    assert rules["emptied"] == 3
    assert rules["fragment"] == 1
    assert sum(rules.values()) == rules["exact_duplicate"] + 18
    assert Counter(row["rule"] for row in audit if row["level"] == "line") == {"boilerplate_line": 20, "menu_line": 20}
    assert {row["text"] for row in kept} >= {*POEMS}
    assert not any(NOTICE in row["text"] or "Skip to" in row["text"] for row in kept)


def test_removals_say_what_was_measured_and_which_setting_decided(curated) -> None:  # type: ignore[no-untyped-def]
    _, kept, audit, _, _ = curated
    ids = {row["id"] for row in kept}
    removed = {row["id"]: row for row in audit if row["level"] == "document"}
    for row in audit:
        assert row["detail"]
        if row["rule"] in ("exact_duplicate", "near_duplicate"):
            original = row["detail"].removeprefix("repeats ")
            assert original in ids or removed[original]["rule"] == "near_duplicate"
            assert row["value"] >= row["threshold"]
        if row["rule"] in ("boilerplate_line", "menu_line"):
            assert row["id"] in ids
            assert row["value"] > row["threshold"]


def test_the_report_agrees_with_the_files(curated) -> None:  # type: ignore[no-untyped-def]
    report, kept, audit, _, _ = curated
    assert {rule["rule"]: rule["count"] for rule in report["rules"]} == Counter(row["rule"] for row in audit)
    assert report["documents_out"] == len(kept) == sum(report["lengths"].values())
    assert report["characters_out"] == sum(len(row["text"]) for row in kept)
    assert {
        name: flow["documents_out"] for name, flow in report["sources"].items() if flow["documents_out"]
    } == Counter(row["source"] for row in kept)
    assert {lang: flow["characters_out"] for lang, flow in report["langs"].items()} == {
        lang: sum(len(row["text"]) for row in kept if row["lang"] == lang) for lang in report["langs"]
    }
    steps = report["steps"]
    assert [step["step"] for step in steps] == [
        "read", "repair", "rules", "equal_documents", "lines", "duplicates", "quality"
    ]  # fmt: skip
    for before, after in pairwise(steps):
        for unit in ("documents", "characters", "bytes"):
            assert before[f"{unit}_out"] == after[f"{unit}_in"]
    assert all(len(example["text"]) <= 300 for rule in report["rules"] for example in rule["examples"])
    assert all(1 <= len(rule["examples"]) <= 20 for rule in report["rules"])


def test_documents_have_the_columns_of_the_contract(curated) -> None:  # type: ignore[no-untyped-def]
    _, kept, _, out, _ = curated
    schema = pq.read_schema(out / "train/part-00000.parquet")
    assert [(field.name, str(field.type)) for field in schema] == [
        ("id", "string"), ("text", "string"), ("source", "string"), ("lang", "string"), ("quality", "float"),
        ("meta", "string"),
    ]  # fmt: skip
    assert all(row["quality"] is None for row in kept)
    assert {"n"} == set().union(*(json.loads(row["meta"]) for row in kept if row["source"].startswith("shelf")))
    assert not (out / "drafts").exists()
    assert verify_manifest(out, contents=True)["kind"] == "corpus"


def test_one_document_in_a_hundred_is_held_out(curated) -> None:  # type: ignore[no-untyped-def]
    report, _, _, out, _ = curated
    heldout = pq.read_table(out / "heldout").to_pylist()
    assert 1 <= len(heldout) == report["splits"]["heldout"]["documents"] <= 8
    assert not {row["text"] for row in heldout} & {row["text"] for row in pq.read_table(out / "train").to_pylist()}


def test_order_of_inputs_place_and_batch_size_do_not_matter(
    curated, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # type: ignore[no-untyped-def]
    _, kept, audit, _, rows = curated
    monkeypatch.setattr(readers, "BATCH_CHARACTERS", 3_000)
    inputs = write_inputs(tmp_path / "elsewhere", rows)
    _, other_kept, other_audit = run([inputs[2], *inputs[::-1]], tmp_path / "out")
    assert other_kept == kept
    key = ("id", "level", "rule", "text", "value", "detail")
    assert sorted(tuple(map(str, map(row.get, key))) for row in audit) == sorted(
        tuple(map(str, map(row.get, key))) for row in other_audit
    )


def test_the_same_run_writes_the_same_bytes(curated, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    _, _, _, out, rows = curated
    run(write_inputs(tmp_path / "in", rows), tmp_path / "out")
    for part in ("train", "heldout", "audit"):
        name = f"{part}/part-00000.parquet"
        assert (out / name).read_bytes() == (tmp_path / "out" / name).read_bytes()


def test_curating_a_curated_corpus_removes_nothing(curated, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    _, kept, _, out, _ = curated
    _, again, audit = run([out / "train", out / "heldout"], tmp_path / "out")
    assert sorted(row["text"] for row in again) == sorted(row["text"] for row in kept)
    assert audit == []


def test_sentences_that_documents_share_stay(tmp_path: Path) -> None:
    rng = random.Random(3)
    shared = "The moon rose over the mill as it always did."
    texts = [f"{n} {shared} {story(rng)} {shared}" for n in range(30)]
    (tmp_path / "a.jsonl").write_bytes(_jsonl([{"text": text} for text in texts]))
    _, kept, _ = run([tmp_path / "a.jsonl"], tmp_path / "out")
    assert sorted(row["text"] for row in kept) == sorted(texts)


def test_a_text_copied_often_does_not_lose_its_lines(tmp_path: Path) -> None:
    text = story(random.Random(4))
    (tmp_path / "a.jsonl").write_bytes(_jsonl([{"text": text}, {"text": story(random.Random(5))}] * 30))
    _, kept, _ = run([tmp_path / "a.jsonl"], tmp_path / "out")
    assert [row["text"] for row in kept] == [text, story(random.Random(5))]


def test_short_articles_under_the_same_long_menus_all_stay(tmp_path: Path) -> None:
    rng = random.Random(9)
    names = [f"{a}{b}" for a in ("news", "sport", "art", "food", "home", "town") for b in range(10)]
    menu = "\n".join(f"{a} | {b} | {c} | Home" for a, b, c in zip(names[::3], names[1::3], names[2::3], strict=True))
    articles = [story(rng, 3) for _ in range(30)]
    (tmp_path / "a.jsonl").write_bytes(_jsonl([{"text": f"{menu}\n{article}"} for article in articles]))
    _, kept, _ = run([tmp_path / "a.jsonl"], tmp_path / "out")
    assert sorted(row["text"] for row in kept) == sorted(articles)


def test_documents_that_become_equal_without_their_menus_are_duplicates(tmp_path: Path) -> None:
    rng = random.Random(6)
    rows = [{"text": f"{story(rng)}\n{NOTICE}"} for _ in range(20)]
    body = "A pebble lay in the brook.\nIt had lain there a thousand years."
    rows += [{"text": body}, {"text": f"{NOTICE}\n{body}\n{NOTICE}"}]
    (tmp_path / "a.jsonl").write_bytes(_jsonl(rows))
    report, kept, audit = run([tmp_path / "a.jsonl"], tmp_path / "out")
    assert [row["id"] for row in audit if row["rule"] == "exact_duplicate"] == ["a:a.jsonl:22"]
    assert len(kept) == 21
    assert report["steps"][-1]["documents_out"] == 21


def test_an_empty_result_is_refused_with_the_settings_to_relax(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(_jsonl([{"text": "水"}, {"text": "火"}, {"text": "Stop."}]))
    (tmp_path / "out").mkdir()
    with pytest.raises(InputError) as caught:
        curate(CorpusSettings(), [tmp_path / "a.jsonl"], tmp_path / "out", Silent())
    message = str(caught.value)
    assert "none of the 3 documents" in message
    assert "corpus.rules.zh.min_tokens" in message
    assert "too_short removed 2 documents in zh" in message


def test_unreadable_input_only_is_refused_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("L’été, déjà à Besançon.".encode("cp1252"))
    (tmp_path / "out").mkdir()
    with pytest.raises(InputError, match=r"set \[corpus\] encoding"):
        curate(CorpusSettings(), [tmp_path / "a.txt"], tmp_path / "out", Silent())


def test_progress_reaches_the_total_and_what_was_passed_over_is_said(tmp_path: Path) -> None:
    seen: list[tuple[float, float | None]] = []
    notes: list[str] = []

    class Watch(Silent):
        def note(self, message: str, **fields: Field) -> None:
            notes.append(message)

        def advance(self, done: float, total: float | None, unit: str, **fields: Field) -> None:
            seen.append((done, total))

    inputs = write_inputs(tmp_path / "in", dirty_rows(random.Random(2)))
    (tmp_path / "out").mkdir()
    (tmp_path / "in" / "scan.pdf").write_bytes(b"%PDF")
    curate(SETTINGS, [tmp_path / "in"], tmp_path / "out", Watch())
    assert notes[0] == "1 files in the input folders are of no kind that is read: 1 .pdf"
    assert seen[-1][0] == seen[-1][1] == sum(path.stat().st_size for path in inputs)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_one_document_of_many_is_held_out_even_where_the_share_is_tiny(tmp_path: Path) -> None:
    rng = random.Random(8)
    settings = CorpusSettings(heldout_fraction=1e-9)
    for count, expected in ((19, 0), (20, 1)):
        path = tmp_path / f"{count}.jsonl"
        path.write_bytes(_jsonl([{"text": story(rng)} for _ in range(count)]))
        report, _, _ = run([path], tmp_path / f"out{count}", settings)
        assert report["splits"]["heldout"]["documents"] == expected  # type: ignore[index]
    assert stage.MIN_DOCUMENTS_FOR_HELDOUT == 20


@pytest.mark.skipif(not (DATA / "raw/dirty_labelled.jsonl.gz").exists(), reason="the labelled mixture is not here")
def test_labelled_dirt_is_found_and_clean_text_stays(tmp_path: Path) -> None:
    source = DATA / "raw/dirty_labelled.jsonl.gz"
    _, kept, audit = run([source], tmp_path / "out", CorpusSettings())
    with gzip.open(source, "rt", encoding="utf-8") as lines:
        labelled = [json.loads(line) for line in lines]
    place = {row["id"]: n for n, row in enumerate(labelled, 1)}
    kinds: dict[str, list[int]] = {}
    for n, row in enumerate(labelled, 1):
        kinds.setdefault(row["kind"], []).append(n)
    stays = {_row(row): row["text"] for row in kept}
    by_rule = [row for row in audit if row["level"] == "document" and not row["rule"].endswith("duplicate")]
    ruled_out = {_row(row) for row in by_rule}

    for kind in ("line_repetition", "ngram_repetition", "too_short", "spam_zh", "mojibake_gbk"):
        assert sum(n not in stays for n in kinds[kind]) >= 0.97 * len(kinds[kind]), kind
    assert len(ruled_out.intersection(kinds["clean"])) <= 0.01 * len(kinds["clean"])
    pairs = {k: [(n, place[labelled[n - 1]["dup_of"]]) for n in kinds[k]] for k in ("exact_dup", "near_dup")}
    assert all(one not in stays or other not in stays for one, other in pairs["exact_dup"])
    assert sum(one not in stays or other not in stays for one, other in pairs["near_dup"]) >= 0.75 * len(
        kinds["near_dup"]
    )
    for n in kinds["boilerplate"]:
        assert not any(menu in stays.get(n, "") for menu in ("首页 |", "版权所有 ©", "Home | About"))
    for n in kinds["mojibake"]:
        assert "ï¼" not in stays.get(n, "")
    for n in kinds["control_chars"]:
        assert not {"\u200b", "\x07", "\ufeff", "\xad"} & set(stays.get(n, ""))
