"""Every published format: spelled as documented, learned where it must be, the same for us and for transformers."""

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_tokenizers import byte_level, sentencepiece_like

from inkstone.chat import (
    TEMPLATES,
    Message,
    Template,
    attach_template,
    encode_chat,
    load_template,
    save_template,
    to_jinja,
    training_sequences,
)
from inkstone.chat.template import Piece, Turn
from inkstone.errors import InputError
from inkstone.tokenizer import Tokenizer

NAMES = sorted({name for template in TEMPLATES.values() for name in template.control_tokens})
fast = settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
CONTENT = st.one_of(
    st.sampled_from(["你好", " 12 + 7?\n", "a  b", "[INST]", "### Input:\n", "▁", "\n\n明月\n", "{{ x }}", "é🙂"]),
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12),
).filter(str.strip)
TYPED = st.lists(st.one_of(st.sampled_from(NAMES), CONTENT), min_size=1).map("".join)

SAID = [
    Message("system", "简短。"),
    Message("user", "你好"),
    Message("assistant", "你好！"),
    Message("user", "再见"),
    Message("assistant", "慢走。"),
]
HUOZI = (
    "<|beginofutterance|>系统\n简短。<|endofutterance|>\n<|beginofutterance|>用户\n你好<|endofutterance|>\n"
    "<|beginofutterance|>助手\n你好！<|endofutterance|>\n<|beginofutterance|>用户\n再见<|endofutterance|>\n"
    "<|beginofutterance|>助手\n慢走。<|endofutterance|>\n"
)
CHATML = (
    "<|im_start|>system\n简短。<|im_end|>\n<|im_start|>user\n你好<|im_end|>\n<|im_start|>assistant\n你好！<|im_end|>\n"
    "<|im_start|>user\n再见<|im_end|>\n<|im_start|>assistant\n慢走。<|im_end|>\n"
)
# Written by hand from what the publishers say about their formats.
SPELLED = {
    "chatml": "<|bos|>" + CHATML,
    "chatml-nobos": CHATML,
    "baichuan": "简短。<reserved_102>你好<reserved_103>你好！<reserved_102>再见<reserved_103>慢走。</s>",
    "baichuan-first": "<reserved_102>你好<reserved_103>你好！</s><reserved_102>再见<reserved_103>慢走。</s>",
    "baichuan2": "简短。<reserved_106>你好<reserved_107>你好！<reserved_106>再见<reserved_107>慢走。</s>",
    "chatglm2": "[gMASK]sop[Round 1]\n\n问：你好\n\n答：你好！\n\n[Round 2]\n\n问：再见\n\n答：慢走。</s>",
    "huozi": HUOZI,
    "huozi3": "<s>" + HUOZI,
    "llama2": "<s>[INST] <<SYS>>\n简短。\n<</SYS>>\n\n你好 [/INST] 你好！ </s><s>[INST] 再见 [/INST] 慢走。 </s>",
    "llama3": "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n简短。<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\n你好<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n你好！<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\n再见<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n慢走。<|eot_id|>",
    "mistral": "<s>[INST] 简短。\n\n你好 [/INST] 你好！</s>[INST] 再见 [/INST] 慢走。</s>",
    "mistral-v3": "<s>[INST]简短。\n\n你好[/INST]你好！</s>[INST]再见[/INST]慢走。</s>",
    "alpaca": "<s>简短。\n\n### Instruction:\n你好\n\n### Response:\n你好！</s>\n\n"
    "### Instruction:\n再见\n\n### Response:\n慢走。</s>\n\n",
    "qwen2.5": CHATML,
    "glm4": "[gMASK]<sop><|system|>\n简短。<|user|>\n你好<|assistant|>\n你好！"
    "<|user|>\n再见<|assistant|>\n慢走。<|user|>",
    "raw": "<s>简短。\n你好你好！</s>再见慢走。</s>",
}


@pytest.fixture(params=TEMPLATES)
def template(request: pytest.FixtureRequest) -> Template:
    return TEMPLATES[request.param]


@pytest.fixture(params=[sentencepiece_like, byte_level])
def tokenizer(template: Template, request: pytest.FixtureRequest) -> Tokenizer:
    """With no control tokens but the template's own: "[INST]" is one in some vocabularies and text in others."""
    return request.param(template.control_tokens)


@st.composite
def conversations(draw: st.DrawFn, template: Template, content: st.SearchStrategy[str] = TYPED) -> list[Message]:
    """[system] (user assistant)+ in the roles that the template has."""
    messages = []
    if "system" in template.turns and draw(st.booleans()):
        messages.append(Message("system", draw(content)))
    for _ in range(draw(st.integers(1, 3))):
        messages += [Message("user", draw(content)), Message("assistant", draw(content))]
    return messages


def spoken(template: Template, messages: list[Message]) -> list[Message]:
    return messages if "system" in template.turns else messages[1:]


def rendered(template: Template, messages: list[Message], prompt: bool = False) -> str:
    special = {"bos": "<s>", "eos": "</s>"}
    segments = template.segments(messages, prompt)
    return "".join(special[part.value] if part.kind == "special" else part.value for part in segments)


