"""Quality: learns from examples, is calibrated, does not care for length, and is the same after a save."""

import json
import random
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from typer.testing import CliRunner

from inkstone.cli.commands import app
from inkstone.corpus.judge.kernel import Tokens, flatten, tokenize
from inkstone.corpus.judge.perplexity import DISCOUNT, NEW_TOKENS, train_ngrams
from inkstone.corpus.judge.quality import QualityModel, calibrate, load_quality, save_quality, train
from inkstone.errors import InputError

GOOD = "河水流过石桥老人坐在岸边看书孩子们唱着歌回家月亮从山后慢慢升起来照着田野和村庄的屋顶"
BAD = "限时优惠快来抢购加微信领取红包转账充值秒到账稳赚不赔内部消息点击链接注册送大礼名额有限先到先得"
SHARED = "的一是在有了不和人这中大为上个国我以要他"


def texts(letters: str, seed: int, number: int = 160) -> list[str]:
    """Texts of characters drawn from a class's own and from those that both share."""
    rng = random.Random(seed)
    return ["".join(rng.choice(letters if rng.random() < 0.3 else SHARED) for _ in range(rng.randint(20, 300)))
            for _ in range(number)]  # fmt: skip


def tokens(some: list[str]) -> Tokens:
    return tokenize(flatten(pa.array(some, pa.string())))


@pytest.fixture(scope="module")
def model() -> QualityModel:
    return train(texts(GOOD, 1), texts(BAD, 2))


def test_unseen_texts_are_told_apart_whatever_their_length(model: QualityModel) -> None:
    good, bad = model.score(tokens(texts(GOOD, 3))), model.score(tokens(texts(BAD, 4)))
    assert (good > 0.5).mean() > 0.97 and (bad < 0.5).mean() > 0.97
    long = model.score(tokens(["".join(texts(GOOD, 5)), "".join(texts(BAD, 6))]))
    assert long[0] > 0.9 and long[1] < 0.1
    assert ((good >= 0) & (good <= 1)).all() and len(np.unique(good)) > 100


def test_a_span_scores_like_the_same_text_alone(model: QualityModel) -> None:
    parts = [texts(GOOD, 7)[0], texts(BAD, 8)[0]]
    whole, single = tokens(["。".join(parts)]), tokens(parts)
    first = np.array([0, len(parts[0])])
    scores = model.score_spans(whole, first, np.array([len(part) for part in parts]))
    assert np.allclose(scores, model.score(single))


def test_training_and_saving_are_deterministic(model: QualityModel, tmp_path: Path) -> None:
    save_quality(model, tmp_path)
    again, some = load_quality(tmp_path), tokens(texts(GOOD, 9))
    assert (again.score(some) == model.score(some)).all()
    assert (again.perplexity(some) == model.perplexity(some)).all()
    (tmp_path / "twice").mkdir()
    save_quality(train(texts(GOOD, 1), texts(BAD, 2)), tmp_path / "twice")
    assert (tmp_path / "twice/model.safetensors").read_bytes() == (tmp_path / "model.safetensors").read_bytes()


def test_too_few_examples_and_no_model_are_said_in_words(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="3 bad documents are too few"):
        train(texts(GOOD, 1), texts(BAD, 2, 3))
    with pytest.raises(InputError, match="no quality model there"):
        load_quality(tmp_path)


def test_calibration_rises_and_says_what_is_true() -> None:
    rng = np.random.default_rng(0)
    raw = rng.normal(size=20_000)
    labels = (rng.random(20_000) < 1 / (1 + np.exp(-3 * raw))).astype(float)
    x, y = calibrate(raw[:10_000], labels[:10_000])
    assert (np.diff(x) >= 0).all() and (np.diff(y) >= 0).all()
    said, true = np.interp(raw[10_000:], x, y), labels[10_000:]
    for low in np.arange(0, 1, 0.1):
        inside = (said >= low) & (said < low + 0.1)
        assert abs(said[inside].mean() - true[inside].mean()) < 0.08


def test_perplexity_equals_kneser_ney_by_the_book() -> None:
    some = texts(GOOD[:9], 10, 40)
    trained = train_ngrams(tokens(some))
    pairs = {(a, b) for text in some for a, b in pairwise(text)}
    triples = Counter((a, b, c) for text in some for a, b, c in zip(text, text[1:], text[2:], strict=False))
    vocabulary = len(set("".join(some)))
    kinds_before = Counter(b for _, b in pairs)
    between, starts = Counter((b, c) for _, b, c in triples), Counter((a, b) for a, b, _ in triples.elements())
    after_pair, after = Counter((a, b) for a, b, _ in triples), Counter(a for a, _ in pairs)
    around: Counter[str] = Counter()
    for a, b in pairs:
        around[a] += max(between[a, b], 1)

    def book(a: str | None, b: str | None, c: str) -> float:
        p = max(max(kinds_before[c], 1) - DISCOUNT, 0) / len(pairs)
        p += DISCOUNT * vocabulary / len(pairs) / (vocabulary + NEW_TOKENS)
        if b is not None and around[b]:
            held = max(between[b, c], 1) if (b, c) in pairs else 0
            p = (max(held - DISCOUNT, 0) + DISCOUNT * after[b] * p) / around[b]
        if a is not None and b is not None and starts[a, b]:
            times = triples[a, b, c] if triples[a, b, c] > 1 else 0
            p = (max(times - DISCOUNT, 0) + DISCOUNT * after_pair[a, b] * p) / starts[a, b]
        return p

    text = some[0]
    expected = [book(*(text[n - k] if n >= k else None for k in (2, 1)), text[n]) for n in range(len(text))]
    assert np.allclose(trained.log_probabilities(tokens([text])), np.log(expected), rtol=1e-5)


def test_perplexity_is_lower_for_text_like_the_good_examples(model: QualityModel) -> None:
    good, bad = model.perplexity(tokens(texts(GOOD, 11))), model.perplexity(tokens(texts(BAD, 12)))
    assert np.median(good) * 2 < np.median(bad)
    assert model.perplexity(tokens(["", "。"])).tolist() == [1, 1]


def test_the_command_trains_on_files(tmp_path: Path) -> None:
    for name, letters in (("a", GOOD), ("b", BAD)):
        rows = "".join(json.dumps({"text": text}) + "\n" for text in texts(letters, 1))
        (tmp_path / f"{name}.jsonl").write_text(rows)
    arguments = ["curate", "quality", "train", "--good", str(tmp_path / "a.jsonl"), "--bad", str(tmp_path / "b*.jsonl")]
    result = CliRunner().invoke(app, [*arguments, "-o", str(tmp_path / "model")])
    assert result.exit_code == 0, result.output
    assert "160 good and 160 bad" in result.output
    assert load_quality(tmp_path / "model").figures["accuracy"] > 0.9  # type: ignore[operator]
