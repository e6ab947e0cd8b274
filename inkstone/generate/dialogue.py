"""A reply in a conversation, as text that arrives in pieces.

for delta in stream_reply(opened, history, sampling): print(delta, end="")
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from pydantic import ValidationError

from inkstone.chat import Message, prompt_to_fit
from inkstone.chat.export import GENERATION_FILE, read_generation_config
from inkstone.errors import InputError
from inkstone.generate.engine import stream
from inkstone.generate.sampler import SamplingSettings
from inkstone.generate.text import Shown, text_deltas
from inkstone.model import Opened


def read_sampling(directory: Path, fallback: SamplingSettings | None = None) -> SamplingSettings:
    """How generation_config.json says to sample: greedily, unless `do_sample` is true.

    What it leaves open is taken from `fallback`; its `max_length` serves as `max_new_tokens` where that is missing.
    """
    settings = (fallback or SamplingSettings()).model_dump()
    said = {key: value for key, value in read_generation_config(directory).items() if value is not None}
    said.setdefault("max_new_tokens", said.get("max_length", settings["max_new_tokens"]))
    keys = ["max_new_tokens", "repetition_penalty"]
    if said.get("do_sample"):
        said.setdefault("temperature", 1.0)
        keys += ["temperature", "top_k", "top_p", "min_p"]
    if said.get("top_k") == -1:  # vLLM's word for all
        del said["top_k"]
    try:
        return SamplingSettings(**settings | {key: said[key] for key in keys if key in said})
    except ValidationError as error:
        wrong = ", ".join(f"{one['loc'][0]} = {one['input']!r}: {one['msg'].lower()}" for one in error.errors())
        path = directory / GENERATION_FILE
        raise InputError(f"{path} does not say how to sample ({wrong}): repair or remove it") from error


def build_prompt(opened: Opened, history: Sequence[Message], sampling: SamplingSettings) -> list[int]:
    """The ids the model is given. A history that is too long loses its oldest rounds.

    Raises InputError when the last message alone leaves no room for a reply, or the model was not opened for a chat.
    """
    template = opened.template
    if template is None:
        raise InputError("this model has no chat template: open it with one (template=NAME)")
    positions = opened.model.max_positions
    prompt = prompt_to_fit(history, template, opened.tokenizer, positions, sampling.max_new_tokens)
    if prompt is None:
        most = template.fit.max_prompt_tokens
        limit = f"; its template takes {most} tokens of prompt at most" if most and most < positions else ""
        raise InputError(f"this message is too long: the model has {positions} positions in all{limit}; shorten it")
    return prompt


def stream_reply(
    opened: Opened, history: Sequence[Message], sampling: SamplingSettings, lookup: int = 0
) -> Iterator[str]:
    """The reply's text, piece by piece, without white space before it. Raises InputError like `build_prompt`."""
    prompt = build_prompt(opened, history, sampling)
    shown = Shown(replacements=opened.template.replacements if opened.template else (), from_first_word=True)
    tokens = stream(opened.model, prompt, sampling, opened.stop_ids, lookup, opened.draft)
    yield from text_deltas(opened.tokenizer, tokens, shown)
