"""Fill the page: what was gathered becomes charts, tables and text in one self-contained HTML file.

`render_report(run_dir)` writes run_dir/report.html. All text from the run (documents, answers, file names) reaches the
template as plain strings and is escaped there; only the charts, drawn here from numbers and labels, are markup.
"""

import json
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from inkstone.errors import InkstoneError
from inkstone.evaluate import score_rows
from inkstone.mixture import comparison
from inkstone.report import draw
from inkstone.report.curation import Sample, why_removed
from inkstone.report.gather import Run, gather
from inkstone.storage import atomic_file, reading
from inkstone.train import PRETRAIN


def render_report(run_dir: Path) -> Path:
    """Write run_dir/report.html from what the stages left there, and return its path."""
    # The page is HTML whatever the template's file name says, so everything is escaped.
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(number=number, duration=duration)
    with reading(run_dir, "what stages leave", "run the stage again whose files were changed", InkstoneError):
        html = environment.get_template("page.html.j2").render(page_facts(gather(run_dir)))
    path = run_dir / "report.html"
    with atomic_file(path) as draft:
        draft.write_text(html, encoding="utf-8", errors="replace")
    return path


def page_facts(run: Run) -> dict[str, Any]:
    """Everything the template shows, by name."""
    return {
        "name": run.name,
        "missing": run.missing,
        "remarks": {stage: str(_prompts(facts).get("said", "")) for stage, facts in run.stages.items()},
        "trained": list(run.metrics) or [PRETRAIN.name],
        "cards": cards(run),
        "charts": {name: Markup(svg) for name, svg in draw.all_charts(run).items()},
        "scores": score_rows(run.scores) if run.scores else None,
        "method": run.scores.get("method", {}) if run.scores else {},
        "continuations": continuations(run.samples),
        "conversations": conversations(run.samples),
        "alone": run.corpus_alone,
        "removed": removed_rules(run),
        "curation": run.curation,
        "mixture": mixture_facts(run.mixture),
        "steps": (run.corpus or {}).get("steps", []),
        "corpus_totals": corpus_totals(run.corpus),
        "timings": timings(run),
        "versions": _latest(run, "versions"),
        "hardware": _latest(run, "hardware"),
        "settings": {stage: _pretty(facts.get("settings")) for stage, facts in run.stages.items()},
    }


def cards(run: Run) -> list[tuple[str, str, str]]:
    """(figure, what it is, remark) of the few numbers to see first."""
    found: list[tuple[str, str, str]] = []
    seconds = sum(facts.get("seconds") or 0 for facts in run.stages.values())
    if seconds:
        found.append((duration(seconds), "in all stages", f"{len(run.stages)} of {len(run.planned)} stages finished"))
    rows = run.metrics.get(PRETRAIN.name, [])
    tokens = [row["tokens"] for row in rows if row.get("tokens") is not None]
    if tokens:
        found.append((number(tokens[-1]), "tokens of pretraining", f"{number(len(rows))} logged steps"))
    for stage, rows in run.metrics.items():
        label = draw.stage_label(stage).lower()
        losses = [row["heldout_loss"] for row in rows if row.get("heldout_loss") is not None]
        if losses:
            found.append((f"{losses[-1]:.3f}", f"held-out loss after {label}", f"{losses[0]:.3f} at its first reading"))
    if run.scores and run.scores["models"] and (best := _best_quiz(run.scores["models"])):
        found.append(best)
    return found


def corpus_totals(report: dict[str, Any] | None) -> dict[str, Any] | None:
    """Documents in and out, and the share of the characters that stays."""
    if not report or "documents_in" not in report:
        return None
    kept = report["characters_out"] / max(report["characters_in"], 1)
    return {key: report[key] for key in ("documents_in", "documents_out")} | {"kept": f"{100 * kept:.1f} %"}


def removed_rules(run: Run) -> list[dict[str, Any]]:
    """Per rule: its counts and samples, from the audit where there is one, else from report.json."""
    found = run.curation.samples if run.curation else {}
    return [
        rule | {"examples": found.get(rule["rule"]) or [_example(one) for one in rule["examples"]]}
        for rule in (draw.removed(run.corpus) if run.corpus else [])
    ]


