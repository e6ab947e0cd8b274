"""2,197 labelled documents through the whole stage: what each kind of dirt comes to, and that clean text stays."""

import gzip
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from inkstone.corpus import CorpusSettings, curate
from inkstone.progress import Silent

DATA = Path(__file__).parents[2].parent / "shared/data"
MIXTURE = DATA / "raw/dirty_labelled.jsonl.gz"
pytestmark = pytest.mark.skipif(not MIXTURE.exists(), reason="the labelled mixture is not here")


@dataclass
class Outcome:
    """The mixture's rows, the text of those kept and the audit of those removed, by place in the file."""

    rows: list[dict[str, str]]
    kept: dict[int, str]
    removed: dict[int, dict[str, str]]
    report: dict[str, dict[str, dict[str, int]]]

    def places(self, kind: str) -> list[int]:
        return [place for place, row in enumerate(self.rows, 1) if row["kind"] == kind]

    def rules(self, kind: str) -> Counter[str]:
        return Counter(self.removed[place]["rule"] for place in self.places(kind) if place in self.removed)


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    out = tmp_path_factory.mktemp("labelled")
    benchmarks = [str(DATA / "eval" / name) for name in ("cmmlu/test.jsonl.gz", "gsm8k/test.jsonl.gz")]
    curate(CorpusSettings(decontaminate=benchmarks), [MIXTURE], out, Silent())
    with gzip.open(MIXTURE, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    kept = {
        _place(row): row["text"] for split in ("train", "heldout") for row in pq.read_table(out / split).to_pylist()
    }
    audit = pq.read_table(out / "audit", filters=[("level", "==", "document")]).to_pylist()
    return Outcome(
        rows, kept, {_place(row): row for row in audit}, json.loads((out / "report.json").read_text("utf-8"))
    )


def _place(row: dict[str, str]) -> int:
    return int(row["id"].rsplit(":", 1)[1])


RUBBISH = {
    "too_short": ("too_short", "fragment"),
    "line_repetition": ("repeated_lines", "not_alphabetic"),
    "ngram_repetition": ("top_2gram", "top_3gram", "repeated_lines", "symbols"),
    "spam_zh": ("spam",),
    "mojibake_gbk": ("replacement_characters",),
    "contaminated": ("contaminated",),
}


@pytest.mark.parametrize("kind", RUBBISH)
def test_rubbish_goes_by_its_own_rule(outcome: Outcome, kind: str) -> None:
    places = outcome.places(kind)
    assert sum(place in outcome.removed for place in places) == len(places)
    assert sum(outcome.rules(kind)[rule] for rule in RUBBISH[kind]) >= 0.97 * len(places), outcome.rules(kind)


def test_clean_text_stays(outcome: Outcome) -> None:
    lost = {rule: count for rule, count in outcome.rules("clean").items() if "duplicate" not in rule}
    assert sum(lost.values()) <= 0.01 * len(outcome.places("clean")), lost


@pytest.mark.parametrize(
    "kind", ["mojibake", "control_chars", "fullwidth", "boilerplate", "pii_synthetic", "mixed_lang"]
)
def test_good_text_under_dirt_is_rescued(outcome: Outcome, kind: str) -> None:
    lost = {rule: count for rule, count in outcome.rules(kind).items() if "duplicate" not in rule}
    assert sum(lost.values()) <= 0.03 * len(outcome.places(kind)), lost


@pytest.mark.parametrize("kind", ["source_code", "config_or_json", "raw_markdown"])
def test_code_and_markup_are_kept_by_default(outcome: Outcome, kind: str) -> None:
    lost = {rule: count for rule, count in outcome.rules(kind).items() if "duplicate" not in rule}
    assert sum(lost.values()) <= 0.06 * len(outcome.places(kind)), lost


def test_every_planted_piece_of_private_data_is_gone(outcome: Outcome) -> None:
    pieces = [(place, str(value)) for place in outcome.places("pii_synthetic")
              for value in dict(outcome.rows[place - 1]["pii"]).values()]  # fmt: skip
    assert len(pieces) > 200
    assert not [piece for place, piece in pieces if piece in outcome.kept.get(place, "")]
    counts = outcome.report["counts"]
    assert counts["private_id_number"]["pieces"] == 40 and counts["private_email"]["pieces"] >= 60


def test_the_audit_names_the_benchmark_item(outcome: Outcome) -> None:
    for place in outcome.places("contaminated"):
        assert outcome.removed[place]["detail"].endswith(f"holds {outcome.rows[place - 1]['contaminates']}")
    others = [row for row in outcome.removed.values() if row["rule"] == "contaminated"]
    assert len(others) == len(outcome.places("contaminated"))


def test_pages_lose_their_markup(outcome: Outcome) -> None:
    for place in outcome.places("raw_html"):
        raw = outcome.rows[place - 1]["text"].lower()
        if "<html" in raw[:200]:
            assert "<html" not in outcome.kept.get(place, "").lower()


def test_passages_copied_into_other_documents_go_where_they_are_searched_for(outcome: Outcome, tmp_path: Path) -> None:
    """By default 6 % of them go, by their sentences. What goes stands somewhere else, to the letter."""
    curate(CorpusSettings.model_validate({"substrings": {"min_tokens": 50}}), [MIXTURE], tmp_path, Silent())
    kept = {_place(row): _letters(row["text"]) for split in ("train", "heldout")
            for row in pq.read_table(tmp_path / split).to_pylist()}  # fmt: skip
    places = {row["id"]: place for place, row in enumerate(outcome.rows, 1)}
    both = 0
    for place in outcome.places("substring_dup"):
        row = outcome.rows[place - 1]
        middle = _letters(row["text"])[len(row["text"]) // 3 :][:60]
        both += all(middle in kept.get(at, "") for at in (place, places[row["dup_of"]]))
    assert both <= 0.02 * len(outcome.places("substring_dup"))
    audit = pq.read_table(tmp_path / "audit", filters=[("rule", "==", "repeated_substring")]).to_pylist()
    everything = "\n".join(_letters(row["text"]) for row in outcome.rows)
    ends = [end for row in audit for end in (_letters(row["text"])[:50], _letters(row["text"])[-50:])]
    alone = [end for end in ends if everything.count(end) < 2]
    assert len(alone) <= 0.02 * len(ends), alone  # those with masked or repaired characters are not in the raw text


def _letters(text: str) -> str:
    return "".join(char for char in text.lower() if char.isalnum())
