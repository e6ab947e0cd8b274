"""Perplexity against context length: does a model use long context, and what happens beyond its training length?

    rows = perplexity_by_length(model, ids, bos=tokenizer.bos_id, lengths=[512, 1024, 2048])

The same tokens of one text are predicted at every length: cut into windows of that many tokens, each predicted after
the begin token and what came before it in its window. Lengths beyond the model's training are asked for on purpose
here, so they are computed, and marked, whatever the kind of positions.
"""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from inkstone.errors import InputError
from inkstone.model import Decoder, load_model
from inkstone.progress import Progress
from inkstone.storage import write_json
from inkstone.tokenizer import Tokenizer, open_shards

_FORWARD_TOKENS = 4096
_HEAD_ROWS = 512


@dataclass(frozen=True)
class LengthRow:
    """Perplexity of `tokens` tokens in windows of `length`; `late` counts only the last quarter of each window.

    `bits_per_byte` is comparable between tokenizers; 0 where the bytes are not known.
    """

    length: int
    perplexity: float
    late: float
    tokens: int
    beyond_training: bool
    bits_per_byte: float = 0.0


def read_lengths(text: str) -> list[int]:
    """512,1024,2048 in rising order. Raises InputError for anything else."""
    try:
        lengths = sorted({int(part) for part in text.split(",")})
    except ValueError as error:
        raise InputError(f'--perplexity-by-length "{text}": give whole numbers, e.g. 512,1024,2048') from error
    if lengths[0] < 4:
        raise InputError(f"--perplexity-by-length {lengths[0]}: a window has at least 4 tokens")
    return lengths


