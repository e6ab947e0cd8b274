"""Adapters, LoRA and prefixes, as PEFT directories: adapter_config.json and adapter_model.safetensors.

    save_adapter(model, Path("my-adapter"), base="Llama-3-8B")
    load_adapter(model, Path("my-adapter"))
    adapted = beside(model, Path("my-adapter"))      # another decoder around the same weights

What a file holds decides what is adapted, be it the maps of one layer; what is not understood (other kinds, biases,
ranks that differ by layer, beginnings that change the base) is refused by name, and so is an adapter whose shapes are
those of another base. A prefix's config says where the text begins (`first_position`) where that is not what PEFT
takes for granted.

A checkpoint of ChatGLM2's P-tuning trainer (`pytorch_model.bin` with the numbers of `prefix_encoder`, beside nothing of
PEFT's) is read as the prefix that it is.

A prefix cannot be added to weights: a model directory that was tuned with one holds it as `prefix/`, which belongs to
the model as its weights do (`load_model`, `save_model`).
"""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from inkstone.errors import InputError
from inkstone.model.decoder.decoder import Decoder
from inkstone.model.decoder.experts import Experts
from inkstone.model.decoder.lora import LoraShape, attach_lora, attach_prefix, lora_modules
from inkstone.model.decoder.prefix import Prefix
from inkstone.model.families import position_after_prefix
from inkstone.model.files.stored import Checkpoint, PickleFile
from inkstone.model.files.weight_shards import write_json
from inkstone.model.packed.linear import PackedLinear
from inkstone.model.packed.pack import unpacked
from inkstone.storage.json_object import read_json_object

CONFIG, WEIGHTS, LEGACY = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"
FOLDER = "prefix"
"""Of a model directory whose model has a prefix."""
_CHANGING = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Beginnings of PEFT that take something off the base's weights, so the product alone is not the adapter."""
_PREFIX = "base_model.model."
_NUMBERS = "prompt_embeddings"
_TRAINERS = "transformer.prefix_encoder.embedding.weight"
"""The same rows, as ChatGLM2's P-tuning trainer names them in a legacy file."""
_PARTS = {"lora_A.weight": "lora_A", "lora_B.weight": "lora_B", "lora_magnitude_vector": "magnitude"}


def save_adapter(model: Decoder, directory: Path, base: str) -> None:
    """Write what was attached; `base` is the directory or hub's name that PEFT will look for."""
    modules = lora_modules(model)
    if not modules:
        return save_prefix(model, directory, base)
    shape = next(iter(modules.values())).shape
    tied = bool(shape.also) and model.config.tie_embeddings
    directory.mkdir(parents=True, exist_ok=True)
    write_json(
        directory / CONFIG,
        {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": base,
            "r": shape.rank,
            "lora_alpha": shape.alpha,
            "lora_dropout": shape.dropout,
            "target_modules": sorted({name.rpartition(".")[2] for name in modules}),
            "modules_to_save": list(shape.also) or None,
            "ensure_weight_tying": tied,
            "use_rslora": shape.rslora,
            "use_dora": shape.dora,
            "bias": "none",
            "fan_in_fan_out": False,
            "init_lora_weights": True,
            "inference_mode": True,
        },
    )
    tensors: dict[str, Tensor] = {}
    for name, module in modules.items():
        for part, ours in _PARTS.items():
            if hasattr(module, ours):
                tensors[f"{_PREFIX}{name}.{part}"] = getattr(module, ours).detach().cpu().contiguous()
    for whole in {*shape.also, "lm_head"} if tied else shape.also:  # PEFT wants what is tied twice
        place = "lm_head" if whole == "lm_head" else f"model.{whole}"
        tensors[f"{_PREFIX}{place}.weight"] = model.get_parameter(f"{place}.weight").detach().cpu().clone()
    save_file(tensors, directory / WEIGHTS, {"format": "pt"})


def save_prefix(model: Decoder, directory: Path, base: str) -> None:
    """Write the model's prefix as PEFT's `prefix_tuning` does: one row of numbers for each virtual token."""
    prefix = model.model.prefix
    assert prefix is not None
    layers, _, heads, length, size = prefix.numbers.shape
    directory.mkdir(parents=True, exist_ok=True)
    write_json(
        directory / CONFIG,
        {
            "peft_type": "PREFIX_TUNING",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": base,
            "num_virtual_tokens": length,
            "num_layers": layers,
            "num_attention_heads": heads,
            "token_dim": heads * size,
            "num_transformer_submodules": 1,
            "prefix_projection": False,
            "inference_mode": True,
            **({} if prefix.first_position == length else {"first_position": prefix.first_position}),
        },
    )
    rows = prefix.numbers.detach().float().cpu().permute(3, 0, 1, 2, 4).flatten(1)
    save_file({_NUMBERS: rows.contiguous()}, directory / WEIGHTS, {"format": "pt"})


