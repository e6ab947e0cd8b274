"""A streamed reply is the decoded answer, and no piece of it ends inside a character."""

from pathlib import Path

import pytest
from generate_samples import tiny_model
from hypothesis import given
from hypothesis import strategies as st

from inkstone.chat import CHATML, Message, encode_chat, save_template
from inkstone.errors import InputError
from inkstone.generate import SamplingSettings, generate
from inkstone.generate.dialogue import stream_reply, text_deltas
from inkstone.model import Decoder, ModelSettings, open_directory, save_model
from inkstone.tokenizer import Tokenizer, TokenizerSettings
from inkstone.tokenizer.bpe.train import train
from inkstone.train import new_model

SHORT = SamplingSettings(temperature=2.0, max_new_tokens=24)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    trained, _ = train(
        TokenizerSettings(vocab_size=330), [(["system\nuser\nassistant\n你好，世界！Hello 12"] * 3, 1.0)]
    )
    return trained


@pytest.fixture(scope="module")
def directory(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("chat-model")
    shape = ModelSettings(hidden_size=16, num_layers=1, num_heads=2, max_positions=64)
    model: Decoder = new_model(shape, tokenizer.vocab_size, seed=1)
    save_model(model, path, bos_id=0, eos_id=1, pad_id=2, stop_ids=[7])
    tokenizer.save(path)
    save_template(CHATML, path)
    return path


@given(st.text(st.characters(codec="utf-8", exclude_characters="�"), max_size=30))
def test_deltas_join_to_the_text_and_each_is_whole_characters(tokenizer: Tokenizer, text: str) -> None:
    """Most characters are unknown to this tokenizer and are split over bytes."""
    deltas = list(text_deltas(tokenizer, tokenizer.encode(text)))
    assert "".join(deltas) == text
    assert all(delta and "�" not in delta for delta in deltas)


def test_a_reply_is_the_generated_text_in_pieces(directory: Path) -> None:
    opened = open_directory(directory, chat=True)
    history = [Message("user", "你好")]
    prompt, _ = encode_chat(history, CHATML, opened.tokenizer, add_generation_prompt=True)
    [ids] = generate(opened.model, [prompt], SHORT, opened.stop_ids)
    pieces = list(stream_reply(opened, history, SHORT))
    assert pieces == list(text_deltas(opened.tokenizer, ids))
    assert len(pieces) > 1


def test_a_reply_stops_at_the_ends_of_turn_of_template_and_model(directory: Path) -> None:
    assert open_directory(directory, chat=True).stop_ids == {1, 4, 7}


def test_a_history_that_outgrows_the_model_loses_its_oldest_rounds(directory: Path) -> None:
    opened = open_directory(directory, chat=True)
    history = [Message(role, "Hello 12") for role in ("user", "assistant") * 9] + [Message("user", "你好")]
    assert len(encode_chat(history, CHATML, opened.tokenizer)[0]) > opened.model.config.max_positions
    assert "".join(stream_reply(opened, history, SHORT))


def test_a_message_that_is_too_long_alone_is_refused(directory: Path) -> None:
    opened = open_directory(directory, chat=True)
    with pytest.raises(InputError, match="this message is too long: the model has 64 positions in all"):
        list(stream_reply(opened, [Message("user", "Hello " * 40)], SHORT))


def test_a_base_model_cannot_hold_a_conversation(tmp_path: Path) -> None:
    save_model(tiny_model(), tmp_path, bos_id=0, eos_id=1, pad_id=2, stop_ids=[1])
    with pytest.raises(InputError, match="is a base model without a chat template"):
        open_directory(tmp_path, chat=True)
