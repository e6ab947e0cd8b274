"""Reading a config.json: numbers with their defaults, expectations, and every problem in one error.

read = ConfigReader(values, "DIR/config.json")
hidden = read.whole("hidden_size", "n_embed")       # the first of these keys that is there
read.expect("hidden_act", "silu")                   # the only arithmetic we have
return read.finish(DecoderConfig(...))
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from inkstone.errors import InputError
from inkstone.model.decoder.config import DecoderConfig, RopeScaling

_LARGEST_WHOLE = 2**31 - 1
_LARGEST = 1e30


@dataclass
class ConfigReader:
    """Reads `values`; what is missing or wrong is collected in `problems`, and numbers fall back to 1 until then."""

    values: Mapping[str, Any]
    where: str
    problems: list[str] = field(default_factory=list)

    def whole(self, *keys: str, default: int | None = None) -> int:
        """A whole number of at least 1 under the first key that is present and not null."""
        return int(self.number(*keys, default=default, whole=True))

    def number(self, *keys: str, default: float | None = None, whole: bool = False) -> float:
        """A positive number under the first key that is present and not null."""
        found = next((key for key in keys if self.values.get(key) is not None), None)
        if found is None:
            if default is None:
                self.problem(f"{keys[0]} is missing")
            return 1 if default is None else default
        return _positive(self, found, self.values[found], whole)

    def optional(self, key: str) -> int | None:
        """A whole number, or None where the key is absent or null."""
        return None if self.values.get(key) is None else self.whole(key)

    def flag(self, key: str, default: bool) -> bool:
        """True or false."""
        value = self.values.get(key)
        if value is not None and not isinstance(value, bool):
            self.problem(f"{key} = {value!r} is neither true nor false")
        return default if value is None else bool(value)

    def expect(self, key: str, *allowed: object) -> None:
        """A key that is absent, null or one of `allowed`; anything else is arithmetic we do not have."""
        value = self.values.get(key)
        if value is not None and value not in allowed:
            wanted = " or ".join(repr(one) for one in allowed)
            self.problem(f"{key} = {value!r} is not supported; expected {wanted}")

    def problem(self, sentence: str) -> None:
        self.problems.append(f"{self.where}: {sentence}")

    def finish(self, config: DecoderConfig) -> DecoderConfig:
        """`config`, when nothing was wrong. Raises InputError with every problem."""
        problems = self.problems or [f"{self.where}: {problem}" for problem in config.problems()]
        if problems:
            raise InputError(problems)
        return config


def _positive(read: ConfigReader, key: str, value: object, whole: bool) -> float:
    limit = _LARGEST_WHOLE if whole else _LARGEST
    if isinstance(value, int | float) and limit < value < float("inf"):
        read.problem(f"{key} is larger than any model's")
        return 1
    good = isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < float("inf")
    if not good or (whole and int(value) != value):  # type: ignore[call-overload]
        read.problem(f"{key} = {value!r} is not a positive {'whole number' if whole else 'number'}")
        return 1
    return float(value)  # type: ignore[arg-type]


def read_aux_loss(read: ConfigReader) -> float:
    """Weight of the experts' balance loss, which may be 0."""
    return 0.0 if read.values.get("router_aux_loss_coef") == 0 else read.number("router_aux_loss_coef", default=0.001)


def two_ropes(values: Mapping[str, Any]) -> str | None:
    """A sentence where `rope_scaling` and `rope_parameters` both stand in a config.json and say different things."""
    tables = [values.get("rope_scaling"), values.get("rope_parameters")]
    if not all(isinstance(table, Mapping) and table for table in tables):
        return None
    old, new = ({**table, "rope_type": table.get("rope_type", table.get("type"))} for table in tables)  # type: ignore
    theta = values.get("rope_theta")
    same = all(old.get(key, theta) == new.get(key, theta) for key in {*old, *new} - {"type", "partial_rotary_factor"})
    return None if same else "rope_scaling and rope_parameters contradict each other; rope_scaling is taken"


