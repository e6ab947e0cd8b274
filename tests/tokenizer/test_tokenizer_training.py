"""The learned vocabulary: its order, its size, its determinism, and what is refused."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tokenizer_samples import make_rows, texts_of, write_split

from inkstone.errors import InkstoneError, InputError
from inkstone.progress import Silent
from inkstone.tokenizer import CONTROL_TOKENS, Tokenizer, TokenizerSettings, train_tokenizer
from inkstone.tokenizer.bpe.pattern import PATTERN
from inkstone.tokenizer.bpe.train import BYTE_TOKENS, choose_alphabet, count_characters, count_words
from inkstone.tokenizer.bpe.words import Counter, code_points, cut, words_of
from inkstone.tokenizer.study.compression import measure

_TRAIN = """
import sys
from pathlib import Path
from inkstone.progress import Silent
from inkstone.tokenizer import TokenizerSettings, train_tokenizer
train_tokenizer(TokenizerSettings(vocab_size=400), Path(sys.argv[1]), Path(sys.argv[2]), Silent())
"""


def learn(corpus: Path, output: Path, **keys: float) -> dict[str, object]:
    output.mkdir(parents=True)
    return train_tokenizer(TokenizerSettings.model_validate(keys), corpus, output, Silent())


def counted(texts: list[str]) -> np.ndarray:
    counter = Counter()
    points, starts = code_points(texts)
    counter.add(words_of(points, cut(points, starts), starts))
    return count_characters(*counter.result())


def test_ids_are_control_tokens_then_bytes_then_characters_then_merges(tokenizer: Tokenizer) -> None:
    names = [tokenizer.token_name(token) for token in range(tokenizer.vocab_size)]
    assert names[:16] == list(CONTROL_TOKENS)
    assert names[:5] == ["<|bos|>", "<|eos|>", "<|pad|>", "<|im_start|>", "<|im_end|>"]
    assert names[5] == "<|reserved_0|>" and names[15] == "<|reserved_10|>"
    assert names[16:272] == list(BYTE_TOKENS)
    lengths = [len(name) for name in names[272:]]
    singles = lengths.index(2)
    assert set(lengths[:singles]) == {1} and min(lengths[singles:]) >= 2
    assert names[272 : 272 + singles] == sorted(names[272 : 272 + singles])


def test_the_vocabulary_has_the_size_asked_for(tokenizer: Tokenizer) -> None:
    assert tokenizer.vocab_size == 400


def test_every_learned_piece_encodes_to_itself(tokenizer: Tokenizer) -> None:
    pieces = [tokenizer.token_name(token) for token in range(272, tokenizer.vocab_size)]
    reached = [tokenizer.encode(piece) == [number] for number, piece in enumerate(pieces, start=272)]
    assert all(reached)


def test_pieces_are_no_longer_than_asked(corpus_dir: Path, tmp_path: Path) -> None:
    learn(corpus_dir, tmp_path / "t", vocab_size=400, max_piece_characters=3)
    tokenizer = Tokenizer.load(tmp_path / "t")
    lengths = {len(tokenizer.token_name(token)) for token in range(272, tokenizer.vocab_size)}
    assert max(lengths) == 3


def test_chinese_pieces_have_a_limit_of_their_own(corpus_dir: Path, tmp_path: Path) -> None:
    longest = {}
    for limit in (2, 4, 9):
        learn(corpus_dir, tmp_path / str(limit), vocab_size=8192, max_han_characters=limit)
        tokenizer = Tokenizer.load(tmp_path / str(limit))
        pieces = [tokenizer.token_name(token) for token in range(272, tokenizer.vocab_size)]
        longest[limit] = [max(len(piece) for piece in pieces if (piece[0] >= "一") == han) for han in (True, False)]
    # The longest run of Chinese characters in the corpus has 8.
    assert [longest[limit][0] for limit in (2, 4, 9)] == [2, 4, 8]
    assert longest[2][1] == longest[9][1] > 4


def test_the_same_corpus_gives_an_identical_file(corpus_dir: Path, tokenizer_dir: Path, tmp_path: Path) -> None:
    for number, threads in enumerate(("1", "2")):
        output = tmp_path / str(number)
        output.mkdir()
        environment = {**os.environ, "PYTHONHASHSEED": str(number), "RAYON_NUM_THREADS": threads}
        subprocess.run([sys.executable, "-c", _TRAIN, str(corpus_dir), str(output)], check=True, env=environment)
        assert (output / "tokenizer.json").read_bytes() == (tokenizer_dir / "tokenizer.json").read_bytes()


def test_a_small_corpus_gives_a_smaller_vocabulary_and_says_so(corpus_dir: Path, tmp_path: Path) -> None:
    result = learn(corpus_dir, tmp_path / "t", vocab_size=8192)
    assert result["vocab_size_asked"] == 8192
    assert result["vocab_size"] == Tokenizer.load(tmp_path / "t").vocab_size
    assert result["vocab_size"] < 8192


def test_a_vocabulary_too_small_for_the_characters_names_the_minimum_that_works(tmp_path: Path) -> None:
    write_split(tmp_path, "train", [("a", "".join(map(chr, range(0x4E00, 0x4E00 + 1000))), "zi", "zh")])
    write_split(tmp_path, "heldout", [])
    with pytest.raises(InputError, match=r"vocab_size = 1024 is too small .* at least (2072)\."):
        learn(tmp_path, tmp_path / "small", vocab_size=1024)
    assert learn(tmp_path, tmp_path / "enough", vocab_size=2072)["characters"] == 901  # and the space


def test_the_alphabet_takes_the_most_frequent_characters_up_to_the_coverage() -> None:
    counts = counted(["a" * 90, "b" * 5 + "c" * 4, "龘"])
    assert choose_alphabet(counts, 8192, 0.95).characters == ["a", "b"]
    assert choose_alphabet(counts, 8192, 0.99).characters == ["a", "b", "c"]
    assert choose_alphabet(counts, 8192, 1.0).characters == ["a", "b", "c", "龘"]
    limited = choose_alphabet(counts, 272 + 4, 0.99)
    assert limited.characters == ["a", "b"] and limited.coverage == pytest.approx(0.95)


def test_equally_frequent_characters_are_chosen_by_code_point() -> None:
    counts = counted(["丁丙乙甲" * 5])
    assert choose_alphabet(counts, 8192, 0.5).characters == sorted("丁丙乙甲")[:2]


def test_a_weight_below_one_is_not_rounded_up() -> None:
    words, counts, one = count_words([(["甲乙"] * 3, 1.0), (["丙丁"], 0.1)])
    found = dict(zip(texts_of(words), (counts / one).tolist(), strict=True))
    assert found == {"甲乙": pytest.approx(3), "丙丁": pytest.approx(0.1)}


def test_a_power_below_one_lifts_rare_words_and_keeps_the_weight_of_the_whole() -> None:
    texts = [(["甲乙"] * 16 + ["丙丁"], 1.0), (["戊己"], 0.5)]
    for power, ratio in ((1.0, 16), (0.5, 4), (0.0, 1)):
        words, counts, one = count_words(texts, power)
        found = dict(zip(texts_of(words), (counts / one).tolist(), strict=True))
        assert found["甲乙"] / found["丙丁"] == pytest.approx(ratio, rel=0.05)
        assert found["甲乙"] + found["丙丁"] == pytest.approx(17, rel=0.01) and found["戊己"] == pytest.approx(0.5)


def test_characters_beyond_the_first_plane_are_counted_once() -> None:
    counts = counted(["🙂a🙂", "\x00"])
    assert {chr(point): int(counts[point]) for point in np.nonzero(counts)[0]} == {"🙂": 2, "a": 1, "\x00": 1}


def test_a_rare_character_does_not_join_its_neighbours(tmp_path: Path) -> None:
    rows = [(str(number), f"x{chr(0x1E00 + number)}y", "s", "en") for number in range(200)]
    write_split(tmp_path, "train", [*rows, ("long", "z " * 3000, "s", "en")])
    write_split(tmp_path, "heldout", [])
    learn(tmp_path, tmp_path / "t", vocab_size=400, character_coverage=0.95)
    with pytest.raises(InputError):
        Tokenizer.load(tmp_path / "t").token_id("xy")


def test_a_sample_is_a_reproducible_share_of_whole_documents(tmp_path: Path) -> None:
    write_split(tmp_path, "train", make_rows(2000, seed=5))
    write_split(tmp_path, "heldout", [])
    whole = learn(tmp_path, tmp_path / "whole", vocab_size=400)
    results = [
        learn(tmp_path, tmp_path / f"{seed}-{turn}", vocab_size=400, sample_mb=0.02, seed=seed)
        for seed in (1, 2)
        for turn in (1, 2)
    ]
    prints = [result["fingerprint"] for result in results]
    assert prints[0] == prints[1] and prints[2] == prints[3]
    assert len({*prints, whole["fingerprint"]}) == 3


def test_measure_counts_what_a_hand_count_gives(tokenizer: Tokenizer) -> None:
    texts = ["明月照我还。", "龘a", "the river"]
    figures = measure(tokenizer, [(texts[:2], ["zh", "zh"]), (texts[2:], ["en"])])
    ids = [tokenizer.encode(text) for text in texts]
    zh, everything = figures["zh"], figures["all"]
    assert (zh["documents"], zh["characters"], zh["bytes"]) == (2, 8, 22)
    assert zh["tokens"] == len(ids[0]) + len(ids[1])
    known = {tokenizer.token_name(token) for token in range(272, tokenizer.vocab_size)}
    spelled = sum(len(character.encode()) for text in texts[:2] for character in text if character not in known)
    assert zh["byte_tokens"] == spelled >= 3
    assert zh["byte_fallback_share"] == pytest.approx(spelled / zh["tokens"], abs=1e-6)
    assert everything["tokens"] == sum(map(len, ids)) and everything["documents"] == 3
    assert everything["round_trip_failures"] == 0
    assert figures["en"]["tokens_per_character"] == pytest.approx(len(ids[2]) / 9, abs=1e-4)


def test_the_stage_measures_every_language_of_the_heldout_split(corpus_dir: Path, tokenizer_dir: Path) -> None:
    languages = json.loads((tokenizer_dir / "measure.json").read_text(encoding="utf-8"))["languages"]
    assert set(languages) == {"zh", "en", "all"}
    assert languages["all"]["documents"] == 30
    assert languages["all"]["round_trip_failures"] == 0


def test_the_pattern_uses_no_capture_groups_and_covers_all_text() -> None:
    from inkstone.tokenizer.bpe.pattern import pre_tokenizer

    text = "".join(map(chr, [*range(0x3000), *range(0x4E00, 0x4F00), 0x1F642, 0xE0001, 0x10FFFF]))
    assert "".join(piece for piece, _ in pre_tokenizer().pre_tokenize_str(text)) == text
    assert "(" not in PATTERN.replace("(?", "")


def test_an_empty_corpus_is_refused(tmp_path: Path) -> None:
    write_split(tmp_path, "train", [])
    write_split(tmp_path, "heldout", [])
    with pytest.raises(InputError, match="no text to train a tokenizer on"):
        learn(tmp_path, tmp_path / "t")


def test_a_missing_corpus_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere: no such file or directory"):
        learn(tmp_path / "nowhere", tmp_path / "t")


def test_a_damaged_parquet_file_is_named(tmp_path: Path) -> None:
    write_split(tmp_path, "train", make_rows(20, seed=1))
    path = tmp_path / "train" / "part-00000.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InkstoneError, match=r"part-00000\.parquet cannot be read as Parquet"):
        learn(tmp_path, tmp_path / "t")
