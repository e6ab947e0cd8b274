"""A template as Jinja, for transformers, vLLM and llama.cpp: derived from the data, never read back.

It renders one string, so it cannot keep a typed "<|im_end|>" apart from the real one, does not know which part of a
user message was an Alpaca input, and cannot say that an answer is a string of its own for the tokenizer
(`answer = "fresh"` directly after text, as in ChatGLM2): such a prompt has the same ids, the answer after it one
dummy prefix fewer.
"""

import json

from inkstone.chat.template import Piece, Template, Turn


def to_jinja(template: Template) -> str:
    """Takes `messages` ({"role", "content"}), `add_generation_prompt`, and the tokenizer's bos_token and eos_token.

    On one line, so that whitespace options do not matter.
    """
    branches = []
    for number, (role, turn) in enumerate(template.turns.items()):
        keyword = "elif" if number else "if"
        branches.append(f'{{% {keyword} message["role"] == {_literal(role)} %}}{_branch(template, role, turn)}')
    unknown = _literal(f"template {template.name} has no role ")
    return (
        f'{{% set chat = namespace(users=0, system="") %}}{_print(template.start)}{_default_system(template)}'
        f"{{% for message in messages %}}{''.join(branches)}"
        f'{{% else %}}{{{{ raise_exception({unknown} ~ message["role"]) }}}}{{% endif %}}{{% endfor %}}'
        f"{{% if add_generation_prompt %}}{_print(template.turns['assistant'].given)}{{% endif %}}"
    )


def _branch(template: Template, role: str, turn: Turn) -> str:
    """What one message of the role becomes."""
    if role == "system" and template.fold_system:
        return f"{{% set chat.system = {_folded(turn)} %}}"
    written = _written(turn)
    if role == "user":
        inside = "{{ chat.system }}" + '{% set chat.system = "" %}' if template.fold_system else ""
        return f"{{% set chat.users = chat.users + 1 %}}{_print(turn.header)}{inside}{_CONTENT}{_print(turn.footer)}"
    if role == "assistant" and template.past_answer:
        past = _written(template.past_answer)
        return f"{{% if loop.last and not add_generation_prompt %}}{written}{{% else %}}{past}{{% endif %}}"
    return written


_CONTENT = '{{ message["content"] | trim }}'


def _written(turn: Turn) -> str:
    return f"{_print(turn.header)}{_CONTENT}{_print(turn.footer)}"


def _default_system(template: Template) -> str:
    if not template.default_system:
        return ""
    turn = template.turns["system"]
    said = f"{{{{ {_literal(template.default_system.strip())} }}}}"
    text = f"{_print(turn.header)}{said}{_print(turn.footer)}"
    if template.fold_system:
        text = f"{{% set chat.system = {_expression(turn.header, _literal(template.default_system.strip()), turn)} %}}"
    return f'{{% if not messages or messages[0]["role"] != "system" %}}{text}{{% endif %}}'


def _folded(turn: Turn) -> str:
    return _expression(turn.header, '(message["content"] | trim)', turn)


def _expression(header: tuple[Piece, ...], content: str, turn: Turn) -> str:
    return " ~ ".join([*map(_value, header), content, *map(_value, turn.footer)])


def _print(pieces: tuple[Piece, ...]) -> str:
    """Pieces side by side; neighbouring strings are one."""
    printed = []
    constant = ""
    for piece in pieces:
        if piece.kind in ("token", "text"):
            constant += piece.value
            continue
        printed += [_literal(constant)] if constant else []
        printed.append(_value(piece))
        constant = ""
    printed += [_literal(constant)] if constant else []
    return "".join(f"{{{{ {value} }}}}" for value in printed)


def _value(piece: Piece) -> str:
    """A piece as a Jinja expression."""
    if piece.kind == "special":
        return f"{piece.value}_token"
    if piece.kind == "round":
        return f"([chat.users, 1] | max + {int(piece.value) - 1})"
    return _literal(piece.value)


def _literal(value: str) -> str:
    """A Jinja string; its escapes are those of JSON, which reads non-ASCII as it stands."""
    return json.dumps(value, ensure_ascii=False)
