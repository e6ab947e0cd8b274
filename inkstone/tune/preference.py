"""What a preference costs: DPO and its relatives, as sums over pairs.

`Preferred` computes the log-probabilities of both answers in one forward; a loss is a function of them alone. Papers:
DPO (Rafailov et al. 2023, arXiv 2305.18290), IPO (Azar et al. 2023, 2310.12036), hinge (SLiC, Zhao et al. 2023,
2305.10425), ORPO (Hong et al. 2024, 2403.07691), SimPO (Meng et al. 2024, 2405.14734).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from inkstone.model import Decoder
from inkstone.train import Batch, Outcome
from inkstone.train.loss import token_logprobs
from inkstone.train.objective import Figures

Kind = Literal["sigmoid", "ipo", "hinge", "orpo", "simpo"]


class PreferenceSettings(BaseModel):
    """`[tune.NAME.preference]`: which loss, and its constants."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    loss: Kind = Field("sigmoid", description="sigmoid is DPO; ipo and hinge take a reference too, orpo and simpo none")
    beta: float = Field(0.1, gt=0, description="how strongly the policy is held to the reference; simpo takes 2 to 2.5")
    sft_weight: float = Field(0.0, ge=0, description="of the chosen answers' mean cross entropy, added")
    gamma: float = Field(0.5, ge=0, description="simpo: the margin that is asked for, as a share of beta")
    label_smoothing: float = Field(0.0, ge=0, lt=0.5, description="sigmoid: share of pairs that are thought swapped")

    @property
    def needs_reference(self) -> bool:
        return self.loss in ("sigmoid", "ipo", "hinge")


@dataclass(frozen=True)
class Sides:
    """Of P pairs: summed log-probabilities of chosen and rejected answers, their tokens, and the reference's sums."""

    chosen: Tensor
    rejected: Tensor
    chosen_tokens: Tensor
    rejected_tokens: Tensor
    chosen_reference: Tensor
    rejected_reference: Tensor


def sigmoid_loss(sides: Sides, how: PreferenceSettings) -> Tensor:
    """-log sigmoid(beta x margin over the reference), smoothed."""
    margin_P = how.beta * _margin(sides)
    return -(1 - how.label_smoothing) * F.logsigmoid(margin_P) - how.label_smoothing * F.logsigmoid(-margin_P)


def ipo_loss(sides: Sides, how: PreferenceSettings) -> Tensor:
    """(margin of means - 1 / (2 beta))^2, log-probabilities per token as TRL takes them."""
    chosen_P = (sides.chosen - sides.chosen_reference) / sides.chosen_tokens
    rejected_P = (sides.rejected - sides.rejected_reference) / sides.rejected_tokens
    return (chosen_P - rejected_P - 1 / (2 * how.beta)).square()


def hinge_loss(sides: Sides, how: PreferenceSettings) -> Tensor:
    """max(0, 1 - beta x margin)."""
    return F.relu(1 - how.beta * _margin(sides))


def orpo_loss(sides: Sides, how: PreferenceSettings) -> Tensor:
    """Cross entropy of the chosen answer - beta x log sigmoid(log odds ratio); odds of mean log-probabilities."""
    chosen_P, rejected_P = sides.chosen / sides.chosen_tokens, sides.rejected / sides.rejected_tokens
    ratio_P = (chosen_P - rejected_P) - (_log1mexp(chosen_P) - _log1mexp(rejected_P))
    return -chosen_P - how.beta * F.logsigmoid(ratio_P)


def simpo_loss(sides: Sides, how: PreferenceSettings) -> Tensor:
    """-log sigmoid(beta x (margin of means - gamma)), without a reference."""
    margin_P = sides.chosen / sides.chosen_tokens - sides.rejected / sides.rejected_tokens
    return -F.logsigmoid(how.beta * (margin_P - how.gamma))


LOSSES: dict[Kind, Callable[[Sides, PreferenceSettings], Tensor]] = {
    "sigmoid": sigmoid_loss,
    "ipo": ipo_loss,
    "hinge": hinge_loss,
    "orpo": orpo_loss,
    "simpo": simpo_loss,
}


class PerPair:
    """What objectives of pairs share: the unit is a pair, and figures are told per pair."""

    def units(self, batch: Batch) -> float:
        return float((batch.columns["side"] > 0).sum())

    def report(self, figures: Mapping[str, list[float]]) -> dict[str, float]:
        pairs = figures["pairs"][0] or 1.0
        return {name: values[0] / pairs for name, values in figures.items() if name != "pairs"}


class Preferred(PerPair):
    """The objective of pairs. Figures are sums: margins and rewards, and how many are right."""

    def __init__(self, how: PreferenceSettings) -> None:
        self.how = how

    def __call__(self, policy: Decoder, batch: Batch, last: Figures) -> Outcome:
        sides = sides_of(batch, *answer_logprobs(policy, batch))
        loss_P = LOSSES[self.how.loss](sides, self.how)
        if self.how.sft_weight:
            loss_P = loss_P - self.how.sft_weight * sides.chosen / sides.chosen_tokens
        with torch.no_grad():
            chosen_P, rejected_P = sides.chosen / sides.chosen_tokens, sides.rejected / sides.rejected_tokens
            if self.how.needs_reference:
                chosen_P, rejected_P = (
                    sides.chosen - sides.chosen_reference,
                    sides.rejected - sides.rejected_reference,
                )
            summed = {
                "pairs": torch.ones_like(loss_P),
                "accuracy": (chosen_P > rejected_P).float(),
                "chosen_reward": self.how.beta * chosen_P,
                "rejected_reward": self.how.beta * rejected_P,
                "chosen_logprob": sides.chosen / sides.chosen_tokens,
            }
        return Outcome(loss_P.sum(), {name: values_P.sum()[None] for name, values_P in summed.items()})


def answer_logprobs(policy: Decoder, batch: Batch) -> tuple[Tensor, Tensor]:
    """Summed log-probabilities of each document's weighted tokens [n], and how many they are [n]."""
    hidden_BTD = policy.hidden(batch.tokens, batch.context())
    kept = batch.weights[:, 1:] > 0
    logprobs_N = token_logprobs(hidden_BTD[:, :-1][kept], policy.head_weight(), batch.tokens[:, 1:][kept])
    documents_N, count = batch.document_ids[:, 1:][kept], len(batch.starts) - 1
    sums = torch.zeros(count, device=logprobs_N.device).index_add(0, documents_N, logprobs_N)
    tokens = torch.zeros_like(sums).index_add(0, documents_N, torch.ones_like(logprobs_N))
    return sums, tokens


def sides_of(batch: Batch, sums: Tensor, tokens: Tensor) -> Sides:
    """Documents as pairs: a rejected answer follows its chosen one."""
    side, reference = batch.columns["side"], batch.columns["reference"]
    chosen, rejected = side > 0, side < 0
    return Sides(sums[chosen], sums[rejected], tokens[chosen], tokens[rejected], reference[chosen], reference[rejected])


def _margin(sides: Sides) -> Tensor:
    return (sides.chosen - sides.rejected) - (sides.chosen_reference - sides.rejected_reference)


def _log1mexp(x: Tensor) -> Tensor:
    """log(1 - exp(x)) for x < 0, without cancellation near 0 (Maechler 2012)."""
    return torch.where(x > -0.693, torch.log(-torch.expm1(x)), torch.log1p(-torch.exp(x)))
