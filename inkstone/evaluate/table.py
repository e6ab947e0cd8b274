"""The table of scores: one row per score, one column per model, in the order the models were trained.

`score_rows` turns scores.json into plain strings; who shows them lays them out.
"""

from typing import Any

from inkstone.evaluate.report.figures import Z

MISSING = "–"

SCORINGS = {"letter": "quiz, by letter", "text": "quiz, by option text", "text_norm": "quiz, by option text per byte"}
PROBLEMS = "word problems"


def score_rows(scores: dict[str, Any]) -> list[list[str]]:
    """First row: the column heads. Scores that a model lacks are a dash; rows that all models lack are left out."""
    models: dict[str, dict[str, Any]] = scores["models"]
    rows = [["score", *models]]
    for keys, label in _labels(models):
        cells = [_cell(_find(model, keys)) for model in models.values()]
        if any(cell != MISSING for cell in cells):
            rows.append([label, *cells])
    return rows


def _labels(models: dict[str, dict[str, Any]]) -> list[tuple[list[str], str]]:
    """(path to a score inside a model's scores, its label) of every row that could appear."""
    labels: list[tuple[list[str], str]] = []
    for scoring, label in SCORINGS.items():
        labels.append((["quiz", scoring], label))
        labels += [
            (["quiz", scoring, group, key], f"  {key}" + (" wording" if group == "by_phrasing" else ""))
            for group in ("by_phrasing", "by_lang")
            for key in _all_keys(models, ["quiz", scoring, group])
        ]
    labels.append((["problems"], PROBLEMS))
    labels += [(["problems", "by_lang", key], f"  {key}") for key in _all_keys(models, ["problems", "by_lang"])]
    labels += [(["benchmarks", key], key) for key in _all_keys(models, ["benchmarks"])]
    labels.append((["heldout"], f"held-out bits per byte{_documents(models, ['heldout'])}"))
    for key in _all_keys(models, ["heldout", "by_lang"]):
        labels.append((["heldout", "by_lang", key], f"  {key}{_documents(models, ['heldout', 'by_lang', key])}"))
    return labels


def _all_keys(models: dict[str, dict[str, Any]], keys: list[str]) -> list[str]:
    return sorted({key for model in models.values() for key in (_find(model, keys) or {})})


def _find(node: dict[str, Any], keys: list[str]) -> Any:
    found: Any = node
    for key in keys:
        found = found.get(key) if isinstance(found, dict) else None
    return found


def _documents(models: dict[str, dict[str, Any]], keys: list[str]) -> str:
    """On how many documents a figure rests, the same for all models."""
    counts = [found["documents"] for model in models.values() if (found := _find(model, keys) or {}).get("documents")]
    return f" ({counts[0]} documents)" if counts else ""


def _cell(found: Any) -> str:
    if not isinstance(found, dict):
        return MISSING
    error = found.get("stderr")
    if "bits_per_byte" in found:
        return f"{found['bits_per_byte']:.3f}" + ("" if error is None else f" ± {error:.3f}")
    if "accuracy" not in found:
        return MISSING
    return f"{100 * found['accuracy']:.1f} %" + ("" if error is None else f" ± {100 * error:.1f}")


def table_entry(found: dict[str, Any]) -> dict[str, Any]:
    """What the table and the page need of a benchmark's figures."""
    if "item_mean" not in found:
        return {"n": found["questions"]}
    spread = (found["high"] - found["low"]) / (2 * Z)
    names = ("subject_mean", "fingerprint", "unparsed", "truncated", "categories")
    return {"n": found["scored"], "accuracy": found["item_mean"], "stderr": spread} | {key: found[key] for key in names}
