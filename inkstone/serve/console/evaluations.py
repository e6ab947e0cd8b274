"""The scores of the runs that a server's models are in, and where two models differ question by question."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Query

from inkstone.evaluate import score_rows
from inkstone.evaluate.report.differences import compare_answers, differing, in_words, read_answers, read_items
from inkstone.pipeline.stages import resolve
from inkstone.serve.guard import Refused
from inkstone.serve.models import Library
from inkstone.storage import read_json_object, reading

_PAGE, _SHOWN = 50, 600
"""Questions that are sent at once, and characters of a text."""


def mount_evaluations(app: FastAPI, library: Library) -> None:
    """Add the routes. A run is named by its folder, which must be one that a model of this server lies in."""

    def folders() -> dict[str, Path]:
        runs = dict.fromkeys(place.parent for place in library.directories.values())
        return {str(run): run / "evaluate" for run in runs if (run / "evaluate" / "scores.json").is_file()}

    @app.get("/api/evaluations")
    def evaluations() -> list[dict[str, Any]]:
        """The tables of the runs."""
        tables = []
        for folder, place in folders().items():
            with reading(place / "scores.json", "scores of a run", "run its evaluation again"):
                table = score_rows(read_json_object(place / "scores.json"))
            tables.append({"run": Path(folder).name, "folder": folder, "table": table})
        return tables

    @app.get("/api/differences")
    def differences(
        a_run: str, a: str, b_run: str, b: str, task: str = "", start: Annotated[int, Query(ge=0, le=10**7)] = 0
    ) -> dict[str, Any]:
        """Both models' tasks compared, and some of the questions of one task that only one of them has right."""
        places = folders()
        if gone := [run for run in (a_run, b_run) if run not in places]:
            raise Refused(404, f"there is no evaluated run {gone[0][:200]} here", code="not_found")
        one, other = read_answers(places[a_run], a), read_answers(places[b_run], b)
        table, refused = compare_answers(one, other)
        told: dict[str, Any] = {"tasks": [asdict(row) for row in table], "refused": refused, "total": 0, "rows": []}
        if not task:
            return told
        if task not in [row.task for row in table]:
            raise Refused(404, f'the two have no task "{task[:100]}" to compare', code="not_found")
        pairs = differing(one[task], other[task])
        items = read_items(task, _data_of(places[a_run]))
        rows = [in_words(pair, items) for pair in pairs[start : start + _PAGE]]
        short = [{name: _short(text) for name, text in row.items()} for row in rows]
        return told | {"total": len(pairs), "rows": short}


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]} …"


def _data_of(place: Path) -> Path | None:
    """Where the benchmarks of a run's evaluation lay, as its recipe said."""
    file = place / "stage.json"
    said = read_json_object(file).get("settings", {}).get("evaluate", {}).get("data") if file.is_file() else None
    found = resolve([said], place.parent) if said else []
    return next((one for one in found if isinstance(one, Path)), None)