def test_a_conversation_is_spelled_as_its_publisher_documents(template: Template) -> None:
    assert rendered(template, spoken(template, SAID)) == SPELLED[template.name]


def test_alpaca_has_both_headers() -> None:
    asked = Message("user", "Translate.\n你好", input_at=11)
    assert rendered(TEMPLATES["alpaca"], [Message("user", "Count.")], prompt=True) == (
        "<s>Below is an instruction that describes a task. Write a response that appropriately completes the request."
        "\n\n### Instruction:\nCount.\n\n### Response:\n"
    )
    assert rendered(TEMPLATES["alpaca"], [asked], prompt=True) == (
        "<s>Below is an instruction that describes a task, paired with an input that provides further context. Write a "
        "response that appropriately completes the request."
        "\n\n### Instruction:\nTranslate.\n\n### Input:\n你好\n\n### Response:\n"
    )
    assert rendered(TEMPLATES["raw"], [asked]) == "<s>Translate.\n你好"


def test_huozi_has_its_own_system_message_where_there_is_none() -> None:
    said = rendered(TEMPLATES["huozi"], SAID[1:2], prompt=True)
    assert said.startswith("<|beginofutterance|>系统\n你是由哈尔滨工业大学--自然语言处理研究所")
    assert said.endswith(
        "的体验和价值<|endofutterance|>\n<|beginofutterance|>用户\n你好<|endofutterance|>\n<|beginofutterance|>助手\n"
    )


def test_every_answer_of_a_conversation_is_learned_with_the_token_that_stops_it(
    template: Template, tokenizer: Tokenizer
) -> None:
    turn = template.turns["assistant"]
    lead = [piece.value for piece in turn.header if piece.learned]
    tail = [piece.value for piece in turn.footer if piece.learned and piece.kind == "text"]
    # Directly after a control token every text is a string of its own; "raw" has an answer directly after a question.
    before = [*template.turns["user"].footer, *turn.given] or [Piece("text", "question")]
    continued = template.answer == "continued" and before[-1].kind == "text"
    [stop] = [piece for piece in turn.footer if piece.learned][-1:]
    stop_id = tokenizer.eos_id if stop.kind == "special" else tokenizer.token_id(stop.value)

    @fast
    @given(messages=conversations(template))
    def check(messages: list[Message]) -> None:
        answers = [message for message in messages if message.role == "assistant"]
        learned = []
        for sequence in training_sequences(messages, template):
            ids, weights = encode_chat(sequence, template, tokenizer)
            assert len(ids) == len(weights)
            learned += [token for token, weight in zip(ids, weights, strict=True) if weight]
        expected = []
        for answer in answers:
            words = "".join([*lead, answer.content.strip(), *tail])
            expected += [*tokenizer.encode(words, continued=continued), stop_id]
        assert learned == expected

    check()


def test_the_training_ids_begin_with_the_prompt_that_is_served(template: Template, tokenizer: Tokenizer) -> None:
    @fast
    @given(messages=conversations(template))
    def check(messages: list[Message]) -> None:
        for sequence in training_sequences(messages, template):
            whole, weights = encode_chat(sequence, template, tokenizer)
            prompt, _ = encode_chat(sequence[:-1], template, tokenizer, add_generation_prompt=True)
            assert whole[: len(prompt)] == prompt
            assert weights[len(prompt) :].index(1.0) == 0

    check()


def test_a_typed_control_token_stays_text(template: Template, tokenizer: Tokenizer) -> None:
    control = {tokenizer.token_id(name) for name in {"<s>", "</s>", *template.control_tokens}}

    @fast
    @given(messages=conversations(template))
    def check(messages: list[Message]) -> None:
        plain = [Message(message.role, "a") for message in messages]
        typed, expected = (encode_chat(said, template, tokenizer)[0] for said in (messages, plain))
        assert [token for token in typed if token in control] == [token for token in expected if token in control]

    check()


def test_a_template_goes_through_its_file_unchanged(template: Template, tmp_path: Path) -> None:
    save_template(template, tmp_path)
    assert load_template(tmp_path) == template
    assert (tmp_path / "chat_template.jinja").read_text(encoding="utf-8") == to_jinja(template)