def _example(example: dict[str, Any]) -> Sample:
    why = why_removed(*(example.get(name) for name in ("value", "threshold", "detail")))
    return Sample(str(example.get("id") or ""), why, str(example["text"]), 0)


def mixture_facts(facts: dict[str, Any] | None) -> dict[str, Any] | None:
    """The mixture's sentences and its transfer table as rows of (domain, [(worth, shade in %)])."""
    if facts is None:
        return None
    law = facts.get("law", {})
    table = [(name, [(worth, min(50, round(50 * worth))) for worth in law[name]["transfer"].values()]) for name in law]
    return {"chosen": facts["chosen"], "sentences": comparison(facts), "transfer": table}


def continuations(samples: dict[str, Any] | None) -> list[dict[str, Any]]:
    """[{"prompt", "answers": [(model, text)]}]: every base model's continuation side by side."""
    prompts: dict[str, list[tuple[str, str]]] = {}
    for name, said in (samples or {}).get("models", {}).items():
        for row in said.get("continue", []):
            prompts.setdefault(row["prompt"], []).append((name, row["text"] or row.get("note", "")))
    return [{"prompt": prompt, "answers": answers} for prompt, answers in prompts.items()]


def conversations(samples: dict[str, Any] | None) -> list[dict[str, Any]]:
    """[{"model", "lang", "turns"}]."""
    return [
        {"model": name, "lang": lang, "turns": turns}
        for name, said in (samples or {}).get("models", {}).items()
        for lang, turns in said.get("chat", {}).items()
    ]


def timings(run: Run) -> list[dict[str, Any]]:
    """One row per stage in order; a stage that has not run has no seconds."""
    total = sum(facts.get("seconds") or 0 for facts in run.stages.values()) or 1
    return [
        {
            "stage": stage,
            "started": run.stages.get(stage, {}).get("started"),
            "seconds": run.stages.get(stage, {}).get("seconds"),
            "share": 100 * (run.stages.get(stage, {}).get("seconds") or 0) / total,
        }
        for stage in run.planned
    ]


def number(value: float | int | None) -> str:
    """12,345 or 12.3 M: short enough to read at a glance."""
    if value is None:
        return "–"
    for size, unit in ((1e9, "G"), (1e6, "M")):
        if abs(value) >= size:
            return f"{value / size:.1f} {unit}"
    return f"{value:,.0f}" if float(value).is_integer() or abs(value) >= 100 else f"{value:.3g}"


def duration(seconds: float | None) -> str:
    """4.2 s, 3 min 20 s, 2 h 5 min."""
    if seconds is None:
        return "–"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _best_quiz(models: dict[str, Any]) -> tuple[str, str, str] | None:
    """The last model's better scoring, beside what the first model reaches with the same scoring."""
    first, last = next(iter(models.items())), list(models.items())[-1]
    scorings = {name: value for name, value in last[1].get("quiz", {}).items() if "accuracy" in value}
    if not scorings:
        return None
    name = max(scorings, key=lambda one: scorings[one]["accuracy"])
    label = draw.SCORING_LABELS.get(name, name)
    before = first[1].get("quiz", {}).get(name, {}).get("accuracy")
    remark = f"{100 * before:.1f} % by {first[0]}" if before is not None and first[0] != last[0] else "25 % by chance"
    return f"{100 * scorings[name]['accuracy']:.1f} %", f"quiz, {label}, by {last[0]}", remark


def _prompts(facts: dict[str, Any]) -> dict[str, Any]:
    """How far a stage's prompts are from the tuning set, where it has said so."""
    return (facts.get("result") or {}).get("prompts") or {}


def _latest(run: Run, field: str) -> dict[str, str]:
    """The last finished stage's `field`, as text."""
    for stage in reversed(run.planned):
        facts = run.stages.get(stage, {}).get(field)
        if facts:
            return {key: value if isinstance(value, str) else _pretty(value) for key, value in facts.items()}
    return {}


def _pretty(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, indent=1)
