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
    for dropped, kept in enumerate(_shorter_and_shorter(messages)):
        ids, weights = encode_chat(kept, template, tokenizer, add_generation_prompt)
        if len(ids) <= length:
            return ids, weights, dropped
    return None


def without_rounds(messages: Sequence[Message], dropped: int) -> list[Message]:
    """The conversation without its `dropped` oldest rounds, as `encode_to_fit` counts them."""
    return _shorter_and_shorter(messages)[dropped]


def prompt_to_fit(
    messages: Sequence[Message], template: Template, tokenizer: Tokenizer, positions: int, max_new_tokens: int
) -> list[int] | None:
    """Ids of a prompt that leaves room for the reply; None when the last round alone is too long.

    Room for the whole reply where possible, else half of the positions are the prompt's (Baichuan's rule, which does
    well for all). A template may ask for less, may leave its generation header out of the count, and may keep the end
    of a last round or of a prompt that is too long (`template.fit`).
    """
    rule = template.fit
    length = max(positions - max_new_tokens, positions // 2)
    if rule.max_prompt_tokens is not None:
        length = min(length, rule.max_prompt_tokens)
    shorter = _shorter_and_shorter(messages)
    ids: list[int] = []
    room = length
    for kept in shorter[-rule.max_rounds :] if rule.max_rounds else shorter:
        ids, _ = encode_chat(kept, template, tokenizer, add_generation_prompt=True)
        if not rule.count_header:
            room = min(length + len(ids) - len(encode_chat(kept, template, tokenizer)[0]), positions - 1)
        if len(ids) <= room:
            return ids[-length:] if rule.cut_prompt else ids
    return ids[-(length if rule.cut_prompt else room) :] if rule.cut_last_round and ids else None


def training_sequences(messages: Sequence[Message], template: Template) -> list[list[Message]]:
    """The conversations that teach every answer of this one.

    That is the conversation itself, except where a format does not close the answers of its history: there each learned
    answer gets a conversation that ends with it.
    """
    if template.past_answer is None:
        return [list(messages)]
    return [
        [*messages[: number + 1]]
        for number, message in enumerate(messages)
        if message.role == "assistant" and message.weight > 0
    ]


def _shorter_and_shorter(messages: Sequence[Message]) -> list[list[Message]]:
    """The conversation, then without its oldest round, and so on to the last round; the system message stays."""
    system = [message for message in messages[:1] if message.role == "system"]
    rest = list(messages[len(system) :])
    return [system + rest[start:] for start, message in enumerate(rest) if message.role == "user" or not start]
