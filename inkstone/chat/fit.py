"""Make a conversation fit: the oldest rounds go first, the system prompt and the last round stay.

Training, samples and live chat shorten a conversation here, so what a model was trained on and what it is given agree.
"""

from collections.abc import Sequence

from inkstone.chat.messages import Message
from inkstone.chat.template import Template, encode_chat
from inkstone.tokenizer import Tokenizer


def encode_to_fit(
    messages: Sequence[Message],
    template: Template,
    tokenizer: Tokenizer,
    length: int,
    add_generation_prompt: bool = False,
) -> tuple[list[int], list[float], int] | None:
    """(ids, loss weights, dropped rounds) in at most `length` tokens; None when the last round alone is too long."""
    system = [message for message in messages[:1] if message.role == "system"]
    rest = list(messages[len(system) :])
    starts = [index for index, message in enumerate(rest) if message.role == "user"]
    for dropped, start in enumerate(starts):
        ids, weights = encode_chat(system + rest[start:], template, tokenizer, add_generation_prompt)
        if len(ids) <= length:
            return ids, weights, dropped
    return None
