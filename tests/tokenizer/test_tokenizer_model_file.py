"""The `.model` beside a tokenizer.json: sentencepiece, llama.cpp and transformers give the ids that we give."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import tokenizers
from foreign_samples import HARD, REAL, lines, llama_cpp, needs_shared, train_model
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_tokenizer_extend import english_base, extended
from test_tokenizer_million import strings
from tokenizer_samples import make_rows, write_split

from inkstone.progress import Silent
from inkstone.tokenizer import CONTROL_TOKENS, ExtendSettings, Tokenizer, TokenizerSettings, extend_tokenizer
from inkstone.tokenizer import train_tokenizer as train
from inkstone.tokenizer.bpe.pattern import pre_tokenizer
from inkstone.tokenizer.bpe.train import assemble
from inkstone.tokenizer.foreign.sentencepiece import read_model

spm = pytest.importorskip("sentencepiece")
pb2 = pytest.importorskip("sentencepiece.sentencepiece_model_pb2", exc_type=ImportError)

Encode = Callable[[list[str]], list[list[int]]]
# Where words meet: quotes and contractions, runs of spaces before anything, line ends, digits, Chinese.
MEETING = [
    "'s", "'such", "don't", "  the", "    return x", "\t the", " ж", "   中", "  1", "''s", "’ll", "a'S", "\n\n ",
    " 's", "the river runs", "明月照我", "。⺀", "〇一", "ſ's", " (", "  (", "\r\n\t", "\u3000 x", "'re\u0301",
]  # fmt: skip
HARDEST = [text for text in HARD if "▁" not in text] + MEETING
AWKWARD = st.lists(
    st.one_of(st.sampled_from(HARDEST), st.text(st.characters(exclude_categories=["Cs"]), max_size=6)), max_size=12
).map(lambda parts: "".join(parts).replace("▁", "_"))


@pytest.fixture(scope="module", params=["small corpus", "real text"])
def ours(request: pytest.FixtureRequest, tokenizer_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory as `inkstone tokenizer train` writes it."""
    if request.param == "small corpus":
        return tokenizer_dir
    if not REAL.is_dir():
        pytest.skip("shared/data is not beside the repository")
    corpus = tmp_path_factory.mktemp("real")
    rows = [("".join(lines(name, limit=1500)), name) for name in ("zh/python_docs_zh", "en/books_public_domain")]
    rows += [("\n".join(lines(name, limit=1500)), name) for name in ("en/python_docs_en", "zh/novels_public_domain")]
    write_split(corpus, "train", [(str(number), text, name, name[:2]) for number, (text, name) in enumerate(rows)])
    train(TokenizerSettings(vocab_size=4000), corpus, corpus / "out", Silent())
    return corpus / "out"


def of_sentencepiece(directory: Path) -> Encode:
    processor = spm.SentencePieceProcessor(model_file=str(directory / "tokenizer.model"))
    return lambda texts: list(processor.encode(texts))


def differing(ours: list[list[int]], theirs: list[list[int]], texts: list[str]) -> list[str]:
    return [text for text, mine, other in zip(texts, ours, theirs, strict=True) if mine != other]


def test_hard_text_has_the_same_ids_in_sentencepiece(ours: Path) -> None:
    texts = HARDEST + [before + after for before in HARDEST for after in HARDEST]
    assert differing(Tokenizer.load(ours).encode_batch(texts), of_sentencepiece(ours)(texts), texts) == []


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=AWKWARD)
def test_any_text_has_the_same_ids_in_sentencepiece(ours: Path, text: str) -> None:
    tokenizer = Tokenizer.load(ours) if ours not in _OPEN else _OPEN[ours][0]
    _OPEN.setdefault(ours, (tokenizer, of_sentencepiece(ours)))
    ids = tokenizer.encode(text)
    assert ids == _OPEN[ours][1]([text])[0]
    flat, _ = tokenizer.encode_flat([text])
    assert flat.tolist() == ids


