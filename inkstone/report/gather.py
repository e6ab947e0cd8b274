"""Read what the stages of a run left on disk; what is not there is None, so a half-finished run has a page too.

    run = gather(Path("runs/primer"))

Only files named in the rooms' formats are read. A file that exists but cannot be read is an error: a page that
silently leaves out a damaged result would be wrong.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inkstone.errors import InkstoneError, InputError
from inkstone.report.curation import Curation, read_curation

STAGES = ("primer", "corpus", "tokenizer", "tokens", "mixture", "pretrain", "sft", "evaluate")
OPTIONAL = ("mixture",)  # not worth a word where a run has none
TRAINED = ("pretrain", "sft")


@dataclass(frozen=True)
class Run:
    """`stages` maps each finished stage to its stage.json; `metrics` each trained one to its logged rows."""

    name: str
    stages: dict[str, dict[str, Any]]
    corpus: dict[str, Any] | None
    tokenizer: dict[str, Any] | None
    metrics: dict[str, list[dict[str, Any]]]
    mixture: dict[str, Any] | None
    curation: Curation | None
    scores: dict[str, Any] | None
    samples: dict[str, Any] | None

    @property
    def corpus_alone(self) -> bool:
        """Whether this is a corpus directory by itself, not a run."""
        return self.corpus is not None and not self.stages

    @property
    def missing(self) -> list[str]:
        return [stage for stage in STAGES if stage not in self.stages and stage not in OPTIONAL]


def gather(run_dir: Path) -> Run:
    """Everything the page shows, of a run or of a corpus directory alone. Raises InputError when it is neither."""
    if not run_dir.is_dir():
        raise InputError(f"{run_dir} is no run directory: give one that `inkstone run` wrote.")
    alone = (run_dir / "report.json").is_file()
    corpus_dir = run_dir if alone else run_dir / "corpus"
    corpus = _json(corpus_dir / "report.json")
    stages = {stage: _json(run_dir / stage / "stage.json") for stage in STAGES}
    metrics = {stage: _rows(run_dir / stage / "metrics.jsonl") for stage in TRAINED}
    return Run(
        name=run_dir.resolve().name,
        stages={stage: facts for stage, facts in stages.items() if facts is not None},
        corpus=corpus,
        tokenizer=_json(run_dir / "tokenizer" / "measure.json"),
        metrics={stage: rows for stage, rows in metrics.items() if rows},
        mixture=_json(run_dir / "mixture" / "mixture.json"),
        curation=read_curation(corpus_dir, corpus) if corpus else None,
        scores=_json(run_dir / "evaluate" / "scores.json"),
        samples=_json(run_dir / "evaluate" / "samples.json"),
    )


def series(rows: Sequence[dict[str, Any]], x: str, y: str) -> tuple[list[float], list[float]]:
    """The rows that log both fields as numbers, as two lists."""
    found = [(row[x], row[y]) for row in rows if _number(row.get(x)) and _number(row.get(y))]
    return [one for one, _ in found], [other for _, other in found]


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _json(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InkstoneError(f"{path} cannot be read ({error}): run its stage again.") from error
    if not isinstance(value, dict):
        raise InkstoneError(f"{path} is not a JSON object: run its stage again.")
    return value


def _rows(path: Path) -> list[dict[str, Any]]:
    """Rows of a JSON lines file; the last line may be cut off where a run was killed."""
    if not path.is_file():
        return []
    lines = [line for line in path.read_text(encoding="utf-8", errors="replace").split("\n") if line.strip()]
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            rows.append(json.loads(line))
        except ValueError as error:
            if number < len(lines):
                raise InkstoneError(f"{path}:{number} is not JSON ({error}): run its stage again.") from error
    return [row for row in rows if isinstance(row, dict)]
