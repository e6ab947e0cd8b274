"""The corpus section: flows that add up, samples that can be paged, clusters, scores, documents before and after."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_report_page import HOSTILE, Page

from inkstone.corpus import CorpusSettings, curate
from inkstone.corpus.run.audit import Entry
from inkstone.corpus.run.review import read_removals, tally
from inkstone.progress import Silent
from inkstone.report import render_report
from inkstone.report.curation import SAMPLES, read_curation, spread, stage_of
from inkstone.report.sankey import Band, sankey

pytest.importorskip("matplotlib", reason="the report's charts need the extra `report`")

SENTENCES = [
    "春眠不觉晓，处处闻啼鸟。",
    "The quick brown fox jumps over the lazy dog near the old river. ",
    "夜来风雨声，花落知多少？",
]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small corpus, curated by the real stage: copies, menus, short and hostile documents from two sources."""
    folder = tmp_path_factory.mktemp("corpus")
    draws = np.random.default_rng(1)
    documents = []
    for number in range(120):
        words = " ".join(f"word{draws.integers(900)}" for _ in range(60))
        body = f"{number} {SENTENCES[number % 3]}\n{words}.\n" + "".join(
            SENTENCES[int(d)] for d in draws.permutation(3)
        )
        menu = "首页 | 新闻 | 论坛 | 登录 | 注册 | 关于我们 | 联系我们 | 网站地图\n" if number % 10 == 0 else ""
        documents.append({"text": menu + body, "source": f"site-{number % 11}"})
    documents += (
        [documents[5]] * 3
        + [documents[7]]
        + [{"text": f"ab {n} {HOSTILE}"[:12], "source": "site-0"} for n in range(30)]
    )
    raw = folder / "raw.jsonl"
    raw.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in documents), encoding="utf-8")
    output = folder / "corpus"
    output.mkdir()
    curate(CorpusSettings(inputs=["raw.jsonl"], heldout_fraction=0.0), [raw], output, Silent())
    return output


