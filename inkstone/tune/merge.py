"""Several weights into one: an adapter onto its base, or models of one shape into their mean, arc or voted difference.

    merge_adapter(base, adapter, draft)                                  # logits of both compared
    merge_models([a, b], draft, Merge("slerp", (0.6, 0.4)), None, progress)

Models are joined tensor by tensor from their mapped files, in float32, so memory is a few tensors'. Papers: slerp
(Shoemake 1985), TIES (Yadav et al. 2023, arXiv 2306.01708), DARE (Yu et al. 2023, arXiv 2311.03099).
"""

import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from inkstone.errors import InputError
from inkstone.model import load_model
from inkstone.model.decoder.lora import merge_lora
from inkstone.model.files.adapter import is_prefix, load_adapter, own_prefix
from inkstone.model.files.directory import carry_files, read_config, read_stop_ids
from inkstone.model.files.stored import Checkpoint
from inkstone.model.files.weight_shards import MAX_SHARD_BYTES, write_weights
from inkstone.progress import Progress
from inkstone.tokenizer import Tokenizer
from inkstone.train.stage import save_for

_COMPARED = 128


Method = Literal["linear", "slerp", "ties", "dare"]


class MergeSettings(BaseModel):
    """`[tune.NAME.merge]` of a stage that joins its base with other models, stages or directories."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    models: list[str] = Field([], description="earlier stages or model directories, joined with the base")
    method: Method = Field("linear", description="how weights are joined")
    weights: list[float] = Field([], description="what each model counts, the base first; default: alike")
    origin: str = Field("", description="ties and dare: the model that all of them come from")
    density: float = Field(0.5, gt=0, le=1, description="ties and dare: share of each difference kept")

    def how(self, seed: int) -> "Merge":
        """Raises InputError for weights that are not one for each model."""
        text = ",".join(map(str, self.weights)) or None
        return Merge(self.method, parse_weights(text, len(self.models) + 1), self.density, seed)


@dataclass(frozen=True)
class Merge:
    """How models are joined. `density` is the share of each difference that ties and dare keep."""

    method: Method
    weights: tuple[float, ...]
    density: float = 0.5
    seed: int = 1

    @property
    def needs_base(self) -> bool:
        return self.method in ("ties", "dare")


@torch.inference_mode()
def merge_adapter(base: Path, adapter: Path, output: Path, dtype: torch.dtype | None = None) -> dict[str, float]:
    """Write the base with the adapter in its weights; says how far the logits of both are apart."""
    if is_prefix(adapter):
        raise InputError(
            f"{adapter} is a prefix: keys and values before the text, which weights cannot say; leave it beside its "
            f"base (inkstone chat {base} --adapter {adapter})"
        )
    model = load_model(base, dtype)
    load_adapter(model.eval(), adapter)
    vocab = model.config.vocab_size
    tokens = torch.randint(vocab, (4, _COMPARED // 4), generator=torch.Generator().manual_seed(1))
    before = model(tokens).float()
    merge_lora(model)
    after = model(tokens).float()
    tokenizer = Tokenizer.load(base)
    stop_ids = sorted(set(tokenizer.end_ids) | read_stop_ids(base))
    save_for(tokenizer, model, output, stop_ids)
    carry_files(base, output)
    carry_files(adapter, output)  # an adapter that was trained with another template brings it
    return {
        "largest_difference": float((before - after).abs().max()),
        "largest_logit": float(before.abs().max()),
        "same_best": float((before.argmax(-1) == after.argmax(-1)).float().mean()),
        "positions": tokens.numel(),
    }


def merge_models(sources: Sequence[Path], output: Path, how: Merge, base: Path | None, progress: Progress) -> None:
    """Write the joined model with the files of the first. Raises InputError for models that do not fit together."""
    _check(sources, how, base)
    checkpoints = [Checkpoint(source) for source in sources]
    origin = Checkpoint(base) if base else None
    entries = checkpoints[0].entries
    opened = [*checkpoints, *([origin] if origin else [])]
    last: str | None = None

    def tensor_of(name: str) -> Tensor:
        nonlocal last
        for one in opened if last else ():
            one.release(last or "")
        last = name
        parts = [one.tensor(name).float() for one in checkpoints]
        joined = join(parts, origin.tensor(name).float() if origin else None, how, name)
        progress.advance(list(entries).index(name) + 1, len(entries), "tensors")
        return joined.to(entries[name].dtype)

    output.mkdir(parents=True, exist_ok=True)
    carry_files(sources[0], output)
    (output / "config.json").write_bytes((sources[0] / "config.json").read_bytes())
    write_weights(output, entries, tensor_of, MAX_SHARD_BYTES)


def join(parts: Sequence[Tensor], base: Tensor | None, how: Merge, name: str = "") -> Tensor:
    """One tensor of each model, in float32, into one. `name` makes dare's draws differ from tensor to tensor."""
    if how.method == "slerp":
        return _slerp(parts[0], parts[1], how.weights[1] / sum(how.weights))
    if how.method == "linear" or base is None:
        return _weighted(parts, how.weights)
    differences = [part - base for part in parts]
    if how.method == "ties":
        return base + _elected([_trimmed(one, how.density) for one in differences], how.weights)
    draws = torch.Generator().manual_seed(how.seed + zlib.crc32(name.encode()))
    kept = [torch.rand(one.shape, generator=draws) < how.density for one in differences]
    return base + _weighted(
        [one * mask / how.density for one, mask in zip(differences, kept, strict=True)], how.weights
    )


