"""Prompts, the token boundary between prompt and answer, and prompts that do not fit."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inkstone.evaluate.items import Item
from inkstone.evaluate.quiz import examples_for, letter_sketch, same_letter_in_examples, text_sketch
from inkstone.evaluate.requests import Sketch, plan
from inkstone.generate.score import common_prefix


class LongestMatch:
    """A small real tokenizer: characters, and longer pieces taken greedily. Decoding is joining."""

    def __init__(self, *pieces: str) -> None:
        self.start_ids = [0]
        self.pieces = sorted(pieces, key=len, reverse=True)
        self.ids: dict[str, int] = {}

    def encode_batch(self, texts: list[str], /) -> list[list[int]]:
        return [self._encode(text) for text in texts]

    def decode(self, ids: list[int]) -> str:
        names = {value: key for key, value in self.ids.items()}
        return "".join(names[one] for one in ids)

    def _encode(self, text: str) -> list[int]:
        ids = []
        while text:
            piece = next((piece for piece in self.pieces if text.startswith(piece)), text[0])
            ids.append(self.ids.setdefault(piece, len(self.ids) + 1))
            text = text[len(piece) :]
        return ids


def item(number: int, lang: str = "zh", subject: str = "诗词", answer: int = 1) -> Item:
    return Item.model_validate(
        {
            "id": f"{lang}-{number}",
            "subject": subject,
            "lang": lang,
            "question": f"第{number}题？" if lang == "zh" else f"Question number {number}?",
            "choices": ("李白", "杜甫", "王维", "苏轼") if lang == "zh" else ("Rome", "Paris", "Oslo", "Bern"),
            "answer": answer,
        }
    )


def test_chinese_letter_prompt_is_exactly_this() -> None:
    sketch = letter_sketch(item(2), [item(1, answer=2)])
    assert sketch.prompt(1) == (
        "以下是关于诗词的单项选择题，请直接给出正确答案的选项。\n\n"
        "第1题？\nA. 李白\nB. 杜甫\nC. 王维\nD. 苏轼\n答案：C\n\n"
        "第2题？\nA. 李白\nB. 杜甫\nC. 王维\nD. 苏轼\n答案："
    )
    assert sketch.endings == ("A", "B", "C", "D")


def test_english_letter_prompt_puts_one_space_before_the_letter_in_examples_and_endings() -> None:
    sketch = letter_sketch(item(2, "en", "world_capitals"), [item(1, "en", "world_capitals", answer=0)])
    assert sketch.prompt(1) == (
        "The following are multiple choice questions (with answers) about world capitals.\n\n"
        "Question number 1?\nA. Rome\nB. Paris\nC. Oslo\nD. Bern\nAnswer: A\n\n"
        "Question number 2?\nA. Rome\nB. Paris\nC. Oslo\nD. Bern\nAnswer:"
    )
    assert sketch.endings == (" A", " B", " C", " D")


def test_text_prompts_read_like_question_and_answer_documents() -> None:
    assert text_sketch(item(2), [item(1)]).prompt(1) == "问：第1题？\n答：杜甫\n\n问：第2题？\n答："
    english = text_sketch(item(2, "en"), [item(1, "en")])
    assert english.prompt(1) == ("Question: Question number 1?\nAnswer: Paris\n\nQuestion: Question number 2?\nAnswer:")
    assert english.endings == (" Rome", " Paris", " Oslo", " Bern")


def test_braces_in_a_question_are_text() -> None:
    odd = item(1).model_copy(update={"question": "{x} 与 {0} 相等吗？"})
    assert "{x} 与 {0} 相等吗？" in letter_sketch(odd, []).prompt(0)


def test_examples_come_from_the_same_language_and_subject_in_file_order() -> None:
    dev = [item(1, "en"), item(2), item(3, subject="化学"), item(4), item(5)]
    assert [one.id for one in examples_for(item(9), dev, 2)] == ["zh-2", "zh-4"]


def test_a_token_that_spans_the_join_is_scored_and_not_lost() -> None:
    encoder = LongestMatch("：A", "：B")
    [request] = plan([Sketch("", (), "答：", ("A", "B", "C", "D"))], encoder, 100)
    assert encoder.decode(request.context[1:]) == "答"
    assert [encoder.decode(ids) for ids in request.continuations] == ["：A", "：B", "：C", "：D"]


def test_an_option_that_begins_with_another_option_still_has_tokens_to_score() -> None:
    [request] = plan([Sketch("", (), "答：", ("1", "19", "190", "1900"))], LongestMatch(), 100)
    assert [len(ids) for ids in request.continuations] == [1, 2, 3, 4]


def test_sharing_moves_the_common_space_into_the_context() -> None:
    encoder = LongestMatch()
    sketch = Sketch("", (), "Answer:", (" A", " B", " C", " D"))
    [apart], [shared] = plan([sketch], encoder, 100), plan([sketch], encoder, 100, share=True)
    assert [encoder.decode(ids) for ids in apart.continuations] == [" A", " B", " C", " D"]
    assert [encoder.decode(ids) for ids in shared.continuations] == ["A", "B", "C", "D"]
    assert shared.single_token and not apart.single_token


@given(
    prompt=st.text("ab：", max_size=8),
    endings=st.lists(st.text("ab", min_size=1, max_size=4), min_size=2, max_size=4, unique=True),
    pieces=st.lists(st.text("ab：", min_size=2, max_size=3), max_size=4),
    share=st.booleans(),
)
def test_context_and_continuation_always_spell_prompt_and_ending(
    prompt: str, endings: list[str], pieces: list[str], share: bool
) -> None:
    encoder = LongestMatch(*pieces)
    [request] = plan([Sketch("", (), prompt, tuple(endings))], encoder, 100, share)
    assert request.context[:1] == encoder.start_ids
    for ending, ids in zip(endings, request.continuations, strict=True):
        assert ids
        assert request.context[1:] + ids == encoder.encode_batch([prompt + ending])[0]


def test_overlong_prompts_lose_examples_from_the_front_and_say_how_many() -> None:
    encoder = LongestMatch()
    sketch = Sketch("头", ("一一一。", "二二二。", "三三三。"), "问：", ("甲", "乙", "丙", "丁"))
    whole = 1 + 1 + 12 + 2 + 1
    [full] = plan([sketch], encoder, whole)
    [short] = plan([sketch], encoder, whole - 1)
    assert (full.shots, full.dropped, full.cut) == (3, 0, 0)
    assert (short.shots, short.dropped, short.cut) == (2, 1, 0)
    assert encoder.decode(short.context[1:]) == "头二二二。三三三。问："


def test_a_question_longer_than_the_model_is_cut_on_the_left_and_counted() -> None:
    encoder = LongestMatch()
    [request] = plan([Sketch("", ("例。",), "一二三四五六", ("甲", "乙"))], encoder, 5)
    assert request.dropped == 1 and request.cut == 3
    assert request.context[:1] == encoder.start_ids
    assert encoder.decode(request.context[1:]) == "四五六"
    assert len(request.context) + len(request.continuations[0]) == 5


@given(st.lists(st.lists(st.integers(0, 2), max_size=6), min_size=1, max_size=5))
def test_common_prefix_is_the_longest_shared_beginning(sequences: list[list[int]]) -> None:
    length = common_prefix(sequences)
    first = sequences[0]
    assert all(sequence[:length] == first[:length] for sequence in sequences)
    longer = [sequence[: length + 1] for sequence in sequences]
    assert any(len(one) <= length for one in longer) or any(one != longer[0] for one in longer)


@pytest.mark.parametrize(("pieces", "same"), [((), True), (("B\n",), False), (("：B",), True), (("\n\n",), True)])
def test_examples_that_show_another_token_than_the_scored_letter_are_noticed(
    pieces: tuple[str, ...], same: bool
) -> None:
    encoder = LongestMatch(*pieces)
    sketch = letter_sketch(item(2), [item(1, answer=1)])
    [request] = plan([sketch], encoder, 1000, share=True)
    assert same_letter_in_examples(sketch, request, encoder) is same
