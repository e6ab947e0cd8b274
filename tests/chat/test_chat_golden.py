"""Golden ids on the real vocabularies: what the publishers' own code gives, and sentencepiece on real conversations."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from inkstone.chat import TEMPLATES, Message, choose_template, encode_chat, read_chats, save_template
from inkstone.tokenizer import Tokenizer

SHARED = Path(__file__).parents[3] / "shared" / "data"
FILES = {
    "chatglm2": "chatglm2.model",
    "baichuan": "baichuan.gguf",
    "llama2": "llama-spm.gguf",
    "llama3": "llama-bpe.gguf",
}
MODEL_TYPES = {"chatglm2": "chatglm", "baichuan": "baichuan", "llama2": "llama", "llama3": "llama"}
GREETING = [Message("user", "你好")]
ENGLISH = [Message("user", "Hello"), Message("assistant", "Hi there!"), Message("user", "1+1=?")]
SYSTEM = Message("system", "Be brief.")
# [Round 1]↵↵问：你好↵↵答： as THUDM's tokenizer encodes it.
ROUND = "790 30951 517 30910 30939 30996 13 13 54761 31211 39701 13 13 55437 31211 "
HEADER = "128006 882 128007 271 "
ANSWER = "128006 78191 128007 271 "


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Tokenizer]:
    """The tokenizer of a published model, from its vocabulary in the shared data."""
    loaded: dict[str, Tokenizer] = {}

    def load(name: str) -> Tokenizer:
        path = SHARED / "tokenizers" / FILES[name]
        if not path.is_file():
            pytest.skip(f"{path.name} is not here")
        if name not in loaded and path.suffix == ".gguf":
            loaded[name] = Tokenizer.load(path)
        elif name not in loaded:
            directory = tmp_path_factory.mktemp(name)
            (directory / "tokenizer.model").write_bytes(path.read_bytes())
            (directory / "config.json").write_text(json.dumps({"model_type": MODEL_TYPES[name]}), encoding="utf-8")
            loaded[name] = Tokenizer.load(directory)
        return loaded[name]

    return load


@pytest.mark.parametrize(
    ("name", "messages", "prompt", "ids"),
    [
        ("chatglm2", GREETING, True, "64790 64792 " + ROUND),
        (
            "chatglm2",
            [*GREETING, Message("assistant", "你好！")],
            False,
            "64790 64792 " + ROUND + "36474 54591 31404 2",
        ),
        # The history has 39701 (你好) where the learned answer has 36474 54591 (▁你 好).
        (
            "chatglm2",
            [*GREETING, Message("assistant", "你好！"), Message("user", "再见")],
            True,
            "64790 64792 " + ROUND + "39701 31404 13 13 30995 30951 517 30910 30943 30996 13 13 "
            "54761 31211 40637 13 13 55437 31211",
        ),
        # Printed by users of Baichuan-13B-Chat's own tokenizer.
        (
            "baichuan",
            [*GREETING, Message("assistant", "我是人工智能助理")],
            False,
            "195 9875 31213 196 6323 31161 22073 19745 2",
        ),
        (
            "baichuan-first",
            [*GREETING, Message("assistant", "请问有什么可以帮你？"), Message("user", "没事，退下吧")],
            True,
            "195 9875 31213 196 31106 20389 7713 1231 17346 75 2 195 31106 25639 72 31991 31214 31793 196",
        ),
        (
            "llama2",
            [SYSTEM, *ENGLISH],
            True,
            "1 518 25580 29962 3532 14816 29903 6778 13 3629 11473 29889 13 29966 829 14816 29903 6778 13 13 10994 "
            "518 29914 25580 29962 6324 727 29991 29871 2 "
            "1 518 25580 29962 29871 29896 29974 29896 29922 29973 518 29914 25580 29962",
        ),
        (
            "llama3",
            [SYSTEM, *ENGLISH],
            True,
            f"128000 128006 9125 128007 271 3513 10015 13 128009 {HEADER}9906 128009 "
            f"{ANSWER}13347 1070 0 128009 {HEADER}16 10 16 20477 128009 {ANSWER}",
        ),
    ],
)
def test_ids_are_those_of_the_publishers_code(
    name: str, messages: list[Message], prompt: bool, ids: str, real: Callable[[str], Tokenizer]
) -> None:
    tokenizer = real(name.removesuffix("-first"))
    assert encode_chat(messages, TEMPLATES[name], tokenizer, add_generation_prompt=prompt)[0] == [
        int(one) for one in ids.split()
    ]


@pytest.mark.parametrize("name", FILES)
def test_what_a_user_types_is_never_a_control_token(name: str, real: Callable[[str], Tokenizer]) -> None:
    tokenizer, template = real(name), TEMPLATES[name]
    names = {name for one in TEMPLATES.values() for name in one.control_tokens}
    for typed in [*sorted(names), "<0x0A>", "<unk>", " </s> ", "[gMASK]sop"]:
        ids, _ = encode_chat([Message("user", f"a{typed}b")], template, tokenizer, add_generation_prompt=True)
        plain, _ = encode_chat([Message("user", "ab")], template, tokenizer, add_generation_prompt=True)
        control = {tokenizer.token_id(one) for one in template.control_tokens}
        assert [token for token in ids if token in control] == [token for token in plain if token in control]
        assert typed in tokenizer.decode(ids)


@pytest.mark.parametrize("name", ["chatglm2", "baichuan"])
def test_the_directory_of_a_published_model_gets_its_template(
    name: str, real: Callable[[str], Tokenizer], tmp_path: Path
) -> None:
    real(name).save(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": MODEL_TYPES[name]}), encoding="utf-8")
    choice = choose_template(tmp_path)
    assert choice.template.name == name
    assert {"chatglm2": "[gMASK] (64790) and sop (64792)", "baichuan": "<reserved_102> (195)"}[name] in choice.reason


@pytest.mark.parametrize("data", ["sharegpt_zh_1k", "moss_multiturn", "llamafactory_alpaca_en_demo"])
def test_real_conversations_encode_as_sentencepiece_encodes_the_published_strings(
    data: str, real: Callable[[str], Tokenizer]
) -> None:
    sentencepiece = pytest.importorskip("sentencepiece")
    path = SHARED / "sft" / f"{data}.jsonl.gz"
    if not path.is_file():
        pytest.skip(f"{path.name} is not here")
    tokenizer = real("chatglm2")
    processor = sentencepiece.SentencePieceProcessor(str(SHARED / "tokenizers" / FILES["chatglm2"]))
    chats = [[one for one in chat if one.role != "system"] for chat in read_chats([path], "skip").chats[:150]]
    for chat in chats:
        if any(one.role == "tool" or "�" in one.content or "▁" in one.content for one in chat):
            continue
        said = [one.content.strip() for one in chat]
        rounds = list(zip(said[::2], said[1::2], strict=True))
        text = "".join(f"[Round {n}]\n\n问：{q}\n\n答：{a}\n\n" for n, (q, a) in enumerate(rounds[:-1], start=1))
        text += f"[Round {len(rounds)}]\n\n问：{rounds[-1][0]}\n\n答："
        expected = [64790, 64792, *processor.encode(text), *processor.encode(rounds[-1][1]), 2]
        assert encode_chat(chat, TEMPLATES["chatglm2"], tokenizer)[0] == expected


@pytest.mark.slow
@pytest.mark.parametrize("name", [*FILES, "mistral", "alpaca", "raw"])
def test_transformers_renders_the_same_prompts_of_real_conversations_with_the_real_vocabulary(
    name: str, real: Callable[[str], Tokenizer], tmp_path: Path
) -> None:
    transformers = pytest.importorskip("transformers")
    path = SHARED / "sft" / "moss_multiturn.jsonl.gz"
    if not path.is_file():
        pytest.skip(f"{path.name} is not here")
    tokenizer, template = real(name if name in FILES else "llama2"), TEMPLATES[name]
    tokenizer.save(tmp_path)
    save_template(template, tmp_path)
    peer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for chat in read_chats([path], "skip").chats[:100]:
        said = [one for one in chat if one.role in template.turns][:-1]
        plain = [{"role": one.role, "content": one.content} for one in said]
        theirs = peer.apply_chat_template(plain, tokenize=True, add_generation_prompt=True, return_dict=False)
        assert theirs == encode_chat(said, template, tokenizer, add_generation_prompt=True)[0]