def _weighted(parts: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    total = torch.zeros_like(parts[0])
    for part, weight in zip(parts, weights, strict=True):
        total += part * (weight / sum(weights))
    return total


def _slerp(one: Tensor, other: Tensor, t: float) -> Tensor:
    """Along the arc between two directions; along the line where they are nearly one."""
    cosine = float((one * other).sum() / (one.norm() * other.norm()).clamp(min=1e-12))
    if abs(cosine) > 0.9995:
        return (1 - t) * one + t * other
    angle = math.acos(cosine)
    return (math.sin((1 - t) * angle) * one + math.sin(t * angle) * other) / math.sin(angle)


def _trimmed(difference: Tensor, density: float) -> Tensor:
    """Its largest numbers; the others are zero."""
    keep = max(1, round(density * difference.numel()))
    least = difference.abs().flatten().kthvalue(difference.numel() - keep + 1).values
    return difference.where(difference.abs() >= least, 0)


def _elected(differences: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """The weighted mean of those that have the sign of the weighted sum."""
    stacked = torch.stack(list(differences))
    weight = torch.tensor(list(weights)).view(-1, *[1] * differences[0].dim())
    sign = (stacked * weight).sum(0).sign()
    agrees = (stacked.sign() == sign) & (stacked != 0)
    return (stacked * weight * agrees).sum(0) / (weight * agrees).sum(0).clamp(min=1e-12)


def _check(sources: Sequence[Path], how: Merge, base: Path | None) -> None:
    """Raises InputError with everything that keeps the models apart."""
    problems = []
    if len(sources) < 2:
        problems.append("give at least two models to merge")
    if how.method == "slerp" and len(sources) != 2:
        problems.append(f"slerp joins two models, not {len(sources)}: take linear, or merge twice")
    if how.needs_base and base is None:
        problems.append(f"{how.method} joins differences: give the model they come from with --base")
    if not how.needs_base and base is not None:
        problems.append(f"{how.method} does not look at a base: leave --base out")
    problems += [f"{one} has a prefix, which cannot be joined with other models" for one in sources if own_prefix(one)]
    if problems:
        raise InputError(problems)
    first, *others = [*sources, *([base] if base else [])]
    for other in others:
        for what, of in _ALIKE.items():
            if of(first) != of(other):
                problems.append(f"{other} has another {what} than {first}: they cannot be merged")
    if problems:
        raise InputError(problems)


_ALIKE: dict[str, Callable[[Path], object]] = {
    "shape": read_config,
    "tokenizer": lambda path: Tokenizer.load(path).fingerprint,
    "set of tensors": lambda path: {name: one.shape for name, one in Checkpoint(path).entries.items()},
}


def parse_weights(text: str | None, count: int) -> tuple[float, ...]:
    """ "0.5,0.3,0.2" as numbers, one for each model. Raises InputError for anything else."""
    if text is None:
        return (1.0,) * count
    try:
        weights = tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise InputError(f"--weights {text}: write numbers with commas between them, e.g. 0.5,0.5") from error
    if len(weights) != count or sum(weights) <= 0 or any(not math.isfinite(one) or one < 0 for one in weights):
        raise InputError(f"--weights {text}: give {count} numbers of at least 0, one for each model")
    return weights
