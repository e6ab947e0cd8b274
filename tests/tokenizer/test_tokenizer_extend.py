"""An extended vocabulary: old ids stay, new pieces are Chinese and can be produced, fewer tokens, chosen by ALP."""

import json
from pathlib import Path

import pytest
import tokenizers
from tokenizer_samples import make_rows, write_split
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from inkstone.errors import InputError
from inkstone.progress import Silent
from inkstone.tokenizer import ExtendSettings, Extension, Tokenizer, extend_tokenizer
from inkstone.tokenizer.extend import Tried, append, check_unchanged, choose, is_chinese

BYTES = [f"<0x{value:02X}>" for value in range(256)]


def english_base() -> Tokenizer:
    """As LLaMA's: spaces as "▁", a dummy prefix, byte fallback, almost no Chinese."""
    pieces = ["<unk>", "<s>", "</s>", *BYTES, *" ▁abcdefghijklmnopqrstuvwxyz,.';0123456789=\n"[1:], "明", "中"]
    merges = [("t", "h"), ("th", "e"), ("▁", "the"), ("r", "i"), ("▁", "ri"), ("e", "r"), ("明", "中")]
    pieces += [left + right for left, right in merges]
    model = models.BPE(
        vocab={piece: number for number, piece in enumerate(pieces)}, merges=merges, unk_token="<unk>",
        fuse_unk=True, byte_fallback=True,
    )  # fmt: skip
    backend = tokenizers.Tokenizer(model)
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.add_special_tokens(["<unk>", "<s>", "</s>"])
    return Tokenizer(backend, "<s>", "</s>", None)


def byte_level_base() -> Tokenizer:
    """As BLOOM's and LLaMA-3's: bytes spelled as letters, with an added token behind the vocabulary."""
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
        special_tokens=["<s>"],
    )
    backend.train_from_iterator(
        [text for _, text, _, _ in make_rows(200, seed=8)] + ["的一是在不了有和人这中大"], trainer
    )
    backend.add_special_tokens(["<|end|>"])
    return Tokenizer(backend, "<s>", "<|end|>", None)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    write_split(folder, "train", make_rows(600, seed=1))
    write_split(folder, "heldout", [])
    return folder


def extended(base: Tokenizer, corpus: Path, **keys: object) -> Extension:
    return extend_tokenizer(base, corpus, ExtendSettings.model_validate({"add": 40, **keys}), Silent())


@pytest.mark.parametrize("base", [english_base(), byte_level_base()], ids=["sentencepiece", "byte level"])
def test_old_ids_stay_and_every_new_piece_encodes_to_itself(base: Tokenizer, corpus: Path) -> None:
    done = extended(base, corpus)
    assert 20 < len(done.added) <= 40 and all(character >= "一" for piece in done.added for character in piece)
    assert done.tokenizer.vocab_size == base.vocab_size + len(done.added)
    assert base.vocabulary().items() <= done.tokenizer.vocabulary().items()
    for number, piece in enumerate(done.added, start=base.vocab_size):
        assert done.tokenizer.encode(piece, continued=True) == [number]
        assert done.tokenizer.decode([number], continued=True) == piece
    for text in ("the river runs to the sea, 2024\n", "<|end|> <s> don't", ""):
        assert done.tokenizer.encode(text) == base.encode(text)
    text = "明月照我还。the river 龘"
    assert done.tokenizer.decode(done.tokenizer.encode(text)) == text
    tokens = done.report["tokens"]
    assert isinstance(tokens, dict) and tokens["after"] < 0.8 * tokens["before"]
    chinese = [text for _, text, _, _ in make_rows(600, seed=1) if is_chinese(text)]
    assert tokens["before"] == sum(map(len, base.encode_batch(chinese)))
    assert tokens["after"] == sum(map(len, done.tokenizer.encode_batch(chinese)))
    checked = done.report["text_without_chinese"]
    assert isinstance(checked, dict) and checked["characters"] > 1000 and checked["ids_changed"] == 0
    assert done.tokenizer.control_ids == base.control_ids


