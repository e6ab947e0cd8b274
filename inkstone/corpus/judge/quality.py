"""Quality: a logistic model over hashed unigrams and bigrams of tokens, trained in seconds on the user's own examples.

`train(good, bad)` learns from two lots of texts, `score` gives every document a probability of being like the good
ones, `score_spans` the same for sentences. Rows have length one whatever the length of the text (without that the
model learns length). Scores are calibrated on a tenth of the examples that training does not see: of the documents
that score 0.8, eight in ten are good; `reliability` shows how true that is. A model is a directory with
`model.safetensors` and `quality.json`: no pickle, nothing downloaded.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
from safetensors.numpy import load_file, save_file

from inkstone.corpus.judge.kernel import F64, I64, Tokens, flatten, mix, running_sums, tokenize
from inkstone.corpus.judge.perplexity import Array, NgramModel, train_ngrams
from inkstone.errors import InputError
from inkstone.storage import write_json

BITS = 20
EPOCHS = 4
BATCH = 32  # examples per step
RATE = 4.0  # of the first step; rows have length one, so large steps are safe
DECAY = 1e-6  # L2
PIECE_TOKENS = 1024  # longer texts are cut for training, so that one book is not one example
TOGETHER = 256  # texts that are cut into tokens at once
MIN_EXAMPLES = 20
BINS = 10
FORMAT = "inkstone-quality-1"


@dataclass(frozen=True)
class QualityModel:
    """Weights, the calibration curve (raw score to probability), the n-gram model of the good texts, and figures."""

    weights: np.ndarray[tuple[int], np.dtype[np.float32]]  # [2^BITS]
    bias: float
    curve_raw: F64
    curve_probability: F64
    ngrams: NgramModel
    figures: dict[str, object] = field(default_factory=dict)

    def score(self, tokens: Tokens) -> F64:
        """Probability of every document to be like the good examples; 0.5 for one without tokens."""
        return self._calibrated(self._raw(tokens, tokens.offsets[:-1], np.diff(tokens.offsets)))

    def score_spans(self, tokens: Tokens, first: I64, count: I64) -> F64:
        """The same for spans of `count` tokens from `first`, e.g. sentences; a span lies in one document."""
        return self._calibrated(self._raw(tokens, first, count))

    def perplexity(self, tokens: Tokens) -> F64:
        """Perplexity per token of every document under the n-grams of the good examples."""
        return self.ngrams.perplexity(tokens)

    def _raw(self, tokens: Tokens, first: I64, count: I64) -> F64:
        slots, offsets = features(tokens, first, count)
        total = running_sums(self.weights[slots], np.float64)
        return np.diff(total[offsets]) / np.sqrt(np.maximum(np.diff(offsets), 1)) + self.bias

    def _calibrated(self, raw: F64) -> F64:
        return np.interp(raw, self.curve_raw, self.curve_probability)


def features(tokens: Tokens, first: I64, count: I64) -> tuple[I64, I64]:
    """Slots of the unigrams and bigrams of every span, and their offsets. A slot that occurs twice counts twice."""
    grams = np.empty((len(tokens.hashes), 2), np.uint64)
    grams[:, 0] = tokens.hashes
    grams[:, 1] = 0
    grams[:-1, 1] = mix(tokens.hashes[:-1] * np.uint64(3) + tokens.hashes[1:])
    flat = (grams.ravel() >> np.uint64(64 - BITS)).astype(np.int64)
    sizes = np.maximum(2 * count - 1, 0)  # n unigrams and n - 1 bigrams
    offsets = running_sums(sizes)
    return flat[np.repeat(2 * first - offsets[:-1], sizes) + np.arange(offsets[-1])], offsets


# --- training ----------------------------------------------------------------------------------------------------


def train(good: list[str], bad: list[str], seed: int = 1) -> QualityModel:
    """A model that tells `good` from `bad` texts. Raises InputError where there are too few of either."""
    for name, texts in (("good", good), ("bad", bad)):
        if len(texts) < MIN_EXAMPLES:
            raise InputError(f"quality: {len(texts)} {name} documents are too few to learn from: give {MIN_EXAMPLES}")
    rng = np.random.default_rng(seed)
    texts = [*good, *bad]
    labels = np.repeat([1.0, 0.0], [len(good), len(bad)])
    heldout = np.zeros(len(texts), bool)
    for label in (0.0, 1.0):
        members = rng.permutation(np.flatnonzero(labels == label))
        heldout[members[: max(len(members) // 10, 5)]] = True
    learning, checking = np.flatnonzero(~heldout), np.flatnonzero(heldout)
    weights, bias = _descend(_tokens(texts, learning), labels[learning], rng)
    ngrams = train_ngrams(_tokens(texts, learning[labels[learning] == 1]))
    blank = QualityModel(weights, bias, np.array([-1.0, 1.0]), np.array([0.0, 1.0]), ngrams)
    checked = _tokens(texts, checking)
    raw = blank._raw(checked, checked.offsets[:-1], np.diff(checked.offsets))
    curve_raw, curve_probability = calibrate(raw, labels[checking])
    figures = _figures(raw, _crossed(raw, labels[checking], rng), labels[checking])
    figures |= {"good_documents": len(good), "bad_documents": len(bad), "seed": seed}
    return QualityModel(weights, bias, curve_raw, curve_probability, ngrams, figures)


def _tokens(texts: list[str], chosen: I64) -> Tokens:
    """Hashes of the chosen texts, some at a time: positions in the text, which nothing here needs, are left empty."""
    hashes, lengths = [np.zeros(0, np.uint64)], [np.zeros(1, np.int64)]
    for start in range(0, len(chosen), TOGETHER):
        found = tokenize(
            flatten(pa.array([texts[row] for row in chosen[start : start + TOGETHER].tolist()], pa.string()))
        )
        hashes.append(found.hashes)
        lengths.append(np.diff(found.offsets))
    nowhere = np.zeros(0, np.int64)
    return Tokens(np.concatenate(hashes), nowhere, nowhere, np.cumsum(np.concatenate(lengths)))


def _descend(
    tokens: Tokens, labels: F64, rng: np.random.Generator
) -> tuple[np.ndarray[tuple[int], np.dtype[np.float32]], float]:
    """Stochastic gradient descent on the logistic loss; both classes weigh the same."""
    first, count, label = _pieces(tokens, labels)
    slots, offsets = features(tokens, first, count)
    length = np.sqrt(np.maximum(np.diff(offsets), 1))
    weight = np.where(label == 1, 0.5 / max(label.mean(), 1e-9), 0.5 / max(1 - label.mean(), 1e-9))
    weights = np.zeros(1 << BITS)
    bias, step, steps = 0.0, 0, EPOCHS * -(-len(label) // BATCH)
    for _ in range(EPOCHS):
        order = rng.permutation(len(label))
        for start in range(0, len(order), BATCH):
            rows = order[start : start + BATCH]
            sizes = offsets[rows + 1] - offsets[rows]
            begin = np.cumsum(sizes) - sizes
            place = np.repeat(offsets[rows] - begin, sizes) + np.arange(sizes.sum())
            here, value = slots[place], np.repeat(1 / length[rows], sizes)
            raw = np.add.reduceat(weights[here] * value, begin) + bias
            slope = weight[rows] * (1 / (1 + np.exp(-np.clip(raw, -30, 30))) - label[rows])
            rate = RATE * (1 - step / steps) / len(rows)
            np.subtract.at(weights, here, rate * (np.repeat(slope, sizes) * value + DECAY * weights[here]))
            bias -= 0.1 * rate * float(slope.sum())
            step += 1
    return weights.astype(np.float32), bias


def _pieces(tokens: Tokens, labels: F64) -> tuple[I64, I64, F64]:
    """Every text cut into pieces of at most PIECE_TOKENS; texts without tokens give none."""
    total = np.diff(tokens.offsets)
    number = -(-total // PIECE_TOKENS)
    text = np.repeat(np.arange(len(total)), number)
    place = np.arange(len(text)) - np.repeat(np.cumsum(number) - number, number)
    first = tokens.offsets[:-1][text] + place * PIECE_TOKENS
    return first, np.minimum(tokens.offsets[1:][text] - first, PIECE_TOKENS), labels[text]


def calibrate(raw: F64, labels: F64) -> tuple[F64, F64]:
    """Isotonic regression (pool adjacent violators), both classes weighing the same: a rising curve."""
    order = np.argsort(raw, kind="stable")
    weight = np.where(labels == 1, 0.5 / max(labels.mean(), 1e-9), 0.5 / max(1 - labels.mean(), 1e-9))[order]
    pools: list[list[float]] = []  # mean label, weight, lowest and highest raw score
    for value, label, mass in zip(raw[order].tolist(), labels[order].tolist(), weight.tolist(), strict=True):
        pools.append([label, mass, value, value])
        while len(pools) > 1 and pools[-2][0] >= pools[-1][0]:
            mean, mass, _, highest = pools.pop()
            old = pools[-1]
            pools[-1] = [(old[0] * old[1] + mean * mass) / (old[1] + mass), old[1] + mass, old[2], highest]
    spread = max(float(raw.max() - raw.min()), 1e-6)
    x = np.array([raw.min() - spread, *(edge for pool in pools for edge in pool[2:]), raw.max() + spread])
    y = np.repeat([pools[0][0], *(pool[0] for pool in pools), pools[-1][0]], [1, *[2] * len(pools), 1])
    # A finite sample never proves certainty, and a flat curve would give equal scores to unlike documents.
    y = 1 / (len(raw) + 2) + y * (1 - 2 / (len(raw) + 2))
    slope = (x - x[0]) / (x[-1] - x[0])
    return x, 0.99 * y + 0.01 * slope


def _crossed(raw: F64, labels: F64, rng: np.random.Generator) -> F64:
    """Probabilities of each half of the examples by the curve of the other half, so that no example judges itself."""
    probability = np.zeros(len(raw))
    half = np.zeros(len(raw), bool)
    for label in (0.0, 1.0):
        members = rng.permutation(np.flatnonzero(labels == label))
        half[members[: len(members) // 2]] = True
    for side in (half, ~half):
        probability[side] = np.interp(raw[side], *calibrate(raw[~side], labels[~side]))
    return probability


def _figures(raw: F64, probability: F64, labels: F64) -> dict[str, object]:
    """Accuracy, area under the curve, and the reliability table on the examples kept apart."""
    good, bad = np.sort(raw[labels == 1]), np.sort(raw[labels == 0])
    below = np.searchsorted(bad, good).sum() + np.searchsorted(bad, good, side="right").sum()
    weight = np.where(labels == 1, 0.5 / labels.mean(), 0.5 / (1 - labels.mean()))
    table = []
    for number in range(BINS):
        inside = (probability >= number / BINS) & (probability < (number + 1) / BINS + (number == BINS - 1))
        if inside.any():
            said = float(np.average(probability[inside], weights=weight[inside]))
            true = float(np.average(labels[inside], weights=weight[inside]))
            table.append({"said": round(said, 3), "true": round(true, 3), "documents": int(inside.sum())})
    return {
        "heldout_documents": len(labels),
        "accuracy": round(float(((probability > 0.5) == (labels == 1)).mean()), 4),
        "area_under_curve": round(float(below) / (2 * len(good) * len(bad)), 4),
        "reliability": table,
    }


# --- on disk -----------------------------------------------------------------------------------------------------


def save_quality(model: QualityModel, directory: Path) -> None:
    """Write `model.safetensors` and `quality.json` into an existing directory."""
    tensors: dict[str, Array] = {name: getattr(model, name) for name in ("weights", "curve_raw", "curve_probability")}
    tensors |= {f"ngrams.{name}": value for name, value in model.ngrams.arrays().items()}
    save_file(tensors, directory / "model.safetensors")
    described = {"format": FORMAT, "bits": BITS, "bias": model.bias, "figures": model.figures}
    write_json(directory / "quality.json", described)


def load_quality(directory: Path) -> QualityModel:
    """Read a model. Raises InputError where the directory holds none."""
    try:
        described = json.loads((directory / "quality.json").read_text("utf-8"))
        if described.get("format") != FORMAT or described.get("bits") != BITS:
            raise InputError(f"{directory}: not a quality model of this version: train it again")
        tensors = load_file(directory / "model.safetensors")
    except (OSError, ValueError) as error:
        raise InputError(
            f"{directory}: no quality model there ({error}); `inkstone curate quality train` makes one"
        ) from error
    ngrams = {name.removeprefix("ngrams."): value for name, value in tensors.items() if name.startswith("ngrams.")}
    return QualityModel(
        tensors["weights"], float(described["bias"]), tensors["curve_raw"], tensors["curve_probability"],
        NgramModel.from_arrays(ngrams), described["figures"],
    )  # fmt: skip
