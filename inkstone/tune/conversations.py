"""Conversations as what a tuning stage trains on: encoded, cut to fit, split, packed."""

from collections.abc import Sequence
from pathlib import Path

from inkstone.chat import (
    Message,
    Template,
    encode_segments,
    encode_to_fit,
    read_chats,
    training_sequences,
    without_rounds,
)
from inkstone.tokenizer import Tokenizer
from inkstone.tune.ends import check_roles
from inkstone.tune.packing import EncodedChat, PackedChats, Redraw
from inkstone.tune.settings import SFTSettings


def packed_chats(
    inputs: Sequence[Path],
    template: Template,
    settings: SFTSettings,
    tokenizer: Tokenizer,
    tests: Sequence[Path] = (),
) -> tuple[PackedChats, PackedChats | None, dict[str, float]]:
    """Rows to train on, held-out rows if there are any (of `tests`, if given), what became of the conversations."""
    dataset = read_chats(inputs, on_problem=settings.on_problem)
    check_roles(dataset.chats, template)
    encoded, counts = _encode(dataset.chats, template, settings, tokenizer)
    training, held = _split(encoded, 0 if tests else settings.heldout_fraction)
    if tests:
        held, _ = _split(_encode(read_chats(tests, settings.on_problem).chats, template, settings, tokenizer)[0], 0)
    redraw = _redraw(training, tokenizer, settings.bpe_dropout)
    rows = PackedChats(training, settings.sequence_length, settings.seed, tokenizer.fill_id, redraw)
    heldout = PackedChats(held, settings.sequence_length, settings.seed, tokenizer.fill_id) if held else None
    return (
        rows,
        heldout,
        {
            "conversations": len(training),
            "skipped_rows": len(dataset.skipped),
            "fill": round(rows.fill, 4),
            "supervised_share": round(_supervised_share(training), 4),
            **counts,
        },
    )


def _encode(
    chats: list[list[Message]], template: Template, settings: SFTSettings, tokenizer: Tokenizer
) -> tuple[list[list[EncodedChat]], dict[str, int]]:
    """The sequences of each conversation, and how many lost rounds or did not fit at all."""
    encoded, shortened, too_long = [], 0, 0
    for chat in chats:
        sequences = []
        for messages in training_sequences(chat, template):
            fitted = encode_to_fit(messages, template, tokenizer, settings.sequence_length)
            if fitted is None:
                too_long += 1
                continue
            ids, weights, dropped = fitted
            shortened += dropped > 0
            again = template.segments(without_rounds(messages, dropped)) if settings.bpe_dropout else []
            sequences.append(EncodedChat(ids, weights, again))
        encoded += [sequences] if sequences else []
    return encoded, {"shortened_conversations": shortened, "too_long_conversations": too_long}


def _redraw(chats: list[EncodedChat], tokenizer: Tokenizer, dropout: float) -> Redraw | None:
    """Encodes a conversation with BPE-dropout: of the training texts only, never of control tokens, never kept."""
    if not dropout:
        return None
    tokenizer.require_dropout()
    return lambda number, draws: EncodedChat(
        *encode_segments(chats[number].segments, tokenizer, dropout, draws), chats[number].segments
    )


def _split(chats: list[list[EncodedChat]], fraction: float) -> tuple[list[EncodedChat], list[EncodedChat]]:
    """Every n-th conversation is held out, spread evenly over the files; its sequences stay together."""
    every = max(2, round(1 / fraction)) if fraction and len(chats) > 1 else 0
    training: list[EncodedChat] = []
    held: list[EncodedChat] = []
    for index, sequences in enumerate(chats):
        side = held if every and index % every == 0 else training
        side += sequences
    return training, held


def _supervised_share(chats: list[EncodedChat]) -> float:
    tokens = sum(len(chat.ids) for chat in chats)
    return sum(sum(weight > 0 for weight in chat.weights) for chat in chats) / max(1, tokens)
