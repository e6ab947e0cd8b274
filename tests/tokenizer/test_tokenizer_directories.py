"""Hugging Face tokenizer directories of every age: roles, added tokens, and ids equal to transformers'."""

import json
from pathlib import Path

import pytest
from foreign_samples import HARD, REAL, needs_shared, train_model

from inkstone.errors import InputError
from inkstone.tokenizer import Tokenizer

IDENTITY = {"normalization_rule_name": "identity", "remove_extra_whitespaces": False, "byte_fallback": True,
            "vocab_size": 430}  # fmt: skip


def model_directory(path: Path, **files: object) -> Path:
    """A directory with a small tokenizer.model and these JSON files beside it."""
    model = train_model(path, **IDENTITY)
    model.rename(path / "tokenizer.model")
    for name, content in files.items():
        (path / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    return path


@pytest.mark.parametrize("style", [
    {"tokenizer_config": {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<unk>"}},
    {"tokenizer_config": {role: {"__type": "AddedToken", "content": name} for role, name in
                          [("bos_token", "<s>"), ("eos_token", "</s>"), ("pad_token", "<unk>")]}},
    {"special_tokens_map": {"bos_token": {"content": "<s>"}, "eos_token": "</s>", "pad_token": "<unk>"}},
    {"tokenizer_config": {"bos_token": None}, "special_tokens_map": {"pad_token": "<unk>"}},
])  # fmt: skip
def test_roles_are_read_in_the_style_of_any_year(style: dict[str, object], tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(model_directory(tmp_path, **style))
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (1, 2, 0)


def test_added_tokens_stand_where_their_files_say_and_are_never_typed(tmp_path: Path) -> None:
    size = Tokenizer.load(model_directory(tmp_path)).vocab_size
    marks = {"<|beginofutterance|>": size, "<|endofutterance|>": size + 1}
    (tmp_path / "added_tokens.json").write_text(json.dumps(marks), encoding="utf-8")
    old = Tokenizer.load(tmp_path)
    (tmp_path / "added_tokens.json").unlink()
    decoder = {str(number): {"content": name, "special": False} for name, number in marks.items()}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": decoder}), encoding="utf-8")
    new = Tokenizer.load(tmp_path)
    for tokenizer in (old, new):
        assert {name: tokenizer.token_id(name) for name in marks} == marks and tokenizer.vocab_size == size + 2
        ids = tokenizer.encode("a<|endofutterance|>b")
        assert max(ids) < size and tokenizer.decode(ids) == "a<|endofutterance|>b"
    assert old.fingerprint == new.fingerprint


def test_an_added_token_whose_place_is_another_is_refused_with_both_ids(tmp_path: Path) -> None:
    size = Tokenizer.load(model_directory(tmp_path)).vocab_size
    (tmp_path / "added_tokens.json").write_text(f'{{"<|a|>": {size + 7}, "<s>": 9}}', encoding="utf-8")
    with pytest.raises(InputError) as caught:
        Tokenizer.load(tmp_path)
    assert f'"<|a|>" the id {size + 7}, but its place is {size}' in str(caught.value)
    assert '"<s>" the id 9, but its place is 1' in str(caught.value)


@needs_shared
@pytest.mark.parametrize("name", ["llama-spm", "baichuan"])
def test_a_saved_vocabulary_opens_in_transformers_with_equal_ids(name: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    ours = Tokenizer.load(REAL / f"{name}.gguf")
    ours.save(tmp_path)
    peer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert (peer.bos_token_id, peer.eos_token_id) == (1, 2)
    texts = [text for text in HARD if not text.startswith(("<", "</")) and "<p>" not in text]
    assert [peer(text, add_special_tokens=False)["input_ids"] for text in texts] == ours.encode_batch(texts)
    assert [peer.decode(ids) for ids in ours.encode_batch(texts)] == [
        ours.decode(ids) for ids in ours.encode_batch(texts)
    ]


@needs_shared
@pytest.mark.parametrize("legacy", [True, False])
def test_the_fast_llama_tokenizer_of_transformers_opens_with_its_own_ids(legacy: bool, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    from inkstone.tokenizer.foreign.gguf import read_gguf

    spec, _ = read_gguf(REAL / "llama-spm.gguf")
    vocabulary, merges = spec["model"]["vocab"], [tuple(merge) for merge in spec["model"]["merges"]]
    peer = transformers.LlamaTokenizerFast(vocab=vocabulary, merges=merges, legacy=legacy)
    peer.save_pretrained(tmp_path)
    tokenizer = Tokenizer.load(tmp_path)
    assert (tokenizer.bos_id, tokenizer.eos_id) == (1, 2)
    for text in HARD:
        if text not in ("<s>", "</s>", "<unk>"):
            assert tokenizer.encode(text) == peer(text, add_special_tokens=False)["input_ids"], text
    assert tokenizer.control_ids.isdisjoint(tokenizer.encode("a <s></s>"))
    assert tokenizer.encode("Hello", continued=True) != tokenizer.encode("Hello")


def test_a_typed_special_token_is_text_in_a_foreign_byte_level_tokenizer(tmp_path: Path) -> None:
    from tokenizers import AddedToken, decoders, models, pre_tokenizers
    from tokenizers import Tokenizer as Backend

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    control = ["<|im_start|>", "<|im_end|>", "<pad>", "END"]
    vocabulary = {piece: number for number, piece in enumerate([*alphabet, "<p", "<pad", "ad", *control])}
    backend = Backend(models.BPE(vocabulary, [("<", "p"), ("a", "d"), ("<p", "ad"), ("<pad", ">")]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    # One is special, one is not said to be, one is named by the config alone and its merges spell it.
    backend.add_special_tokens([AddedToken("<|im_start|>", special=True)])
    backend.add_tokens([AddedToken("<|im_end|>", special=False), AddedToken("tool", special=False)])
    backend.save(str(tmp_path / "tokenizer.json"))
    config = {"pad_token": "<pad>", "additional_special_tokens": ["END"]}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    tokenizer = Tokenizer.load(tmp_path)
    assert {tokenizer.token_id(name) for name in control} == tokenizer.control_ids
    typed = "".join(control) + " ".join(control)
    assert tokenizer.control_ids.isdisjoint(tokenizer.encode(typed))
    assert tokenizer.token_id("tool") in tokenizer.encode("a tool")  # an added word is a word
    assert tokenizer.decode(tokenizer.encode(typed, continued=True), continued=True) == typed
    assert tokenizer.encode("ad") == [tokenizer.token_id("Ġ"), tokenizer.token_id("ad")]
    assert tokenizer.encode("ad", continued=True) == [tokenizer.token_id("ad")]


def test_a_tokenizer_of_another_algorithm_is_refused_by_name(tmp_path: Path) -> None:
    from tokenizers import Tokenizer as Backend
    from tokenizers import models

    Backend(models.WordPiece({"[UNK]": 0}, unk_token="[UNK]")).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(InputError, match=r"tokenizer\.json is a WordPiece tokenizer; Inkstone opens BPE ones"):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize("content", ["[1]", "{", '{"a": "'])
def test_a_damaged_companion_is_named(content: str, tmp_path: Path) -> None:
    path = model_directory(tmp_path) / "tokenizer_config.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=r"tokenizer_config\.json is not (valid JSON|a JSON object)"):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize("name", ["vocab.txt", "model.safetensors"])
def test_another_kind_of_file_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("x", encoding="utf-8")
    with pytest.raises(InputError, match=r"is no tokenizer: a \.model, \.json or \.gguf file was expected"):
        Tokenizer.load(tmp_path / name)


def test_a_role_that_only_names_a_token_gets_the_row_behind_the_vocabulary_where_the_model_has_one(
    tmp_path: Path,
) -> None:
    """What transformers gives a slow tokenizer whose pad_token stands in special_tokens_map.json alone."""
    size = Tokenizer.load(model_directory(tmp_path)).vocab_size
    (tmp_path / "special_tokens_map.json").write_text('{"pad_token": "<pad>"}', encoding="utf-8")
    (tmp_path / "config.json").write_text(json.dumps({"vocab_size": size + 1}), encoding="utf-8")
    tokenizer = Tokenizer.load(tmp_path)
    assert (tokenizer.pad_id, tokenizer.vocab_size) == (size, size + 1)
    assert size not in tokenizer.encode("a<pad>b")
    (tmp_path / "config.json").write_text(json.dumps({"vocab_size": size}), encoding="utf-8")
    with pytest.raises(InputError, match='names "<pad>" as its pad_token, but has no such token'):
        Tokenizer.load(tmp_path)
