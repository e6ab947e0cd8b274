"""Keep a template beside its model: `chat_template.json` for us, `chat_template.jinja` for every other program.

The JSON file is the template; the Jinja file is derived from it and gives equal ids for ordinary text. It cannot keep
a typed "<|im_end|>" apart from the real one, because it renders one string; that is why we never read it back.
"""

import json
from pathlib import Path
from typing import Any, Literal

from inkstone.chat.messages import ROLES
from inkstone.chat.template import Piece, Template, Turn
from inkstone.errors import InputError

_JSON = "chat_template.json"
_JINJA = "chat_template.jinja"


def to_jinja(template: Template) -> str:
    """The template as transformers, vLLM and llama.cpp read it; on one line, so that whitespace options do not matter.

    It takes `messages` ({"role", "content"}) and `add_generation_prompt`.
    """
    branches = []
    for number, (role, turn) in enumerate(template.turns.items()):
        keyword = "elif" if number else "if"
        branches.append(
            f'{{% {keyword} message["role"] == {_literal(role)} %}}'
            f'{_print(turn.header)}{{{{ message["content"] | trim }}}}{_print(turn.footer)}'
        )
    unknown = _literal(f"template {template.name} has no role ")
    return (
        f"{_print(template.start)}{{% for message in messages %}}{''.join(branches)}"
        f'{{% else %}}{{{{ raise_exception({unknown} ~ message["role"]) }}}}{{% endif %}}{{% endfor %}}'
        f"{{% if add_generation_prompt %}}{_print(template.turns['assistant'].header)}{{% endif %}}"
    )


def save_template(template: Template, directory: Path) -> None:
    """Write both files into a model directory."""
    directory.mkdir(parents=True, exist_ok=True)
    content = {
        "name": template.name,
        "start": _pieces_out(template.start),
        "turns": {
            role: {"header": _pieces_out(turn.header), "footer": _pieces_out(turn.footer)}
            for role, turn in template.turns.items()
        },
        "stop_tokens": list(template.stop_tokens),
    }
    (directory / _JSON).write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    (directory / _JINJA).write_text(to_jinja(template), encoding="utf-8")


def load_template(directory: Path) -> Template:
    """Read `chat_template.json` of a model directory. Raises InputError where it is missing or malformed."""
    path = directory / _JSON
    if not path.is_file():
        raise InputError(f"{path} is missing: {directory} is not a chat model; tune one, or name a template.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        unknown = set(content["turns"]) - set(ROLES)
        if unknown:
            raise InputError(f"{path}: unknown role {', '.join(sorted(unknown))}; known are {', '.join(ROLES)}.")
        turns = {
            role: Turn(
                _pieces_in(content["turns"][role]["header"]),
                _pieces_in(content["turns"][role]["footer"]),
            )
            for role in ROLES
            if role in content["turns"]
        }
        return Template(content["name"], _pieces_in(content["start"]), turns, tuple(content["stop_tokens"]))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is not a chat template ({type(error).__name__}: {error}).") from error


def _pieces_out(pieces: tuple[Piece, ...]) -> list[dict[str, str | bool]]:
    return [{piece.kind: piece.value, **({"learned": True} if piece.learned else {})} for piece in pieces]


def _pieces_in(rows: list[dict[str, Any]]) -> tuple[Piece, ...]:
    pieces = []
    for row in rows:
        kind: Literal["token", "text"] = "token" if "token" in row else "text"
        if not isinstance(row[kind], str):
            raise TypeError(f"{kind} must be a string")
        pieces.append(Piece(kind, row[kind], row.get("learned") is True))
    return tuple(pieces)


def _print(pieces: tuple[Piece, ...]) -> str:
    value = "".join(piece.value for piece in pieces)
    return f"{{{{ {_literal(value)} }}}}" if value else ""


def _literal(value: str) -> str:
    """A Jinja string; its escapes are those of JSON, which reads non-ASCII as it stands."""
    return json.dumps(value, ensure_ascii=False)
