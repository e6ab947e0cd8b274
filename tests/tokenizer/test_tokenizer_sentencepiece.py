"""SentencePiece models open with exactly the ids that sentencepiece itself gives, whatever the text."""

import random
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from foreign_samples import HARD, REAL, lines, model_from_gguf, needs_shared, train_model
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from inkstone.errors import InputError
from inkstone.tokenizer import Tokenizer
from inkstone.tokenizer.foreign.sentencepiece import merges, read_model

spm = pytest.importorskip("sentencepiece")
pb2 = pytest.importorskip("sentencepiece.sentencepiece_model_pb2", exc_type=ImportError)

TEXTS = ["zh/wiki_cmrc2018", "en/wiki_demo", "zh/novels_public_domain", "en/books_public_domain", "zh/python_docs_zh"]
MANY_TEXTS = [*TEXTS, "zh/classical_modern_bitext", "en/python_docs_en", "zh/oi_wiki", "en/us_speeches", "zh/d2l_zh"]
Pair = tuple[Tokenizer, Callable[[list[str]], list[list[int]]]]
AWKWARD = st.lists(
    st.one_of(st.sampled_from(HARD), st.text(st.characters(exclude_categories=["Cs"]), max_size=6)), max_size=12
).map("".join)
# With user-defined symbols of every kind: longer than one character, one character, spaces, a control token's name.
OPTIONS: dict[str, dict[str, object]] = {
    "no-dummy-prefix": {"add_dummy_prefix": False, "normalization_rule_name": "identity", "byte_fallback": True,
                        "remove_extra_whitespaces": False, "vocab_size": 430},
    "user-defined": {"normalization_rule_name": "identity", "remove_extra_whitespaces": False, "byte_fallback": True,
                     "vocab_size": 430, "user_defined_symbols": ["<p>", "\n", "---", "▁▁▁", "ab", "a", "你好"]},
    "tidy-spaces": {"normalization_rule_name": "identity", "byte_fallback": True, "vocab_size": 430},
    "default": {"vocab_size": 180},
    "character-map": {"normalization_rule_name": "nmt_nfkc_cf", "byte_fallback": True, "vocab_size": 430,
                      "add_dummy_prefix": False, "user_defined_symbols": ["<p>", "你好"]},
    "unknown-token": {"normalization_rule_name": "identity", "remove_extra_whitespaces": False, "vocab_size": 180},
}  # fmt: skip


@pytest.fixture(scope="module", params=["chatglm2.model", "llama-spm.gguf", "baichuan.gguf"])
def real(request: pytest.FixtureRequest) -> Iterator[Pair]:
    path = REAL / request.param
    if not path.is_file():
        pytest.skip("shared/data is not beside the repository")
    model = path.read_bytes() if path.suffix == ".model" else model_from_gguf(path)
    yield Tokenizer.load(path), spm.SentencePieceProcessor(model_proto=model).encode


@pytest.fixture(scope="module", params=OPTIONS)
def small(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    path = train_model(tmp_path_factory.mktemp("small"), **OPTIONS[request.param])
    return Tokenizer.load(path), spm.SentencePieceProcessor(model_file=str(path)).encode


def differing(pair: Pair, texts: list[str]) -> list[str]:
    tokenizer, oracle = pair
    rows = zip(texts, tokenizer.encode_batch(texts), oracle(texts), strict=True)
    return [text for text, ours, theirs in rows if ours != theirs]


def test_real_text_has_the_ids_of_sentencepiece(real: Pair) -> None:
    texts = list(lines(*TEXTS, limit=1000))
    assert differing(real, texts) == []
    assert differing(real, ["\n".join(texts[:200])]) == []


@pytest.mark.slow
def test_hundreds_of_thousands_of_lines_have_the_ids_of_sentencepiece(real: Pair) -> None:
    texts = list(lines(*MANY_TEXTS))
    assert len(texts) > 100_000
    assert differing(real, texts) == []


def test_hard_text_has_the_ids_of_sentencepiece(real: Pair) -> None:
    assert differing(real, HARD + [before + after for before in HARD for after in HARD]) == []


def test_repetitions_of_any_piece_have_the_ids_of_sentencepiece(real: Pair) -> None:
    draw, names = random.Random(7), sorted(real[0].vocabulary())
    units = ["".join(draw.choice(names)[:4] for _ in range(draw.randint(1, 2))) for _ in range(4000)]
    assert differing(real, [(unit * 9)[: draw.randint(4, 40)].replace("▁", " ") for unit in units]) == []


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=AWKWARD)
def test_any_text_has_the_ids_of_sentencepiece_and_comes_back(real: Pair, text: str) -> None:
    tokenizer, oracle = real
    ids = tokenizer.encode(text)
    assert ids == oracle([text])[0]
    assert tokenizer.decode(ids) == text.replace("▁", " ")  # the one loss that SentencePiece has too
    assert tokenizer.control_ids.isdisjoint(ids)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=AWKWARD)
