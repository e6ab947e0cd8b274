"""Damage, drawn from a seeded generator: bytes flipped, cut, repeated; JSON values replaced by what nobody expects."""

import copy
import json
import random
from typing import Any

DEEP = 100_000
NASTY: list[Any] = [
    None, True, False, 0, -1, 1, 2**31, 2**63, 10**30, 10**400, 1e308, -1e308, float("nan"), float("inf"), 0.5, "",
    " ", "\ud800", "\x00", "\x1b]0;x\x07", "../../etc/passwd", "x" * 5000, "一", "1", [], [[]], [None], {}, {"": {}},
    [2**63], [float("inf")], ["a", 1], {"type": []}, [[["x"]]], "[/red]", "{}", "%s",
]  # fmt: skip


def damaged_bytes(content: bytes, draw: random.Random) -> bytes:
    """One to four of: a flipped, inserted or lost stretch; a cut; a number of eight bytes made huge; a repetition."""
    data = bytearray(content)
    for _ in range(draw.randint(1, 4)):
        at = draw.randrange(len(data) + 1)
        match draw.randrange(8):
            case 0 | 1 if data:
                data[at % len(data)] ^= 1 << draw.randrange(8)
            case 2:
                data[at:at] = draw.randbytes(draw.randint(1, 9))
            case 3:
                del data[at : at + draw.randint(1, 64)]
            case 4:
                del data[at:]
            case 5:
                data[at : at + 8] = draw.choice([0, 1, 2**31, 2**40, 2**63, 2**64 - 1]).to_bytes(8, "little")
            case 6:
                end = at + draw.randint(1, 200)
                data[at:at] = data[at:end] * draw.randint(1, 5)
            case _:
                data = bytearray(draw.choice([b"", b"\x00" * 100, b"\xef\xbb\xbf" + data, b"\xff\xfe" + data]))
    return bytes(data)


def damaged_value(value: Any, draw: random.Random) -> Any:
    """The value with one to three of its places, at any depth, replaced, removed, renamed or doubled."""
    value = json.loads(json.dumps(value))
    for _ in range(draw.randint(1, 3)):
        places = list(_places(value))
        if not places:
            return copy.deepcopy(draw.choice(NASTY))
        owner, key = draw.choice(places)
        match draw.randrange(6):
            case 0:
                del owner[key]
            case 1 if isinstance(owner, dict):
                owner[draw.choice(["", "x", "\ud800", str(key).upper()])] = owner.pop(key)
            case 2 if isinstance(owner, list):
                owner.extend(copy.deepcopy(owner[key]) for _ in range(draw.choice([1, 1000])))
            case _:
                owner[key] = copy.deepcopy(draw.choice(NASTY))
    return value


def damaged_json(value: Any, draw: random.Random) -> bytes:
    """A JSON text: damaged as a value, as bytes, or nested deeper than any reader goes."""
    match draw.randrange(10):
        case 0 | 1 | 2:
            return damaged_bytes(json.dumps(value).encode(), draw)
        case 3:
            opening, closing = draw.choice([("[", "]"), ('{"a":', "}")])
            key = draw.choice(list(value)) if isinstance(value, dict) and value else "a"
            deep = opening * DEEP + "1" + closing * DEEP
            return draw.choice([deep, json.dumps(value)[:-1] + f',"{key}":{deep}}}']).encode("utf-8", "replace")
        case _:
            return json.dumps(damaged_value(value, draw)).encode()


def _places(value: Any) -> Any:
    """(owner, key) of everything inside."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in list(inner)[:200]:
        yield value, key
        yield from _places(one)