def test_chinese_lines_of_a_file_in_several_languages_count(tmp_path: Path) -> None:
    lines = [text for _, text, _, _ in make_rows(200, seed=1)]
    mixed = tmp_path / "all.txt"
    mixed.write_text("\n".join([*lines, "the river runs to the sea " * 2000]), encoding="utf-8")
    tokens = extended(english_base(), mixed).report["tokens"]
    assert isinstance(tokens, dict) and 0 < tokens["after"] < 0.8 * tokens["before"]


def test_transformers_opens_it_with_the_same_ids(corpus: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    done = extended(english_base(), corpus)
    done.tokenizer.save(tmp_path)
    peer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for text in ("春风又绿江南岸，明月照我还。", "the river 学而时习之"):
        assert peer(text, add_special_tokens=False)["input_ids"] == done.tokenizer.encode(text)
        assert Tokenizer.load(tmp_path).encode(text) == done.tokenizer.encode(text)


def test_what_an_old_merge_keeps_from_being_produced_is_left_out() -> None:
    base = english_base()
    tokenizer, added = append(base, ["国", "天", "中国", "明天", "明中天"], 5)
    assert "明中天" in added and "中国" in added
    # "明中" is an old merge, so in 明中国 the new piece 中国 is never reached: it is no part of a wanted piece's way.
    tokenizer, added = append(base, ["国", "中国", "月", "明中国"], 4)
    reached = [
        tokenizer.encode(piece, continued=True) == [base.vocab_size + place] for place, piece in enumerate(added)
    ]
    assert all(reached)
    tokenizer, added = append(base, ["国", "x中国"], 2)  # no way to build it from known pieces
    assert added == ["国"] and tokenizer.vocab_size == base.vocab_size + 1


def test_an_extension_that_would_change_old_ids_is_refused() -> None:
    base = english_base()
    tokenizer, added = append(base, ["ver"], 1)
    assert added == ["ver"]
    with pytest.raises(InputError, match=r"would change the ids of text without Chinese, e\.g\. 'the river'"):
        check_unchanged(base, tokenizer, iter(["a", "the river"]))
    other = english_base().spec()
    vocabulary = other["model"]["vocab"]
    vocabulary["e"], vocabulary["f"] = vocabulary["f"], vocabulary["e"]
    swapped = base.respecified(tokenizers.Tokenizer.from_str(json.dumps(other)))
    with pytest.raises(InputError, match=r'would change the id of "[ef]"'):
        check_unchanged(base, swapped, iter([]))


def test_the_knee_is_where_further_pieces_stop_to_pay() -> None:
    curve = [Tried(100, added, value) for added, value in ((0, -10), (10, -5), (20, -4), (30, -3.8), (40, -3.7))]
    worse = [Tried(50, one.added, one.alp - 1) for one in curve]
    assert choose(worse + curve) == curve[1]
    assert choose(curve[:1]) == curve[0]


def test_a_grid_of_characters_and_pieces_is_tried(corpus: Path) -> None:
    done = extended(english_base(), corpus, choose="alp", characters=[10, 20], measure_mb=0.05)
    grid = done.report["grid"]
    assert isinstance(grid, list) and {one["characters"] for one in grid} == {10, 20}
    assert len(grid) >= 10 and done.report["single_characters"] in (10, 20)
    for number in (10, 20):
        curve = [one for one in grid if one["characters"] == number]
        assert curve[-1]["alp"] > curve[0]["alp"] and curve[0]["added"] == 0
    assert done.report["added"] in {one["added"] for one in grid}


def test_a_corpus_without_chinese_is_refused(tmp_path: Path) -> None:
    (tmp_path / "en.txt").write_text("the river", encoding="utf-8")
    with pytest.raises(InputError, match="no Chinese characters to learn pieces from"):
        extend_tokenizer(english_base(), [tmp_path / "en.txt"], ExtendSettings(add=5), Silent())
