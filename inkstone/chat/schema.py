"""The file form of a template, as `chat_template.json` beside a model and as the TOML files in `templates/`.

    start = [{ special = "bos" }]
    stop_tokens = ["<|im_end|>"]
    [turns.user]
    header = [{ token = "<|im_start|>" }, { text = "user\n" }]
    footer = [{ token = "<|im_end|>" }, { text = "\n" }]
    [turns.assistant]
    header = [{ token = "<|im_start|>" }, { text = "assistant\n" }]
    footer = [{ token = "<|im_end|>", learned = true }, { text = "\n" }]

A piece is a control token, a text, a special ("bos" or "eos") or a round (the number of the first round). The other
keys are the fields of `Template`; what has its default is left out. An unknown key is refused, since it would change
ids in silence.
"""

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from inkstone.chat.messages import ROLES
from inkstone.chat.template import Fit, Piece, Sampling, Template, Turn
from inkstone.errors import InputError

_PLAIN = {
    "answer": str,
    "fold_system": bool,
    "default_system": str,
    "default_system_with_input": str,
    "input_separator": str,
}
_SPECIAL = ("bos", "eos")


def template_from(values: Mapping[str, Any]) -> Template:
    """Raises InputError, KeyError or TypeError for what is no template; `load_template` adds the file's name."""
    known = {field.name for field in fields(Template)}
    _known("key", values, known)
    _known("role", values["turns"], ROLES)
    turns = {role: _turn_in(values["turns"][role]) for role in ROLES if role in values["turns"]}
    plain = {key: _typed(key, values[key], kind) for key, kind in _PLAIN.items() if key in values}
    if plain.get("answer", "fresh") not in ("fresh", "continued"):
        raise TypeError('answer must be "fresh" or "continued"')
    return Template(
        name=_typed("name", values["name"], str),
        start=_pieces_in(values["start"]),
        turns=turns,
        stop_tokens=tuple(_typed("stop_tokens", name, str) for name in values["stop_tokens"]),
        past_answer=_turn_in(values["past_answer"]) if "past_answer" in values else None,
        replacements=tuple(
            (_typed("replacements", mark, str), _typed("replacements", shown, str))
            for mark, shown in values.get("replacements", {}).items()
        ),
        fit=Fit(**_numbers("fit", values.get("fit", {}), Fit)),
        sampling=Sampling(**_numbers("sampling", values["sampling"], Sampling)) if "sampling" in values else None,
        **plain,
    )


def template_to(template: Template) -> dict[str, Any]:
    """What `template_from` reads back as an equal template."""
    values: dict[str, Any] = {
        "name": template.name,
        "start": _pieces_out(template.start),
        "turns": {role: _turn_out(turn) for role, turn in template.turns.items()},
        "stop_tokens": list(template.stop_tokens),
    }
    defaults = {field.name: field.default for field in fields(Template)}
    values |= {key: getattr(template, key) for key in _PLAIN if getattr(template, key) != defaults[key]}
    if template.past_answer:
        values["past_answer"] = _turn_out(template.past_answer)
    if template.replacements:
        values["replacements"] = dict(template.replacements)
    if template.fit != Fit():
        values["fit"] = _set_only(template.fit, Fit)
    if template.sampling:
        values["sampling"] = _set_only(template.sampling, Sampling)
    return values


def _turn_in(values: Mapping[str, Any]) -> Turn:
    return Turn(_pieces_in(values["header"]), _pieces_in(values["footer"]))


def _turn_out(turn: Turn) -> dict[str, Any]:
    return {"header": _pieces_out(turn.header), "footer": _pieces_out(turn.footer)}


def _pieces_in(rows: list[Mapping[str, Any]]) -> tuple[Piece, ...]:
    pieces = []
    for row in rows:
        kinds = [key for key in row if key != "learned"]
        if len(kinds) != 1:
            raise TypeError(f"a piece must be one token, text, special or round, not {dict(row)}")
        value = row[kinds[0]]
        match kinds[0]:
            case "token" | "text" as kind:
                piece = Piece(kind, _typed(kind, value, str), row.get("learned") is True)
            case "special" if value in _SPECIAL:
                piece = Piece("special", value, row.get("learned") is True)
            case "round":
                piece = Piece("round", str(_typed("round", value, int)), row.get("learned") is True)
            case _:
                raise TypeError(f"{dict(row)} is no piece: known are token, text, special (bos or eos) and round")
        pieces.append(piece)
    return tuple(pieces)


def _pieces_out(pieces: tuple[Piece, ...]) -> list[dict[str, Any]]:
    return [
        {piece.kind: int(piece.value) if piece.kind == "round" else piece.value}
        | ({"learned": True} if piece.learned else {})
        for piece in pieces
    ]


def _numbers(where: str, values: Mapping[str, Any], kind: type[Fit] | type[Sampling]) -> dict[str, Any]:
    _known(f"key of {where}", values, {field.name for field in fields(kind)})
    return {key: _typed(f"{where}.{key}", value, int | float) for key, value in values.items()}


def _set_only(settings: Fit | Sampling, kind: type[Fit] | type[Sampling]) -> dict[str, Any]:
    defaults = {field.name: field.default for field in fields(kind)}
    return {key: value for key, value in asdict(settings).items() if value != defaults[key]}


def _typed(where: str, value: Any, kind: Any) -> Any:
    if not isinstance(value, kind):
        raise TypeError(f"{where} must be {getattr(kind, '__name__', 'a number')}, not {value!r}")
    return value


def _known(what: str, values: Mapping[str, Any], known: Any) -> None:
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise InputError(f"unknown {what} {', '.join(unknown)}; known are {', '.join(sorted(known))}.")
