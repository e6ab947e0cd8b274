"""GGUF both ways: every family comes back with its bits, llama.cpp computes our logits, damage is one sentence."""

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
import torch
from checkpoint_samples import CONFIGS, tensors_of, write
from llama_cpp_oracle import opened
from tiny_tokenizers import byte_level

from inkstone.chat import CHATML, attach_template
from inkstone.errors import InputError
from inkstone.generate import SamplingSettings, generate
from inkstone.model import load_model, open_directory
from inkstone.model.files.convert import convert_model
from inkstone.model.gguf import write_gguf
from inkstone.model.gguf.blocks import BLOCKS, unpack
from inkstone.model.inspect import inspect_model
from inkstone.model.packed.pack import packed_maps
from inkstone.progress import Silent
from inkstone.tokenizer import Tokenizer, TokenizerSettings
from inkstone.tokenizer.bpe.train import train
from inkstone.tokenizer.foreign.gguf import _WORDS

gguf = pytest.importorskip("gguf")

TEXTS = ("你好 Hello  12 世界", "  the x\n\nthen 鼎", "a<|im_end|>b")
IDS = [(7 * n * n + 3 * n + 5) % 280 + 3 for n in range(40)]
_LLAMA = CONFIGS["llama"]
_LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 8192, "low_freq_factor": 1.0,
           "high_freq_factor": 4.0}  # fmt: skip
SAMPLES: dict[str, dict[str, Any]] = {
    **CONFIGS,
    "baichuan-13b": {**CONFIGS["baichuan-13b"], "num_hidden_layers": 40},
    "baichuan-2": {**CONFIGS["baichuan-7b"], "z_loss_weight": 0},
    "llama 3": {**_LLAMA, "rope_scaling": _LLAMA3, "rope_theta": 500000.0, "max_position_embeddings": 16384},
    "linear": {**_LLAMA, "rope_scaling": {"rope_type": "linear", "factor": 2.0}},
    "tied": {**_LLAMA, "tie_word_embeddings": True},
    "biases": {**_LLAMA, "attention_bias": True},
    "qwen2": {**_LLAMA, "model_type": "qwen2"},
    "qwen3": {**_LLAMA, "model_type": "qwen3", "head_dim": 16},
}


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    words = ["你好，世界！Hello 12 world the then"] * 3
    return train(TokenizerSettings(vocab_size=400), [(words, 1.0)])[0]


def directory(path: Path, name: str, tokenizer: Tokenizer, **changes: object) -> Path:
    """A sample of a family with a vocabulary of its own; an embedding has rows to spare."""
    config = {**SAMPLES[name], "vocab_size": tokenizer.vocab_size + 5, **changes}
    if "padded_vocab_size" in config:
        config["padded_vocab_size"] = config["vocab_size"]
    tensors = {key: value * 0.2 if value.dim() > 1 else value for key, value in tensors_of(config).items()}
    write(path, config, tensors)
    tokenizer.save(path)
    return path


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(torch.tensor([IDS]))[0]
    return found


@pytest.mark.parametrize("name", SAMPLES)
def test_a_family_comes_back_with_its_logits_and_ids(name: str, tokenizer: Tokenizer, tmp_path: Path) -> None:
    source = directory(tmp_path / "m", name, tokenizer)
    write_gguf(source, tmp_path / "m.gguf", "f32", Silent())
    expected = logits(load_model(source, torch.float32))
    # Baichuan 2's head is divided once when it is written, and not in every product.
    torch.testing.assert_close(logits(load_model(tmp_path / "m.gguf", torch.float32)), expected, atol=1e-5, rtol=1e-5)
    back, ours = Tokenizer.load(tmp_path / "m.gguf"), Tokenizer.load(source)
    assert [back.encode(text) for text in TEXTS] == [ours.encode(text) for text in TEXTS]


