"""Families: what each one's config.json and weight files mean for the one decoder.

    family = family_of(values, "DIR/config.json")
    config = family.read_config(values, "DIR/config.json")
    pieces = family.layout(config, stored_names)

A family is two pure functions for the configuration and one table of weights; nothing outside this folder asks which
family a model is. A config that asks for arithmetic the decoder does not have is refused, never approximated.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from inkstone.errors import InputError
from inkstone.model.decoder.config import DecoderConfig
from inkstone.model.families import baichuan, bloom, chatglm, glm, llama, mixtral, qwen
from inkstone.model.families.layout import Piece

__all__ = ["FAMILIES", "Family", "Piece", "family_of", "position_after_prefix", "writing_family"]


@dataclass(frozen=True)
class Family:
    """How one family is read and written."""

    name: str
    read_config: Callable[[Mapping[str, Any], str], DecoderConfig]
    """config.json to shape; raises InputError with every problem."""
    write_config: Callable[[DecoderConfig], dict[str, Any]]
    """Shape to config.json in the family's original keys; ids and dtype are the writer's to add."""
    layout: Callable[[DecoderConfig, Collection[str]], list[Piece]]
    """The table of weights. The names present tell published variants apart; with none, the variant we write."""
    ignored: tuple[str, ...]
    """Regular expressions (re.search) of stored tensors that are no parameters."""


_ROOMS = {
    "llama": llama,
    "baichuan": baichuan,
    "bloom": bloom,
    "mixtral": mixtral,
    "chatglm": chatglm,
    "glm": glm,
    "qwen2": qwen,
    "qwen3": qwen,
    "qwen3_moe": qwen,
}
FAMILIES = {name: Family(name, m.read_config, m.write_config, m.layout, m.IGNORED) for name, m in _ROOMS.items()}
_MODEL_TYPES = {**{name: name for name in FAMILIES}, "mistral": "llama"}


def family_of(values: Mapping[str, Any], where: str) -> Family:
    """The family of a config.json. Raises InputError that lists the known ones."""
    model_type = values.get("model_type")
    name = _MODEL_TYPES.get(str(model_type).lower())
    if name is None:
        known = ", ".join(_MODEL_TYPES)
        raise InputError(f'{where}: model_type "{model_type}" is not supported; supported: {known}')
    if name == "chatglm" and not values.get("multi_query_attention"):
        return replace(FAMILIES[name], layout=chatglm.layout_by_head)
    return FAMILIES[name]


def writing_family(config: DecoderConfig, name: str | None = None) -> Family:
    """The family whose original format a shape is saved in; `name` asks for a certain one.

    Raises InputError when that family's config.json cannot say everything the shape asks for.
    """
    if name is not None and name not in FAMILIES:
        raise InputError(f"there is no family {name}; there are: {', '.join(FAMILIES)}")
    family = FAMILIES[name or _writing_name(config)]
    back = family.read_config(family.write_config(config), family.name)
    lost = [field.name for field in fields(config) if getattr(back, field.name) != getattr(config, field.name)]
    if lost:
        raise InputError(
            f"no published {family.name} model has this shape: its config.json cannot say "
            + ", ".join(f"{name} = {getattr(config, name)}" for name in lost)
        )
    return family


def position_after_prefix(config: DecoderConfig, length: int) -> int:
    """Where a family's own code lets a text begin after a prefix of `length` virtual tokens.

    transformers counts what its cache holds; ChatGLM2's code counts the text alone.
    """
    return 0 if _writing_name(config) == "chatglm" else length


def _writing_name(config: DecoderConfig) -> str:
    if config.norm == "layer":
        return "bloom"
    if config.position == "alibi" or config.normalised_head:
        return "baichuan"
    if config.qk_norm:
        return "qwen3_moe" if config.num_experts else "qwen3"
    if config.num_experts:
        return "mixtral"
    if config.rotary_dim not in (None, config.head_dim):
        # ChatGLM2 has one base, no scaling and no tied head; a shape that has both families' is kept as ChatGLM2's.
        second = config.rope_theta == 10000.0 and config.rope_scaling is None and not config.tie_embeddings
        return "chatglm" if second else "glm"
    return "qwen2" if config.qkv_bias and not (config.out_bias or config.mlp_bias) else "llama"