def read_prefix(model: Decoder, directory: Path, of_base: bool = False) -> Prefix:
    """The prefix of a PEFT directory, for `model`. Raises InputError for one that does not belong to it."""
    told, tensors = _told(directory), _tensors(directory)
    config, rows = model.config, tensors.get(_NUMBERS)
    shape = (config.num_layers, 2, config.num_kv_heads, config.head_dim)
    numbers = config.num_layers * 2 * config.num_kv_heads * config.head_dim
    if rows is None or rows.dim() != 2 or not len(rows) or rows.shape[1] != numbers:
        found = "has no " + _NUMBERS if rows is None else f"{_NUMBERS} is {list(rows.shape)}"
        raise InputError(
            f"{directory}: {found}; this model wants rows of {numbers} numbers, for {shape[0]} layers and {shape[2]} "
            f"key heads of {shape[3]}: the prefix is for another base"
        )
    if not rows.isfinite().all():
        raise InputError(f"{directory / WEIGHTS}: {_NUMBERS} holds NaN or infinite values")
    first = told.get("first_position", position_after_prefix(config, len(rows)))
    if first not in (0, len(rows)):
        raise InputError(f"{directory / CONFIG}: first_position = {first!r}; a text begins at 0 or at {len(rows)}")
    made = rows.view(-1, *shape).permute(1, 2, 3, 0, 4).contiguous()
    return Prefix(made.to(model.device, model.dtype), first, of_base)


def load_adapter(model: Decoder, directory: Path) -> None:
    """Attach a directory's adapter to `model`. Raises InputError for one that does not belong to it."""
    if is_prefix(directory):
        return attach_prefix(model, read_prefix(model, directory))
    _attach(model, directory, *_read(directory))


def beside(model: Decoder, directory: Path) -> Decoder:
    """A decoder with the adapter around the very modules of `model`, which stays as it is and must not change.

    Only what an adapter keeps whole (embedding, head) is a copy.
    """
    shape, tensors = (None, {}) if is_prefix(directory) else _read(directory)
    parts = [one for one in model.modules() if isinstance(one, PackedLinear | Experts) or not list(one.children())]
    ends = any("lm_head." in name or "embed_tokens." in name for name in tensors)
    whole = (model.model.embed_tokens, model.lm_head) if ends else ()
    own = [one for one in whole if not isinstance(one, PackedLinear)]
    adapted = copy.deepcopy(model, {id(one): one for one in parts if all(one is not other for other in own)})
    if shape is None:
        load_adapter(adapted, directory)
    else:
        if ends and isinstance(adapted.lm_head, PackedLinear):
            adapted.lm_head = unpacked(adapted.lm_head, model.dtype)
        _attach(adapted, directory, shape, tensors)
    return adapted.eval()


def is_prefix(directory: Path) -> bool:
    """Whether a PEFT directory holds a prefix."""
    return _told(directory).get("peft_type") == "PREFIX_TUNING"


def own_prefix(directory: Path) -> Path | None:
    """Where a model directory keeps a prefix, if it has one."""
    return directory / FOLDER if (directory / FOLDER / CONFIG).is_file() else None


def named_base(directory: Path) -> str:
    """The base that the adapter's files name: a directory, or a hub's model; empty where they do not say."""
    return str(_told(directory).get("base_model_name_or_path") or "")


