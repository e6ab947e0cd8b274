"""Find a tokenizer in a directory or file, whatever its age and maker, and bring it into one form.

A directory has `tokenizer.json`, or else `tokenizer.model`; what `tokenizer_config.json`, `special_tokens_map.json` and
`added_tokens.json` say (in the style of any year) is added. A file is one of the two, or a `.gguf`. No code that comes
with a checkpoint is run: ChatGLM's own tokenizer class is known here by name.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inkstone.errors import InputError
from inkstone.storage import read_json_object, reading
from inkstone.tokenizer.foreign.gguf import read_gguf
from inkstone.tokenizer.foreign.sentencepiece import (
    Spec,
    added_token,
    ids_of,
    merge_parts,
    names_control,
    pipeline,
    read_model,
)

ROLES = ("bos_token", "eos_token", "pad_token")
CHATGLM_TOKENS = ("[MASK]", "[gMASK]", "[sMASK]", "sop", "eop")  # after the pieces, in this order
_IDS = 1 << 24  # more than any vocabulary; an embedding of so many rows would not be made unasked
_COMPANIONS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "config.json")


@dataclass(frozen=True)
class Source:
    """A tokenizer as the JSON of the `tokenizers` library, and the names of its begin, end and padding tokens."""

    spec: Spec
    roles: dict[str, str | None]


def read_source(path: Path) -> Source:
    """Read any tokenizer. Raises InputError saying what is missing, damaged or of a kind that is not opened."""
    with reading(path, "a tokenizer"):
        return _read_source(path)


def _read_source(path: Path) -> Source:
    file = _vocabulary_file(path)
    companions = {} if file.suffix == ".gguf" else {name: _read_object(file.parent / name) for name in _COMPANIONS}
    if file.suffix == ".gguf":
        spec, roles = read_gguf(file)
    elif file.suffix == ".model":
        model = read_model(file)
        spec, roles = pipeline(model, file), model.roles()
    else:
        spec, roles = _read_json(file), dict.fromkeys(ROLES)
    if _is_chatglm(companions):
        roles = {**roles, "pad_token": spec["model"]["unk_token"]}
    roles = {role: _named(role, companions) or roles[role] for role in ROLES}
    _append(spec, _appended(companions), path)
    _append(spec, _named_alone(spec, roles, companions), path)
    missing = {role: name for role, name in roles.items() if name is not None and name not in ids_of(spec)}
    if missing:
        raise InputError(
            [f'{path} names "{name}" as its {role}, but has no such token.' for role, name in missing.items()]
        )
    _protect(spec, {name for name in roles.values() if name is not None} | _special_names(companions))
    return Source(spec, roles)


def _vocabulary_file(path: Path) -> Path:
    if path.is_dir():
        for name in ("tokenizer.json", "tokenizer.model"):
            if (path / name).is_file():
                return path / name
        raise InputError(
            f"{path} has no tokenizer.json and no tokenizer.model: give a directory written by the tokenizer stage, a "
            "Hugging Face directory, or a .model, .json or .gguf file."
        )
    if not path.is_file():
        raise InputError(f"{path} does not exist: give a tokenizer directory, or a .model, .json or .gguf file.")
    if path.suffix not in (".json", ".model", ".gguf"):
        raise InputError(f"{path} is no tokenizer: a .model, .json or .gguf file was expected.")
    return path


def _read_json(path: Path) -> Spec:
    spec = read_json_object(path)
    with reading(path, "a tokenizer"):
        kind = spec["model"].get("type", "BPE" if "merges" in spec["model"] else None)
        numbers = [*spec["model"]["vocab"].values(), *(entry["id"] for entry in spec["added_tokens"])]
    if kind != "BPE":
        raise InputError(f"{path} is a {kind} tokenizer; Inkstone opens BPE ones.")
    prefix = spec["model"].get("continuing_subword_prefix")
    if prefix and not all(merge_parts(merge)[-1].startswith(prefix) for merge in spec["model"].get("merges", [])):
        # The library would cut the parts where the prefix should end, and abort the process inside a character.
        raise InputError(f"{path} has merges without its continuing_subword_prefix: copy or make it again")
    if not all(type(number) is int and 0 <= number < _IDS for number in numbers):
        raise InputError(f"{path} has ids that are no numbers from 0 to {_IDS}: copy or make it again")
    spec["model"]["type"] = "BPE"
    return dict(spec)


def _read_object(path: Path) -> dict[str, Any]:
    return read_json_object(path) if path.is_file() else {}


def _is_chatglm(companions: dict[str, dict[str, Any]]) -> bool:
    config = companions.get("tokenizer_config.json", {})
    return (
        config.get("tokenizer_class") == "ChatGLMTokenizer"
        or companions.get("config.json", {}).get("model_type") == "chatglm"
    )


def _named(role: str, companions: dict[str, dict[str, Any]]) -> str | None:
    """The token of a role, as a string or as an object with `content`."""
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        found = _content(companions.get(name, {}).get(role))
        if found is not None:
            return found
    return None


def _content(value: object) -> str | None:
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else None


def _special_names(companions: dict[str, dict[str, Any]]) -> set[str]:
    """Names that the companions call special, in the styles of several years."""
    names: set[str] = set()
    for file in ("tokenizer_config.json", "special_tokens_map.json"):
        for key, value in companions.get(file, {}).items():
            if key in ("additional_special_tokens", "extra_special_tokens"):
                listed = value.values() if isinstance(value, dict) else value or []
                names |= {name for entry in listed if (name := _content(entry)) is not None}
            elif key.endswith("_token") and (name := _content(value)) is not None:
                names.add(name)
    decoder = companions.get("tokenizer_config.json", {}).get("added_tokens_decoder") or {}
    names |= {entry["content"] for entry in decoder.values() if entry.get("special")}
    return names | (set(CHATGLM_TOKENS) if _is_chatglm(companions) else set())


def _appended(companions: dict[str, dict[str, Any]]) -> dict[str, int | None]:
    """Tokens that the companions add to the vocabulary, with their ids where they say them."""
    found: dict[str, int | None] = dict.fromkeys(CHATGLM_TOKENS) if _is_chatglm(companions) else {}
    decoder = companions.get("tokenizer_config.json", {}).get("added_tokens_decoder") or {}
    found |= {entry["content"]: int(number) for number, entry in decoder.items()}
    found |= {name: int(number) for name, number in companions.get("added_tokens.json", {}).items()}
    return found


def _named_alone(spec: Spec, roles: dict[str, str | None], companions: dict[str, dict[str, Any]]) -> dict[str, None]:
    """Names of roles that no file gives an id, where the model has rows for them: they come after the vocabulary."""
    have = ids_of(spec)
    names = dict.fromkeys(name for name in roles.values() if name is not None and name not in have)
    rows = companions.get("config.json", {}).get("vocab_size")
    return names if isinstance(rows, int) and rows > max(have.values(), default=-1) + len(names) else {}


def _append(spec: Spec, tokens: Mapping[str, int | None], path: Path) -> None:
    """Add tokens behind the vocabulary. An id that the library would not give is refused, never changed."""
    have = ids_of(spec)
    added: list[Spec] = spec["added_tokens"]
    entries = {entry["id"] for entry in added}
    following = max(have.values(), default=-1) + 1
    last = len(have) + len(tokens)
    problems = []
    for name, number in sorted(tokens.items(), key=lambda item: last if item[1] is None else item[1]):
        number = have.get(name, following) if number is None else number
        if have.get(name, following) != number:
            problems.append(f'{path} gives "{name}" the id {number}, but its place is {have.get(name, following)}.')
        elif number not in entries:
            # Other programs look for "sop" and "eop" in text, and should leave "people" alone.
            alone = name in CHATGLM_TOKENS and name.isalpha()
            added.append(added_token(number, name, special=False) | {"single_word": alone})
            following = max(following, number + 1)
    if problems:
        raise InputError(problems)
    added.sort(key=lambda entry: entry["id"])


def _protect(spec: Spec, named: set[str]) -> None:
    """Mark every control token as special, and drop merges that would spell one: text never becomes a control token."""
    numbers = ids_of(spec)
    added = {entry["content"]: entry for entry in spec["added_tokens"]}
    for name in sorted(named & set(numbers) - set(added), key=lambda name: numbers[name]):
        spec["added_tokens"].append(added_token(numbers[name], name, special=True))
    spec["added_tokens"].sort(key=lambda entry: entry["id"])
    for name, entry in added.items():
        entry["special"] = entry["special"] or name in named or names_control(name)
    control = {entry["content"] for entry in spec["added_tokens"] if entry["special"]}
    model = spec["model"]
    if any(name in model["vocab"] for name in control):
        model["merges"] = [merge for merge in model["merges"] if "".join(merge_parts(merge)) not in control]
