"""KTO: learning from answers that are good or bad by themselves, without pairs (Ethayarajh et al. 2024, 2402.01306).

    [tune.thumbs]
    method = "kto"
    inputs = ["thumbs.jsonl"]        # {"prompt": ..., "completion": ..., "label": true}

An answer's reward is its log-probability over the reference's; the loss asks it to lie above (below, if bad) a common
level: how far the policy has moved on prompts with answers that are not theirs. Each example is therefore packed beside
such a mismatch. The level is that of the step before, over all its batches and ranks (0 at first, where policy and
reference are one): the paper takes the micro-batch's own, which makes a loss depend on how the step is cut.
"""

from collections.abc import Mapping

import torch
from pydantic import BaseModel, ConfigDict, Field

from inkstone.model import Decoder
from inkstone.train import Batch, Outcome
from inkstone.train.objective import Figures
from inkstone.tune.preference import PerPair, answer_logprobs, sides_of


class KtoSettings(BaseModel):
    """`[tune.NAME.kto]`: how strongly, and what good and bad answers count."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    beta: float = Field(0.1, gt=0, description="how strongly the policy is held to the reference")
    good_weight: float = Field(
        1.0, ge=0, description="of good answers; good and bad should weigh about the same in all"
    )
    bad_weight: float = Field(1.0, ge=0, description="of bad answers")


class Verdicts(PerPair):
    """The objective: w (1 - sigmoid(+-beta (reward - level))) for each example; its unit is an example."""

    def __init__(self, how: KtoSettings) -> None:
        self.how = how

    def __call__(self, policy: Decoder, batch: Batch, last: Figures) -> Outcome:
        sides = sides_of(batch, *answer_logprobs(policy, batch))
        reward_P = sides.chosen - sides.chosen_reference
        label_P = batch.columns["label"][batch.columns["side"] > 0]
        level = reward_P.new_zeros(())
        if last:  # of an estimate that may be noise a level below zero makes no sense: it is a divergence
            level = (last["divergence"][0] / last["pairs"][0].clamp(min=1)).clamp(min=0).to(reward_P)
        weight_P = torch.where(label_P > 0, self.how.good_weight, self.how.bad_weight)
        loss_P = weight_P * (1 - torch.sigmoid(label_P * self.how.beta * (reward_P - level)))
        with torch.no_grad():
            good_P = (label_P > 0).float()
            summed = {
                "pairs": torch.ones_like(loss_P),
                "divergence": sides.rejected - sides.rejected_reference,
                "good": good_P,
                "good_reward": self.how.beta * reward_P * good_P,
                "bad_reward": self.how.beta * reward_P * (1 - good_P),
            }
        return Outcome(loss_P.sum(), {name: values_P.sum()[None] for name, values_P in summed.items()})

    def report(self, figures: Mapping[str, list[float]]) -> dict[str, float]:
        """Rewards are means over the answers of their kind."""
        told = {name: values[0] for name, values in figures.items()}
        bad = told["pairs"] - told["good"]
        return {
            "divergence": told["divergence"] / (told["pairs"] or 1.0),
            "good_reward": told["good_reward"] / (told["good"] or 1.0),
            "bad_reward": told["bad_reward"] / (bad or 1.0),
        }