@pytest.mark.parametrize("name", SAMPLES)
def test_llama_cpp_computes_the_same(name: str, tokenizer: Tokenizer, tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp")
    source = directory(tmp_path / "m", name, tokenizer)
    write_gguf(source, tmp_path / "m.gguf", "f32", Silent())
    with opened(tmp_path / "m.gguf") as theirs:
        theirs.eval(IDS)
        scores = torch.from_numpy(np.array(theirs.scores[: len(IDS)], dtype=np.float32))
        ids = [theirs.tokenize(text.encode(), add_bos=False, special=False) for text in TEXTS]
    # BLOOM's GELU is a table of 16-bit numbers there.
    torch.testing.assert_close(scores, logits(load_model(source, torch.float32)), atol=3e-3, rtol=1e-3)
    assert ids == [Tokenizer.load(source).encode(text) for text in TEXTS]


@pytest.mark.parametrize("kind", BLOCKS)
def test_blocks_are_read_as_llama_cpps_package_reads_them(kind: str) -> None:
    block, draw = BLOCKS[kind], np.random.default_rng(0)
    number = gguf.GGMLQuantizationType(block.number)
    assert gguf.GGML_QUANT_SIZES[number] == (block.weights, block.size)
    data = draw.integers(0, 256, (6 * 3, block.size), dtype=np.uint8)
    halves = {"q4_1": (0, 2), "q5_1": (0, 2), "q4_K": (0, 2), "q5_K": (0, 2), "q2_K": (80, 82), "q3_K": (108,),
              "q6_K": (208,)}  # fmt: skip
    for at in halves.get(kind, (0,)):
        data[:, at : at + 2] = draw.normal(size=(len(data), 1)).astype(np.float16).view(np.uint8)
    data = data.reshape(6, -1)
    ours = unpack(torch.from_numpy(data), kind)
    theirs = torch.from_numpy(gguf.quants.dequantize(data, number))
    torch.testing.assert_close(ours.dequantise(torch.float32), theirs, rtol=2e-6, atol=1e-4)
    rows = torch.tensor([4, 1])
    torch.testing.assert_close(ours.take(rows).dequantise(torch.float32), theirs[rows], rtol=2e-6, atol=1e-4)


@pytest.mark.parametrize("name", ["llama", "mixtral", "chatglm"])
@pytest.mark.parametrize("kind", ["q8_0", "q4_0"])
def test_a_quantised_file_stays_packed_and_computes_with_its_weights(
    name: str, kind: str, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    wide = {"hidden_size": 64, "intermediate_size": 96, "ffn_hidden_size": 96, "kv_channels": 16}
    wide = {key: value for key, value in wide.items() if key in SAMPLES[name]}
    source = directory(tmp_path / "m", name, tokenizer, **wide)
    write_gguf(source, tmp_path / "m.gguf", kind, Silent())
    assert (tmp_path / "m.gguf").stat().st_size < (source / "model.safetensors").stat().st_size / (
        3 if kind == "q8_0" else 5
    )
    model = load_model(tmp_path / "m.gguf", torch.float32)
    assert packed_maps(model) >= 7
    convert_model(tmp_path / "m.gguf", tmp_path / "whole", dtype=torch.float32)
    torch.testing.assert_close(logits(model), logits(load_model(tmp_path / "whole")), atol=1e-4, rtol=1e-4)


def test_a_file_holds_a_whole_chat_model(tokenizer: Tokenizer, tmp_path: Path) -> None:
    control = train(TokenizerSettings(vocab_size=400), [(["你好，世界！"], 1.0)])[0]
    source = directory(tmp_path / "m", "llama", control)
    attach_template(CHATML, control, source)
    write_gguf(source, tmp_path / "m.gguf", "f16", Silent())
    ours, theirs = (
        open_directory(source, torch.float32, chat=True),
        open_directory(tmp_path / "m.gguf", torch.float32, chat=True),
    )
    assert ours.template == theirs.template and ours.stop_ids == theirs.stop_ids
    facts = inspect_model(tmp_path / "m.gguf")
    assert facts.parameters == ours.model.config.num_parameters() and not facts.missing
    convert_model(tmp_path / "m.gguf", tmp_path / "back")
    back = open_directory(tmp_path / "back", torch.float32, chat=True)
    how = SamplingSettings(max_new_tokens=12)
    said = [generate(one.model, [IDS[:9]], how, one.stop_ids) for one in (theirs, back)]
    assert said[0] == said[1] and back.template == ours.template and back.stop_ids == ours.stop_ids


@pytest.mark.parametrize(
    ("name", "changes", "sentence"),
    [
        ("baichuan-13b", {"num_hidden_layers": 2}, "llama.cpp gives ALiBi only to a Baichuan of 40 layers"),
        ("llama", {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, "does not compute this rope_scaling"),
    ],
)
def test_what_llama_cpp_would_compute_otherwise_is_refused(
    name: str, changes: dict[str, Any], sentence: str, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    source = directory(tmp_path / "m", name, tokenizer, **changes)
    with pytest.raises(InputError, match=sentence):
        write_gguf(source, tmp_path / "m.gguf", "f16", Silent())
    assert not (tmp_path / "m.gguf").exists()


@pytest.mark.parametrize("words", ["llama-bpe", "bloom"])
def test_a_byte_level_vocabulary_goes_under_the_name_of_its_words(words: str, tmp_path: Path) -> None:
    spec = byte_level().spec()
    spec["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": _WORDS[words]}
    spec["model"]["ignore_merges"] = words == "llama-bpe"
    backend = tokenizers.Tokenizer.from_str(json.dumps(spec))
    ours = Tokenizer(backend, bos="<s>", eos="</s>", pad="</s>")
    write_gguf(directory(tmp_path / "m", "llama", ours), tmp_path / "m.gguf", "f32", Silent())
    texts = (*TEXTS, "user's 12345, c.d!")
    ids = [ours.encode(text) for text in texts]
    back = Tokenizer.load(tmp_path / "m.gguf")
    assert [back.encode(text) for text in texts] == ids
    pytest.importorskip("llama_cpp")
    with opened(tmp_path / "m.gguf") as theirs:
        found = [theirs.tokenize(text.encode(), add_bos=False, special=False) for text in texts]
    assert found == ids


def test_a_vocabulary_that_llama_cpp_would_cut_otherwise_is_refused(tmp_path: Path) -> None:
    source = directory(tmp_path / "m", "llama", byte_level())
    with pytest.raises(InputError, match="no name for the way this vocabulary cuts text"):
        write_gguf(source, tmp_path / "m.gguf", "f16", Silent())


def test_damage_is_one_sentence(tokenizer: Tokenizer, tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    write_gguf(directory(tmp_path / "m", "llama", tokenizer), path, "f16", Silent())
    whole = path.read_bytes()

    def refused(content: bytes, sentence: str) -> None:
        path.write_bytes(content)
        with pytest.raises(InputError, match=sentence):
            load_model(path)

    refused(whole[:-5000], "ends behind the file")
    refused(
        whole.replace(b"\x05\x00\x00\x00\x00\x00\x00\x00llama", b"\x05\x00\x00\x00\x00\x00\x00\x00lmama"),
        "architecture 'lmama'",
    )
    layers = whole.index(b"llama.block_count") + len(b"llama.block_count") + 4
    refused(whole[:layers] + struct.pack("<I", 10**9) + whole[layers + 4 :], "larger than any model's|cannot hold")
    refused(whole[:layers] + struct.pack("<I", 1) + whole[layers + 4 :], "is not part of this architecture")
    refused(whole.replace(b"blk.1.ffn_down", b"blk.1.ffn_dawn"), "blk.1.ffn_down.weight is missing")
    kind = whole.index(b"token_embd.weight") + len(b"token_embd.weight") + 4 + 16
    refused(whole[:kind] + struct.pack("<I", 99) + whole[kind + 4 :], "type 99, which is not read")
