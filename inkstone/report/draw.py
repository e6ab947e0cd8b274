"""Which charts the page shows: a run's numbers turned into calls of `charts.py`; what is missing is left out."""

from typing import Any

from inkstone.report.charts import Bars, Line, bar_chart, histogram, line_chart, point_chart
from inkstone.report.curation import Curation
from inkstone.report.gather import Run, series
from inkstone.report.sankey import sankey
from inkstone.train import PRETRAIN
from inkstone.tune import SFT

SCORING_LABELS = {"letter": "by letter", "text": "by option text", "text_norm": "by option text per byte"}


def all_charts(run: Run) -> dict[str, str]:
    """Chart name to SVG, for every chart whose numbers exist."""
    drawn: dict[str, str] = {}
    for stage, rows in run.metrics.items():
        drawn |= _training(stage, rows)
    if run.corpus:
        drawn |= _curation(run.corpus)
    if run.curation:
        drawn |= _flows(run.curation)
    if run.tokenizer:
        drawn |= _compression(run.tokenizer)
    if run.mixture:
        drawn |= _mixture(run.mixture)
    if run.scores:
        drawn |= _quiz(run.scores)
    return drawn


def stage_label(stage: str) -> str:
    """What a training stage is called on the page."""
    known = {PRETRAIN.name: "Pretraining", SFT.name: "Chat tuning"}
    return known.get(stage, f"Tuning {stage}")


def removed(report: dict[str, Any]) -> list[dict[str, Any]]:
    """Curation rules, the one that removed most characters first: rule, level, count, characters, examples."""
    rules = [rule for rule in report.get("rules", []) if rule["count"]]
    return sorted(rules, key=lambda rule: (-rule["characters"], rule["rule"]))


def _training(stage: str, rows: list[dict[str, Any]]) -> dict[str, str]:
    label = stage_label(stage)
    curves = [Line("training", *series(rows, "step", "loss"))]
    curves.append(Line("held-out", *series(rows, "step", "heldout_loss"), dots=True))
    curves = [curve for curve in curves if curve.x]
    drawn = {}
    if curves:
        drawn[f"{stage}-loss"] = line_chart(f"{stage}-loss", f"{label}: loss", curves, "step", "nats per token")
    speed = Line("tokens per second", *series(rows, "step", "tokens_per_second"))
    if speed.x:
        drawn[f"{stage}-speed"] = line_chart(f"{stage}-speed", f"{label}: speed", [speed], "step", "tokens per second")
    moved = {key: series(rows, "step", key) for key in rows[-1] if key.startswith("weight ")} if rows else {}
    moved = moved or {key: series(rows, "step", key) for row in rows[-2:-1] for key in row if key.startswith("weight ")}
    if moved:
        name, title = f"{stage}-weights", f"{label}: weights of the domains, reweighted online"
        lines = [Line(key.removeprefix("weight "), *points) for key, points in moved.items()]
        drawn[name] = line_chart(name, title, lines, "step", "share of the tokens")
    return drawn


def _curation(report: dict[str, Any]) -> dict[str, str]:
    drawn = {}
    rules = removed(report)
    if lengths := report.get("lengths"):
        name, title = "corpus-lengths", "Lengths of the documents that stay"
        labels = [f"{_thousands(label)} characters" for label in lengths]
        drawn[name] = bar_chart(name, title, labels, [Bars("documents", list(lengths.values()))], "documents")
    if rules:
        name, bars = "corpus-removed", [Bars("characters", [rule["characters"] for rule in rules])]
        drawn[name] = bar_chart(name, "What each rule removed", [rule["rule"] for rule in rules], bars, "characters")
    return drawn


def _flows(curation: Curation) -> dict[str, str]:
    """The Sankeys, the scores and the clusters of a corpus."""
    drawn = {}
    for unit, grains in curation.flows.items():
        for grain, bands in grains.items():
            if curation.stages[unit] and bands:
                name = f"flow-{unit}-{grain}"
                drawn[name] = sankey(name, f"{unit} by {grain}", curation.stages[unit], bands, unit)
    if curation.quality:
        name, title = "corpus-quality", "Quality scores of the documents that stay"
        edges = next(iter(curation.quality.values()))[1]
        groups = [(lang, counts) for lang, (counts, _) in curation.quality.items()]
        drawn[name] = histogram(name, title, groups, edges, "score", "documents")
    if sizes := curation.cluster_sizes:
        name, title = "corpus-clusters", "Sizes of the duplicate clusters"
        labels = [f"{size} documents" for size in sizes]
        drawn[name] = bar_chart(name, title, labels, [Bars("clusters", list(sizes.values()))], "clusters")
    return drawn


def _mixture(facts: dict[str, Any]) -> dict[str, str]:
    """The weights of every mix, and predicted against measured losses."""
    domains = list(facts["domains"])
    groups = [Bars(name, [100 * mix[domain] for domain in domains]) for name, mix in facts["mixes"].items()]
    name = "mixture-weights"
    drawn = {name: bar_chart(name, "Weights of the mixtures", domains, groups, "% of the tokens", digits=1)}
    if check := facts.get("check"):
        name, title = "mixture-check", "The law on mixtures it has not seen"
        points = [Line("mixtures", check["predicted"], check["measured"])]
        drawn[name] = point_chart(name, title, points, "predicted, nats per token", "measured")
    return drawn


def _thousands(label: str) -> str:
    """<1048576 as < 1 Mi."""
    value = int(label.lstrip("<"))
    for size, unit in ((1 << 20, " Mi"), (1 << 10, " Ki")):
        if value >= size:
            return f"< {value // size}{unit}"
    return f"< {value}"


def _compression(measure: dict[str, Any]) -> dict[str, str]:
    langs = measure.get("languages", {})
    if not langs:
        return {}
    name, unit = "compression", "UTF-8 bytes per token (more is better)"
    bars = [Bars("bytes per token", [facts.get("bytes_per_token") for facts in langs.values()])]
    return {name: bar_chart(name, "Tokenizer compression", list(langs), bars, unit, digits=2)}


def _quiz(scores: dict[str, Any]) -> dict[str, str]:
    """One chart per scoring: accuracy by subject, one bar per model."""
    models = scores["models"]
    drawn = {}
    for scoring, label in SCORING_LABELS.items():
        tables = {name: model.get("quiz", {}).get(scoring, {}).get("by_subject", {}) for name, model in models.items()}
        subjects = sorted({subject for table in tables.values() for subject in table})
        if not subjects:
            continue
        groups = [Bars(name, *_percents(table, subjects)) for name, table in tables.items() if table]
        name, title = f"quiz-{scoring}", f"Quiz by subject, {label}"
        drawn[name] = bar_chart(name, title, subjects, groups, "% right", (25.0, "chance"))
    return drawn


def _percents(table: dict[str, Any], subjects: list[str]) -> list[list[float | None]]:
    """Accuracy and its standard error by subject."""
    found = [[table.get(subject, {}).get(key) for subject in subjects] for key in ("accuracy", "stderr")]
    return [[None if value is None else 100 * value for value in values] for values in found]
