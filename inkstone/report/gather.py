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

from inkstone.corpus import CORPUS
from inkstone.errors import InkstoneError, InputError
from inkstone.evaluate import EVALUATE
from inkstone.mixture import MIXTURE
from inkstone.primer import PRIMER
from inkstone.report.curation import Curation, read_curation
from inkstone.storage import read_json_object
from inkstone.tokenizer import TOKENIZER, TOKENS
from inkstone.train import PRETRAIN
from inkstone.tune import SFT

_BEFORE = (PRIMER, CORPUS, TOKENIZER, TOKENS, MIXTURE, PRETRAIN)


@dataclass(frozen=True)
class Run:
    """`stages` maps each finished stage to its stage.json; `metrics` each trained one to its logged rows.

    `planned` are the stages that the run shall have, in order.
    """

    name: str
    planned: list[str]
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
        return [stage for stage in self.planned if stage not in self.stages]


def gather(run_dir: Path) -> Run:
    """Everything the page shows, of a run or of a corpus directory alone. Raises InputError when it is neither."""
    if not run_dir.is_dir():
        raise InputError(f"{run_dir} is no run directory: give one that `inkstone run` wrote.")
    alone = (run_dir / "report.json").is_file()
    corpus_dir = run_dir if alone else run_dir / "corpus"
    corpus = _json(corpus_dir / "report.json")
    done = {path.parent.name: _json(path) or {} for path in sorted(run_dir.glob("*/stage.json"))}
    planned = _planned(run_dir, done)
    stages = {stage: done[stage] for stage in planned if stage in done}
    metrics = {stage: _rows(run_dir / stage / "metrics.jsonl") for stage in stages}
    return Run(
        name=run_dir.resolve().name,
        planned=planned,
        stages=stages,
        corpus=corpus,
        tokenizer=_json(run_dir / "tokenizer" / "measure.json"),
        metrics={stage: rows for stage, rows in metrics.items() if rows},
        mixture=_json(run_dir / "mixture" / "mixture.json"),
        curation=read_curation(corpus_dir, corpus) if corpus else None,
        scores=_json(run_dir / "evaluate" / "scores.json"),
        samples=_json(run_dir / "evaluate" / "samples.json"),
    )


def _planned(run_dir: Path, done: dict[str, dict[str, Any]]) -> list[str]:
    """The stages in order: those of the run's last plan, and what was done beside it; without a plan the usual ones."""
    plans = [row["stages"] for row in _rows(run_dir / "events.jsonl") if row.get("kind") == "plan"]
    usual = [kind.name for kind in (*_BEFORE, SFT, EVALUATE) if kind is not MIXTURE or kind.name in done]
    known = plans[-1] if plans else usual
    more = [name for name in [*usual, *done] if name in done and name not in known]
    return list(dict.fromkeys([*known, *more]))


def series(rows: Sequence[dict[str, Any]], x: str, y: str) -> tuple[list[float], list[float]]:
    """The rows that log both fields as numbers, as two lists."""
    found = [(row[x], row[y]) for row in rows if _number(row.get(x)) and _number(row.get(y))]
    return [one for one, _ in found], [other for _, other in found]


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _json(path: Path) -> dict[str, Any] | None:
    return read_json_object(path, "run its stage again", InkstoneError) if path.is_file() else None


def _rows(path: Path) -> list[dict[str, Any]]:
    """Rows of a JSON lines file; the last line may be cut off where a run was killed."""
    if not path.is_file():
        return []
    lines = [line for line in path.read_text(encoding="utf-8", errors="replace").split("\n") if line.strip()]
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            rows.append(json.loads(line))
        except (ValueError, RecursionError) as error:
            if number < len(lines):
                raise InkstoneError(f"{path}:{number} is not JSON ({error}): run its stage again.") from error
    return [row for row in rows if isinstance(row, dict)]