_OPEN: dict[Path, tuple[Tokenizer, Encode]] = {}


@pytest.mark.slow
def test_a_hundred_thousand_random_strings_have_the_same_ids_in_sentencepiece(ours: Path) -> None:
    tokenizer, oracle = Tokenizer.load(ours), of_sentencepiece(ours)
    for seed in range(10):
        texts = [text.replace("▁", "_") for text in strings(seed)]
        assert differing(tokenizer.encode_batch(texts), oracle(texts), texts) == []


def test_llama_cpp_opens_it_with_the_same_ids(ours: Path, tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp")
    tokenizer = Tokenizer.load(ours)
    encode = llama_cpp(read_model(ours / "tokenizer.model"), tmp_path / "vocabulary.gguf")
    texts = HARDEST + [before + after for before in HARDEST for after in HARDEST] + list(CONTROL_TOKENS)
    texts += [text.replace("▁", "_") for text in strings(seed=3)[:3000]]
    assert differing(tokenizer.encode_batch(texts), [encode(text) for text in texts], texts) == []
    # and so do we: the directory, its .model and the GGUF are one tokenizer
    for path in (ours / "tokenizer.model", tmp_path / "vocabulary.gguf"):
        assert Tokenizer.load(path).encode_batch(texts) == tokenizer.encode_batch(texts)


def test_llama_cpps_converter_reads_the_directory_as_it_is_meant(ours: Path) -> None:
    gguf = pytest.importorskip("gguf")
    pieces = read_model(ours / "tokenizer.model")
    read = list(gguf.vocab.SentencePieceVocab(ours).all_tokens())
    assert [(name.decode(), score, int(kind)) for name, score, kind in read] == list(
        zip(pieces.names, pieces.scores, pieces.kinds, strict=True)
    )
    special = gguf.SpecialVocab(ours)
    assert special.special_token_ids == {"bos": 0, "eos": 1, "pad": 2} and not any(special.add_special_token.values())


def test_transformers_opens_the_directory_with_the_same_ids_and_tokens(ours: Path) -> None:
    transformers = pytest.importorskip("transformers")
    peer, tokenizer = transformers.AutoTokenizer.from_pretrained(ours), Tokenizer.load(ours)
    texts = [text for text in HARDEST if "<|" not in text]
    texts += [before + after for before in texts for after in texts]
    assert peer(texts, add_special_tokens=False)["input_ids"] == tokenizer.encode_batch(texts)
    assert [peer.convert_tokens_to_ids(name) for name in CONTROL_TOKENS] == list(range(16))
    assert (peer.bos_token_id, peer.eos_token_id, peer.pad_token_id) == (0, 1, 2)
    ids = tokenizer.encode_batch(texts)
    assert [peer.decode(one) for one in ids] == texts


def test_the_model_says_what_every_piece_is(tokenizer_dir: Path) -> None:
    tokenizer = Tokenizer.load(tokenizer_dir)
    processor = spm.SentencePieceProcessor(model_file=str(tokenizer_dir / "tokenizer.model"))
    model = pb2.ModelProto.FromString((tokenizer_dir / "tokenizer.model").read_bytes())
    assert [piece.piece.replace("▁", " ") for piece in model.pieces] == [
        tokenizer.token_name(number) for number in range(tokenizer.vocab_size)
    ]
    assert (processor.bos_id(), processor.eos_id(), processor.pad_id(), processor.unk_id()) == (0, 1, 2, 15)
    assert all(processor.is_control(number) for number in range(15)) and processor.is_unknown(15)
    assert [processor.is_byte(number) for number in range(272)] == [False] * 16 + [True] * 256
    assert model.trainer_spec.byte_fallback and model.trainer_spec.vocab_size == tokenizer.vocab_size
    assert not model.normalizer_spec.add_dummy_prefix and not model.normalizer_spec.remove_extra_whitespaces
    assert json.loads((tokenizer_dir / "tokenizer_config.json").read_text())["add_prefix_space"] is False
    for text in ("明月 the river's  end\n", "龘\x00🙂"):
        assert processor.decode(tokenizer.encode(text)) == text


def test_no_piece_crosses_a_border_of_the_pattern(ours: Path) -> None:
    tokenizer = Tokenizer.load(ours)
    names = [tokenizer.token_name(number) for number in range(272, tokenizer.vocab_size)]
    assert [name for name in names if len(pre_tokenizer().pre_tokenize_str(name)) > 1] == []


def test_a_low_line_that_means_a_space_in_sentencepiece_is_no_piece_of_ours(tmp_path: Path) -> None:
    write_split(tmp_path, "train", [("a", "▁▁我们▁的" * 50, "s", "zh")])
    train(TokenizerSettings(vocab_size=300), tmp_path, tmp_path / "out", Silent())
    tokenizer = Tokenizer.load(tmp_path / "out")
    assert not tokenizer.has_token("▁") and tokenizer.has_token(" ")
    assert tokenizer.decode(tokenizer.encode("▁ 我▁")) == "▁ 我▁"
    assert (tmp_path / "out" / "tokenizer.model").is_file()


@needs_shared
@pytest.mark.parametrize(
    "name",
    [*(pytest.param(name, marks=pytest.mark.slow) for name in ("chatglm2.model", "baichuan.gguf")), "llama-spm.gguf"],
)
def test_a_real_vocabulary_is_written_back_with_its_ids(name: str, tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp")
    tokenizer = Tokenizer.load(REAL / name)
    tokenizer.save(tmp_path)
    texts = HARDEST + list(lines("zh/wiki_cmrc2018", "en/wiki_demo", "zh/python_docs_zh", limit=1500))
    assert differing(tokenizer.encode_batch(texts), of_sentencepiece(tmp_path)(texts), texts) == []
    assert Tokenizer.load(tmp_path / "tokenizer.model").encode_batch(texts) == tokenizer.encode_batch(texts)
    if not name.startswith("chatglm2"):  # whose control tokens in the text llama.cpp would put a space behind
        encode = llama_cpp(read_model(tmp_path / "tokenizer.model"), tmp_path / "vocabulary.gguf")
        plain = [text for text in texts if "<" not in text]
        assert differing(tokenizer.encode_batch(plain), [encode(text) for text in plain], plain) == []


@pytest.mark.parametrize("options", [
    {"normalization_rule_name": "identity", "remove_extra_whitespaces": False, "add_dummy_prefix": False},
    {"normalization_rule_name": "nmt_nfkc", "user_defined_symbols": ["<p>", "---", "你好"]},
])  # fmt: skip
def test_what_a_model_does_with_spaces_and_characters_is_written_too(
    options: dict[str, object], tmp_path: Path
) -> None:
    path = train_model(tmp_path, byte_fallback=True, vocab_size=430, **options)
    tokenizer = Tokenizer.load(path)
    tokenizer.save(tmp_path / "out")
    oracle = spm.SentencePieceProcessor(model_file=str(path))
    texts = HARD + [before + after for before in HARD for after in HARD]
    assert of_sentencepiece(tmp_path / "out")(texts) == oracle.encode(texts)


def test_an_extended_vocabulary_has_a_model_with_the_same_ids(tokenizer_dir: Path, tmp_path: Path) -> None:
    folder = tmp_path / "corpus"
    write_split(
        folder, "train", [(i, f"{text}风流人物还看今朝", s, lang) for i, text, s, lang in make_rows(300, seed=9)]
    )
    extended(Tokenizer.load(tokenizer_dir), folder, add=60).tokenizer.save(tmp_path / "out")
    tokenizer = Tokenizer.load(tmp_path / "out")
    assert tokenizer.vocab_size > 400
    texts = HARDEST + [before + after for before in HARDEST for after in ("风流人物", "明月照我还看今朝")]
    texts += [text for _, text, _, _ in make_rows(100, seed=9)]
    assert differing(tokenizer.encode_batch(texts), of_sentencepiece(tmp_path / "out")(texts), texts) == []


@pytest.mark.slow
@needs_shared
def test_llamas_vocabulary_extended_with_chinese_has_a_model_with_the_same_ids(tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp")
    base = Tokenizer.load(REAL / "llama-spm.gguf")
    (tmp_path / "zh.txt").write_text("\n".join(lines("zh/novels_public_domain", limit=2000)), encoding="utf-8")
    extended(base, tmp_path / "zh.txt", add=1000).tokenizer.save(tmp_path)
    tokenizer = Tokenizer.load(tmp_path)
    texts = HARDEST + list(lines("zh/novels_public_domain", "zh/wiki_cmrc2018", "en/wiki_demo", limit=3000))
    assert differing(tokenizer.encode_batch(texts), of_sentencepiece(tmp_path)(texts), texts) == []
    encode = llama_cpp(read_model(tmp_path / "tokenizer.model"), tmp_path / "vocabulary.gguf")
    plain = [text for text in texts if "<" not in text]
    assert differing(tokenizer.encode_batch(plain), [encode(text) for text in plain], plain) == []


def test_an_old_piece_that_new_ones_can_make_is_made_as_in_sentencepiece(tmp_path: Path) -> None:
    names = ["<unk>", "<s>", "</s>", *(f"<0x{value:02X}>" for value in range(256)), "▁", *"甲乙丙丁", "甲乙", "甲乙丙"]
    backend = tokenizers.Tokenizer(
        tokenizers.models.BPE(
            {name: number for number, name in enumerate(names)}, [("甲", "乙"), ("甲乙", "丙")],
            unk_token="<unk>", fuse_unk=True, byte_fallback=True,
        )
    )  # fmt: skip
    shape = english_base().spec()
    spec = json.loads(backend.to_str()) | {key: shape[key] for key in ("normalizer", "decoder", "added_tokens")}
    base = Tokenizer(tokenizers.Tokenizer.from_str(json.dumps(spec)), "<s>", "</s>", None)
    (tmp_path / "zh.txt").write_text("乙丙丁 丁乙丙\n" * 50, encoding="utf-8")
    done = extend_tokenizer(base, tmp_path / "zh.txt", ExtendSettings(add=1, measure_mb=0.01), Silent())
    assert done.added == ["乙丙"] and ["甲", "乙丙"] in done.tokenizer.spec()["model"]["merges"]
    done.tokenizer.save(tmp_path)
    texts = ["甲乙丙", "乙丙丁甲", "甲甲乙丙丙"]
    assert of_sentencepiece(tmp_path)(texts) == done.tokenizer.encode_batch(texts)


@pytest.mark.parametrize("change", ["none", "words are cut", "a split is missing", "another order", "no bytes"])
def test_no_model_is_written_where_ids_would_differ(change: str, tmp_path: Path) -> None:
    tokenizer = Tokenizer(assemble([" ", *"abc"], [("a", "b"), ("ab", "c"), ("b", "c")]))
    spec = tokenizer.spec()
    assert spec["model"]["merges"] == [["a", "b"], ["ab", "c"], ["a", "bc"], ["b", "c"]]
    if change == "words are cut":
        spec["pre_tokenizer"] = {"type": "Whitespace"}
    elif change == "a split is missing":
        spec["model"]["merges"].pop(2)
    elif change == "another order":
        spec["model"]["merges"] = [spec["model"]["merges"][place] for place in (0, 1, 3, 2)]
    elif change == "no bytes":
        spec["model"]["byte_fallback"] = False
    tokenizer.respecified(tokenizers.Tokenizer.from_str(json.dumps(spec))).save(tmp_path)
    assert (tmp_path / "tokenizer.model").is_file() == (change == "none")
