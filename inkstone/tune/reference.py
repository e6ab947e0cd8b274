"""What the model thinks of pairs before it is tuned: the reference of DPO, computed once and kept for a resumed run."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from inkstone.model import Decoder
from inkstone.model.decoder.lora import adapter_off
from inkstone.progress import Progress
from inkstone.storage import atomic_file
from inkstone.train import Batch
from inkstone.train.arithmetic import choose_arithmetic
from inkstone.tune.pairs import EncodedPair, PackedPairs
from inkstone.tune.preference import Preferred, answer_logprobs
from inkstone.tune.settings import SFTSettings


@torch.no_grad()
def reference_logprobs(
    model: Decoder,
    pairs: Sequence[EncodedPair],
    settings: SFTSettings,
    pad_id: int,
    scratch: Path,
    progress: Progress,
) -> NDArray[np.float32]:
    """Log-probabilities [pairs, 2] of both answers under the base: before the first step, without an adapter."""
    kept = scratch / "reference.npy"
    if kept.is_file():
        known: NDArray[np.float32] = np.load(kept, allow_pickle=False)
        return known
    arithmetic = choose_arithmetic(settings, 0)
    before, model.compute_dtype = model.compute_dtype, arithmetic.torch_dtype
    model.to(arithmetic.device).eval()
    packed = PackedPairs(pairs, settings.sequence_length, settings.seed, pad_id)
    sums = np.zeros((len(pairs), 2), np.float32)
    at_once = max(1, settings.micro_tokens // settings.sequence_length)
    for start in range(0, len(packed.bins), at_once):
        bins = [packed.bins[number] for number in range(start, min(start + at_once, len(packed.bins)))]
        batch = Batch.stack([packed.row_of(members) for members in bins]).to(model.device)
        with adapter_off(model):
            found, _ = model.compute(answer_logprobs, batch)
        answers = found[batch.columns["side"] != 0].view(-1, 2).float().cpu().numpy()
        sums[[number for members in bins for number in members]] = answers
        progress.advance(start + len(bins), len(packed.bins), "rows of the reference")
    model.compute_dtype = before
    scratch.mkdir(parents=True, exist_ok=True)
    with atomic_file(kept) as draft, draft.open("wb") as stream:
        np.save(stream, sums, allow_pickle=False)
    return sums


@torch.no_grad()
def preferred_share(model: Decoder, rows: PackedPairs, objective: Preferred) -> float:
    """Share of pairs whose chosen answer has the higher mean log-probability."""
    model.eval()
    right = total = 0.0
    for index in range(rows.rows_per_epoch):
        batch = Batch.stack([rows.row(0, index)]).to(model.device)
        sums, tokens = model.compute(answer_logprobs, batch)
        means = sums / tokens.clamp(min=1)
        side = batch.columns["side"]
        right += float((means[side > 0] > means[side < 0]).sum())
        total += objective.units(batch)
    return right / max(total, 1.0)