def test_transformers_builds_the_same_prompts_from_the_saved_directory(
    template: Template, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    """Whole conversations too, except where an answer is a string of its own directly after text (chatglm2)."""
    transformers = pytest.importorskip("transformers")
    tokenizer.save(tmp_path)
    save_template(template, tmp_path)
    peer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    names = {"<s>", "</s>", *template.control_tokens}
    # transformers keeps a literal U+2581 apart from the dummy prefix; SentencePiece, and so we, join the two.
    ordinary = CONTENT.filter(lambda text: "▁" not in text and not any(name in text for name in names))

    @fast
    @given(messages=conversations(template, ordinary), prompt=st.booleans())
    def check(messages: list[Message], prompt: bool) -> None:
        messages = messages[:-1] if prompt or template.name == "chatglm2" else messages
        prompt = prompt or template.name == "chatglm2"
        plain = [{"role": message.role, "content": message.content} for message in messages]
        text = peer.apply_chat_template(plain, tokenize=False, add_generation_prompt=prompt)
        assert text == rendered(template, messages, prompt)
        theirs = peer.apply_chat_template(plain, tokenize=True, add_generation_prompt=prompt, return_dict=False)
        assert theirs == encode_chat(messages, template, tokenizer, add_generation_prompt=prompt)[0]

    check()


def test_chatglm2_answers_are_strings_of_their_own_when_learned_and_part_of_the_text_in_the_history() -> None:
    tokenizer = sentencepiece_like(TEMPLATES["chatglm2"].control_tokens)
    ids, _ = encode_chat(SAID[1:], TEMPLATES["chatglm2"], tokenizer)
    names = [tokenizer.token_name(token) for token in ids]
    learned = training_sequences(SAID[1:], TEMPLATES["chatglm2"])
    assert [len(sequence) for sequence in learned] == [2, 4]
    first, _ = encode_chat(learned[0], TEMPLATES["chatglm2"], tokenizer)
    assert "▁你" in [tokenizer.token_name(token) for token in first]
    assert "▁你" not in names and "你好" in names


def test_a_template_that_says_what_it_does_not_mean_is_refused(tmp_path: Path) -> None:
    for change, sentence in [
        ({"answr": "fresh"}, "unknown key answr"),
        ({"answer": "stale"}, 'answer must be "fresh" or "continued"'),
        ({"start": [{"token": "a", "text": "b"}]}, "a piece must be one token, text, special or round"),
        ({"start": [{"special": "pad"}]}, "is no piece: known are token, text, special"),
        ({"fit": {"max_round": 3}}, "unknown key of fit max_round"),
        ({"sampling": {"temperature": "warm"}}, "sampling.temperature must be a number"),
        ({"stop_tokens": []}, "would never learn to stop"),
    ]:
        save_template(TEMPLATES["chatml"], tmp_path)
        path = tmp_path / "chat_template.json"
        path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | change), encoding="utf-8")
        with pytest.raises(InputError, match=r"chat_template\.json") as caught:
            load_template(tmp_path)
        assert sentence in str(caught.value)


def test_a_role_that_the_format_has_no_place_for_is_refused() -> None:
    with pytest.raises(
        InputError, match='message 0: template "baichuan-first" has no role "system", only user, assistant'
    ):
        TEMPLATES["baichuan-first"].segments(SAID)
    with pytest.raises(InputError, match="writes the system message into a user turn, and there is none"):
        TEMPLATES["llama2"].segments(SAID[:1], add_generation_prompt=True)


def test_attaching_writes_stops_and_published_sampling_and_keeps_the_rest(tmp_path: Path) -> None:
    tokenizer = sentencepiece_like(TEMPLATES["baichuan"].control_tokens)
    settings = {"eos_token_id": 7, "pad_token_id": 0, "num_beams": 1}
    (tmp_path / "generation_config.json").write_text(json.dumps(settings), encoding="utf-8")
    attach_template(TEMPLATES["baichuan"], tokenizer, tmp_path)
    assert json.loads((tmp_path / "generation_config.json").read_text(encoding="utf-8")) == {
        "eos_token_id": [2, 7],
        "pad_token_id": 0,
        "num_beams": 1,
        "bos_token_id": 1,
        "do_sample": True,
        "temperature": 0.3,
        "top_p": 0.85,
        "top_k": 5,
        "repetition_penalty": 1.1,
        "max_new_tokens": 2048,
    }
    assert load_template(tmp_path) == TEMPLATES["baichuan"]
    own = {"do_sample": True, "temperature": 0.9, "eos_token_id": 2}
    (tmp_path / "generation_config.json").write_text(json.dumps(own), encoding="utf-8")
    attach_template(TEMPLATES["baichuan"], tokenizer, tmp_path)
    said = json.loads((tmp_path / "generation_config.json").read_text(encoding="utf-8"))
    assert said == own | {"eos_token_id": [2], "bos_token_id": 1, "pad_token_id": 2}
    shutil.rmtree(tmp_path)
    attach_template(TEMPLATES["mistral"], tokenizer, tmp_path)
    said = json.loads((tmp_path / "generation_config.json").read_text(encoding="utf-8"))
    assert said == {"eos_token_id": [2], "bos_token_id": 1, "pad_token_id": 2, "do_sample": False}


def test_a_template_whose_tokens_the_tokenizer_lacks_is_not_attached(tmp_path: Path) -> None:
    strange = Turn((Piece("token", "<a>"),), (Piece("token", "<b>", learned=True),))
    template = Template("strange", (), {"assistant": strange}, ("<b>",))
    with pytest.raises(InputError, match='"strange" does not fit this tokenizer, which has no token <a>, <b>'):
        attach_template(template, byte_level(), tmp_path / "m")
    assert not (tmp_path / "m").exists()
