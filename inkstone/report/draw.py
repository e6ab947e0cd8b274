"""Which charts the page shows: a run's numbers turned into calls of `charts.py`; what is missing is left out."""

from typing import Any

from inkstone.report.charts import Bars, Line, bar_chart, line_chart
from inkstone.report.gather import Run, series

SCORING_LABELS = {"letter": "by letter", "text": "by option text", "text_norm": "by option text per byte"}
_STAGE_LABELS = {"pretrain": "Pretraining", "sft": "Chat tuning"}


def all_charts(run: Run) -> dict[str, str]:
    """Chart name to SVG, for every chart whose numbers exist."""
    drawn: dict[str, str] = {}
    for stage, rows in run.metrics.items():
        drawn |= _training(stage, rows)
    if run.corpus:
        drawn |= _curation(run.corpus)
    if run.tokenizer:
        drawn |= _compression(run.tokenizer)
    if run.scores:
        drawn |= _quiz(run.scores)
    return drawn


def flow(report: dict[str, Any]) -> list[dict[str, Any]]:
    """Curation steps in order: step, documents and characters before and after."""
    return [
        {
            "step": step["step"],
            "documents_in": step["documents_in"],
            "documents_out": step["documents_out"],
            "characters_in": step["characters_in"],
            "characters_out": step["characters_out"],
        }
        for step in report.get("steps", [])
    ]


def removed(report: dict[str, Any]) -> list[dict[str, Any]]:
    """Curation rules, the one that removed most characters first: rule, level, count, characters, examples."""
    rules = [rule for rule in report.get("rules", []) if rule["count"]]
    return sorted(rules, key=lambda rule: (-rule["characters"], rule["rule"]))


def _training(stage: str, rows: list[dict[str, Any]]) -> dict[str, str]:
    label = _STAGE_LABELS[stage]
    curves = [Line("training", *series(rows, "step", "loss"))]
    curves.append(Line("held-out", *series(rows, "step", "heldout_loss"), dots=True))
    curves = [curve for curve in curves if curve.x]
    drawn = {}
    if curves:
        drawn[f"{stage}-loss"] = line_chart(f"{stage}-loss", f"{label}: loss", curves, "step", "nats per token")
    speed = Line("tokens per second", *series(rows, "step", "tokens_per_second"))
    if speed.x:
        drawn[f"{stage}-speed"] = line_chart(f"{stage}-speed", f"{label}: speed", [speed], "step", "tokens per second")
    return drawn


def _curation(report: dict[str, Any]) -> dict[str, str]:
    drawn = {}
    steps, rules = flow(report), removed(report)
    if steps:
        labels = ["raw", *(step["step"] for step in steps)]
        documents = [steps[0]["documents_in"], *(step["documents_out"] for step in steps)]
        characters = [steps[0]["characters_in"], *(step["characters_out"] for step in steps)]
        drawn["corpus-documents"] = bar_chart(
            "corpus-documents", "Documents after each step", labels, [Bars("documents", documents)], "documents"
        )
        drawn["corpus-characters"] = bar_chart(
            "corpus-characters", "Characters after each step", labels, [Bars("characters", characters)], "characters"
        )
    if rules:
        drawn["corpus-removed"] = bar_chart(
            "corpus-removed",
            "What each rule removed",
            [rule["rule"] for rule in rules],
            [Bars("characters", [rule["characters"] for rule in rules])],
            "characters",
        )
    return drawn


def _compression(measure: dict[str, Any]) -> dict[str, str]:
    langs = measure.get("languages", {})
    if not langs:
        return {}
    return {
        "compression": bar_chart(
            "compression",
            "Tokenizer compression",
            list(langs),
            [Bars("bytes per token", [facts.get("bytes_per_token") for facts in langs.values()])],
            "UTF-8 bytes per token (more is better)",
            digits=2,
        )
    }


def _quiz(scores: dict[str, Any]) -> dict[str, str]:
    """One chart per scoring: accuracy by subject, one bar per model."""
    models = scores["models"]
    drawn = {}
    for scoring, label in SCORING_LABELS.items():
        tables = {name: model.get("quiz", {}).get(scoring, {}).get("by_subject", {}) for name, model in models.items()}
        subjects = sorted({subject for table in tables.values() for subject in table})
        if not subjects:
            continue
        groups = [
            Bars(
                name,
                [_percent(table.get(subject, {}).get("accuracy")) for subject in subjects],
                [_percent(table.get(subject, {}).get("stderr")) for subject in subjects],
            )
            for name, table in tables.items()
            if table
        ]
        drawn[f"quiz-{scoring}"] = bar_chart(
            f"quiz-{scoring}", f"Quiz by subject, {label}", subjects, groups, "% right", (25.0, "chance")
        )
    return drawn


def _percent(value: float | None) -> float | None:
    return None if value is None else 100 * value
