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
        return _remember(turn, f"({_CONTENT})")
    if role == "user":
        inside = '{{ chat.system }}{% set chat.system = "" %}' if template.fold_system else ""
        return f"{{% set chat.users = chat.users + 1 %}}{_written(turn, inside=inside)}"
    if role == "assistant" and template.past_answer:
        past = _written(template.past_answer)
        return f"{{% if loop.last and not add_generation_prompt %}}{_written(turn)}{{% else %}}{past}{{% endif %}}"
    return _written(turn)


_CONTENT = 'message["content"] | trim'


def _default_system(template: Template) -> str:
    """The template's own system message, where the conversation has none."""
    if not template.default_system:
        return ""
    turn, said = template.turns["system"], _literal(template.default_system.strip())
    text = _remember(turn, said) if template.fold_system else _written(turn, said)
    return f'{{% if not messages or messages[0]["role"] != "system" %}}{text}{{% endif %}}'


def _written(turn: Turn, content: str = _CONTENT, inside: str = "") -> str:
    return f"{_print(turn.header)}{inside}{{{{ {content} }}}}{_print(turn.footer)}"


def _remember(turn: Turn, content: str) -> str:
    """Keep a system turn for the first user turn."""
    parts = [*map(_value, turn.header), content, *map(_value, turn.footer)]
    return f"{{% set chat.system = {' ~ '.join(parts)} %}}"


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
        return f"(chat.users + {int(piece.value) - 1})"
    return _literal(piece.value)


def _literal(value: str) -> str:
    """A Jinja string; its escapes are those of JSON, which reads non-ASCII as it stands."""
    return json.dumps(value, ensure_ascii=False)
