"""What a model says, for people to read: base models continue short texts, chat models hold short conversations.

The prompts file holds {"continue": [texts], "chat": {"zh": [user turns], "en": [user turns]}}. Everything is greedy,
so the same model says the same thing again. A continuation ends at the first line break; a conversation that
outgrows the model's positions loses its oldest turns, and says how many.
"""

from pathlib import Path

from pydantic import BaseModel, Field, ValidationError

from inkstone.chat import Message, Template, encode_to_fit
from inkstone.errors import InputError
from inkstone.generate import SamplingSettings, generate
from inkstone.model import Opened
from inkstone.tokenizer import Tokenizer


class Prompts(BaseModel, extra="forbid", frozen=True, populate_by_name=True):
    """Texts for base models and user turns for chat models."""

    continuations: list[str] = Field(default_factory=list, alias="continue")
    chat: dict[str, list[str]] = Field(default_factory=dict)


def read_prompts(path: Path) -> Prompts:
    try:
        return Prompts.model_validate_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}).") from error
    except (ValidationError, UnicodeDecodeError) as error:
        found = error.errors() if isinstance(error, ValidationError) else [{"loc": ("file",), "msg": str(error)}]
        raise InputError(
            [f"{path}: {'.'.join(map(str, one['loc'])) or 'file'}: {one['msg']}." for one in found]
        ) from error


def continue_texts(opened: Opened, texts: list[str], max_new_tokens: int) -> list[dict[str, str]]:
    """[{"prompt", "text"}]; a prompt too long for the model is left out of the batch and says so."""
    model, tokenizer = opened.model, opened.tokenizer
    room = model.max_positions - max_new_tokens
    prompts = [[*tokenizer.start_ids, *tokenizer.encode(text)] for text in texts]
    fits = [index for index, prompt in enumerate(prompts) if len(prompt) <= room]
    sampling = SamplingSettings(temperature=0.0, max_new_tokens=max_new_tokens)
    written = generate(model, [prompts[index] for index in fits], sampling, opened.stop_ids | _line_ends(tokenizer))
    outputs = dict(zip(fits, written, strict=True))
    rows = []
    for index, text in enumerate(texts):
        said = tokenizer.decode(outputs.get(index, []), skip_control=True).split("\n", 1)[0]
        rows.append({"prompt": text, "text": said} | ({} if index in outputs else {"note": "too long for the model"}))
    return rows


def hold_conversation(
    opened: Opened, template: Template, turns: list[str], max_new_tokens: int
) -> list[dict[str, object]]:
    """User turns and the model's replies, each reply given with all that was said before."""
    model, tokenizer = opened.model, opened.tokenizer
    sampling = SamplingSettings(temperature=0.0, max_new_tokens=max_new_tokens)
    room = model.max_positions - max_new_tokens
    history: list[Message] = []
    said: list[dict[str, object]] = []
    for turn in turns:
        history.append(Message("user", turn))
        said.append({"role": "user", "content": turn})
        fitted = encode_to_fit(history, template, tokenizer, room, add_generation_prompt=True)
        if fitted is None:
            said.append({"role": "note", "content": "This turn is too long for the model."})
            break
        ids, _, dropped = fitted
        [written] = generate(model, [ids], sampling, opened.stop_ids)
        reply = tokenizer.decode(written, skip_control=True).strip()
        history.append(Message("assistant", reply))
        said.append({"role": "assistant", "content": reply} | ({"forgotten_rounds": dropped} if dropped else {}))
    return said


def _line_ends(tokenizer: Tokenizer) -> set[int]:
    """The tokens that are nothing but line breaks."""
    newlines = [tokenizer.encode("\n" * count) for count in (1, 2)]
    return {ids[0] for ids in newlines if len(ids) == 1}
