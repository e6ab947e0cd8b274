"""A task: what a person chose on the page, as a recipe that `inkstone run` takes, and what it will take in turn.

The recipe is an ordinary one: it can be copied from the page and run in a terminal.
"""

from functools import lru_cache
from math import ceil
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from inkstone.chat import (
    CHATML,
    encode_to_fit,
    find_template,
    read_chats,
    read_preferences,
    read_verdicts,
    require_tokens,
)
from inkstone.errors import InputError
from inkstone.model.files.directory import read_config
from inkstone.plan import estimate
from inkstone.plan.hardware import this_device
from inkstone.serve.guard import Body
from inkstone.serve.jobs.queue import STAGE, toml
from inkstone.tokenizer import Tokenizer
from inkstone.tune import PackedChats, SFTSettings
from inkstone.tune.encoded import EncodedChat
from inkstone.tune.pairs import PackedPairs, encode_pair
from inkstone.tune.verdicts import beside_next

METHODS = {"chat": "sft", "preference": "preference", "verdict": "kto"}
_RATES = {("sft", "whole"): 1e-4, ("sft", "lora"): 5e-4, ("pairs", "whole"): 2e-5, ("pairs", "lora"): 2e-4}
"""Peak learning rates where the person says none: pairs and verdicts need less, an adapter more."""
_SAMPLE, _FEW = 300, 50
"""Rows that tell how long rows are; fewer than this in all, and none are held out."""


class Task(Body):
    """One model tuned in one way on one data set; numbers name data sets."""

    model: str = Field(max_length=400)
    data: int = Field(ge=1, lt=2**31)
    method: Literal["whole", "lora"] = "lora"
    test: int | None = Field(None, ge=1, lt=2**31)
    epochs: float = Field(3.0, gt=0, le=1000)
    learning_rate: float | None = Field(None, gt=0, le=1)
    sequence_length: int | None = Field(None, ge=16, le=2**20)


class Tasks(Body):
    """Several, to be planned or started together."""

    tasks: list[Task] = Field(min_length=1, max_length=64)


def prepare(task: Task, base: Path, data: Path, about: dict[str, Any], test: Path | None) -> tuple[str, dict[str, Any]]:
    """The recipe, and what it will take. Raises InputError for what would fail later."""
    config, kind = read_config(base), about["kind"]
    length = length_of(task.sequence_length, config.max_positions)
    if kind == "verdict" and about["good"] in (0, about["rows"]):
        said = "good" if about["good"] else "bad"
        raise InputError(f"every answer of the data is said to be {said}: learning from thumbs needs both kinds")
    template = template_of(base)
    rows = ceil(_rows_of(data, kind, base, template, length) * about["rows"])
    values = {
        "inputs": [str(data)],
        "base": str(base),
        "method": METHODS[kind],
        "adapter": "lora" if task.method == "lora" else "none",
        "template": template,
        "on_problem": "skip" if about["faulty"] else "refuse",
        "epochs": task.epochs,
        "learning_rate": task.learning_rate or _RATES["sft" if kind == "chat" else "pairs", task.method],
        "sequence_length": length,
        "batch_tokens": max(1, min(8, rows // 8)) * length,
        "heldout_fraction": 0.0 if about["rows"] < _FEW else 0.02,
        **({"heldout": [str(test)]} if test else {}),
        **({"kto": _even(about["good"], about["rows"] - about["good"])} if kind == "verdict" else {}),
    }
    settings = SFTSettings.model_validate(values)
    steps = settings.steps(rows)
    values |= {"warmup_steps": min(20, steps // 10), "log_steps": max(1, steps // 500)}
    recipe = f"[tune.{STAGE}]\n" + "".join(f"{name} = {toml(value)}\n" for name, value in values.items())
    # The base's own opinion of the pairs is one more forward.
    tokens = steps * settings.batch_tokens * (1 if kind == "chat" else 4 / 3)
    device = this_device()
    made = estimate(config, settings, device, 1, round(tokens)) if device else None
    return recipe, {
        **{name: values[name] for name in ("method", "learning_rate", "sequence_length", "batch_tokens")},
        "steps": steps,
        "hours": made and made.hours,
        "memory_gib": made and made.memory.total,
        "room_gib": device and device.memory_gib,
    }


def length_of(wanted: int | None, positions: int) -> int:
    """Tokens of a row: what is wanted, or what does for most sets. Raises InputError where the model has fewer."""
    length = wanted or min(positions, 512)
    if length > positions:
        raise InputError(f"sequence_length = {length} exceeds the model's {positions} positions: shorten it")
    return length


def _even(good: int, bad: int) -> dict[str, float]:
    """Weights with which both kinds count the same in all; the more frequent one has 1."""
    most = max(good, bad)
    return {"good_weight": round(most / good, 4), "bad_weight": round(most / bad, 4)}


def template_of(base: Path) -> str:
    """What the recipe says: the model's own template, else ChatML where the vocabulary has its marks."""
    try:
        find_template(base)
        return "auto"
    except InputError:
        require_tokens(CHATML, Tokenizer.load(base))
        return CHATML.name


@lru_cache(64)
def _rows_of(path: Path, kind: str, base: Path, template: str, length: int) -> float:
    """Packed rows that one row of the file makes, by some that are spread over it, packed as in training."""
    form, tokenizer = find_template(base, None if template == "auto" else template), Tokenizer.load(base)
    if kind != "chat":
        if kind == "verdict":
            read = beside_next(read_verdicts([path], on_problem="skip").verdicts)
        else:
            read = read_preferences([path], on_problem="skip").preferences
        some = read[:: 1 + len(read) // _SAMPLE]
        pairs = [one for pair in some if (one := encode_pair(pair, form, tokenizer, length))]
        return PackedPairs(pairs, length, 1, tokenizer.fill_id).rows_per_epoch / len(some)
    told = (every := read_chats([path], on_problem="skip").chats)[:: 1 + len(every) // _SAMPLE]
    chats = [EncodedChat(*fit[:2]) for chat in told if (fit := encode_to_fit(chat, form, tokenizer, length))]
    return PackedChats(chats, length, 1, tokenizer.fill_id).rows_per_epoch / len(told)
