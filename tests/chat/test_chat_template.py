"""Templates: ids and loss weights from one pass, equal to what transformers renders, safe against typed tokens."""

from dataclasses import replace
from pathlib import Path

import jinja2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from inkstone.chat import (
    CHATML,
    Message,
    Segment,
    Template,
    encode_chat,
    load_template,
    save_template,
    to_jinja,
)
from inkstone.chat.template import Piece, Turn
from inkstone.errors import InputError
from inkstone.tokenizer import Tokenizer

CONTENT = st.one_of(
    st.sampled_from(
        ["你好", "Hello", " 12 + 7?\n", "\n\n明月\n", "{{ x }} {% if %}", '"\\n"', "'s", "▁", "\u0301a", "\ufeff"]
    ),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
)
TYPED = st.lists(st.one_of(st.sampled_from(["<|im_end|>", "<|im_start|>", "<|bos|>", "assistant\n"]), CONTENT)).map(
    "".join
)
WEIGHT = st.sampled_from([None, None, 0.0, 0.5, 1.0])
fast = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@st.composite
def conversations(draw: st.DrawFn, content: st.SearchStrategy[str] = TYPED) -> list[Message]:
    """[system] (user assistant [tool assistant])+ with any content."""
    messages = [Message("system", draw(content))] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(1, 3))):
        messages += [Message("user", draw(content)), Message("assistant", draw(content), draw(WEIGHT))]
        if draw(st.integers(0, 4)) == 0:
            messages += [Message("tool", draw(content)), Message("assistant", draw(content))]
    return messages


def test_chatml_is_spelled_as_documented() -> None:
    messages = [Message("system", "Be brief."), Message("user", " 你好\n"), Message("assistant", "你好！")]
    assert CHATML.segments(messages) == [
        Segment("token", "<|bos|>", 0),
        Segment("token", "<|im_start|>", 0),
        Segment("text", "system\nBe brief.", 0),
        Segment("token", "<|im_end|>", 0),
        Segment("text", "\n", 0),
        Segment("token", "<|im_start|>", 0),
        Segment("text", "user\n你好", 0),
        Segment("token", "<|im_end|>", 0),
        Segment("text", "\n", 0),
        Segment("token", "<|im_start|>", 0),
        Segment("text", "assistant\n", 0),
        Segment("text", "你好！", 1, continued=True),
        Segment("token", "<|im_end|>", 1),
        Segment("text", "\n", 0),
    ]


@fast
@given(messages=conversations())
def test_the_stop_token_of_every_assistant_turn_is_learned_with_its_content(
    tokenizer: Tokenizer, messages: list[Message]
) -> None:
    ids, weights = encode_chat(messages, CHATML, tokenizer)
    assert len(ids) == len(weights)
    stop = tokenizer.token_id("<|im_end|>")
    ends = [place for place, token in enumerate(ids) if token == stop]
    assert len(ends) == len(messages)
    for message, end in zip(messages, ends, strict=True):
        size = len(tokenizer.encode(message.content.strip()))
        assert weights[end - size : end + 1] == [message.weight] * (size + 1)
        assert weights[end - size - 1] == 0 and weights[end + 1] == 0


@fast
@given(messages=conversations())
def test_nothing_but_assistant_content_and_its_stop_token_is_learned(
    tokenizer: Tokenizer, messages: list[Message]
) -> None:
    ids, weights = encode_chat(messages, CHATML, tokenizer)
    learned = [token for token, weight in zip(ids, weights, strict=True) if weight > 0]
    stop = [tokenizer.token_id("<|im_end|>")]
    spoken = [message for message in messages if message.role == "assistant" and message.weight > 0]
    assert learned == [token for message in spoken for token in [*tokenizer.encode(message.content.strip()), *stop]]


@fast
@given(messages=conversations())
def test_a_generation_prompt_is_a_prefix_of_the_conversation_with_its_answer(
    tokenizer: Tokenizer, messages: list[Message]
) -> None:
    whole, _ = encode_chat(messages, CHATML, tokenizer)
    prompt, weights = encode_chat(messages[:-1], CHATML, tokenizer, add_generation_prompt=True)
    assert whole[: len(prompt)] == prompt
    answer = [*tokenizer.encode(messages[-1].content.strip()), tokenizer.token_id("<|im_end|>")]
    assert whole[len(prompt) : len(prompt) + len(answer)] == answer
    assert weights == encode_chat(messages, CHATML, tokenizer)[1][: len(prompt)]


@fast
@given(messages=conversations())
def test_typed_control_tokens_stay_text(tokenizer: Tokenizer, messages: list[Message]) -> None:
    ids, _ = encode_chat(messages, CHATML, tokenizer)
    control = [tokenizer.token_name(token) for token in ids if token < 16]
    assert control == ["<|bos|>"] + ["<|im_start|>", "<|im_end|>"] * len(messages)
    text = "".join(f"<|im_start|>{m.role}\n{m.content.strip()}<|im_end|>\n" for m in messages)
    assert tokenizer.decode(ids) == "<|bos|>" + text


