"""How far the prompts of PPO and GRPO are from what the base was tuned on; Huozi 2 kept its data in distribution.

    told = prompt_distance(work, model, template, tokenizer, ["27+45等于多少？", ...])

Two measures, each beside that of the tuning set's own prompts (what its users say first), so that what is usual there
is known: how many of a prompt's pairs of neighbouring tokens the set's other prompts do not have, and the base's loss
on a prompt's tokens.
"""

import random
from collections.abc import Sequence
from itertools import chain, pairwise

from inkstone.chat import CHATS, Faults, Message, Problem, Template, encode_chat, stream
from inkstone.model import Decoder
from inkstone.model.decoder.lora import adapter_off
from inkstone.tokenizer import Tokenizer
from inkstone.train import heldout_loss
from inkstone.train.arithmetic import choose_arithmetic
from inkstone.tune.encoded import EncodedChat
from inkstone.tune.ends import Work
from inkstone.tune.packing import PackedChats

_SAMPLE, _SCORED = 4000, 256  # prompts of a side that are compared, and that the base reads
_APART = 8  # one tuning prompt in so many is measured against the others
FAR_PAIRS, FAR_LOSS = 0.15, 1.0
"""Above the tuning set's own, where prompts are called far."""


def prompt_distance(
    work: Work, model: Decoder, template: Template, tokenizer: Tokenizer, prompts: Sequence[str]
) -> dict[str, object]:
    """The measures and a sentence, which is also told; nothing where it is not known what the base was tuned on."""
    if not work.tuned_on:
        return {}
    length, seed = work.settings.sequence_length, work.settings.seed

    def read(text: str) -> EncodedChat:
        """What the user says weighs, and the mark that ends it; other marks say nothing."""
        ids, weights = encode_chat([Message("user", text, 1.0)], template, tokenizer)
        return EncodedChat(ids[:length], weights[:length])

    tuned = [read(text) for text in _first_said(work)]
    sides = {"": [read(text) for text in prompts[:: 1 + len(prompts) // _SAMPLE]], "tuning_": tuned[::_APART]}
    known = set(chain.from_iterable(_pairs(one) for number, one in enumerate(tuned) if number % _APART))
    told: dict[str, float] = {}
    model.to(choose_arithmetic(work.settings, 0).device)
    for side, chats in sides.items():
        told[f"{side}new_pairs"] = sum(_new_share(one, known) for one in chats) / len(chats)
        rows = PackedChats(chats[:: 1 + len(chats) // _SCORED], length, seed, tokenizer.fill_id)
        with adapter_off(model):
            told[f"{side}loss"] = heldout_loss(model, rows, work.settings)
    far = told["new_pairs"] > told["tuning_new_pairs"] + FAR_PAIRS or told["loss"] > told["tuning_loss"] + FAR_LOSS
    said = (
        f"of a prompt's pairs of tokens {told['new_pairs']:.0%} are new to the tuning set, of its own prompts' "
        f"{told['tuning_new_pairs']:.0%}; the base's loss on prompts is {told['loss']:.2f} nats per token, on its own "
        f"{told['tuning_loss']:.2f}"
    )
    if far:
        said += (
            ": the prompts are far from what the base was tuned on, so take others, or tune on conversations like them"
        )
    work.progress.note(said, **told)
    return {"prompts": {**{name: round(value, 4) for name, value in told.items()}, "far": far, "said": said}}


def _first_said(work: Work) -> list[str]:
    """What users say first in a sample of the tuning set, read row by row. Raises InputError for unusable files."""
    faults, kept, draws = Faults(), [], random.Random(work.settings.seed)
    chats = (one for one in stream(CHATS, work.tuned_on, faults) if not isinstance(one, Problem))
    asked = (message.content for chat in chats for message in chat[:2] if message.role == "user")
    for number, text in enumerate(asked):
        if number < _SAMPLE:
            kept.append(text)
        elif (place := draws.randrange(number + 1)) < _SAMPLE:
            kept[place] = text
    faults.refuse(work.tuned_on, "skip")
    return kept


def _pairs(chat: EncodedChat) -> list[tuple[int, int]]:
    return list(pairwise(token for token, weight in zip(chat.ids, chat.weights, strict=True) if weight))


def _new_share(chat: EncodedChat, known: set[tuple[int, int]]) -> float:
    pairs = _pairs(chat)
    return sum(pair not in known for pair in pairs) / max(1, len(pairs))
