"""What quantisation cost: the original and the quantised model on the same texts, side by side.

    rows = compare_quality(Path("runs/primer/sft"), Path("primer-int4"), [Path("zh.txt"), Path("en.txt")])

Perplexity says how much worse a text is predicted; the divergence of the next token's distribution (mean KL from the
original) and the share of equal best tokens show changes that cancel out in a perplexity. Accuracy on benchmarks is
`inkstone evaluate compare`'s.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from inkstone.errors import InputError
from inkstone.evaluate.perplexity import bits_per_byte, windows
from inkstone.generate import SamplingSettings, generate
from inkstone.model import Decoder
from inkstone.model.opened import open_directory
from inkstone.tokenizer import Tokenizer

_TOKENS, _WINDOW, _DECODED = 20_000, 512, 48


@dataclass(frozen=True)
class TextQuality:
    """A text's first tokens under both models; pairs are the original's and the quantised model's."""

    text: str
    tokens: int
    perplexity: tuple[float, float]
    """Per token."""
    bits_per_byte: tuple[float, float]
    divergence: float
    """Mean KL(original || quantised) of the next token, in nats."""
    same_best: float
    """Share of positions with the same best token."""


@torch.inference_mode()
def compare_quality(original: Path, made: Path, texts: Sequence[Path]) -> list[TextQuality]:
    """Both models on the beginning of each text. Raises InputError for one that cannot be read or is empty."""
    told = [_read(path) for path in texts]
    one, other = open_directory(original), open_directory(made)
    return [_compare(one.model, other.model, one.tokenizer, path, text) for path, text in zip(texts, told, strict=True)]


def decoding_speed(directory: Path) -> float:
    """Tokens per second of one answer on this machine, as `inkstone chat` decodes."""
    opened = open_directory(directory, prepack=True)
    length = min(_DECODED, opened.model.max_positions - 8)
    seconds = 0.0
    for count in (4, length):  # the first is warm-up
        started = time.perf_counter()
        generate(opened.model, [[5] * 8], SamplingSettings(max_new_tokens=count), set())
        seconds = time.perf_counter() - started
    return length / seconds


def _read(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not readable UTF-8 text: {error}") from error
    if not text.strip():
        raise InputError(f"{path} has no text")
    return text


def _compare(one: Decoder, other: Decoder, tokenizer: Tokenizer, path: Path, text: str) -> TextQuality:
    ids = tokenizer.encode(text[: 8 * _TOKENS])[:_TOKENS]
    size = len(tokenizer.decode(ids).encode())
    begin = next((one for one in (tokenizer.bos_id, tokenizer.eos_id) if one is not None), 0)
    sums = torch.zeros(4, dtype=torch.float64)
    for context, continuation in windows(ids, begin, min(_WINDOW, one.max_positions)):
        sums += _window(one, other, [*context, *continuation])
    first, second, divergence, same = sums.tolist()
    return TextQuality(
        path.name,
        len(ids),
        (_perplexity(first / len(ids)), _perplexity(second / len(ids))),
        (bits_per_byte([-first], size), bits_per_byte([-second], size)),
        divergence / len(ids),
        same / len(ids),
    )


def _perplexity(nats: float) -> float:
    """Of a broken model it would be more than a float can hold."""
    return math.exp(min(nats, 700.0))


def _window(one: Decoder, other: Decoder, ids: list[int]) -> torch.Tensor:
    """Sums over a window's tokens: nats under both models, the divergence, equal best tokens [4]."""
    tokens_1T = torch.tensor([ids])
    logs_TV, others_TV = (model(tokens_1T)[0, :-1].float().log_softmax(-1) for model in (one, other))
    target_T1 = tokens_1T[0, 1:, None]
    divergence = (logs_TV.exp() * (logs_TV - others_TV)).sum()
    same = (logs_TV.argmax(-1) == others_TV.argmax(-1)).sum()
    nats = [-logs.gather(1, target_T1).sum() for logs in (logs_TV, others_TV)]
    return torch.stack([*nats, divergence, same]).double()
