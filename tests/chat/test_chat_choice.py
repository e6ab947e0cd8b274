"""Which template a directory gets: what it says decides, nothing of it is executed, and doubt is an error."""

import json
from pathlib import Path

import pytest
from tiny_tokenizers import byte_level, sentencepiece_like
from tokenizers import AddedToken

from inkstone.chat import TEMPLATES, choose_template, find_template, save_template
from inkstone.errors import InputError
from inkstone.tokenizer import Tokenizer, TokenizerSettings
from inkstone.tokenizer.bpe.train import train

LLAMA2_JINJA = "{{ bos_token }}[INST] {% if system %}<<SYS>>\\n{{ system }}\\n<</SYS>>{% endif %} [/INST]"


def checkpoint(
    directory: Path, config: dict[str, object], tokenizer: Tokenizer | None = None, jinja: object = None
) -> Path:
    """A directory as a hub has it: config.json, perhaps a tokenizer, perhaps a Jinja template in its configuration."""
    directory.mkdir(exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config), encoding="utf-8")
    if tokenizer:
        tokenizer.save(directory)
    if jinja is not None:
        path = directory / "tokenizer_config.json"
        said = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        path.write_text(json.dumps(said | {"chat_template": jinja}), encoding="utf-8")
    return directory


def at(ids: dict[str, int]) -> Tokenizer:
    """A vocabulary that has these names at these ids."""
    backend = byte_level()._backend
    for name, wanted in sorted(ids.items(), key=lambda item: item[1]):
        while (size := backend.get_vocab_size()) < wanted:
            backend.add_special_tokens([AddedToken(f"<filler_{size}>", special=True)])
        backend.add_special_tokens([AddedToken(name, special=True)])
    return Tokenizer(backend, bos="<s>", eos="</s>", pad="</s>")


def test_a_name_decides_and_an_unknown_one_is_refused_with_the_known(tmp_path: Path) -> None:
    assert find_template(tmp_path, "llama2") is TEMPLATES["llama2"]
    with pytest.raises(InputError, match='there is no template "lama2"; known are alpaca, baichuan, baichuan-first, '):
        find_template(tmp_path, "lama2")


def test_our_own_file_comes_before_everything_else(tmp_path: Path) -> None:
    checkpoint(tmp_path, {"model_type": "chatglm"}, jinja=LLAMA2_JINJA)
    save_template(TEMPLATES["alpaca"], tmp_path)
    choice = choose_template(tmp_path)
    assert choice.template == TEMPLATES["alpaca"]
    assert choice.reason == "alpaca: chat_template.json of the directory"