def test_transformers_builds_the_same_ids_from_the_saved_directory(tokenizer: Tokenizer, model_dir: Path) -> None:
    transformers = pytest.importorskip("transformers")
    peer = transformers.AutoTokenizer.from_pretrained(model_dir)

    @fast
    @given(messages=conversations(CONTENT.filter(lambda text: "<|" not in text)), prompt=st.booleans())
    def compare(messages: list[Message], prompt: bool) -> None:
        plain = [{"role": message.role, "content": message.content} for message in messages]
        theirs = peer.apply_chat_template(plain, tokenize=True, add_generation_prompt=prompt, return_dict=False)
        assert theirs == encode_chat(messages, CHATML, tokenizer, add_generation_prompt=prompt)[0]
        rendered = peer.apply_chat_template(plain, tokenize=False, add_generation_prompt=prompt)
        assert rendered == "".join(segment.value for segment in CHATML.segments(messages, prompt))

    compare()


ODD = replace(CHATML, start=(Piece("text", '开始 "quoted" \\ {{ 1 }}\t\'\n🙂'),))


@pytest.mark.parametrize("template", [CHATML, ODD], ids=["chatml", "odd"])
@pytest.mark.parametrize("trim", [False, True])
def test_jinja_renders_the_segments_whatever_the_whitespace_options(trim: bool, template: Template) -> None:
    program = jinja2.Environment(trim_blocks=trim, lstrip_blocks=trim).from_string(to_jinja(template))

    @fast
    @given(messages=conversations())
    def compare(messages: list[Message]) -> None:
        plain = [{"role": message.role, "content": message.content} for message in messages]
        expected = "".join(segment.value for segment in template.segments(messages))
        assert program.render(messages=plain, add_generation_prompt=False) == expected

    compare()


def test_a_role_outside_the_template_is_refused_by_us_and_by_jinja(model_dir: Path) -> None:
    narrow = replace(CHATML, turns={role: CHATML.turns[role] for role in ("user", "assistant")})
    with pytest.raises(InputError, match='message 1: template "chatml" has no role "tool", only user, assistant'):
        narrow.segments([Message("user", "a"), Message("tool", "b")])
    transformers = pytest.importorskip("transformers")
    peer = transformers.AutoTokenizer.from_pretrained(model_dir)
    with pytest.raises(Exception, match="has no role critic"):
        peer.apply_chat_template([{"role": "critic", "content": "no"}], tokenize=True)


def test_a_user_turn_may_be_learned_on_request() -> None:
    segments = CHATML.segments([Message("user", "你好", loss_weight=0.5)])
    assert [(segment.value, segment.weight) for segment in segments if segment.weight] == [
        ("你好", 0.5),
        ("<|im_end|>", 0.5),
    ]


def test_text_templates_join_their_text_but_cut_where_the_model_begins_to_speak() -> None:
    template = Template(
        name="rounds",
        start=(Piece("text", "开始\n"),),
        turns={
            "user": Turn((Piece("text", "问："),), (Piece("text", "\n"),)),
            "assistant": Turn((Piece("text", "答："),), (Piece("token", "<|eos|>", True), Piece("text", "\n"))),
        },
        stop_tokens=("<|eos|>",),
    )
    messages = [Message("user", "一"), Message("assistant", "二", loss_weight=0), Message("user", "三")]
    assert [segment.value for segment in template.segments(messages, add_generation_prompt=True)] == [
        "开始\n问：一\n答：",
        "二",
        "<|eos|>",
        "\n问：三\n答：",
    ]


@pytest.mark.parametrize(
    "footer",
    [
        (),
        (Piece("token", "<|im_end|>"),),
        (Piece("token", "<|eos|>", learned=True),),
        (Piece("token", "<|im_end|>", learned=True), Piece("text", "\n", learned=True)),
    ],
)
def test_a_template_whose_answers_would_not_learn_to_stop_is_refused(footer: tuple[Piece, ...]) -> None:
    turns = {**CHATML.turns, "assistant": Turn(CHATML.turns["assistant"].header, footer)}
    with pytest.raises(InputError, match="never learn to stop"):
        replace(CHATML, turns=turns)


def test_a_saved_template_is_read_back_unchanged(tmp_path: Path) -> None:
    save_template(CHATML, tmp_path)
    assert load_template(tmp_path) == CHATML
    assert (tmp_path / "chat_template.jinja").read_text(encoding="utf-8") == to_jinja(CHATML)


@pytest.mark.parametrize("content", ["{", "[]", '{"name": "x"}', '{"turns": {"critic": {}}}'])
def test_a_malformed_template_file_is_refused_by_name(content: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"chat_template\.json is missing"):
        load_template(tmp_path)
    (tmp_path / "chat_template.json").write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=r"chat_template\.json(: unknown role| is not | is damaged, or not a chat)"):
        load_template(tmp_path)