def read_rope(read: ConfigReader, default_theta: float, max_positions: int) -> tuple[float, RopeScaling | None]:
    """Base and scaling of rotary positions, in the keys of transformers 4 (rope_scaling) or 5 (rope_parameters).

    Where both stand, rope_scaling is taken, as transformers does.
    """
    values = read.values.get("rope_scaling") or read.values.get("rope_parameters") or {}
    if not isinstance(values, Mapping):
        read.problem(f"rope_scaling = {values!r} is not a table of settings")
        return default_theta, None
    rope = ConfigReader(values, f"{read.where}: rope_scaling", read.problems)
    theta = rope.number("rope_theta", default=read.number("rope_theta", default=default_theta))
    kind = values.get("rope_type", values.get("type", "default"))
    if kind == "default":
        return theta, None
    if kind not in ("linear", "dynamic", "llama3", "yarn"):
        read.problem(f'rope type "{kind}" is not supported; expected default, linear, dynamic, llama3 or yarn')
        return theta, None
    if kind == "dynamic":
        return theta, RopeScaling("dynamic", rope.number("factor"), max_positions)
    if kind == "linear":
        return theta, RopeScaling("linear", rope.number("factor"), max_positions)
    if kind == "yarn":
        return theta, _read_yarn(rope, max_positions)
    return theta, RopeScaling(
        "llama3",
        rope.number("factor"),
        rope.whole("original_max_position_embeddings"),
        rope.number("low_freq_factor"),
        rope.number("high_freq_factor"),
    )


def _read_yarn(rope: ConfigReader, max_positions: int) -> RopeScaling:
    """The published optional keys; where attention_factor is not given it follows from the stretch."""
    original = rope.whole("original_max_position_embeddings", default=max_positions)
    factor = rope.number("factor", default=max_positions / original)

    def length(key: str) -> float:
        return 0.1 * rope.number(key, default=1.0) * math.log(factor) + 1.0 if factor > 1 else 1.0

    both = rope.values.get("mscale") and rope.values.get("mscale_all_dim")
    usual = length("mscale") / length("mscale_all_dim") if both else length("")
    return RopeScaling(
        "yarn",
        factor,
        original,
        low_frequency_factor=rope.number("beta_slow", default=1.0),
        high_frequency_factor=rope.number("beta_fast", default=32.0),
        attention_factor=rope.number("attention_factor", default=usual),
        truncate=rope.flag("truncate", True),
    )


def write_shape(config: DecoderConfig) -> dict[str, Any]:
    """The keys that llama and all that came from it spell alike."""
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "max_position_embeddings": config.max_positions,
        **_write_rope(config),
        "rms_norm_eps": config.norm_eps,
        "tie_word_embeddings": config.tie_embeddings,
        "hidden_act": "silu",
        "initializer_range": 0.02,
        "use_cache": True,
    }


def _write_rope(config: DecoderConfig) -> dict[str, Any]:
    """The keys of transformers 5 and of transformers 4 side by side."""
    scaling = config.rope_scaling
    values: dict[str, Any] = {"rope_type": "default"}
    if scaling:
        values = {"rope_type": scaling.kind, "factor": scaling.factor}
    if scaling and scaling.kind == "llama3":
        values["original_max_position_embeddings"] = scaling.original_positions
        values["low_freq_factor"] = scaling.low_frequency_factor
        values["high_freq_factor"] = scaling.high_frequency_factor
    if scaling and scaling.kind == "yarn":
        values["original_max_position_embeddings"] = scaling.original_positions
        values["attention_factor"] = scaling.attention_factor
        values["beta_slow"] = scaling.low_frequency_factor
        values["beta_fast"] = scaling.high_frequency_factor
        values["truncate"] = scaling.truncate
    return {
        "rope_theta": config.rope_theta,
        "rope_scaling": {**values, "type": scaling.kind} if scaling else None,
        "rope_parameters": {**values, "rope_theta": config.rope_theta},
    }
