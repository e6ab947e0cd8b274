"""`report.json`: what went in, what each step and rule took out, what came out, how long it took.

`report` only arranges what the tasks counted (`figures.py`), so its numbers are those of the audit.
"""

from collections import Counter, defaultdict

import numpy as np

from inkstone.corpus.repeats.dedup import Duplicates
from inkstone.corpus.run.figures import QUALITY_BINS, Figures, shortened
from inkstone.corpus.run.tables import Tables

STEPS = ("read", "repair", "rules", "equal_documents", "lines", "duplicates", "quality", "substrings")
_OPTIONAL = {"substrings"}  # told of only where it was asked for
_UNITS = ("documents", "characters", "bytes")
_CLUSTER_EXAMPLES = 10


def report(figures: Figures, clusters: dict[str, object], seconds: float) -> dict[str, object]:
    """The report as plain data."""
    flows = _flows(figures)
    asked = [step for step in STEPS if step not in _OPTIONAL or any(key[0] == step for key in flows)]
    steps = {step: _total(flow for key, flow in flows.items() if key[0] == step) for step in asked}
    splits = {
        name: _total(flow for key, flow in flows.items() if key[0] == f"split:{name}") for name in ("train", "heldout")
    }
    read, out = steps["read"], {unit: sum(split[f"{unit}_out"] for split in splits.values()) for unit in _UNITS}
    return {
        "documents_in": read["documents_in"],
        "documents_out": out["documents"],
        "characters_in": read["characters_in"],
        "characters_out": out["characters"],
        "steps": [{"step": step, **_with_share(flow)} for step, flow in steps.items()],
        "rules": _rules(figures),
        "splits": {name: {unit: split[f"{unit}_out"] for unit in _UNITS} for name, split in splits.items()},
        "sources": _by(flows, 1),
        "langs": _by(flows, 2),
        "flows": [
            {"step": step, "source": source, "lang": lang, **flow}
            for wanted in STEPS
            for (step, source, lang), flow in sorted(flows.items())
            if step == wanted
        ],
        "lengths": {f"<{power}": n for power, n in sorted(
            (int(key[1]), n) for key, n in figures.numbers.items() if key[0] == "length")},
        "quality": _quality(figures),
        "clusters": clusters,
        "rewrites": figures.rewrites,
        "repairs": _nested(figures, "repair"),
        "counts": _nested(figures, "count"),
        "unreadable": {"count": figures.total("rule", "record", last="count"), "first": figures.unreadable},
        "throughput": {
            "seconds": round(seconds, 3),
            "megabytes_per_second": round(read["bytes_in"] / 1e6 / max(seconds, 1e-9), 2),
            "documents_per_second": round(read["documents_in"] / max(seconds, 1e-9), 1),
        },
    }  # fmt: skip


def clusters(tables: Tables, alike: Duplicates) -> dict[str, object]:
    """How many documents the near-duplicate clusters have, and the first texts of some."""
    sizes = Counter(alike.of[alike.near & (alike.of >= 0)].tolist())
    largest = sorted(sizes, key=lambda rank: (-sizes[rank], rank))[:_CLUSTER_EXAMPLES]
    members = {rank: alike.rank[alike.of == rank][:5].tolist() for rank in largest}
    wanted = np.array(sorted({*largest, *(m for some in members.values() for m in some)}), np.int64)
    ids, texts = tables.values("id", wanted), tables.values("text", wanted)
    examples = [
        {"kept": ids[rank], "size": sizes[rank] + 1, "members": [ids[m] for m in members[rank]],
         "texts": [shortened(texts[m]) for m in (rank, *members[rank])]}
        for rank in largest
    ]  # fmt: skip
    counts = Counter(size + 1 for size in sizes.values())
    return {"sizes": {str(size): n for size, n in sorted(counts.items())}, "examples": examples}


def _flows(figures: Figures) -> dict[tuple[str, str, str], dict[str, int]]:
    empty = {f"{unit}_{end}": 0 for end in ("in", "out") for unit in _UNITS}
    flows: dict[tuple[str, str, str], dict[str, int]] = defaultdict(lambda: dict(empty))
    for key, value in figures.numbers.items():
        if key[0] == "flow":
            flows[key[1], key[2], key[3]][key[4]] += value
    return flows


def _total(flows) -> dict[str, int]:  # type: ignore[no-untyped-def]
    total = {f"{unit}_{end}": 0 for end in ("in", "out") for unit in _UNITS}
    for flow in flows:
        for name, value in flow.items():
            total[name] += value
    return total


def _by(flows: dict[tuple[str, str, str], dict[str, int]], part: int) -> dict[str, dict[str, int | float]]:
    """What came in (repaired) and stays, by source (1) or language (2)."""
    found: dict[str, dict[str, int]] = {}
    for key, flow in sorted(flows.items()):
        entry = found.setdefault(key[part], _total(()))
        for unit in _UNITS:
            if key[0] == "rules":
                entry[f"{unit}_in"] += flow[f"{unit}_in"]
            if key[0].startswith("split:"):
                entry[f"{unit}_out"] += flow[f"{unit}_out"]
    return {name: _with_share(flow) for name, flow in sorted(found.items())}


def _with_share(flow: dict[str, int]) -> dict[str, int | float]:
    kept = flow["characters_out"] / flow["characters_in"] if flow["characters_in"] else 0.0
    return {**flow, "kept_share": round(kept, 4)}


def _rules(figures: Figures) -> list[dict[str, object]]:
    counts: dict[str, dict[str, object]] = {}
    for (kind, *rest), value in sorted(figures.numbers.items()):
        if kind == "rule":
            level, rule, lang, unit = rest
            entry = counts.setdefault(rule, {"rule": rule, "level": level, "count": 0, "characters": 0, "langs": {}})
            entry[unit] += value  # type: ignore[operator]
            if unit == "count":
                entry["langs"][lang] = value  # type: ignore[index]
    for rule, entry in counts.items():
        entry["examples"] = figures.examples[rule]
    return sorted(counts.values(), key=lambda entry: (-int(str(entry["count"])), str(entry["rule"])))


def _quality(figures: Figures) -> dict[str, dict[str, list[float]]]:
    edges = [n / QUALITY_BINS for n in range(QUALITY_BINS + 1)]
    found: dict[str, dict[str, list[float]]] = {}
    for (kind, *rest), value in sorted(figures.numbers.items()):
        if kind == "quality":
            source, lang, fate, place = rest
            entry = found.setdefault(
                f"{source}|{lang}", {"edges": edges, "kept": [0.0] * QUALITY_BINS, "removed": [0.0] * QUALITY_BINS}
            )
            entry[fate][int(place)] += value
    return found


def _nested(figures: Figures, kind: str) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for key, value in sorted(figures.numbers.items()):
        if key[0] == kind:
            found.setdefault(key[1], {})[key[2]] = value
    return found
