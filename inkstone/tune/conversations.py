"""Conversations as what a tuning stage trains on: encoded, cut to fit, split, packed."""

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path

import numpy as np

from inkstone.chat import (
    Message,
    Template,
    encode_segments,
    encode_to_fit,
    read_chats,
    training_sequences,
    without_rounds,
)
from inkstone.chat.rows import UnreadableFile, read_rows
from inkstone.errors import InputError
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
    texts: Sequence[Path] = (),
) -> tuple[PackedChats, PackedChats | None, dict[str, float]]:
    """Rows to train on, held-out rows if there are any (of `tests`, if given), what became of the conversations."""
    training: list[EncodedChat] = []
    held: list[EncodedChat] = []
    counts: Counter[str] = Counter()
    for group, weight in _by_weight(inputs, settings.weights):
        dataset = read_chats(group, settings.on_problem)
        check_roles(dataset.chats, template)
        encoded, told = _encode(dataset.chats, template, settings, tokenizer)
        learned, kept = _split(encoded, 0 if tests else settings.heldout_fraction)
        training += _repeated(learned, weight, random.Random(f"{settings.seed} {group[0].name}"))
        held += kept
        counts.update({**told, "skipped_rows": len(dataset.skipped)})
    if tests:
        held, _ = _split(_encode(read_chats(tests, settings.on_problem).chats, template, settings, tokenizer)[0], 0)
    counts["conversations"] = len(training)
    plain = _texts(texts, settings, tokenizer)
    training += plain
    redraw = _redraw(training, tokenizer, settings.bpe_dropout)
    rows = PackedChats(training, settings.sequence_length, settings.seed, tokenizer.fill_id, redraw)
    heldout = PackedChats(held, settings.sequence_length, settings.seed, tokenizer.fill_id) if held else None
    return (
        rows,
        heldout,
        {
            "fill": round(rows.fill, 4),
            "supervised_share": round(_supervised_share(training), 4),
            **counts,
            **({"pieces_of_text": len(plain)} if texts else {}),
        },
    )


def _by_weight(inputs: Sequence[Path], weights: Mapping[str, float]) -> list[tuple[list[Path], float]]:
    """Files that are read together, and what their rows count. Raises InputError for a pattern that names no file."""
    if not weights:
        return [(list(inputs), 1.0)]
    unused = [mark for mark in weights if not any(fnmatch(path.name, mark) for path in inputs)]
    if unused:
        raise InputError(f'weights name "{unused[0]}", but no file of inputs is called so')
    return [
        ([path], next((weight for mark, weight in weights.items() if fnmatch(path.name, mark)), 1.0)) for path in inputs
    ]


def _repeated(chats: list[EncodedChat], weight: float, draws: random.Random) -> list[EncodedChat]:
    """Whole times, and a drawn share of them once more; what is held out was taken before."""
    whole, part = divmod(weight, 1)
    return chats * int(whole) + draws.sample(chats, round(part * len(chats)))


def _texts(paths: Sequence[Path], settings: SFTSettings, tokenizer: Tokenizer) -> list[EncodedChat]:
    """Plain texts in pieces that fit, every token learned."""
    pieces = []
    for text in read_texts(paths):
        ids = [*tokenizer.start_ids, *tokenizer.encode(text), *tokenizer.end_ids[:1]]
        for start in range(0, len(ids), settings.sequence_length):
            piece = ids[start : start + settings.sequence_length]
            pieces.append(EncodedChat(piece, [1.0] * len(piece)))
    return pieces


def read_texts(paths: Sequence[Path]) -> list[str]:
    """The `text` of every row. Raises InputError naming rows that have none, and files that are none."""
    texts, problems = [], []
    for path in paths:
        try:
            for number, row in read_rows(path):
                text = row.get("text") if isinstance(row, dict) else None
                texts += [text] if isinstance(text, str) else []
                problems += [] if isinstance(text, str) else [f"{path}:{number} text: is missing or no string"]
        except UnreadableFile as error:
            problems.append(f"{path} {error}")
    if problems:
        raise InputError(problems[:20])
    return texts


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

    def again(number: int, draws: np.random.Generator) -> EncodedChat:
        segments = chats[number].segments
        return (
            EncodedChat(*encode_segments(segments, tokenizer, dropout, draws), segments) if segments else chats[number]
        )

    return again


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