def report_of(corpus: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads((corpus / "report.json").read_text())
    return found


def test_flows_account_for_every_document_by_source_and_by_language(corpus: Path) -> None:
    report = report_of(corpus)
    curation = read_curation(corpus, report)  # type: ignore[arg-type]
    assert curation and curation.stages["documents"] == ["rules", "duplicates"]
    for bands in curation.flows["documents"].values():
        assert sum(band.amount for band in bands) == report["documents_in"]
        assert sum(band.amount - sum(band.removed) for band in bands) == report["documents_out"]
    by_source = {band.name: band for band in curation.flows["documents"]["source"]}
    assert len(by_source) == 8 and "4 more" in by_source
    assert "lines" in curation.stages["characters"]
    assert sum(sum(band.removed) for band in curation.flows["characters"]["language"]) == sum(
        row.characters for row in tally(corpus)
    )


def test_clusters_and_rewritten_documents_are_those_of_the_audit(corpus: Path) -> None:
    curation = read_curation(corpus, report_of(corpus))  # type: ignore[arg-type]
    assert curation and curation.cluster_sizes == {"2": 1, "3-4": 1}
    kept, copies = curation.clusters[0]
    assert len(copies) == 3 and all(f"repeats {kept}" in copy.why for copy in copies)
    rules = {rule for one in curation.rewrites for rule, _ in one.removed}
    assert rules == {row.rule for row in tally(corpus) if row.level in ("line", "sentence")} >= {"menu_line"}
    assert all(text not in one.kept for one in curation.rewrites for rule, text in one.removed if rule == "menu_line")
    assert curation.quality == {}


def test_scores_are_drawn_by_language_where_documents_have_them(corpus: Path, tmp_path: Path) -> None:
    scored = tmp_path / "corpus"
    shutil.copytree(corpus, scored)
    for path in (scored / "train").glob("*.parquet"):
        table = pq.read_table(path)
        scores = pa.array(np.linspace(0, 1, len(table)), pa.float32())
        pq.write_table(table.set_column(table.schema.get_field_index("quality"), "quality", scores), path)
    curation = read_curation(scored, report_of(scored))  # type: ignore[arg-type]
    assert (
        curation and sum(sum(counts) for counts, _ in curation.quality.values()) == report_of(scored)["documents_out"]
    )
    assert "Quality scores" in render_report(scored).read_text(encoding="utf-8")


def test_a_corpus_directory_alone_has_a_page_with_its_samples_and_nothing_else(corpus: Path) -> None:
    html = render_report(corpus).read_text(encoding="utf-8")
    page = Page(html)
    assert not page.open
    titles = [attributes["data-label"] for _, attributes in page.tags if "data-label" in attributes]
    assert titles == ["Documents by source", "Characters by source", "Documents by language", "Characters by language"]
    pagers = [attributes["aria-label"] for _, attributes in page.tags if attributes.get("class") == "pager"]
    assert "Samples of too_short" in pagers and "Documents before and after" in pagers
    assert "<script>alert" not in html and "has not finished" not in page.text
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    targets = {value[1:] for _, attributes in page.tags for key, value in attributes.items() if key == "href" and value}
    assert len(ids) == len(set(ids)) and targets <= set(ids)


def test_the_page_stays_small_whatever_was_removed(corpus: Path) -> None:
    curation = read_curation(corpus, report_of(corpus))  # type: ignore[arg-type]
    assert curation and len(curation.samples["too_short"]) == SAMPLES < 30
    assert all(len(sample.text) <= 420 for samples in curation.samples.values() for sample in samples)


def test_samples_take_turns_between_sources() -> None:
    rows = [Entry(str(n), "abc"[max(0, n - 7)], "zh", "document", "r", None, None, "", "") for n in range(10)]
    assert [one.id for one in spread(rows, 5)] == ["0", "8", "9", "1", "2"]


@pytest.mark.parametrize(
    ("rule", "stage"),
    [
        ("repeated_lines", "rules"), ("bullet_lines", "rules"), ("menu_line", "lines"), ("dup_sentence", "lines"),
        ("near_duplicate", "duplicates"), ("pii_email", "private data"), ("contaminated", "contamination"),
        ("low_quality", "quality"), ("spam", "rules"),
    ],
)  # fmt: skip
def test_rules_are_told_apart_by_stage(rule: str, stage: str) -> None:
    assert stage_of(rule) == stage


AMOUNTS = st.lists(st.lists(st.integers(0, 10**6), min_size=3, max_size=3), min_size=1, max_size=9)


@settings(max_examples=40, deadline=None)
@given(AMOUNTS)
def test_the_sankey_draws_kept_text_in_proportion_and_says_every_removal(amounts: list[list[int]]) -> None:
    bands = [Band(f"site <{n}>", kept + one + two, [one, two]) for n, (kept, one, two) in enumerate(amounts)]
    drawn = sankey("flow", "documents", ["rules", "duplicates"], bands, "documents")
    page = Page(drawn)
    assert not page.open
    heights = [float(found) for found in re.findall(r'width="9.0" height="([\d.]+)"', drawn)]
    total = sum(band.amount for band in bands)
    count = len(bands)
    for column, left in enumerate([lambda b: b.amount, lambda b: b.amount - b.removed[0]]):
        for band, height in zip(bands, heights[column * count : (column + 1) * count], strict=True):
            assert height == pytest.approx(max(270 * left(band) / max(total, 1), 0.3), abs=0.06)
    for band in bands:
        for stage, gone in zip(["rules", "duplicates"], band.removed, strict=True):
            assert (f"{band.name}: {stage} removed {gone:,} documents" in page.text) == (gone > 0)


def test_reading_one_rule_gives_its_rows_and_nothing_else(corpus: Path) -> None:
    rows = read_removals(corpus, "too_short", source="site-0", limit=100)
    assert len(rows) == sum(row.count for row in tally(corpus) if row.rule == "too_short" and row.source == "site-0")
    assert {(row.rule, row.source) for row in rows} == {("too_short", "site-0")}
