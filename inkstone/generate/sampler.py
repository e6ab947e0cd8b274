"""From logits to the next tokens of a whole batch: repetition penalty, temperature, top-k, top-p, min-p, or argmax.

The order is the field's (and transformers'): penalise, scale, keep the k best, keep the smallest set whose probability
reaches p, keep what is at least min_p times as probable as the best, draw. A draw is one uniform number of the
request's own, so a request's tokens do not depend on what else is in the batch, nor on the device's generator.
"""

from collections.abc import Sequence

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

_LIKELIEST = 256
"""Tokens among which a nucleus is looked for first; only a wider one needs the whole vocabulary sorted."""


class SamplingSettings(BaseModel):
    """How one request's tokens are chosen."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    temperature: float = Field(0.0, ge=0, description="0 is greedy: always the most probable token")
    top_p: float = Field(1.0, gt=0, le=1, description="keep the smallest set of tokens with this much probability")
    top_k: int = Field(0, ge=0, description="keep this many tokens; 0 keeps all")
    min_p: float = Field(0.0, ge=0, le=1, description="keep tokens at least this many times as probable as the best")
    repetition_penalty: float = Field(1.0, gt=0, description="above 1 discourages tokens already in the text")
    max_new_tokens: int = Field(256, ge=1, description="stop after this many tokens")
    seed: int = Field(0, description="of the draws; the same seed gives the same text")


def sample(
    logits_BV: Tensor, settings: Sequence[SamplingSettings], draws: Sequence[float], seen: Sequence[Tensor | None]
) -> Tensor:
    """The next ids [B], on the logits' device.

    `draws` are uniform in [0, 1), one for each row; `seen` [V] marks the tokens of a row's text, given where
    it has a penalty and only there.
    """
    logits_BV = _penalised(logits_BV.float(), settings, seen)
    ids_B = logits_BV.argmax(-1)
    rows = [row for row, one in enumerate(settings) if one.temperature > 0]
    if rows:
        ids_B[rows] = _drawn(logits_BV[rows], [settings[row] for row in rows], [draws[row] for row in rows])
    return ids_B


def _penalised(logits_BV: Tensor, settings: Sequence[SamplingSettings], seen: Sequence[Tensor | None]) -> Tensor:
    """Divide positive and multiply negative logits of seen tokens (Keskar et al. 2019, arXiv 1909.05858)."""
    rows = [row for row, one in enumerate(settings) if one.repetition_penalty != 1]
    marks = [mark for mark in seen if mark is not None]
    if not rows:
        return logits_BV
    penalty_R1 = logits_BV.new_tensor([settings[row].repetition_penalty for row in rows])[:, None]
    chosen_RV = logits_BV[rows]
    changed_RV = torch.where(chosen_RV > 0, chosen_RV / penalty_R1, chosen_RV * penalty_R1)
    index = (torch.tensor(rows, device=logits_BV.device),)
    return logits_BV.index_put(index, changed_RV.where(torch.stack(marks), chosen_RV))


def _drawn(logits_RV: Tensor, settings: Sequence[SamplingSettings], draws: Sequence[float]) -> Tensor:
    """Ids [R]. What may be drawn is decided by weights alone: equals stay or go together, whatever their order."""
    vocab = logits_RV.shape[-1]
    rows = [(one.temperature, one.top_k or vocab, one.top_p, one.min_p) for one in settings]
    table_RS = torch.tensor([(*row, draw) for row, draw in zip(rows, draws, strict=True)], dtype=torch.float64)
    temperature_R1, top_k_R1, top_p_R1, min_p_R1, draw_R1 = table_RS.to(logits_RV.device).split(1, 1)
    # The likeliest token has the weight 1, so that the lowest temperature overflows nothing.
    weight_RV = ((logits_RV - logits_RV.amax(-1, keepdim=True)) / temperature_R1.float()).exp()
    most = max((one.top_k for one in settings if one.top_k < vocab), default=0)
    if most:
        least_R1 = logits_RV.topk(most).values.gather(1, top_k_R1.long().clamp(max=most) - 1)
        weight_RV = weight_RV.where((logits_RV >= least_R1) | (top_k_R1 >= vocab), 0)
    if any(one.top_p < 1 for one in settings):
        least_R1 = _least_in_nucleus(weight_RV, top_p_R1)
        weight_RV = weight_RV.where((weight_RV >= least_R1) | (top_p_R1 >= 1), 0)
    reached_RV = weight_RV.where(weight_RV >= min_p_R1, 0).cumsum(-1, dtype=torch.float64)
    return (reached_RV <= draw_R1 * reached_RV[:, -1:]).sum(-1).clamp(max=vocab - 1)


def _least_in_nucleus(weight_RV: Tensor, top_p_R1: Tensor) -> Tensor:
    """The smallest [R, 1] of the largest weights that reach `top_p` (Holtzman et al. 2020, arXiv 1904.09751)."""
    goal_R1 = top_p_R1 * weight_RV.sum(-1, keepdim=True, dtype=torch.float64)
    best_RW = weight_RV.topk(min(_LIKELIEST, weight_RV.shape[1])).values
    while True:
        # A token is kept while the weight before it is below the goal, so the first one always stays.
        inside_RW = best_RW.cumsum(-1, dtype=torch.float64) - best_RW < goal_R1
        if best_RW.shape == weight_RV.shape or not bool(inside_RW[:, -1].any()):
            return best_RW.where(inside_RW, 1).amin(-1, keepdim=True)
        best_RW = weight_RV.sort(descending=True).values
