"""Every protocol by its name: `find("cmmlu@official")`, `find("cmmlu@official/0")` for another number of examples."""

from dataclasses import replace

from inkstone.errors import InputError
from inkstone.evaluate.protocols.exams import EXAM_PROTOCOLS
from inkstone.evaluate.protocols.protocol import Ask, Protocol, build, choose_examples

PROTOCOLS: dict[str, dict[str, Protocol]] = {}
for _protocol in [*EXAM_PROTOCOLS]:
    PROTOCOLS.setdefault(_protocol.task, {})[_protocol.name] = _protocol


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
