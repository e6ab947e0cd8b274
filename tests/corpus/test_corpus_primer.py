"""The embedded primer goes in dirty and comes out clean: its labels say what each raw document was."""

import json
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from inkstone.corpus import CorpusSettings, curate
from inkstone.primer import PrimerSettings, render_primer
from inkstone.progress import Silent

Key = tuple[str, int]
Labelled = tuple[dict[Key, str], dict[Key, str], dict[Key, str]]


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Labelled:
    """Kind of every raw document; text of the kept ones; rule of the removed ones."""
    base = tmp_path_factory.mktemp("primer")
    for name in ("primer", "corpus"):
        (base / name).mkdir()
    render_primer(PrimerSettings(size_mb=1.0), base / "primer", Silent())
    curate(CorpusSettings(), [base / "primer/raw"], base / "corpus", Silent())
    rows = [json.loads(line) for line in (base / "primer/labels.jsonl").read_text("utf-8").split("\n") if line]
    kinds = {(Path(row["file"]).name, row["row"]): row["kind"] for row in rows}
    kept = {
        _key(row["id"]): row["text"]
        for split in ("train", "heldout")
        for row in pq.read_table(base / "corpus" / split).to_pylist()
    }
    audit = pq.read_table(base / "corpus/audit").to_pylist()
    return kinds, kept, {_key(row["id"]): row["rule"] for row in audit if row["level"] != "line"}


def _key(id: str) -> Key:
    _, label, row = id.rsplit(":", 2)
    return Path(label).name, int(row) - 1


def test_every_labelled_document_is_kept_or_audited(labelled: Labelled) -> None:
    kinds, kept, removed = labelled
    assert kinds.keys() == kept.keys() | removed.keys()
    assert not kept.keys() & removed.keys()


def test_no_clean_document_falls_to_a_rule(labelled: Labelled) -> None:
    kinds, _, removed = labelled
    clean = [key for key, kind in kinds.items() if kind == "clean"]
    lost = Counter(removed[key] for key in clean if key in removed and not removed[key].endswith("duplicate"))
    assert lost.total() <= 0.01 * len(clean), lost


@pytest.mark.parametrize("kind", ["spam", "symbols", "repeated", "replacement", "short"])
def test_rubbish_goes(labelled: Labelled, kind: str) -> None:
    kinds, kept, _ = labelled
    some = [key for key, label in kinds.items() if label == kind]
    assert sum(key in kept for key in some) <= 0.02 * len(some)


@pytest.mark.parametrize("kind", ["boilerplate", "control", "full_width"])
def test_good_text_under_dirt_is_rescued(labelled: Labelled, kind: str) -> None:
    kinds, kept, removed = labelled
    some = [key for key, label in kinds.items() if label == kind]
    lost = [key for key in some if key not in kept and not removed[key].endswith("duplicate")]
    assert len(lost) <= 0.02 * len(some)


def test_no_text_is_kept_twice(labelled: Labelled) -> None:
    _, kept, _ = labelled
    assert len(set(kept.values())) == len(kept)
