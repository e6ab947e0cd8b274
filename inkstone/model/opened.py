"""A model directory opened whole: model, tokenizer and, for a chat model, its template.

    opened = open_directory(Path("Baichuan-13B-Chat"), dtype=torch.bfloat16)

`inkstone.load` is this function for programs; chat and evaluation open models through it too, so that all stop at the
same tokens.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from inkstone.chat import Template, TemplateChoice, choose_template, require_tokens
from inkstone.chat.library import own_jinja
from inkstone.errors import InputError
from inkstone.model.decoder.decoder import Decoder
from inkstone.model.files.adapter import beside, load_adapter
from inkstone.model.files.directory import load_model, read_config, read_stop_ids
from inkstone.model.files.hub import resolve_source
from inkstone.model.files.offload import Offload
from inkstone.model.packed.pack import Kind, pack_model, packed_maps, prepack_model
from inkstone.tokenizer import Tokenizer


@dataclass(frozen=True)
class Opened:
    """What a directory holds."""

    model: Decoder
    tokenizer: Tokenizer
    template: Template | None
    """None: a base model, or one whose files do not say how its conversations are written."""
    stop_ids: set[int]
    """Where a text or a reply ends: what the template, generation_config.json and the tokenizer say."""
    why_template: str = ""
    draft: Decoder | None = None
    """A smaller model of the same vocabulary, whose guesses save steps in decoding."""


def open_directory(
    source: str | Path,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    template: str | None = None,
    chat: bool = False,
    adapter: Path | None = None,
    quantize: Kind | None = None,
    prepack: bool = False,
    offload: Offload | None = None,
) -> Opened:
    """Open a directory, or a hub's model by name; `template` names the chat template where the files do not say.

    `quantize` packs the weights by rounding once they are read (int8, int4 or nf4; docs/quantize.md). `prepack` makes
    bfloat16 weights faster for few rows, on a CPU at the price of memory of their own instead of the mapped file's.
    `adapter` is a PEFT directory for this base; its template, where it has one, is the one that was trained with.
    `offload` says what stays in the mapped file or beside a GPU; without it, on a CPU, what copies would not fit.

    Raises InputError when it is no complete model of a supported family or, for a `chat`, its template cannot be told.
    """
    offload = offload or Offload()
    if quantize and (offload.mapped or offload.gpu_gib):
        raise InputError(
            "--quantize makes copies, --offload and --gpu-memory-gib keep weights as they are stored: write them "
            "rounded with inkstone quantize, and give that directory"
        )
    offload.check()
    kind = str(device).partition(":")[0]
    if kind not in ("cpu", "mps") and not (kind == "cuda" and torch.cuda.is_available()):
        raise InputError(f"device {device}: PyTorch has no such device here; leave it out, or give cpu or cuda")
    if offload.mapped and kind != "cpu":
        raise InputError("--offload reads weights where they lie, on the CPU: leave it out, or give --gpu-memory-gib")
    device = torch.device(offload.device if offload.gpu_gib else device)
    directory = resolve_source(source)
    read_config(directory)
    own = adapter is not None and states_template(adapter)
    found = _template_of(adapter if adapter and own else directory, template, chat)
    tokenizer = Tokenizer.load(directory)
    stop_ids = set(tokenizer.end_ids) | read_stop_ids(directory)
    if found:
        require_tokens(found.template, tokenizer)
        stop_ids |= found.template.stop_ids(tokenizer)
    copied = quantize or (device.type != "cpu" and not offload.gpu_gib)
    model = load_model(directory, dtype, device, offload=None if copied else offload)
    if quantize:
        if packed_maps(model):
            raise InputError(f"{directory} is quantized already: leave --quantize {quantize} out")
        pack_model(model, quantize)
    if adapter is not None:
        load_adapter(model, adapter)
        model.eval()
    elif prepack and offload == Offload() and (model.device.type == "cuda" or torch.backends.mkldnn.is_available()):
        prepack_model(model)
    model.known_ids = tokenizer.vocab_size
    return Opened(model, tokenizer, found.template if found else None, stop_ids, found.reason if found else "")


def adapted(base: Opened, adapter: Path) -> Opened:
    """The base with a PEFT directory's adapter, around the same weights; the base stays as it is."""
    model = beside(base.model, adapter)
    found = _template_of(adapter, None, chat=True) if states_template(adapter) else None
    if found is None:
        return replace(base, model=model)
    require_tokens(found.template, base.tokenizer)
    stop_ids = base.stop_ids | found.template.stop_ids(base.tokenizer)
    return Opened(model, base.tokenizer, found.template, stop_ids, found.reason, base.draft)


def with_draft(opened: Opened, source: Path | None) -> Opened:
    """The model beside a draft, if any is asked for. Raises InputError where their vocabularies differ."""
    if source is None:
        return opened
    draft = open_directory(source, opened.model.dtype, opened.model.device, prepack=True)
    sizes = draft.tokenizer.vocab_size, opened.tokenizer.vocab_size
    if draft.tokenizer.fingerprint != opened.tokenizer.fingerprint:
        raise InputError(
            f"{source} cannot guess for this model: its vocabulary of {sizes[0]} ids is not the model's of {sizes[1]}; "
            "a draft is a smaller model that was trained with the same tokenizer"
        )
    return replace(opened, draft=draft.model)


def _template_of(directory: Path, name: str | None, chat: bool) -> TemplateChoice | None:
    """None for a base model, unless it is to chat. A template that is there but broken is an error."""
    try:
        return choose_template(directory, name)
    except InputError:
        if chat or name is not None or (directory / "chat_template.json").is_file():
            raise
        return None


def states_template(directory: Path) -> bool:
    """Whether a directory states its template in a file, rather than that its vocabulary hints at one.

    Baichuan's base and chat models have the same vocabulary: to be compared, both are asked as base models.
    """
    if directory.is_file():
        return bool(own_jinja(directory))
    settings = directory / "tokenizer_config.json"
    stated = any((directory / name).is_file() for name in ("chat_template.json", "chat_template.jinja"))
    return stated or (settings.is_file() and b'"chat_template"' in settings.read_bytes())