def test_every_trainer_option_keeps_the_ids_of_sentencepiece(small: Pair, text: str) -> None:
    assert differing(small, [text]) == []


def test_every_trainer_option_keeps_the_ids_of_hard_text(small: Pair) -> None:
    assert differing(small, HARD + [before + after for before in HARD for after in HARD]) == []


def test_a_continued_text_has_no_dummy_prefix(real: Pair) -> None:
    tokenizer, oracle = real
    for text in ("答：", "Hello", " two", "\n\n[Round 2]", "", "▁"):
        # ChatGLM's own way to continue: encode behind a line break, whose ids are those of "\n" alone.
        assert tokenizer.encode(text, continued=True) == oracle(["\n" + text])[0][len(oracle(["\n"])[0]) :]
    assert tokenizer.encode("Hello") != tokenizer.encode("Hello", continued=True)
    ids = tokenizer.encode(" two", continued=True)
    assert tokenizer.decode(ids, continued=True) == " two" and tokenizer.decode(ids) == "two"


def test_the_golden_prompt_of_chatglm2(chatglm: Path) -> None:
    tokenizer = Tokenizer.load(chatglm)
    names = ["[MASK]", "[gMASK]", "[sMASK]", "sop", "eop"]
    assert [tokenizer.token_id(name) for name in names] == [64789, 64790, 64791, 64792, 64793]
    ids = [tokenizer.token_id("[gMASK]"), tokenizer.token_id("sop"), *tokenizer.encode("[Round 1]\n\n问：你好\n\n答：")]
    assert ids[:10] == [64790, 64792, 790, 30951, 517, 30910, 30939, 30996, 13, 13]
    assert ids[10:] == [54761, 31211, 39701, 13, 13, 55437, 31211]
    assert [*tokenizer.encode("你好！"), *tokenizer.end_ids] == [36474, 54591, 31404, 2]
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (1, 2, 0)
    typed = tokenizer.encode_batch(names + [f" {name}" for name in names])
    assert all(max(ids) < 64789 for ids in typed)


@pytest.fixture
def chatglm(tmp_path: Path) -> Path:
    """A ChatGLM2 directory as published, without its code and weights."""
    if not REAL.is_dir():
        pytest.skip("shared/data is not beside the repository")
    (tmp_path / "tokenizer.model").write_bytes((REAL / "chatglm2.model").read_bytes())
    (tmp_path / "tokenizer_config.json").write_text(
        '{"name_or_path": "THUDM/chatglm-6b", "remove_space": false, "tokenizer_class": "ChatGLMTokenizer",'
        ' "auto_map": {"AutoTokenizer": ["tokenization_chatglm.ChatGLMTokenizer", null]}}',
        encoding="utf-8",
    )
    return tmp_path


@needs_shared
def test_baichuans_reserved_pieces_are_reached_by_name_only() -> None:
    tokenizer = Tokenizer.load(REAL / "baichuan.gguf")
    assert [tokenizer.token_id(f"<reserved_{number}>") for number in (102, 103)] == [195, 196]
    assert {195, 196} <= tokenizer.control_ids
    for continued in (False, True):
        assert tokenizer.control_ids.isdisjoint(tokenizer.encode("<reserved_102>", continued))
    assert tokenizer.decode([195], skip_control=True) == ""


