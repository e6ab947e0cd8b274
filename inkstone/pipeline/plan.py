"""Which stages are fresh, which must run, and why.

A stage's fingerprint covers its settings, its version, the bytes of its input files and the fingerprints of the stages
it needs. It is compared with the one in the stage.json on disk, so the plan is known before anything runs.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inkstone.corpus.read.files import url_states
from inkstone.pipeline.stages import Stage
from inkstone.storage import file_sha256, fingerprint


@dataclass(frozen=True)
class Planned:
    """A stage, its fingerprint and what it covers, and why it must run (None: it is fresh)."""

    stage: Stage
    fingerprint: str
    covers: dict[str, Any]
    reason: str | None


def make_plan(run_dir: Path, stages: list[Stage]) -> list[Planned]:
    """The stages in order, each with its reason to run or None."""
    planned: dict[str, Planned] = {}
    for stage in stages:
        covers = {
            "version": stage.version,
            "settings": {name: model.model_dump(mode="json") for name, model in stage.settings.items()},
            "inputs": _digests(stage.inputs),
            "needs": {name: planned[name].fingerprint for name in stage.needs},
        }
        name = fingerprint({"stage": stage.name, **covers})
        stale = next((need for need in stage.needs if planned[need].reason), None)
        reason = f"{stale} runs again" if stale else _why(run_dir / stage.name, name, covers)
        planned[stage.name] = Planned(stage, name, covers, reason)
    return list(planned.values())


def _digests(inputs: tuple[Path | str, ...]) -> dict[str, str]:
    """What each input file holds: its checksum, or for a URL what the other side says of it."""
    local = [path for path in inputs if isinstance(path, Path)]
    files = [file for path in local for file in (sorted(path.rglob("*")) if path.is_dir() else [path])]
    digests = {str(file): file_sha256(file) for file in files if file.is_file()}
    for url in (path for path in inputs if isinstance(path, str)):
        digests |= url_states(url)
    return digests


def stage_record(directory: Path) -> dict[str, Any] | None:
    """The stage.json of a finished stage; None when there is none that can be read."""
    try:
        record = json.loads((directory / "stage.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) else None


def _why(directory: Path, name: str, covers: dict[str, Any]) -> str | None:
    """Why the stage that left `directory` must run again; None when it is fresh."""
    done = stage_record(directory)
    if done is None:
        return "its stage.json is damaged" if (directory / "stage.json").exists() else "not done yet"
    if done.get("fingerprint") == name:
        return None
    old = done.get("covers", {})
    if old.get("version") != covers["version"]:
        return "the stage's code has changed"
    changes = _differences(old.get("settings", {}), covers["settings"])
    if changes:
        return "settings changed: " + ", ".join(changes[:5]) + (" ..." if len(changes) > 5 else "")
    files = {**old.get("inputs", {}), **covers["inputs"]}
    changed = [file for file in files if old.get("inputs", {}).get(file) != covers["inputs"].get(file)]
    if changed:
        return f"input changed: {changed[0]}" + (f" and {len(changed) - 1} more" if len(changed) > 1 else "")
    return "what it builds on has changed"


def _differences(old: Any, new: Any, prefix: str = "") -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        found = []
        for key in sorted({*old, *new}):
            found += _differences(old.get(key), new.get(key), f"{prefix}.{key}" if prefix else key)
        return found
    return [] if old == new else [f"{prefix} {_short(old)} -> {_short(new)}"]


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else text[:37] + "..."
