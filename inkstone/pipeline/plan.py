"""Which stages are fresh, which must run, and why.

A stage covers its version, the settings that decide its result, the bytes of its input files and the stages it needs;
this is compared with what the stage.json on disk covers, so the plan is known before anything runs. Machine settings
are left out on both sides, and settings that a finished stage does not know have their defaults there: a run of an
older version is recognised as what it is. A stage that is fresh keeps the fingerprint it was written with.
"""

import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from inkstone.chat.dataset_info import is_entry, open_input
from inkstone.chat.rows import UnreadableFile
from inkstone.corpus.read.files import url_states, walk
from inkstone.errors import InputError
from inkstone.pipeline.stages import Stage
from inkstone.stage import deciding
from inkstone.storage import Digests, fingerprint, read_json_object


@dataclass(frozen=True)
class Planned:
    """A stage, its fingerprint and what it covers, and why it must run (None: it is fresh).

    `damage` says what is wrong with the directory of a fresh stage: a sentence that stops the run.
    """

    stage: Stage
    fingerprint: str
    covers: dict[str, Any]
    reason: str | None
    damage: str = ""


def make_plan(run_dir: Path, stages: list[Stage], digests: Digests, contents: bool = False) -> list[Planned]:
    """The stages in order, each with its reason to run or None; `contents` checks finished files beyond their sizes."""
    planned: dict[str, Planned] = {}
    for stage in stages:
        covers = {
            "version": stage.kind.version,
            "settings": {name: deciding(model) for name, model in stage.settings.items()},
            "inputs": _digests(stage.inputs, digests),
            "needs": {name: planned[name].fingerprint for name in stage.needs},
        }
        directory = run_dir / stage.name
        done = stage_record(directory)
        stale = next((need for need in stage.needs if planned[need].reason), None)
        reason = _why(directory, done, covers, stage)
        if stale and reason != "not done yet":
            reason = f"{stale} runs again"
        name = str(done["fingerprint"]) if done and not reason else fingerprint({"stage": stage.name, **covers})
        damage = "" if reason else digests.damage(directory, contents)
        planned[stage.name] = Planned(stage, name, covers, reason, damage)
    return list(planned.values())


def former_fingerprint(planned: Planned) -> str:
    """The name that versions before 2026-11-27 gave the stage, which covered the machine's settings too."""
    settings = {name: model.model_dump(mode="json") for name, model in planned.stage.settings.items()}
    return fingerprint({"stage": planned.stage.name, **planned.covers, "settings": settings})


def _digests(inputs: tuple[Path | str, ...], digests: Digests) -> dict[str, str]:
    """What each input file holds: its checksum, or for a URL what the other side says of it."""
    local = [path for path in inputs if isinstance(path, Path)]
    files = [file for path in local for file in (sorted(walk(path)) if path.is_dir() else [path])]
    found = {str(file): digests.sha256(file) for file in files if file.is_file()}
    for entry in filter(is_entry, local):
        with suppress(UnreadableFile):  # the check of inputs says why
            opened = open_input(entry)
            content = [digests.sha256(file) for file in opened.files if file.is_file()]
            found[str(entry)] = fingerprint([content, opened.said])
    for url in (path for path in inputs if isinstance(path, str)):
        found |= url_states(url)
    return found


def stage_record(directory: Path) -> dict[str, Any] | None:
    """The stage.json of a finished stage; None when there is none that can be read."""
    try:
        record = read_json_object(directory / "stage.json")
    except (OSError, InputError):
        return None
    tables = [record.get("covers"), *(_table(record.get("covers"), name) for name in ("settings", "inputs", "needs"))]
    return (
        record if all(isinstance(one, dict) for one in tables) and isinstance(record.get("fingerprint"), str) else None
    )


def _table(covers: Any, name: str) -> Any:
    return covers.get(name, {}) if isinstance(covers, dict) else None


def _why(directory: Path, done: dict[str, Any] | None, covers: dict[str, Any], stage: Stage) -> str | None:
    """Why the stage that left `directory` must run again; None when it is fresh."""
    if done is None:
        return "its stage.json is damaged" if (directory / "stage.json").exists() else "not done yet"
    old = done["covers"]
    if old.get("version") != covers["version"]:
        return "the stage's code has changed"
    before = {name: _as_now(stage.settings.get(name), values) for name, values in old.get("settings", {}).items()}
    changes = _differences(before, covers["settings"])
    if changes:
        return "settings changed: " + ", ".join(changes[:5]) + (" ..." if len(changes) > 5 else "")
    files = {**old.get("inputs", {}), **covers["inputs"]}
    changed = [file for file in files if old.get("inputs", {}).get(file) != covers["inputs"].get(file)]
    if changed:
        return f"input changed: {changed[0]}" + (f" and {len(changed) - 1} more" if len(changed) > 1 else "")
    return None if old.get("needs") == covers["needs"] else "what it builds on has changed"


def _as_now(settings: BaseModel | None, values: Any) -> Any:
    """A finished stage's settings as this version would write them; as they are where it no longer can."""
    try:
        return values if settings is None else deciding(type(settings).model_validate(values))
    except ValidationError:
        return values


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