@pytest.mark.parametrize(
    ("name", "model_type", "jinja", "control"),
    [
        ("llama2", "llama", LLAMA2_JINJA, []),
        ("mistral", "mixtral", "{{ '[INST] ' + message['content'] + ' [/INST]' }}", []),
        ("mistral-v3", "mistral", "{{ '[INST] ' + message['content'] + '[/INST]' }}", ["[INST]", "[/INST]"]),
        ("llama3", "llama", "{{ '<|start_header_id|>' + role }}", ["<|start_header_id|>", "<|eot_id|>"]),
        ("chatml-nobos", "llama", "{{ '<|im_start|>' }}{{ '<|im_end|>' }}", ["<|im_start|>", "<|im_end|>"]),
        (
            "qwen2.5",
            "qwen2",
            "{{ '<|im_start|>system\\nYou are Qwen, created by Alibaba Cloud.<|im_end|>' }}",
            ["<|im_start|>", "<|im_end|>"],
        ),
        ("chatml-nobos", "qwen3", "{{ '<|im_start|>' }}{{ '<|im_end|>' }}", ["<|im_start|>", "<|im_end|>"]),
        ("glm4", "glm", "[gMASK]<sop>{{ '<|observation|>' }}", ["[gMASK]", "<sop>", "<|user|>", "<|observation|>"]),
        ("huozi3", "mixtral", "{{'<|beginofutterance|>'}}", ["<|beginofutterance|>", "<|endofutterance|>"]),
        ("alpaca", "llama", "### Instruction:\n### Response:\n", []),
    ],
)
def test_the_marks_of_its_own_jinja_template_tell(
    name: str, model_type: str, jinja: str, control: list[str], tmp_path: Path
) -> None:
    directory = checkpoint(tmp_path, {"model_type": model_type}, sentencepiece_like(control), jinja)
    choice = choose_template(directory)
    assert choice.template.name == name
    assert choice.reason.startswith(f"{name}: its own Jinja template has ")
    named = [{"name": "tool_use", "template": "x"}, {"name": "default", "template": jinja}]
    assert find_template(checkpoint(tmp_path, {"model_type": model_type}, jinja=named)).name == name
    (directory / "tokenizer_config.json").write_text("{}", encoding="utf-8")
    (directory / "chat_template.jinja").write_text(jinja, encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "model_type", "ids"),
    [
        ("baichuan", "baichuan", {"<reserved_102>": 350, "<reserved_106>": 354}),
        ("baichuan2", "baichuan", {"<reserved_102>": 346, "<reserved_106>": 350}),
        ("chatglm2", "chatglm", {"[gMASK]": 290, "sop": 292}),
        ("huozi", "bloom", {"<|endofutterance|>": 281, "<|beginofutterance|>": 282}),
        ("huozi3", "mixtral", {"<|beginofutterance|>": 281, "<|endofutterance|>": 282}),
        ("llama3", "llama", {"<|start_header_id|>": 281, "<|eot_id|>": 284}),
    ],
)
def test_the_vocabulary_tells_where_there_is_no_jinja_template(
    name: str, model_type: str, ids: dict[str, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ids are those of small vocabularies here, so the two that count are moved with them."""
    from dataclasses import replace

    from inkstone.chat import library

    moved = {195: 350, 64790: 290, 64792: 292}
    for key, match in library._MATCHES.items():
        tokens = tuple((token, moved.get(wanted or -1, wanted)) for token, wanted in match.tokens)
        monkeypatch.setitem(library._MATCHES, key, replace(match, tokens=tokens))
    choice = choose_template(checkpoint(tmp_path, {"model_type": model_type}, at(ids)))
    assert choice.template.name == name
    assert choice.reason.startswith(f"{name}: config.json says {model_type}, and its vocabulary has ")


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("baichuan", {"model_type": "baichuan", "vocab_size": 64000}),
        ("baichuan2", {"model_type": "baichuan", "vocab_size": 125696}),
        ("chatglm2", {"model_type": "chatglm", "padded_vocab_size": 65024}),
    ],
)
def test_config_json_alone_tells_where_the_size_of_the_vocabulary_does(
    name: str, config: dict[str, object], tmp_path: Path
) -> None:
    assert find_template(checkpoint(tmp_path, config)).name == name


def test_chatglm3_is_not_taken_for_chatglm2(tmp_path: Path) -> None:
    directory = checkpoint(tmp_path, {"model_type": "chatglm"}, byte_level(["[gMASK]", "sop", "<|user|>"]))
    with pytest.raises(InputError, match="--template NAME"):
        find_template(directory)


def test_a_plain_llama_is_asked_about(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is a base model without a chat template.*--template NAME, one of alpaca"):
        find_template(checkpoint(tmp_path, {"model_type": "llama", "vocab_size": 32000}, sentencepiece_like()))


def test_a_jinja_template_that_is_none_of_ours_is_neither_run_nor_guessed(tmp_path: Path) -> None:
    jinja = "{{ raise_exception('run') }}<start_of_turn>user"
    with pytest.raises(InputError, match="a Jinja template of its own that is none of ours"):
        find_template(checkpoint(tmp_path, {"model_type": "llama"}, jinja=jinja))


def test_our_own_base_model_has_no_template_although_it_has_the_tokens(tmp_path: Path) -> None:
    tokenizer, _ = train(TokenizerSettings(vocab_size=330), [(["你好，世界！Hello 12"] * 3, 1.0)])
    with pytest.raises(InputError, match="is a base model without a chat template"):
        find_template(checkpoint(tmp_path, {"model_type": "llama"}, tokenizer))


@pytest.mark.parametrize("content", ["", "[]", "{"])
def test_an_unreadable_config_is_no_reason_to_guess(content: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match="--template NAME"):
        find_template(tmp_path)
