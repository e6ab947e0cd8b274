"""A reply in a conversation, as text that arrives in pieces.

    for delta in stream_reply(speaker, history, sampling): print(delta, end="")

Token ids become text only when their bytes are complete: a Chinese character that is split over byte tokens appears
once, whole.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from inkstone.chat import Message, Template, encode_to_fit, load_template
from inkstone.errors import InputError
from inkstone.generate.engine import stream
from inkstone.generate.sampler import SamplingSettings
from inkstone.model import Decoder, load_model
from inkstone.model.directory import read_stop_ids
from inkstone.tokenizer import Tokenizer


@dataclass(frozen=True)
class Speaker:
    """A chat model with everything a conversation needs."""

    model: Decoder
    tokenizer: Tokenizer
    template: Template
    stop_ids: set[int]


def load_speaker(directory: Path, device: str = "cpu") -> Speaker:
    """Raises InputError when the directory is no model or has no chat template."""
    if (directory / "config.json").is_file() and not (directory / "chat_template.json").is_file():
        raise InputError(
            f"{directory} is a base model without a chat template, so it cannot hold a conversation: "
            "tune it first (inkstone tune), or chat with a tuned model such as runs/primer/sft"
        )
    model = load_model(directory, device=device)
    template, tokenizer = load_template(directory), Tokenizer.load(directory)
    stop_ids = {tokenizer.eos_id, *(tokenizer.token_id(name) for name in template.stop_tokens)}
    return Speaker(model, tokenizer, template, stop_ids | read_stop_ids(directory))


def stream_reply(speaker: Speaker, history: Sequence[Message], sampling: SamplingSettings) -> Iterator[str]:
    """The reply's text, piece by piece. A history that is too long loses its oldest rounds.

    Raises InputError when the last message alone leaves no room for a reply.
    """
    positions = speaker.model.config.max_positions
    # Room for the whole reply where possible, else half of the positions for the history.
    length = max(positions - sampling.max_new_tokens, positions // 2)
    fitted = encode_to_fit(history, speaker.template, speaker.tokenizer, length, add_generation_prompt=True)
    if fitted is None:
        raise InputError(f"this message is too long: the model has {positions} positions in all; shorten it")
    yield from text_deltas(speaker.tokenizer, stream(speaker.model, fitted[0], sampling, speaker.stop_ids))


def text_deltas(tokenizer: Tokenizer, token_ids: Iterable[int]) -> Iterator[str]:
    """New text after each token; text that may still be an incomplete character waits for the next token."""
    ids: list[int] = []
    shown = ""
    for token_id in token_ids:
        ids.append(token_id)
        text = tokenizer.decode(ids, skip_control=True)
        if text.endswith("�"):
            continue
        if len(text) > len(shown):
            yield text[len(shown) :]
            shown = text
    rest = tokenizer.decode(ids, skip_control=True)[len(shown) :]
    if rest:
        yield rest
