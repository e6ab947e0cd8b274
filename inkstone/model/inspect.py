"""What a model is and what it needs, from its config.json alone; and what its directory lacks.

    facts = inspect_model(Path("Baichuan-13B"))       # a directory, or a config.json
    facts = inspect_preset("mixtral-8x7b")            # public models whose shapes are in presets.json
    facts.parameters, facts.memory_gib["int4"], facts.missing

No weights are read; where they are there, their headers are compared with what the config promises.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from inkstone.chat import choose_template
from inkstone.chat.export import GENERATION_FILE, not_followed
from inkstone.errors import InkstoneError, InputError
from inkstone.model.decoder.config import DecoderConfig
from inkstone.model.families import family_of
from inkstone.model.families.reading import two_ropes
from inkstone.model.files.adapter import own_prefix
from inkstone.model.files.directory import read_stop_ids
from inkstone.model.files.weights import GGUF, decoder_shapes, open_weights, read_values
from inkstone.tokenizer import Tokenizer

_GROUP = 128  # weights that share a 16-bit scale in the int4 estimate
_GIB = 1 << 30


@dataclass(frozen=True)
class Facts:
    """Everything `inkstone inspect` shows."""

    name: str
    family: str
    shape: dict[str, object]
    parameters: int
    active_parameters: int
    """Those that one token passes through; fewer than all where experts are chosen."""
    dtype: str
    context_length: int
    memory_gib: dict[str, float]
    """Of the weights: `bfloat16`; `int8` and `int4` keep embedding, head, router and norms in 16 bits."""
    kv_cache_mib: float
    """For 1,024 tokens in 16 bits."""
    weights: str
    tokenizer: str
    template: str
    missing: list[str]
    remarks: list[str]


def inspect_model(source: Path) -> Facts:
    """Facts of a model directory or of a config.json. Raises InputError when the config cannot be understood."""
    values, where = read_values(source)
    directory = source if source.is_dir() or source.suffix == GGUF else source.parent
    if source.is_dir() or source.name == "config.json" or source.suffix == GGUF:
        return _facts(str(source), values, where, directory)
    return _facts(str(source), values, where, None)


def inspect_preset(name: str) -> Facts:
    """Facts of a public model by name."""
    found = presets()
    if name not in found:
        raise InputError(f"there is no preset {name}; there are: {', '.join(found)}")
    return _facts(name, found[name], f"preset {name}", None)


def presets() -> dict[str, dict[str, Any]]:
    """config.json of public models, as far as it decides their shape."""
    loaded: dict[str, dict[str, Any]] = json.loads((files("inkstone.model") / "presets.json").read_text("utf-8"))
    return loaded


def _facts(name: str, values: Mapping[str, Any], where: str, directory: Path | None) -> Facts:
    family = family_of(values, where)
    config = family.read_config(values, where)
    remarks = ["auto_map in config.json names code; it is ignored, never run"] if values.get("auto_map") else []
    remarks += [sentence] if (sentence := two_ropes(values)) else []
    remarks += (
        ["has a prefix (P-tuning v2), which other programs do not read"] if directory and own_prefix(directory) else []
    )
    missing: list[str] = []
    weights = tokenizer = template = "not looked for"
    if directory is not None:
        weights, tokenizer = _weights(directory, missing, remarks), _tokenizer(directory, config, missing)
        template = _template(directory)
        try:
            read_stop_ids(directory)
            if directory.suffix != GGUF and (others := not_followed(directory)):
                remarks.append(f"{GENERATION_FILE} asks for what is not followed here: {', '.join(others)}")
        except InputError as error:
            missing.append(f"generation settings: {error}")
        if directory.suffix != GGUF and not (directory / GENERATION_FILE).is_file():
            missing.append("generation_config.json: replies are greedy and stop at the tokenizer's end token")
    return Facts(
        name=name,
        family=family.name,
        shape=asdict(config),
        parameters=config.num_parameters(),
        active_parameters=config.num_active_parameters(),
        dtype=str(values.get("dtype") or values.get("torch_dtype") or "float32"),
        context_length=config.max_positions,
        memory_gib={kind: size / _GIB for kind, size in weight_bytes(config).items()},
        kv_cache_mib=2 * 2 * 1024 * config.num_layers * config.num_kv_heads * config.head_dim / (1 << 20),
        weights=weights,
        tokenizer=tokenizer,
        template=template,
        missing=missing,
        remarks=remarks,
    )


def weight_bytes(config: DecoderConfig) -> dict[str, float]:
    """Bytes of the weights at each precision; int8 has a 16-bit scale per row, int4 one per 128 weights."""
    total = config.num_parameters()
    inside = [
        shape
        for name, shape in decoder_shapes(config).items()
        if len(shape) > 1 and not name.endswith(("embed_tokens.weight", "lm_head.weight", "gate.weight"))
    ]
    numbers = sum(_count(shape) for shape in inside)
    rows = sum(_count(shape[:-1]) for shape in inside)
    outside = 2.0 * (total - numbers)
    return {
        "bfloat16": 2.0 * total,
        "int8": outside + numbers + 2.0 * rows,
        "int4": outside + numbers / 2 + 2.0 * numbers / _GROUP,
    }


def _count(shape: tuple[int, ...]) -> int:
    product = 1
    for size in shape:
        product *= size
    return product


def _weights(directory: Path, missing: list[str], remarks: list[str]) -> str:
    try:
        weights = open_weights(directory)
    except InputError as error:
        missing.extend(f"weights: {problem}" for problem in error.problems)
        return "missing or incomplete"
    remarks += [unused] if (unused := weights.unused_head()) else []
    size = weights.checkpoint.num_bytes / _GIB
    stored = str(weights.dtype).removeprefix("torch.")
    layout = getattr(weights.checkpoint, "layout", None)
    stored += f", quantized ({layout.name})" if layout else ""
    return f"{len(weights.checkpoint.entries)} tensors, {size:.2f} GiB, {stored}"


def _tokenizer(directory: Path, config: DecoderConfig, missing: list[str]) -> str:
    try:
        size = Tokenizer.load(directory).vocab_size
    except InkstoneError as error:
        missing.append(f"tokenizer: {error}")
        return "missing"
    if size > config.vocab_size:
        missing.append(f"weights: the tokenizer has {size} ids, the embedding only {config.vocab_size} rows")
    return f"{size} ids"


def _template(directory: Path) -> str:
    try:
        return choose_template(directory, None).reason
    except InputError as error:
        return "none: " + str(error).removeprefix(f"{directory} ").partition(": ")[0]
