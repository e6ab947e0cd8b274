"""Vocabularies of other makers: the real ones where the shared data is at hand, and small ones trained on the spot."""

import io
import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zstandard

from inkstone.tokenizer.foreign.gguf import read_metadata
from inkstone.tokenizer.foreign.sentencepiece import Pieces

SHARED = Path(__file__).parents[3] / "shared" / "data"
REAL = SHARED / "tokenizers"
needs_shared = pytest.mark.skipif(not REAL.is_dir(), reason="shared/data is not beside the repository")

# What breaks tokenizers: marks of their own, white space, control characters, characters of several code points.
HARD = [
    "", " ", "  ", "   a", "a   ", "a  b", "\t", "\n", "\n\n\n", "\r\n", " \n ", "\x00", "a\x00b", "\x01\x7f",
    "\ufeff", "\ufffd", "▁", "▁▁a", "a▁b", " ▁ ", "<s>", "</s>", "<unk>", "<0x0A>", "<reserved_102>", "[gMASK]",
    "sop", "<|im_end|>", "１２３４５", "ＡＢＣ　全角", "1234567890", "3.14159", "🙂", "👨‍👩‍👧‍👦", "🇨🇳🇨🇳",
    "👍🏽", "☺️", "e\u0301", "n\u0303o\u0308", "각", "\u1112\u1161", "𠀀𠮷𪚥", "龘靐齉", "\u3000全角空格",
    "\xa0nbsp", "\u200bzero", "\u202eright", "ﬁ", "①②", "http://a.b/c?d=e&f", "==========", "-----",
    "aaaaaaaaaaaaaaa", "哈哈哈哈哈哈哈", "abababababab", "......", "\t\t\t\tx", "```\ncode\n```", "<p>文</p>",
    "The quick  brown fox", "don't", "你好，世界！", "混合 mixed 文本 text。", "नमस्ते", "ภาษาไทย", "Ⅻ",
    "𝕳𝖊𝖑𝖑𝖔", "\U0010ffff", "\ud7ff\ue000",
]  # fmt: skip


def lines(*names: str, limit: int | None = None) -> Iterator[str]:
    """Lines of text from shared/data/pretrain/NAME.jsonl.zst, the files taken in turns."""

    def of(name: str) -> Iterator[str]:
        with zstandard.open(SHARED / "pretrain" / f"{name}.jsonl.zst", "rb") as stream:
            for row in io.TextIOWrapper(stream, encoding="utf-8"):
                content = json.loads(row)
                yield from (content.get("text") or f"{content['classical']}\n{content['modern']}").split("\n")

    columns = itertools.zip_longest(*map(of, names))
    return itertools.islice((line for row in columns for line in row if line is not None), limit)


def model_from_gguf(path: Path) -> bytes:
    """A SentencePiece model with the pieces of a GGUF, as their makers' settings were: the oracle for them."""
    from sentencepiece import sentencepiece_model_pb2

    metadata = read_metadata(path)
    model = sentencepiece_model_pb2.ModelProto()
    columns = (metadata[f"tokenizer.ggml.{name}"] for name in ("tokens", "scores", "token_type"))
    for name, score, kind in zip(*columns, strict=True):
        model.pieces.add(piece=name, score=score, type=kind)
    model.trainer_spec.model_type = 2
    model.trainer_spec.byte_fallback = True
    model.normalizer_spec.add_dummy_prefix = True
    model.normalizer_spec.remove_extra_whitespaces = False
    return bytes(model.SerializeToString())


def train_model(directory: Path, **options: object) -> Path:
    """A small SentencePiece model with the given trainer options."""
    import sentencepiece

    said = [
        "明月照我还，山高水长。", "学而时习之，不亦说乎？", "the river runs to the sea", "don't stop reading the book",
        "def f(x):\n    return  value", "In 2024 it's late", "aaaa abab aba ----", "天下大事必作于细", "<p>你好</p>",
    ] * 20  # fmt: skip
    settings = {"model_type": "bpe", "vocab_size": 220, "character_coverage": 0.98, "minloglevel": 2} | options
    prefix = directory / "small"
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(said), model_prefix=str(prefix), **settings)
    return prefix.with_suffix(".model")


def llama_cpp(pieces: Pieces, path: Path) -> Callable[[str], list[int]]:
    """llama.cpp's own tokenizer for a SentencePiece vocabulary, written as a GGUF without weights."""
    import gguf
    from llama_cpp import Llama

    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model("llama")
    writer.add_token_list([name.encode() for name in pieces.names])
    writer.add_token_scores(pieces.scores)
    writer.add_token_types(pieces.kinds)
    writer.add_bos_token_id(pieces.bos)
    writer.add_eos_token_id(pieces.eos)
    writer.add_add_space_prefix(pieces.dummy_prefix)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    opened = Llama(str(path), vocab_only=True, verbose=False)
    return lambda text: list(opened.tokenize(text.encode(), add_bos=False, special=False)) if text else []
