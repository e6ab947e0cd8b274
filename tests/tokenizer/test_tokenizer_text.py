"""What the tokenizer promises about any text: exact return, no control tokens, borders that merges never cross."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from inkstone.errors import InkstoneError, InputError
from inkstone.tokenizer import CONTROL_TOKENS, Tokenizer
from inkstone.tokenizer.bpe.train import BYTE_TOKENS

CONTROL_IDS = set(range(len(CONTROL_TOKENS)))
VALID_TEXT = st.text(st.characters(exclude_categories=["Cs"]))
AWKWARD = st.lists(
    st.one_of(
        st.sampled_from([*CONTROL_TOKENS, *BYTE_TOKENS[:4], "<0x41>", "▁", " ", "  ", "\n", "\r\n", "\t", "\u3000"]),
        st.sampled_from(["明月", "the", "don't", "’s", "2024", "，", "\x00", "\ufffd", "\ufeff", "🙂", "e\u0301"]),
        VALID_TEXT,
    )
).map("".join)
fast = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@fast
@given(text=AWKWARD)
def test_decoding_gives_back_any_valid_text_exactly(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


@fast
@given(text=AWKWARD)
def test_no_text_produces_a_control_token(tokenizer: Tokenizer, text: str) -> None:
    assert CONTROL_IDS.isdisjoint(tokenizer.encode(text))


@pytest.mark.parametrize("name", [*CONTROL_TOKENS, "<0x41>", "<0xAB>", "<0xE4><0xBD><0xA0>"])
def test_names_of_special_pieces_are_plain_text_when_typed(tokenizer: Tokenizer, name: str) -> None:
    ids = tokenizer.encode(name)
    assert len(ids) > 1
    assert tokenizer.decode(ids) == name
    assert tokenizer.decode(ids, skip_control=True) == name


@fast
@given(texts=st.lists(AWKWARD, max_size=8))
def test_a_batch_encodes_like_its_texts_alone(tokenizer: Tokenizer, texts: list[str]) -> None:
    assert tokenizer.encode_batch(texts) == [tokenizer.encode(text) for text in texts]


def test_digits_are_encoded_one_by_one(tokenizer: Tokenizer) -> None:
    for text in ("2024", "1234", "共1234人", "in 2024", "10\n\n"):
        digits = [name for name in map(tokenizer.token_name, tokenizer.encode(text)) if any(map(str.isdigit, name))]
        assert digits == [character for character in text if character.isdigit()]


@fast
@given(before=AWKWARD, after=VALID_TEXT.map(str.strip))
def test_text_after_a_newline_encodes_as_if_alone(tokenizer: Tokenizer, before: str, after: str) -> None:
    head = before + "\n"
    assert tokenizer.encode(head + after) == tokenizer.encode(head) + tokenizer.encode(after)


def test_control_tokens_decode_to_their_names_or_to_nothing(tokenizer: Tokenizer) -> None:
    ids = [tokenizer.bos_id, *tokenizer.encode("明月"), tokenizer.token_id("<|im_end|>"), tokenizer.eos_id]
    assert tokenizer.decode(ids) == "<|bos|>明月<|im_end|><|eos|>"
    assert tokenizer.decode(ids, skip_control=True) == "明月"


def test_text_that_is_not_unicode_is_refused_with_its_place(tokenizer: Tokenizer) -> None:
    with pytest.raises(InputError, match=r"text 1 has a lone surrogate \(\\ud800\) at character 2"):
        tokenizer.encode_batch(["fine", "ab\ud800"])


@pytest.mark.parametrize("ids", [[-1], [1_000_000], [3, 480]])
def test_an_id_outside_the_vocabulary_is_refused(tokenizer: Tokenizer, ids: list[int]) -> None:
    with pytest.raises(InputError, match=f"id {ids[-1]} is outside the tokenizer's vocabulary"):
        tokenizer.decode(ids)


def test_an_unknown_token_name_is_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(InputError, match=r'no token "<\|no\|>"'):
        tokenizer.token_id("<|no|>")


def test_saving_and_loading_keeps_ids_and_fingerprint(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path / "copy")
    copy = Tokenizer.load(tmp_path / "copy")
    text = "明月照我还。the river 2024\n<|im_end|>龘"
    assert copy.encode(text) == tokenizer.encode(text)
    assert copy.fingerprint == tokenizer.fingerprint
    assert (copy.bos_id, copy.eos_id, copy.pad_id) == (0, 1, 2)


def test_loading_says_what_a_directory_should_hold(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere does not exist"):
        Tokenizer.load(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"has no tokenizer.json and no tokenizer.model"):
        Tokenizer.load(tmp_path)


def test_loading_a_damaged_tokenizer_names_the_file(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    path = tmp_path / "tokenizer.json"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(InkstoneError, match=r"tokenizer\.json is not valid JSON"):
        Tokenizer.load(tmp_path)


def test_a_tokenizer_may_lack_begin_end_and_padding(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": {"content": "<|eos|>"}}', encoding="utf-8")
    partial = Tokenizer.load(tmp_path)
    assert (partial.bos_id, partial.eos_id, partial.pad_id) == (None, 1, None)
    assert (partial.start_ids, partial.end_ids, partial.first_id, partial.last_id) == ([], [1], 1, 1)
    (tmp_path / "tokenizer_config.json").unlink()
    with pytest.raises(InputError, match="names no end token"):
        Tokenizer.load(tmp_path).last_id  # noqa: B018


def test_a_role_whose_token_is_missing_is_refused_by_name(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    roles = '{"bos_token": "<|bos|>", "eos_token": "</s>", "pad_token": "[P]"}'
    (tmp_path / "tokenizer_config.json").write_text(roles, encoding="utf-8")
    with pytest.raises(InputError) as caught:
        Tokenizer.load(tmp_path)
    assert [problem.split(" names ")[1][:6] for problem in caught.value.problems] == ['"</s>"', '"[P]" ']


def test_transformers_reads_the_directory_with_equal_ids(tokenizer: Tokenizer, tokenizer_dir: Path) -> None:
    transformers = pytest.importorskip("transformers")
    peer = transformers.AutoTokenizer.from_pretrained(tokenizer_dir)
    assert (peer.bos_token_id, peer.eos_token_id, peer.pad_token_id) == (0, 1, 2)
    assert len(peer) == tokenizer.vocab_size

    @settings(max_examples=150, deadline=None)
    @given(text=AWKWARD.filter(lambda text: not any(name in text for name in CONTROL_TOKENS)))
    def compare(text: str) -> None:
        ids = peer(text)["input_ids"]
        assert ids == tokenizer.encode(text)
        assert peer.decode(ids) == text

    compare()
