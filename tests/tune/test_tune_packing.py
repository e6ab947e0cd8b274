"""Packing loses no conversation, learns only from the assistant, and shortens in whole rounds."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inkstone.chat import CHATML, Message, encode_chat, encode_segments, encode_to_fit
from inkstone.errors import InputError
from inkstone.tokenizer import Tokenizer
from inkstone.tune import PackedChats
from inkstone.tune.encoded import EncodedChat
from inkstone.tune.packing import best_fit_decreasing

LENGTHS = st.lists(st.integers(1, 50), min_size=1, max_size=60)


@given(LENGTHS, st.integers(50, 120))
def test_bins_hold_every_chat_once_and_never_more_than_their_capacity(lengths: list[int], capacity: int) -> None:
    bins = best_fit_decreasing(lengths, capacity)
    assert sorted(index for chosen in bins for index in chosen) == list(range(len(lengths)))
    assert all(sum(lengths[index] for index in chosen) <= capacity for chosen in bins)


@given(LENGTHS, st.integers(50, 120))
def test_no_two_bins_would_fit_into_one(lengths: list[int], capacity: int) -> None:
    sums = sorted(sum(lengths[index] for index in chosen) for chosen in best_fit_decreasing(lengths, capacity))
    assert len(sums) == 1 or sums[0] + sums[1] > capacity


def chats(tokenizer: Tokenizer, count: int = 12) -> list[EncodedChat]:
    made = []
    for number in range(count):
        rounds = [
            message
            for turn in range(number % 3 + 1)
            for message in (Message("user", f"what is {number} + {turn}?"), Message("assistant", f"{number + turn}。"))
        ]
        ids, weights = encode_chat(rounds, CHATML, tokenizer)
        made.append(EncodedChat(ids, weights))
    return made


@pytest.mark.parametrize("length", [80, 160, 400])
def test_rows_of_an_epoch_hold_every_chat_once_whole_with_its_own_positions(length: int, tokenizer: Tokenizer) -> None:
    encoded = chats(tokenizer)
    rows = PackedChats(encoded, length, seed=1, pad_id=tokenizer.pad_id)
    found = []
    for index in range(rows.rows_per_epoch):
        row = rows.row(0, index)
        for number in dict.fromkeys(row.document_ids.tolist()):
            where = row.document_ids == number
            if number == len(encoded):
                assert (row.tokens[where] == tokenizer.pad_id).all() and not row.weights[where].any()
                continue
            assert np.array_equal(row.tokens[where], encoded[number].ids)
            assert np.array_equal(row.weights[where], encoded[number].weights)
            assert np.array_equal(row.positions[where], np.arange(where.sum()))
            assert np.array_equal(np.diff(where.nonzero()[0]), np.ones(where.sum() - 1)), "a chat lies in one piece"
            found.append(number)
    assert sorted(found) == list(range(len(encoded)))
    assert rows.fill == pytest.approx(sum(len(chat.ids) for chat in encoded) / (rows.rows_per_epoch * length))


def test_row_order_is_a_function_of_seed_and_epoch(tokenizer: Tokenizer) -> None:
    def order(seed: int, epoch: int) -> list[tuple[int, ...]]:
        rows = PackedChats(chats(tokenizer, 30), 80, seed, tokenizer.pad_id)
        return [tuple(rows.row(epoch, index).tokens.tolist()) for index in range(rows.rows_per_epoch)]

    assert order(1, 0) == order(1, 0)
    assert sorted(order(1, 0)) == sorted(order(1, 1)) == sorted(order(2, 0))
    assert len({tuple(order(*key)) for key in ((1, 0), (1, 1), (2, 0))}) == 3


def test_only_the_assistants_words_and_ends_of_turn_are_learned_in_packed_rows(tokenizer: Tokenizer) -> None:
    dialogue = [
        Message("system", "你好"), Message("user", "what is 12 + 7?"), Message("assistant", "The answer is 19."),
        Message("user", "Hello"), Message("assistant", "世界！"),
    ]  # fmt: skip
    chat = EncodedChat(*encode_chat(dialogue, CHATML, tokenizer))
    row = PackedChats([chat, chat], 200, seed=1, pad_id=tokenizer.pad_id).row(0, 0)
    learned = tokenizer.decode(row.tokens[row.weights > 0].tolist())
    assert learned == "The answer is 19.<|im_end|>世界！<|im_end|>" * 2


def test_no_chats_are_refused() -> None:
    with pytest.raises(InputError, match="no conversation is left to train on"):
        PackedChats([], 80, seed=1, pad_id=2)


ROUNDS = [
    message
    for turn in range(4)
    for message in (Message("user", f"Hello {turn}"), Message("assistant", f"The answer is {turn}."))
]


@settings(max_examples=60)
@given(st.integers(10, 200), st.booleans())
def test_a_long_chat_loses_only_its_oldest_rounds_and_as_few_as_possible(
    tokenizer: Tokenizer, length: int, with_system: bool
) -> None:
    system = [Message("system", "明月")] if with_system else []
    fitted = encode_to_fit(system + ROUNDS, CHATML, tokenizer, length)
    sizes = [len(encode_chat(system + ROUNDS[2 * first :], CHATML, tokenizer)[0]) for first in range(4)]
    fitting = [first for first, size in enumerate(sizes) if size <= length]
    if not fitting:
        assert fitted is None
        return
    assert fitted is not None
    ids, weights, dropped = fitted
    assert dropped == fitting[0]
    assert (ids, weights) == encode_chat(system + ROUNDS[2 * dropped :], CHATML, tokenizer)
    assert len(ids) <= length
    assert ("明月" in tokenizer.decode(ids)) == with_system


def test_a_round_keeps_its_tool_turns_together(tokenizer: Tokenizer) -> None:
    messages = [
        Message("user", "Hello"), Message("assistant", "你好"),
        Message("user", "what is 12 + 7?"), Message("assistant", "12 + 7"), Message("tool", "19"),
        Message("assistant", "The answer is 19."),
    ]  # fmt: skip
    whole = len(encode_chat(messages, CHATML, tokenizer)[0])
    fitted = encode_to_fit(messages, CHATML, tokenizer, whole - 1)
    assert fitted == (*encode_chat(messages[2:], CHATML, tokenizer), 1)


def test_dropout_encodes_the_same_texts_anew_in_every_epoch_and_never_a_control_token(tokenizer: Tokenizer) -> None:
    """Decoding gives the texts again, stops stay learned, and rows are a function of seed, epoch and index."""
    asked = [Message("user", "what is 你好 + hello world?"), Message("assistant", "你好，世界！Hello, what is it?")]
    segments = CHATML.segments(asked)
    plain = EncodedChat(*encode_segments(segments, tokenizer), segments)
    many = [plain] * 8

    def redraw(number: int, draws: np.random.Generator) -> EncodedChat:
        return EncodedChat(*encode_segments(many[number].segments, tokenizer, 0.5, draws), segments)

    def rows() -> PackedChats:
        return PackedChats(many, 200, seed=3, pad_id=tokenizer.pad_id, redraw=redraw)

    one, seen, longer = rows(), set(), 0
    for epoch in range(3):
        for index in range(one.rows_per_epoch):
            row, again = one.row(epoch, index), rows().row(epoch, index)
            assert all(np.array_equal(getattr(row, name), getattr(again, name)) for name in ("tokens", "weights"))
            for number in set(row.document_ids.tolist()) - {len(many)}:
                where = row.document_ids == number
                ids, weights = row.tokens[where].tolist(), row.weights[where]
                assert tokenizer.decode(ids) == tokenizer.decode(plain.ids)
                control = [token for token in ids if token in tokenizer.control_ids]
                assert control == [token for token in plain.ids if token in tokenizer.control_ids]
                assert weights[ids.index(tokenizer.token_id("<|im_end|>"), len(ids) - 3)] == 1
                longer += len(ids) > len(plain.ids)
                seen.add(tuple(ids))
    assert longer > 12 and len(seen) > 12
