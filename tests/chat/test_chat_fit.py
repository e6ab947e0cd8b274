"""Long conversations: whole oldest rounds go, by each publisher's rule; nothing that is learned is cut."""

import json
from itertools import cycle
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_tokenizers import sentencepiece_like

from inkstone.chat import TEMPLATES, Message, Template, encode_chat, encode_to_fit, prompt_to_fit, training_sequences

fast = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
CONTENT = st.text("你好ab1", min_size=1, max_size=9)
ROUNDS = st.lists(st.tuples(CONTENT, CONTENT), min_size=1, max_size=7)


GOLDEN = json.loads((Path(__file__).parent / "golden" / "baichuan.json").read_text(encoding="utf-8"))["prompts"]


@pytest.mark.parametrize("name", GOLDEN)
def test_prompts_beyond_the_length_are_those_of_the_published_function(name: str) -> None:
    template = TEMPLATES[name]
    tokenizer = sentencepiece_like(template.control_tokens)
    for case in GOLDEN[name]:
        said = [Message(role, text) for role, text in zip(cycle(("user", "assistant")), case["texts"], strict=False)]
        messages = [Message("system", case["system"])] * bool(case["system"]) + said
        found = prompt_to_fit(messages, template, tokenizer, case["positions"], case["max_new_tokens"])
        assert found == case["ids"]


def test_huozi_keeps_fifteen_rounds_and_1800_tokens_of_prompt() -> None:
    template = TEMPLATES["huozi"]
    tokenizer = sentencepiece_like(template.control_tokens)
    system = Message("system", "简")

    def rounds(count: int, text: str) -> list[Message]:
        return [system, *[Message(role, text) for _ in range(count) for role in ("user", "assistant")][:-1]]

    def users(prompt: list[int] | None) -> int:
        assert prompt is not None
        return tokenizer.decode(prompt).count("用户\n")

    assert users(prompt_to_fit(rounds(15, "好"), template, tokenizer, 2048, 512)) == 15
    assert users(prompt_to_fit(rounds(40, "好"), template, tokenizer, 2048, 512)) == 15
    long = prompt_to_fit(rounds(12, "a" * 150), template, tokenizer, 4096, 512)
    more, _ = encode_chat(rounds(users(long) + 1, "a" * 150), template, tokenizer, add_generation_prompt=True)
    assert long is not None and len(long) <= 1800 < len(more)
    assert tokenizer.decode(long).startswith("<|beginofutterance|> 系统\n简")
    assert prompt_to_fit(rounds(1, "a" * 1801), template, tokenizer, 4096, 512) is None


@pytest.mark.parametrize("name", ["llama2", "chatglm2", "huozi3", "llama3", "mistral", "alpaca"])
def test_a_prompt_keeps_its_system_message_and_as_many_rounds_as_fit(name: str) -> None:
    template = TEMPLATES[name]
    tokenizer = sentencepiece_like(template.control_tokens)

    @fast
    @given(rounds=ROUNDS, positions=st.integers(40, 400), new=st.integers(1, 200))
    def check(rounds: list[tuple[str, str]], positions: int, new: int) -> None:
        system = [Message("system", "ab")] if "system" in template.turns else []
        said = [Message(role, text) for pair in rounds for role, text in zip(("user", "assistant"), pair, strict=True)]
        prompt = prompt_to_fit(system + said[:-1], template, tokenizer, positions, new)
        most = max(positions - new, positions // 2)
        sizes = [
            encode_chat(system + said[start:-1], template, tokenizer, add_generation_prompt=True)[0]
            for start in range(0, len(said), 2)
        ]
        assert prompt == next((ids for ids in sizes if len(ids) <= most), None)

    check()


@pytest.fixture(params=TEMPLATES)
def template(request: pytest.FixtureRequest) -> Template:
    return TEMPLATES[request.param]


def test_a_shortened_training_sequence_still_ends_each_learned_answer_with_its_stop(template: Template) -> None:
    tokenizer = sentencepiece_like(template.control_tokens)
    stops = set(template.stop_ids(tokenizer))

    @fast
    @given(rounds=ROUNDS, length=st.integers(10, 120))
    def check(rounds: list[tuple[str, str]], length: int) -> None:
        messages = [
            Message(role, text) for pair in rounds for role, text in zip(("user", "assistant"), pair, strict=True)
        ]
        for sequence in training_sequences(messages, template):
            fitted = encode_to_fit(sequence, template, tokenizer, length)
            if fitted is None:
                continue
            ids, weights, _ = fitted
            assert len(ids) <= length
            ends = [
                place
                for place, weight in enumerate(weights)
                if weight and (place + 1 == len(weights) or not weights[place + 1])
            ]
            assert ends and {ids[place] for place in ends} <= stops

    check()


def test_an_answer_without_weight_teaches_nothing_where_each_answer_has_its_own_sequence() -> None:
    messages = [Message("user", "一"), Message("assistant", "二", 0), Message("user", "三"), Message("assistant", "四")]
    assert training_sequences(messages, TEMPLATES["chatglm2"]) == [messages]
    assert training_sequences(messages, TEMPLATES["baichuan-first"]) == [messages]
    assert training_sequences(messages[:2], TEMPLATES["chatglm2"]) == []