@pytest.mark.parametrize("name", OPTIONS)
def test_transformers_opens_what_save_writes_with_equal_ids(name: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    path = train_model(tmp_path, **OPTIONS[name])
    ours = Tokenizer.load(path)
    ours.save(tmp_path / "saved")
    again = Tokenizer.load(tmp_path / "saved")
    peer = transformers.AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert again.fingerprint == ours.fingerprint
    control = [token for token in ours.vocabulary() if ours.token_id(token) in ours.control_ids]
    texts = [text for text in HARD if not any(token in text for token in control)]
    if name in ("default", "character-map"):  # the library's own reading of a map leaves decomposed characters alone
        texts = [text for text in texts if text == unicodedata.normalize("NFC", text)]
    # transformers looks for these before it puts the prefix, so a text that is nothing else begins without one
    alone = {"<p>", "---", "ab", "你好", "▁▁▁"}
    for text in texts:
        assert again.encode(text) == ours.encode(text)
        if text not in alone:
            assert peer(text, add_special_tokens=False)["input_ids"] == ours.encode(text), text


def test_the_model_file_is_read_as_protobuf_reads_it(tmp_path: Path) -> None:
    path = REAL / "chatglm2.model" if REAL.is_dir() else train_model(tmp_path)
    theirs = pb2.ModelProto.FromString(path.read_bytes())
    ours = read_model(path)
    assert ours.names == [piece.piece for piece in theirs.pieces]
    assert ours.scores == [piece.score for piece in theirs.pieces]
    assert ours.kinds == [piece.type for piece in theirs.pieces]
    assert ours.charsmap == theirs.normalizer_spec.precompiled_charsmap
    assert (ours.bos, ours.eos, ours.pad) == tuple(
        getattr(theirs.trainer_spec, f"{role}_id") for role in ("bos", "eos", "pad")
    )
    assert ours.dummy_prefix == theirs.normalizer_spec.add_dummy_prefix
    assert ours.remove_extra_whitespaces == theirs.normalizer_spec.remove_extra_whitespaces


def test_a_unigram_model_is_refused_by_name(tmp_path: Path) -> None:
    path = train_model(tmp_path, model_type="unigram", vocab_size=68)
    with pytest.raises(InputError, match=r"small\.model is a unigram model"):
        Tokenizer.load(path)


@pytest.mark.parametrize("length", [1, 100, 3000])
def test_a_truncated_model_is_refused_by_name(length: int, tmp_path: Path) -> None:
    path = train_model(tmp_path)
    path.write_bytes(path.read_bytes()[:-length])
    with pytest.raises(InputError, match=r"small\.model cannot be read as a SentencePiece model"):
        Tokenizer.load(path)


def test_a_tiktoken_file_of_the_same_name_is_told_apart(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_text("IQ== 0\nIg== 1\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"it is a tiktoken file: give the tokenizer\.json"):
        Tokenizer.load(tmp_path)


def test_a_model_whose_ids_merges_cannot_express_is_refused_with_its_pieces(tmp_path: Path) -> None:
    path = train_model(tmp_path)
    model = pb2.ModelProto.FromString(path.read_bytes())
    twice = model.pieces[-1].piece
    model.pieces.add(piece=twice, score=-1.0)
    model.pieces.add(piece="ж龘", score=-1.0)
    path.write_bytes(model.SerializeToString())
    with pytest.raises(InputError) as caught:
        Tokenizer.load(path)
    assert f"{twice!r} more than once" in caught.value.problems[0] and "'ж龘'" in caught.value.problems[1]


def test_merges_come_by_score_and_the_leftmost_of_overlapping_ones_wins(tmp_path: Path) -> None:
    model = read_model(train_model(tmp_path, byte_fallback=True, vocab_size=430, normalization_rule_name="identity"))
    scores = dict(zip(model.names, model.scores, strict=True))
    ranked = [scores[left + right] for left, right in merges(model)]
    assert ranked == sorted(ranked, reverse=True)