def read_text_ids(tokenizer: Tokenizer, text: Path | None, tokens_dir: Path | None) -> list[int]:
    """Token ids of a .txt file, of the "text" of each line of a .jsonl file, or of held-out token shards.

    Documents are laid end to end, each with its end token where the tokenizer has one.
    """
    if tokens_dir:
        shards = open_shards(tokens_dir, "heldout", tokenizer.fingerprint)
        return [token for index in range(len(shards)) for token in shards.document(index)[1:].tolist()]
    if text is None:
        raise InputError("--perplexity-by-length needs a text: give --text FILE (.txt or .jsonl) or --tokens DIR")
    try:
        content = text.read_text(encoding="utf-8")
        jsonl = text.suffix == ".jsonl"
        documents = [json.loads(line)["text"] for line in content.split("\n") if line.strip()] if jsonl else [content]
    except OSError as error:
        raise InputError(f"{text} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f'{text} is not UTF-8 text, or has a line that is no JSON object with a "text"') from error
    return [token for ids in tokenizer.encode_batch(documents) for token in (*ids, *tokenizer.end_ids)]


@torch.inference_mode()
def perplexity_by_length(
    model: Decoder,
    ids: Sequence[int],
    bos: int | None,
    lengths: Sequence[int],
    progress: Progress,
    bytes_of: Callable[[Sequence[int]], int] = lambda ids: 0,
) -> list[LengthRow]:
    """One row per length. Only as many ids are used as fill whole windows of the longest length.

    Raises InputError when the text is shorter than that.
    """
    longest = max(lengths)
    used = len(ids) // longest * longest
    if not used:
        raise InputError(
            f"the text has {len(ids)} tokens, fewer than {longest}: give a longer text or a shorter length"
        )
    start = bos if bos is not None else int(ids[0])
    losses, size = [], bytes_of(ids[:used])
    for number, length in enumerate(lengths):
        losses.append(_window_losses(model, torch.tensor(ids[: used // length * length]), start, length))
        progress.advance(number + 1, len(lengths), "lengths", length=length)
    return [
        LengthRow(
            length=loss_WL.shape[1],
            perplexity=_perplexity(loss_WL),
            late=_perplexity(loss_WL[:, loss_WL.shape[1] * 3 // 4 :]),
            tokens=loss_WL.numel(),
            beyond_training=loss_WL.shape[1] > model.config.max_positions,
            bits_per_byte=float(loss_WL.sum()) / math.log(2) / size if size else 0.0,
        )
        for loss_WL in losses
    ]


def evaluate_by_length(
    directory: Path,
    output: Path,
    lengths: Sequence[int],
    text: Path | None,
    tokens_dir: Path | None,
    token_limit: int,
    progress: Progress,
) -> list[LengthRow]:
    """Measure a model directory and write by_length.json and, where matplotlib is installed, the chart."""
    tokenizer = Tokenizer.load(directory)
    ids = read_text_ids(tokenizer, text, tokens_dir)[: max(token_limit, *lengths)]
    model = load_model(directory)
    model.known_ids = tokenizer.vocab_size

    def bytes_of(some: Sequence[int]) -> int:
        return len(tokenizer.decode(some, skip_control=True, continued=True).encode())

    rows = perplexity_by_length(model, ids, tokenizer.bos_id, lengths, progress, bytes_of)
    name, training_length = directory.resolve().name, model.config.max_positions
    figures = {
        "model": name,
        "text": (text or tokens_dir or Path()).name,
        "training_length": training_length,
        "rows": [asdict(row) for row in rows],
    }
    write_json(output / "by_length.json", figures)
    try:
        draw(rows, name, training_length, output)
    except ImportError:
        progress.note("no chart: it is drawn with matplotlib; install it with pip install 'inkstone[report]'")
    return rows


def draw(rows: Sequence[LengthRow], name: str, training_length: int, output: Path) -> None:
    """by_length.svg and by_length.png. Raises ImportError without matplotlib."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.add_subplot()
    lengths = [row.length for row in rows]
    axes.plot(lengths, [row.perplexity for row in rows], marker="o", color="#3b82c4", label="all tokens")
    late = "last quarter of each window"
    axes.plot(lengths, [row.late for row in rows], marker="o", color="#d97b29", linestyle="--", label=late)
    if lengths[0] <= training_length <= lengths[-1]:
        axes.axvline(training_length, color="#8c8c8c", linewidth=1, label=f"training length {training_length}")
    axes.set_xscale("log", base=2)
    axes.set_xticks(lengths, [str(length) for length in lengths])
    if max(row.perplexity for row in rows) > 8 * min(row.perplexity for row in rows):
        axes.set_yscale("log")
    axes.set_title(name)
    axes.set_xlabel("context length in tokens")
    axes.set_ylabel("perplexity per token")
    axes.grid(True, axis="y", alpha=0.3)
    axes.legend(frameon=False, fontsize=9)
    for kind in ("svg", "png"):
        figure.savefig(output / f"by_length.{kind}", dpi=150)


def _window_losses(model: Decoder, ids: Tensor, bos: int, length: int) -> Tensor:
    """-log p of every id, float64 [W, L]: window after window, each fed from the begin token."""
    target_WL = ids.view(-1, length)
    fed_WL = torch.cat((torch.full_like(target_WL[:, :1], bos), target_WL[:, :-1]), 1)
    device = model.device
    losses = []
    for fed, target in zip(*(x.split(max(1, _FORWARD_TOKENS // length)) for x in (fed_WL, target_WL)), strict=True):
        hidden_ND = model.hidden(fed.to(device)).flatten(0, 1)
        flat = target.flatten().to(device)
        pieces = [
            torch.nn.functional.cross_entropy(
                model.lm_head(hidden)[:, : model.known_ids].float(), wanted, reduction="none"
            )
            for hidden, wanted in zip(hidden_ND.split(_HEAD_ROWS), flat.split(_HEAD_ROWS), strict=True)
        ]
        losses.append(torch.cat(pieces).view_as(target).double().cpu())
    return torch.cat(losses)


def _perplexity(losses: Tensor) -> float:
    mean = float(losses.mean())
    return math.exp(mean) if mean < 700 else math.inf
