"""Keep a template beside its model: `chat_template.json` for us, `chat_template.jinja` for every other program.

The JSON file is the template and the only one we read; the Jinja file is derived from it and gives equal ids for
ordinary text (`jinja`). `attach_template` also writes how the model's publisher samples into `generation_config.json`.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from inkstone.chat.jinja import to_jinja
from inkstone.chat.schema import template_from, template_to
from inkstone.chat.template import Template, require_tokens
from inkstone.errors import InputError
from inkstone.storage import read_json_object, reading
from inkstone.tokenizer import Tokenizer

TEMPLATE_FILE = "chat_template.json"
JINJA_FILE = "chat_template.jinja"
GENERATION_FILE = "generation_config.json"
_NOT_FOLLOWED = (
    "num_beams", "no_repeat_ngram_size", "bad_words_ids", "suppress_tokens", "begin_suppress_tokens", "sequence_bias",
    "forced_bos_token_id", "forced_eos_token_id", "min_new_tokens", "min_length", "typical_p", "epsilon_cutoff",
)  # fmt: skip
"""Settings of transformers that change an answer and that nothing here reads."""


def save_template(template: Template, directory: Path) -> None:
    """Write both files into a model directory."""
    directory.mkdir(parents=True, exist_ok=True)
    _write_json(directory / TEMPLATE_FILE, template_to(template))
    (directory / JINJA_FILE).write_text(to_jinja(template), encoding="utf-8")


def attach_template(template: Template, tokenizer: Tokenizer, directory: Path) -> None:
    """Make a model directory a chat model: both template files, and stop ids and sampling in generation_config.json.

    Other settings of that file stay, and so does its sampling where it has some. Raises InputError, before anything is
    written, where the tokenizer lacks a control token of the template.
    """
    require_tokens(template, tokenizer)
    settings = read_generation_config(directory)
    stops = eos_ids(settings, directory / GENERATION_FILE)
    settings["eos_token_id"] = list(dict.fromkeys([*tokenizer.end_ids, *sorted(template.stop_ids(tokenizer)), *stops]))
    for key, number in (("bos_token_id", tokenizer.bos_id), ("pad_token_id", tokenizer.pad_id)):
        if number is not None:
            settings.setdefault(key, number)
    if template.sampling and not settings.get("do_sample"):
        published = {key: value for key, value in asdict(template.sampling).items() if value is not None}
        settings |= {"do_sample": True, **published}
    settings.setdefault("do_sample", False)
    save_template(template, directory)
    _write_json(directory / GENERATION_FILE, settings, indent=2)


def read_generation_config(directory: Path) -> dict[str, Any]:
    """What generation_config.json says; nothing where there is none. Raises InputError where it is damaged."""
    path = directory / GENERATION_FILE
    return read_json_object(path) if path.is_file() else {}


def not_followed(directory: Path) -> list[str]:
    """The settings of generation_config.json that change an answer elsewhere and not here."""
    said = read_generation_config(directory)
    return [key for key in _NOT_FOLLOWED if said.get(key) not in (None, 0, 1, 1.0, [], {})]


def eos_ids(settings: dict[str, Any], path: Path) -> list[int]:
    """The ids that a generation_config.json or config.json ends a text at; `path` is named where they are none."""
    stop = settings.get("eos_token_id")
    ids = stop if isinstance(stop, list) else [] if stop is None else [stop]
    if not all(type(one) is int for one in ids):
        raise InputError(f"{path}: eos_token_id is {json.dumps(stop)}; it must be a token id or a list of them")
    return ids


def load_template(directory: Path) -> Template:
    """Read `chat_template.json` of a model directory. Raises InputError where it is missing or malformed."""
    path = directory / TEMPLATE_FILE
    if not path.is_file():
        raise InputError(f"{path} is missing: {directory} is not a chat model; tune one, or name a template.")
    values = read_json_object(path)
    try:
        with reading(path, "a chat template", "correct or remove it"):
            return template_from(values)
    except InputError as error:
        raise error if error.__cause__ else InputError(f"{path}: {error}") from error


def _write_json(path: Path, values: dict[str, Any], indent: int = 1) -> None:
    path.write_text(json.dumps(values, ensure_ascii=False, indent=indent) + "\n", encoding="utf-8")
