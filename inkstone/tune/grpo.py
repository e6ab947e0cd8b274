"""GRPO: answers of one question are weighed against each other; no critic, and one update for each set of answers.

With one update the ratio to the policy that answered is 1, so the clipped objective of Shao et al. 2024 (arXiv
2402.03300) is advantage x log-probability; its sum is divided by the answers' tokens of the whole step (DAPO, Yu et
al. 2025, 2503.14476), so long answers are not favoured. With `beta` the policy is held to its base, which an adapter
that is switched off is: Schulman's estimate exp(d) - d - 1 of the divergence.
"""

from collections.abc import Mapping

import torch
from pydantic import BaseModel, ConfigDict, Field

from inkstone.model import Decoder
from inkstone.model.decoder.lora import adapter_off
from inkstone.train import Batch, Outcome
from inkstone.train.loss import token_logprobs
from inkstone.train.objective import Figures


class RolloutSettings(BaseModel):
    """What every method that learns from its own answers says of them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    prompts: int = Field(8, ge=1, description="questions that are asked together, over all ranks")
    group: int = Field(1, ge=1, description="answers to each question")
    max_new_tokens: int = Field(128, ge=1, description="longest answer")
    temperature: float = Field(1.0, gt=0, description="of the answers")
    rewards: list[str]
    tuned_on: list[str] = Field(
        [],
        description="conversations that the base was tuned on, which the prompts are compared with; default: those of "
        "the sft stage behind the base, else of ptx",
    )


class GrpoSettings(RolloutSettings):
    """`[tune.NAME.grpo]`: how many answers, and what they are worth."""

    group: int = Field(8, ge=2, description="answers to each question")
    rewards: list[str] = Field(
        ["last_number"], min_length=1, description='added up: "last_number", "ends", or FILE.py:FUNCTION'
    )
    divide_by_deviation: bool = Field(True, description="advantages over their group's deviation; false: Dr. GRPO")
    beta: float = Field(0.0, ge=0, description="weight of the divergence from the base; needs an adapter")


class GroupAdvantage:
    """The objective; its unit is a token of an answer."""

    def __init__(self, beta: float) -> None:
        self.beta = beta

    def units(self, batch: Batch) -> float:
        return batch.supervised

    def report(self, figures: Mapping[str, list[float]]) -> dict[str, float]:
        tokens = figures["tokens"][0] or 1.0
        return {name: values[0] / tokens for name, values in figures.items() if name != "tokens"}

    def __call__(self, policy: Decoder, batch: Batch, last: Figures) -> Outcome:
        logprobs_N = answer_token_logprobs(policy, batch)
        advantage_N = batch.columns["advantage"][batch.document_ids[:, 1:][batch.weights[:, 1:] > 0]]
        loss_N = -advantage_N * logprobs_N
        figures = {"tokens": torch.ones_like(logprobs_N), "logprob": logprobs_N.detach()}
        if self.beta:
            with torch.no_grad(), adapter_off(policy):
                base_N = answer_token_logprobs(policy, batch)
            gap_N = base_N - logprobs_N
            divergence_N = gap_N.exp() - gap_N - 1
            loss_N = loss_N + self.beta * divergence_N
            figures["divergence"] = divergence_N.detach()
        return Outcome(loss_N.sum(), {name: values.sum()[None] for name, values in figures.items()})


def answer_token_logprobs(policy: Decoder, batch: Batch) -> torch.Tensor:
    """Of each answer token [N], those of weight above 0, row after row."""
    kept = batch.weights[:, 1:] > 0
    hidden_BTD = policy.hidden(batch.tokens, batch.context())
    return token_logprobs(hidden_BTD[:, :-1][kept], policy.head_weight(), batch.tokens[:, 1:][kept])
