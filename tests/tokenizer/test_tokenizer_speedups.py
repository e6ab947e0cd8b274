"""The fast paths give exactly what the library gives: cuts, merges learned, ids."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizer_samples import make_rows, texts_of, write_split
from tokenizers import models, trainers

from inkstone.errors import InputError
from inkstone.tokenizer import Tokenizer
from inkstone.tokenizer.bpe import lookup, remembered
from inkstone.tokenizer.bpe.learn import Bounds, learn_merges
from inkstone.tokenizer.bpe.lookup import Encoder
from inkstone.tokenizer.bpe.pattern import borders, pre_tokenizer
from inkstone.tokenizer.bpe.table import Slots
from inkstone.tokenizer.bpe.train import split_at_rare
from inkstone.tokenizer.bpe.words import Counter, Words, code_points, cut, words_of

DATA = Path(__file__).parents[2].parent / "shared" / "data" / "tokenizers"
# Every class of the pattern, its apostrophes and its odd characters, so that short texts meet all the borders.
HARD = "  \t\n\r'’sStTdDmMrReEvVlLſK中国〇々0１五é\u0301!?.\u3000\u00a0\u2028🙂⺀\x00_ªǅİ<|im_end|>▁-=the河流"
texts = st.text(st.sampled_from(HARD) | st.characters(exclude_categories=["Cs"]), max_size=40)
many = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def library(tokenizer: Tokenizer, batch: list[str]) -> list[list[int]]:
    backend = tokenizers.Tokenizer.from_str(json.dumps(tokenizer.spec()))
    backend.encode_special_tokens = True
    return [found.ids for found in backend.encode_batch_fast(batch, add_special_tokens=False)]


def split(ids: np.ndarray, ends: np.ndarray) -> list[list[int]]:
    return [part.tolist() for part in np.split(ids, ends[:-1])]


@many
@given(batch=st.lists(texts, min_size=1, max_size=6))
def test_the_cuts_are_those_of_the_regular_expression(batch: list[str]) -> None:
    points, starts = code_points(batch)
    begins = cut(points, starts)
    for text, first in zip(batch, starts[:-1].tolist(), strict=True):
        wanted = [start for _, (start, _) in pre_tokenizer().pre_tokenize_str(text)]
        assert np.flatnonzero(begins[first : first + len(text)]).tolist() == wanted


def test_a_document_with_an_odd_character_is_cut_by_the_expression_itself() -> None:
    points, starts = code_points(["plain", "中⺀", "it'ſ"])
    assert borders(points, starts[:-1])[1].tolist() == [False, True, True]


@many
@given(batch=st.lists(texts, min_size=1, max_size=6))
def test_a_batch_gets_the_ids_that_the_library_gives(tokenizer: Tokenizer, batch: list[str]) -> None:
    assert split(*tokenizer.encode_flat(batch)) == library(tokenizer, batch)


@pytest.mark.parametrize(
    "name",
    [
        "llama-spm.gguf",
        pytest.param("baichuan.gguf", marks=pytest.mark.slow),
        pytest.param("chatglm2.model", marks=pytest.mark.slow),
    ],
)
def test_real_sentencepiece_vocabularies_get_the_librarys_ids(name: str) -> None:
    if not (DATA / name).is_file():
        pytest.skip("needs shared/data/tokenizers")
    tokenizer = Tokenizer.load(DATA / name)
    assert tokenizer.encoder is not None

    @settings(max_examples=60, deadline=None)
    @given(batch=st.lists(texts, min_size=1, max_size=6))
    def compare(batch: list[str]) -> None:
        assert split(*tokenizer.encode_flat(batch)) == tokenizer.encode_batch(batch)

    compare()


def test_a_text_longer_than_a_window_gets_the_same_ids(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "".join(text for _, text, _, _ in make_rows(60, seed=4)) + HARD * 5
    whole = tokenizer.encode_flat([text, "after", text])[0].tolist()
    for window in (150, 401):
        monkeypatch.setattr(lookup, "WINDOW", window)
        monkeypatch.setattr(lookup, "BLOCK_CHARACTERS", 100)
        assert tokenizer.encode_flat([text, "after", text])[0].tolist() == whole


def test_words_are_remembered_and_forgotten_without_changing_an_id(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = [text for _, text, _, _ in make_rows(100, seed=6)]
    first = tokenizer.encode_flat(batch)[0]
    monkeypatch.setattr(remembered, "_SLOT_BITS", 14)
    small = Encoder.of(tokenizers.Tokenizer.from_str(json.dumps(tokenizer.spec())))
    assert small is not None
    for number in range(12):
        fresh = [f"{chr(0x4E00 + number * 900 + step)}明" for step in range(900)]
        small.encode(fresh)
        assert np.array_equal(small.encode(batch)[0], first)
    monkeypatch.setattr(remembered, "_SLOT_BITS", 4)  # less than one batch needs
    tiny = Encoder.of(tokenizers.Tokenizer.from_str(json.dumps(tokenizer.spec())))
    assert tiny is not None
    assert np.array_equal(tiny.encode(batch)[0], first)


def test_a_tokenizer_of_another_kind_has_no_fast_encoder_and_the_same_ids() -> None:
    backend = tokenizers.Tokenizer(models.BPE(vocab={"a": 0, "b": 1, "ab": 2}, merges=[("a", "b")]))
    assert Encoder.of(backend) is None


def test_merges_learned_are_those_of_the_library() -> None:
    rows = [text for _, text, _, _ in make_rows(500, seed=3)] + ["aaaa aaa aaaaa banana abababab 哈哈哈哈哈"] * 3
    counter = Counter()
    points, starts = code_points(rows)
    counter.add(words_of(points, cut(points, starts), starts))
    alphabet = sorted(set("".join(rows)))
    bounds = Bounds(pieces=150, longest=16, min_frequency=2, unwanted=lambda piece: False)
    merges = learn_merges(*split_at_rare(*counter.result(), alphabet), alphabet, bounds)
    peer = tokenizers.Tokenizer(models.BPE())
    peer.pre_tokenizer = pre_tokenizer()
    trainer = trainers.BpeTrainer(
        vocab_size=len(alphabet) + 150, min_frequency=2, max_token_length=17, special_tokens=[], show_progress=False
    )
    peer.train_from_iterator(rows, trainer=trainer)
    assert merges == [tuple(pair) for pair in json.loads(peer.to_str())["model"]["merges"]]


def test_what_is_left_out_early_changes_no_merge(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = np.random.default_rng(1)
    rows = ["".join(map(chr, 0x4E00 + (draw.zipf(1.3, 60) % 400))) for _ in range(400)]
    counter = Counter()
    points, starts = code_points(rows)
    counter.add(words_of(points, cut(points, starts), starts))
    alphabet = sorted(set("".join(rows)))
    words = split_at_rare(*counter.result(), alphabet)
    bounds = Bounds(pieces=120, longest=16, min_frequency=2, unwanted=lambda piece: False)
    learned = []
    for guess in (1e9, 1.5, 0.3):  # nothing left out; the default; far too much, so that it is tried again
        monkeypatch.setattr("inkstone.tokenizer.bpe.learn._GUESS", guess)
        learned.append(learn_merges(*words, alphabet, bounds))
    assert learned[0] == learned[1] == learned[2] and len(learned[0]) == 120


def test_counting_does_not_depend_on_how_text_is_cut_into_blocks() -> None:
    rows = [text for _, text, _, _ in make_rows(200, seed=9)]
    results = []
    for size in (1, 7, 200):
        counter = Counter()
        for first in range(0, len(rows), size):
            points, starts = code_points(rows[first : first + size])
            counter.add(words_of(points, cut(points, starts), starts))
        words, counts = counter.result()
        results.append(dict(zip(texts_of(words), counts.tolist(), strict=True)))
    assert results[0] == results[1] == results[2]
    assert sum(len(word) * count for word, count in results[0].items()) == sum(map(len, rows))


@given(keys=st.sets(st.integers(1, 2**64 - 1), max_size=400))
def test_every_key_finds_its_own_slot(keys: set[int]) -> None:
    table, array = Slots(10), np.array(sorted(keys), dtype=np.uint64)
    half = len(array) // 2
    slots = np.concatenate([table.insert(array[:half]), table.insert(array[half:])])
    assert np.array_equal(table.find(array), slots) and len(set(slots.tolist())) == len(keys)


def test_words_are_taken_out_with_their_own_characters() -> None:
    words = Words(np.arange(10, dtype=np.uint32), np.array([0, 3, 4, 10]), np.array([0, 3]))
    points, lengths = words.chosen(np.array([2, 0]))
    assert points.tolist() == [4, 5, 6, 7, 8, 9, 0, 1, 2] and lengths.tolist() == [6, 3]


_LINE = """
import resource, sys
from pathlib import Path
from inkstone.tokenizer import Tokenizer
tokenizer = Tokenizer.load(Path(sys.argv[1]))
tokenizer.encode_flat(["warm"])
text = sys.argv[2] * (100_000_000 // len(sys.argv[2].encode()))
ids, ends = tokenizer.encode_flat([text])
begin = tokenizer.decode(ids[:1000].tolist())[:-4]  # the cut may go through a character
assert begin and text.startswith(begin)
print(len(ids), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


@pytest.mark.slow
@pytest.mark.parametrize("unit", ["a", "明月照我还。the river ", "-"])
def test_a_line_of_100_mb_takes_bounded_memory(tokenizer_dir: Path, unit: str) -> None:
    command = [sys.executable, "-c", _LINE, str(tokenizer_dir), unit]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)
    assert int(done.stdout.split()[1]) < 3000  # MiB, about 28 bytes a character: text, code points, words, ids


def test_a_word_without_end_is_cut_and_still_decodes(tokenizer: Tokenizer) -> None:
    text = "a" * 200_000
    ids, _ = tokenizer.encode_flat([text])
    assert tokenizer.decode(ids.tolist()) == text


def test_weights_move_the_vocabulary_towards_a_domain(tmp_path: Path) -> None:
    from inkstone.progress import Silent
    from inkstone.tokenizer import TokenizerSettings, train_tokenizer

    write_split(tmp_path, "train", make_rows(400, seed=1))
    write_split(tmp_path, "heldout", [])
    shares = {}
    for name, zh in (("zh", 0.95), ("en", 0.05)):
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps({"weights": {"zh/books-zh": zh, "en/books-en": 1 - zh}}), encoding="utf-8")
        (tmp_path / name).mkdir()
        train_tokenizer(TokenizerSettings(vocab_size=380), tmp_path, tmp_path / name, Silent(), path)
        tokenizer = Tokenizer.load(tmp_path / name)
        pieces = [tokenizer.token_name(token) for token in range(272, tokenizer.vocab_size)]
        shares[name] = sum(piece[0] >= "一" and len(piece) > 1 for piece in pieces)
    assert shares["zh"] > shares["en"]
    (tmp_path / "bad.json").write_text('{"weights": {"zh/books-zh": 1, "fr/books": 2}}', encoding="utf-8")
    with pytest.raises(InputError) as caught:
        train_tokenizer(TokenizerSettings(vocab_size=380), tmp_path, tmp_path / "zh", Silent(), tmp_path / "bad.json")
    assert len(caught.value.problems) == 2 and "en/books-en, which no weight covers" in str(caught.value)