def _attach(model: Decoder, directory: Path, shape: LoraShape, tensors: dict[str, Tensor]) -> None:
    named = {name.removeprefix(_PREFIX).replace(".base_layer.", ".base."): one for name, one in tensors.items()}
    if model.config.tie_embeddings and _told(directory).get("ensure_weight_tying"):
        named.pop("lm_head.weight", None)  # the embedding once more
    elif model.config.tie_embeddings and any(name.startswith(("lm_head.", "model.embed_tokens.")) for name in named):
        # PEFT keeps a copy of its own of what is tied, unless it is told not to.
        model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone())
        model.config = replace(model.config, tie_embeddings=False)
    adapted = {name.rpartition(".lora_A.")[0] for name in named if ".lora_A." in name}
    # Where none is there, it is for another base, and the last part of a name says what it wants.
    known = adapted & {name for name, _ in model.named_modules()}
    targets = known or {name.rpartition(".")[2] for name in adapted}
    shape = LoraShape(shape.rank, shape.alpha, tuple(sorted(targets)), 0.0, shape.rslora, shape.dora, shape.also)
    attach_lora(model, shape, torch.Generator())
    modules = lora_modules(model)
    problems = []
    with torch.no_grad():
        for name, tensor in named.items():
            module, part = next(
                ((name.removesuffix(f".{part}"), ours) for part, ours in _PARTS.items() if name.endswith(f".{part}")),
                (name, ""),
            )
            place = getattr(modules.get(module), part, None) if part else dict(model.named_parameters()).get(name)
            if place is None:
                problems.append(f"{directory}: {name} has no place in this model")
            elif place.shape != tensor.shape:
                problems.append(
                    f"{directory}: {name} is {list(tensor.shape)}, and this model's place for it {list(place.shape)}: "
                    "the adapter is for another base"
                )
            elif part:
                place.copy_(tensor)
            else:
                place.data = tensor.to(place)
    expected = {f"{name}.lora_{part}.weight" for name in modules for part in "AB"}
    problems += [f"{directory}: {name} is missing" for name in sorted(expected - named.keys())][:4]
    if problems:
        raise InputError(problems)


def is_adapter(directory: Path) -> bool:
    """Whether the directory holds an adapter of a form that is read here."""
    return (directory / CONFIG).is_file() or _of_the_trainer(directory)


def _of_the_trainer(directory: Path) -> bool:
    return not (directory / CONFIG).is_file() and (directory / "pytorch_model.bin").is_file()


def _told(directory: Path) -> dict[str, Any]:
    if _of_the_trainer(directory):
        return {"peft_type": "PREFIX_TUNING"}
    if not (directory / CONFIG).is_file():
        raise InputError(f"{directory} is no adapter: it has no {CONFIG}")
    return read_json_object(directory / CONFIG)


def _tensors(directory: Path) -> dict[str, Tensor]:
    if _of_the_trainer(directory):
        stored = Checkpoint(directory)
        if _TRAINERS not in stored.entries:
            raise InputError(f"{directory} is no adapter: it has no {CONFIG}, and its weights no {_TRAINERS}")
        return {_NUMBERS: stored.tensor(_TRAINERS).float()}
    legacy = directory / LEGACY
    try:
        if legacy.is_file() and not (directory / WEIGHTS).exists():
            file = PickleFile(legacy)
            return {name: file.tensor(name) for name in file.entries}
        return load_file(directory / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{directory / WEIGHTS} cannot be read as an adapter: {error}") from error


def _read(directory: Path) -> tuple[LoraShape, dict[str, Tensor]]:
    path, told = directory / CONFIG, _told(directory)
    wrong = {
        "peft_type": told.get("peft_type") == "LORA",
        "bias": told.get("bias", "none") == "none",
        "fan_in_fan_out": not told.get("fan_in_fan_out"),
        "rank_pattern": not told.get("rank_pattern"),
        "alpha_pattern": not told.get("alpha_pattern"),
        "init_lora_weights": not str(told.get("init_lora_weights")).startswith(_CHANGING),
        "alora_invocation_tokens": not told.get("alora_invocation_tokens"),
    }
    problems = [f"{path}: {key} = {told.get(key)!r} is not supported" for key, fine in wrong.items() if not fine]
    rank, alpha = told.get("r"), told.get("lora_alpha")
    if not isinstance(rank, int) or isinstance(rank, bool) or not 1 <= rank <= 65536:
        problems.append(f"{path}: r = {rank!r} is no rank")
    if not isinstance(alpha, int | float) or isinstance(alpha, bool):
        problems.append(f"{path}: lora_alpha = {alpha!r} is no number")
    if problems:
        raise InputError(problems)
    also = told.get("modules_to_save") or []
    names = tuple(str(name) for name in also) if isinstance(also, list) else ()
    flags = bool(told.get("use_rslora")), bool(told.get("use_dora"))
    return LoraShape(int(rank), float(alpha), (), 0.0, *flags, names), _tensors(directory)  # type: ignore[arg-type]
