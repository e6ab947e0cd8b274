"""Repairs restore text that was written in an odd way and leave ordinary text alone."""

import unicodedata

import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from inkstone.corpus.judge.repair import repair

POEM = "登鹳雀楼\n王之涣\n白日依山尽，黄河入海流。\n欲穷千里目，更上一层楼。"
CODE = "def f(x):\n    if x:\n\treturn {'a':  1}\n\n    return x | 2"


def fixed(text: str) -> str:
    result: str = repair(pa.array([text]))[0][0].as_py()
    return result


def kinds(text: str) -> set[str]:
    return {kind for kind, _ in repair(pa.array([text]))[1]}


@pytest.mark.parametrize(
    "text", [POEM, CODE, "L'été, «déjà» à Besançon… Größe: 5 µm ÷ 2 — café", "「日本語のテキスト」", ""]
)
def test_ordinary_text_is_left_alone(text: str) -> None:
    assert fixed(text) == text
    assert not kinds(text)


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252"])
@pytest.mark.parametrize("text", ["欲穷千里目，更上一层楼。", "It’s “déjà vu” – naïve café.", "a → b 水"])
def test_utf8_read_as_a_western_encoding_is_read_again(text: str, encoding: str) -> None:
    bytes_ = text.encode()
    damaged = "".join(chr(b) if encoding == "latin-1" else _cp1252(b) for b in bytes_)
    assert damaged != text
    assert fixed(damaged) == text
    assert "mojibake" in kinds(damaged)


def _cp1252(byte: int) -> str:
    try:
        return bytes([byte]).decode("cp1252")
    except UnicodeDecodeError:
        return chr(byte)


def test_text_damaged_twice_is_repaired_twice() -> None:
    assert fixed(POEM.encode().decode("latin-1").encode().decode("latin-1")) == POEM


def test_a_damaged_text_that_was_cut_inside_a_character_loses_that_character_only() -> None:
    assert fixed("黄河入海流".encode().decode("latin-1")[:-1]) == "黄河入海"


def test_full_width_letters_and_digits_become_ascii_and_chinese_punctuation_stays() -> None:
    assert fixed("Ｐｙｔｈｏｎ３，你好！（是吗？）：；") == "Python3，你好！（是吗？）：；"


def test_a_full_width_full_stop_is_ascii_between_ascii_letters_or_digits_only() -> None:
    texts = ["ｘ＝１．５，见ａ．ｂ．", "１．床前明月光", "完．", "．5"]
    assert [fixed(text) for text in texts] == ["x=1.5，见a.b．", "1．床前明月光", "完．", "．5"]


def test_emoji_sequences_stay_whole_and_hidden_tags_go() -> None:
    wales = "\U0001f3f4" + "".join(chr(0xE0000 + ord(sign)) for sign in "gbwls") + "\U000e007f"
    hidden = "".join(chr(0xE0000 + ord(sign)) for sign in "obey")
    family = "\U0001f468\u200d\U0001f469\u200d\U0001f467"
    texts = [f"{wales}赢了{wales}", f"字{hidden}句", f"\U0001f3f4{hidden}", f"{family}❤\ufe0f"]
    assert [fixed(text) for text in texts] == [texts[0], "字句", "\U0001f3f4", texts[3]]


def test_control_and_invisible_characters_go() -> None:
    assert fixed("\ufeff水\u200b火\x07木\u202e金\xad土\x7f") == "水火木金土"


def test_line_ends_and_odd_spaces_become_plain() -> None:
    assert fixed("a\r\nb\rc\x85d\u2028e\u00a0f\u3000g") == "a\nb\nc\nd\ne f g"


def test_spaces_at_line_ends_and_runs_of_blank_lines_go_but_indentation_stays() -> None:
    assert fixed("\n\n  a  \n\t\n \n\n    b \t\n\n") == "  a\n\n    b"


def test_letters_and_accents_are_composed() -> None:
    assert fixed("e\u0301te\u0301") == "été"


def test_repairs_are_counted_per_document_and_character() -> None:
    _, done = repair(pa.array(["１２", "ok", "３"]))
    assert done == {("fullwidth", "documents"): 2, ("fullwidth", "characters"): 3}


@example(["Â\x1f¡Â¡"])
@example(["A\u0302¡A\u0302¡"])
@given(st.lists(st.text(st.one_of(st.characters(codec="utf-8"), st.sampled_from(" \t\r\n\u3000é"))), max_size=4))
def test_a_second_repair_finds_nothing_and_the_result_is_clean(texts: list[str]) -> None:
    once, _ = repair(pa.array(texts, pa.string()))
    twice, done = repair(once)
    assert once.to_pylist() == twice.to_pylist()
    assert not done
    for text in once.to_pylist():
        assert unicodedata.is_normalized("NFC", text)
        assert not {"\r", "\x00", "\u3000", "\ufeff"} & set(text)


@given(st.text(st.characters(codec="utf-8")), st.text(st.characters(codec="utf-8")))
def test_a_document_is_repaired_the_same_whatever_stands_beside_it(text: str, other: str) -> None:
    assert repair(pa.array([other, text, other]))[0][1].as_py() == fixed(text)
