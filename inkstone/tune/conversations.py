"""Conversations as what a tuning stage trains on: encoded, cut to fit, split, packed."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from fnmatch import fnmatch
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from inkstone.chat import (
    CHATS,
    TEXTS,
    Message,
    Template,
    encode_segments,
    encode_to_fit,
    encode_together,
    training_sequences,
    without_rounds,
)
from inkstone.chat.dataset_info import called
from inkstone.errors import InputError
from inkstone.tokenizer import Tokenizer
from inkstone.tune.encoded import EncodedChat, EncodedChats, KeptFile, told_of
from inkstone.tune.ends import Work, check_roles, heldout_numbers, roles_of
from inkstone.tune.packing import PackedChats, Redraw
from inkstone.tune.settings import SFTSettings

Numbers = NDArray[np.int64]


def packed_chats(
    work: Work, template: Template, tokenizer: Tokenizer
) -> tuple[PackedChats, PackedChats | None, dict[str, float]]:
    """Rows to train on, held-out rows if there are any (of `tests`, if given), what became of the conversations."""
    settings, kept = work.settings, work.kept(tokenizer)
    groups = _by_weight(work.inputs, settings.weights)
    how = [asdict(template), settings.sequence_length, bool(settings.bpe_dropout)]
    encode = partial(encode_chats, template=template, settings=settings, tokenizer=tokenizer)
    inputs = kept.files(work.inputs, CHATS, how, encode, settings.on_problem)
    tests = kept.files(work.tests, CHATS, how, encode, settings.on_problem) if work.tests else []
    pieces = partial(_in_pieces, settings=settings, tokenizer=tokenizer)
    texts = kept.files(work.texts, TEXTS, settings.sequence_length, pieces, "refuse") if work.texts else []
    check_roles(told_of([*inputs, *tests]), template)
    kept.forget_others([*inputs, *tests, *texts])
    every = EncodedChats([*inputs, *tests, *texts])
    numbers = np.split(np.arange(len(every)), every.firsts[1:-1])
    training, held = [], []
    for group, weight in groups:
        files = [number for number, path in enumerate(work.inputs) if path in group]
        apart = _held([inputs[n] for n in files], 0 if tests else settings.heldout_fraction)
        mine = np.concatenate([numbers[n] for n in files])
        training.append(_repeated(mine[~apart], weight, random.Random(f"{settings.seed} {group[0].name}")))
        held.append(mine[apart])
    held += numbers[len(inputs) : len(inputs) + len(tests)]
    conversations = sum(map(len, training))
    training += numbers[len(inputs) + len(tests) :]
    chosen = EncodedChats(every.files, np.concatenate(training))
    redraw = _redraw(chosen, tokenizer, settings.bpe_dropout)
    rows = PackedChats(chosen, settings.sequence_length, settings.seed, tokenizer.fill_id, redraw)
    tested = EncodedChats(every.files, np.concatenate(held))
    heldout = PackedChats(tested, settings.sequence_length, settings.seed, tokenizer.fill_id) if len(tested) else None
    told = told_of(inputs)
    return (
        rows,
        heldout,
        {
            "fill": round(rows.fill, 4),
            "supervised_share": round(int(chosen.learned.sum()) / max(1, int(chosen.lengths.sum())), 4),
            **{f"{what}_conversations": told[what] for what in ("shortened", "too_long")},
            "skipped_rows": sum(file.facts["faults"]["malformed"] for file in inputs),
            "conversations": conversations,
            **({"pieces_of_text": len(chosen) - conversations} if texts else {}),
        },
    )


def _by_weight(inputs: Sequence[Path], weights: Mapping[str, float]) -> list[tuple[list[Path], float]]:
    """Files that are read together, and what their rows count. Raises InputError for a pattern that names no file."""
    if not weights:
        return [(list(inputs), 1.0)]
    unused = [mark for mark in weights if not any(fnmatch(called(path), mark) for path in inputs)]
    if unused:
        raise InputError(f'weights name "{unused[0]}", but no file of inputs is called so')
    return [
        ([path], next((weight for mark, weight in weights.items() if fnmatch(called(path), mark)), 1.0))
        for path in inputs
    ]


def _repeated(numbers: Numbers, weight: float, draws: random.Random) -> Numbers:
    """Whole times, and a drawn share of them once more; what is held out was taken before."""
    whole, part = divmod(weight, 1)
    once_more = draws.sample(range(len(numbers)), round(part * len(numbers)))
    return np.concatenate([np.tile(numbers, int(whole)), numbers[np.array(once_more, np.int64)]])


def _in_pieces(
    texts: list[str], settings: SFTSettings, tokenizer: Tokenizer
) -> tuple[list[list[EncodedChat]], Mapping[str, int]]:
    """Plain texts in pieces that fit, every token learned."""
    length, encoded = settings.sequence_length, []
    for text in texts:
        ids = [*tokenizer.start_ids, *tokenizer.encode(text), *tokenizer.end_ids[:1]]
        pieces = [ids[start : start + length] for start in range(0, len(ids), length)]
        encoded.append([EncodedChat(piece, [1.0] * len(piece)) for piece in pieces])
    return encoded, {}


def encode_chats(
    chats: list[list[Message]], template: Template, settings: SFTSettings, tokenizer: Tokenizer
) -> tuple[list[list[EncodedChat]], Mapping[str, int]]:
    """The sequences of each conversation; the roles it uses, and how many lost rounds or did not fit at all."""
    told = roles_of(chats)
    placed = [chat if all(one.role in template.turns for one in chat) else [] for chat in chats]
    sequences = [(at, one) for at, chat in enumerate(placed) for one in training_sequences(chat, template) if one]
    segments = [template.segments(one) for _, one in sequences]
    encoded: list[list[EncodedChat]] = [[] for _ in chats]
    whole = encode_together(segments, tokenizer)
    for (at, messages), again, (ids, weights) in zip(sequences, segments, whole, strict=True):
        if len(ids) > settings.sequence_length:
            fitted = encode_to_fit(messages, template, tokenizer, settings.sequence_length)
            told["shortened" if fitted else "too_long"] += 1
            if fitted is None:
                continue
            ids, weights, dropped = fitted
            again = template.segments(without_rounds(messages, dropped))
        encoded[at].append(EncodedChat(ids, weights, again if settings.bpe_dropout else ()))
    return encoded, told


def _redraw(chats: EncodedChats, tokenizer: Tokenizer, dropout: float) -> Redraw | None:
    """Encodes a conversation with BPE-dropout: of the training texts only, never of control tokens, never kept."""
    if not dropout:
        return None
    tokenizer.require_dropout()

    def again(number: int, draws: np.random.Generator) -> EncodedChat:
        chat = chats[number]
        return EncodedChat(*encode_segments(chat.segments, tokenizer, dropout, draws)) if chat.segments else chat

    return again


def _held(files: Sequence[KeptFile], fraction: float) -> NDArray[np.bool_]:
    """Which sequences of the files are held out: those of every n-th conversation."""
    before = np.cumsum([0, *(file.chats for file in files)])
    chats = np.concatenate([file.table["chat"] + first for file, first in zip(files, before[:-1], strict=True)])
    return np.isin(chats, heldout_numbers(int(before[-1]), fraction))
