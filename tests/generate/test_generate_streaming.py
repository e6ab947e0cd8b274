"""Streaming with a SentencePiece vocabulary: the dummy prefix, spaces between words, characters split over bytes."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_tokenizers import sentencepiece_like

from inkstone.chat import TEMPLATES
from inkstone.errors import InputError
from inkstone.generate import SamplingSettings, Shown, read_sampling, text_deltas
from inkstone.tokenizer import Tokenizer

UNFINISHED = "\N{REPLACEMENT CHARACTER}"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return sentencepiece_like()


TEXT = st.text(st.one_of(st.sampled_from(" abHelo你世好🙂é\n"), st.characters(codec="utf-8")), max_size=24).filter(
    lambda text: UNFINISHED not in text
)


@settings(deadline=None)
@given(text=TEXT, tail=TEXT)
def test_the_pieces_join_to_the_decoded_text_and_each_is_whole_characters(
    tokenizer: Tokenizer, text: str, tail: str
) -> None:
    ids = [*tokenizer.encode(text), 1, *tokenizer.encode(tail, continued=True)]
    deltas = list(text_deltas(tokenizer, ids))
    assert "".join(deltas) == tokenizer.decode(ids, skip_control=True)
    assert all(delta and UNFINISHED not in delta for delta in deltas)


def test_the_space_of_a_word_in_the_middle_is_no_dummy_prefix(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("a a  a 你 a")
    assert list(text_deltas(tokenizer, ids)) == ["a", " a", " ", " a", " 你", " a"]


def test_a_character_of_four_bytes_comes_whole_and_as_soon_as_it_is_complete(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("🙂世a")
    seen: list[tuple[int, str]] = []
    place = 0

    def feed() -> Sequence[int]:
        nonlocal place
        for place, token in enumerate(ids):  # noqa: B007 - read below, while the generator runs
            yield token

    for delta in text_deltas(tokenizer, feed()):
        seen.append((place, delta))
    first = ids.index(tokenizer.token_id("<0xF0>"))
    assert seen == [(first + 3, "🙂"), (first + 6, "世"), (first + 7, "a")]


def test_bytes_that_never_become_a_character_are_marked_and_do_not_damage_their_neighbours(
    tokenizer: Tokenizer,
) -> None:
    half = [tokenizer.token_id(f"<0x{value:02X}>") for value in "好".encode()[:2]]
    whole = [tokenizer.token_id(f"<0x{value:02X}>") for value in "好".encode()]
    ids = [*whole, *half, tokenizer.token_id("a"), *whole, *half]
    assert "".join(text_deltas(tokenizer, ids)) == f"好{UNFINISHED * 2}a好{UNFINISHED * 2}"


@settings(deadline=None)
@given(st.lists(st.integers(0, 270), max_size=30))
def test_any_ids_stream_without_taking_back_or_splitting_a_character(tokenizer: Tokenizer, ids: list[int]) -> None:
    whole = tokenizer.decode(ids, skip_control=True)
    deltas = list(text_deltas(tokenizer, ids))
    if UNFINISHED not in whole:
        assert "".join(deltas) == whole
    assert all(not delta.endswith(UNFINISHED) for delta in deltas[:-1])


def said(shown: Shown, pieces: list[str]) -> str:
    return "".join([shown.push(piece) for piece in pieces]) + shown.close()


@given(st.lists(st.text("[]训练时间年2", max_size=5), max_size=8))
def test_marks_are_replaced_wherever_the_pieces_are_cut(pieces: list[str]) -> None:
    [(mark, shown)] = TEMPLATES["chatglm2"].replacements
    for cut in range(len(mark)):
        text = [*pieces, mark[:cut], mark[cut:], *pieces]
        assert said(Shown(replacements=[(mark, shown)]), text) == "".join(text).replace(mark, shown)
    plain = Shown()
    assert [plain.push(piece) for piece in ("a", "b")] == ["a", "b"]


@given(st.lists(st.text(" \na", max_size=3)))
def test_a_reply_begins_with_its_first_word(pieces: list[str]) -> None:
    assert said(Shown(from_first_word=True), pieces) == "".join(pieces).lstrip()


@pytest.mark.parametrize(
    ("said", "sampling"),
    [
        (None, {"temperature": 0.0, "max_new_tokens": 128, "top_p": 0.95}),
        ({"temperature": 0.3, "top_k": 5}, {"temperature": 0.0, "max_new_tokens": 128, "top_p": 0.95}),
        ({"do_sample": False, "temperature": 0.3}, {"temperature": 0.0, "max_new_tokens": 128, "top_p": 0.95}),
        ({"repetition_penalty": 1.1}, {"repetition_penalty": 1.1, "max_new_tokens": 128, "top_p": 0.95}),
        (
            {"do_sample": True, "temperature": 0.3, "top_k": 5, "top_p": 0.85, "max_new_tokens": 9, "num_beams": 1},
            {"temperature": 0.3, "top_k": 5, "top_p": 0.85, "max_new_tokens": 9},
        ),
        ({"do_sample": True, "top_k": -1}, {"temperature": 1.0, "top_k": 0, "max_new_tokens": 128, "top_p": 0.95}),
        ({"do_sample": True}, {"temperature": 1.0, "max_new_tokens": 128, "top_p": 0.95}),
        (
            {"do_sample": True, "max_length": 8192, "top_p": None},
            {"temperature": 1.0, "max_new_tokens": 8192, "top_p": 0.95},
        ),
    ],
)
def test_the_generation_config_says_how_to_sample(
    said: dict[str, object] | None, sampling: dict[str, object], tmp_path: Path
) -> None:
    if said is not None:
        (tmp_path / "generation_config.json").write_text(json.dumps(said), encoding="utf-8")
    fallback = SamplingSettings(top_p=0.95, max_new_tokens=128)
    assert read_sampling(tmp_path, fallback) == SamplingSettings.model_validate(sampling)


@pytest.mark.parametrize("content", ['{"max_new_tokens": "many"}', '{"do_sample": true, "temperature": -1}'])
def test_a_generation_config_that_makes_no_sense_is_refused_by_name(content: str, tmp_path: Path) -> None:
    (tmp_path / "generation_config.json").write_text(content, encoding="utf-8")
    with pytest.raises(
        InputError, match=r"generation_config\.json does not say how to sample \(\w+ = .*: input should be"
    ):
        read_sampling(tmp_path)
