"""Every protocol by its name: `find("cmmlu@official")`, `find("cmmlu@official/0")` for another number of examples.

The protocols are values in the .toml files beside this one.
"""

import tomllib
from dataclasses import asdict, replace
from importlib.resources import files
from typing import Any

from pydantic import TypeAdapter

from inkstone.errors import InputError
from inkstone.evaluate.protocols.protocol import Ask, Protocol, build, choose_examples


def _read_all() -> dict[str, dict[str, Protocol]]:
    """Task to name to protocol, in the order of the files."""
    found: dict[str, dict[str, Protocol]] = {}
    for name in ("exams", "english", "written"):
        text = files(__package__).joinpath(f"{name}.toml").read_text(encoding="utf-8")
        for row in tomllib.loads(text)["protocol"]:
            base: dict[str, Any] = {}
            if like := row.pop("like", ""):
                task, _, name = like.partition("@")
                base = asdict(found[task][name])
            protocol = TypeAdapter(Protocol).validate_python(base | row)
            found.setdefault(protocol.task, {})[protocol.name] = protocol
    return {task: known for task, known in found.items() if not task.startswith("_")}


PROTOCOLS = _read_all()


def find(text: str) -> Protocol:
    """A task, with a protocol and a number of worked examples where it says so; alone, its first protocol."""
    task, _, rest = text.strip().partition("@")
    name, _, shots = rest.partition("/")
    task, _, alone = task.partition("/")
    known = PROTOCOLS.get(task)
    if known is None:
        raise InputError(f"there is no task {task!r}: there are {', '.join(PROTOCOLS)}")
    if name and name not in known:
        raise InputError(f"{task} has no protocol {name!r}: it has {', '.join(known)}")
    protocol = known[name] if name else next(iter(known.values()))
    shots = shots or alone
    if shots and not (shots.isdecimal() and int(shots) <= 100):
        raise InputError(f"{text}: after the / stands a number of worked examples, e.g. {task}@{protocol.name}/5")
    return replace(protocol, shots=int(shots)) if shots else protocol


__all__ = ["PROTOCOLS", "Ask", "Protocol", "build", "choose_examples", "find"]
