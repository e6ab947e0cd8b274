"""From logits to the next tokens of a whole batch: penalties, temperature, top-k, top-p, min-p, or argmax.

The order is the field's (and transformers'): penalise and bias, forbid, scale, keep the k best, keep the smallest set
whose probability reaches p, keep what is at least min_p times as probable as the best, draw. A draw is one uniform
number of the request's own, so a request's tokens do not depend on what else is in the batch, nor on the device.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

_LIKELIEST = 256
"""Tokens among which a nucleus is looked for first; only a wider one needs the whole vocabulary sorted."""


class SamplingSettings(BaseModel):
    """How one request's tokens are chosen."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    temperature: float = Field(0.0, ge=0, description="0 is greedy: always the most probable token")
    top_p: float = Field(1.0, gt=0, le=1, description="keep the smallest set of tokens with this much probability")
    top_k: int = Field(0, ge=0, description="keep this many tokens; 0 keeps all")
    min_p: float = Field(0.0, ge=0, le=1, description="keep tokens at least this many times as probable as the best")
    repetition_penalty: float = Field(1.0, gt=0, description="above 1 discourages tokens already in the text")
    presence_penalty: float = Field(
        0.0, ge=-2, le=2, description="taken from the logit of a token that the answer already has"
    )
    frequency_penalty: float = Field(0.0, ge=-2, le=2, description="taken once for each time that the answer has it")
    logit_bias: dict[int, float] = Field({}, description="added to the logits of these ids; -100 and less forbids one")
    min_tokens: int = Field(0, ge=0, description="tokens before a stop token may end the answer")
    max_new_tokens: int = Field(256, ge=1, description="stop after this many tokens")
    seed: int = Field(0, description="of the draws; the same seed gives the same text")


@dataclass(frozen=True)
class Choice:
    """What one row's next token depends on besides its logits.

    `draw` is uniform in [0, 1). `seen` [V] marks the tokens of a row's text, where it has a repetition penalty; `added`
    is what is added to some ids' logits; `allowed` [V] marks what may be chosen at all, where not everything may.
    """

    settings: SamplingSettings
    draw: float
    seen: Tensor | None = None
    added: tuple[Sequence[int], Sequence[float]] = ((), ())
    allowed: Tensor | None = None


def sample(logits_BV: Tensor, choices: Sequence[Choice]) -> Tensor:
    """The next ids [B], on the logits' device."""
    logits_BV = _forbidden(_added(_penalised(logits_BV.float(), choices), choices), choices)
    ids_B = logits_BV.argmax(-1)
    rows = [row for row, one in enumerate(choices) if one.settings.temperature > 0]
    if rows:
        ids_B[rows] = _drawn(logits_BV[rows], [choices[row] for row in rows])
    return ids_B


def _penalised(logits_BV: Tensor, choices: Sequence[Choice]) -> Tensor:
    """Divide positive and multiply negative logits of seen tokens (Keskar et al. 2019, arXiv 1909.05858)."""
    marks = {row: one.seen for row, one in enumerate(choices) if one.seen is not None}
    if not marks:
        return logits_BV
    penalty_R1 = logits_BV.new_tensor([choices[row].settings.repetition_penalty for row in marks])[:, None]
    index = (torch.tensor(list(marks), device=logits_BV.device),)
    chosen_RV = logits_BV[index]
    changed_RV = torch.where(chosen_RV > 0, chosen_RV / penalty_R1, chosen_RV * penalty_R1)
    return logits_BV.index_put(index, changed_RV.where(torch.stack(list(marks.values())), chosen_RV))


def _added(logits_BV: Tensor, choices: Sequence[Choice]) -> Tensor:
    """Biases and the penalties that are subtracted, which are few numbers of a row."""
    rows = [row for row, one in enumerate(choices) for _ in one.added[0]]
    if not rows:
        return logits_BV
    ids = [token for one in choices for token in one.added[0]]
    values = logits_BV.new_tensor([value for one in choices for value in one.added[1]])
    index = (torch.tensor(rows, device=logits_BV.device), torch.tensor(ids, device=logits_BV.device))
    return logits_BV.index_put(index, values, accumulate=True)


def _forbidden(logits_BV: Tensor, choices: Sequence[Choice]) -> Tensor:
    masks = {row: one.allowed for row, one in enumerate(choices) if one.allowed is not None}
    if not masks:
        return logits_BV
    index = (torch.tensor(list(masks), device=logits_BV.device),)
    allowed_RV = torch.stack(list(masks.values())).to(logits_BV.device)
    return logits_BV.index_put(index, logits_BV[index].masked_fill(~allowed_RV, float("-inf")))


def _drawn(logits_RV: Tensor, choices: Sequence[Choice]) -> Tensor:
    """Ids [R]. What may be drawn is decided by weights alone: equals stay or go together, whatever their order."""
    vocab, settings = logits_RV.shape[-1], [one.settings for one in choices]
    rows = [(one.temperature, one.top_k or vocab, one.top_p, one.min_p) for one in settings]
    table_RS = torch.tensor([(*row, one.draw) for row, one in zip(rows, choices, strict=True)], dtype=torch.float64)
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
