"""A model directory opened whole: model, tokenizer and, for a chat model, its template.

    opened = open_directory(Path("Baichuan-13B-Chat"), dtype=torch.bfloat16)

`inkstone.load` is this function for programs; chat and evaluation open models through it too.
"""

from dataclasses import dataclass
from pathlib import Path

import torch

from inkstone.chat import Template, find_template, require_tokens
from inkstone.errors import InputError
from inkstone.model.decoder.decoder import Decoder
from inkstone.model.files.directory import load_model, read_stop_ids
from inkstone.model.files.hub import resolve_source
from inkstone.tokenizer import Tokenizer


@dataclass(frozen=True)
class Opened:
    """What a directory holds."""

    model: Decoder
    tokenizer: Tokenizer
    template: Template | None
    """None: a base model, or one whose files do not say how its conversations are written."""
    stop_ids: set[int]


def open_directory(
    source: str | Path,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    template: str | None = None,
) -> Opened:
    """Open a directory, or a hub's model by name; `template` names the chat template where the files do not say.

    Raises InputError when it is no complete model of a supported family.
    """
    directory = resolve_source(source)
    tokenizer = Tokenizer.load(directory)
    found = template_of(directory, template)
    if found:
        require_tokens(found, tokenizer)
    model = load_model(directory, dtype, device)
    stop_ids = (found.stop_ids(tokenizer) if found else set(tokenizer.end_ids)) | read_stop_ids(directory)
    return Opened(model, tokenizer, found, stop_ids)


def template_of(directory: Path, name: str | None = None) -> Template | None:
    """The chat template of a directory; None for a base model. A template that is there but broken is an error."""
    try:
        return find_template(directory, name)
    except InputError:
        if name is not None or (directory / "chat_template.json").is_file():
            raise
        return None


def stated_template(directory: Path) -> Template | None:
    """The template that a directory states in a file; None where only its vocabulary hints at one.

    Baichuan's base and chat models have the same vocabulary: to be compared, both are asked as base models.
    """
    settings = directory / "tokenizer_config.json"
    stated = any((directory / name).is_file() for name in ("chat_template.json", "chat_template.jinja"))
    stated = stated or (settings.is_file() and '"chat_template"' in settings.read_text(encoding="utf-8"))
    return template_of(directory) if stated else None
