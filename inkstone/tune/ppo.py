"""PPO's arithmetic (Schulman et al. 2017, arXiv 1707.06347): advantages, and the clipped losses of actor and critic.

As Huozi 2 and InstructGPT (Ouyang et al. 2022, 2203.02155) used it: the divergence from the reference is part of the
reward of every token, text of the tuning set is learned on beside the answers (ptx), and the critic, a second decoder
that begins as the reward model, rides in the policy as its submodule `critic`, so that the one loop trains both.
"""

from collections.abc import Mapping

import torch
from pydantic import Field
from torch import Tensor

from inkstone.model import Decoder
from inkstone.train import Batch, Outcome
from inkstone.train.loss import next_token_loss
from inkstone.train.objective import Figures
from inkstone.tune.grpo import RolloutSettings, answer_token_logprobs
from inkstone.tune.score import scores_at

CRITIC = "critic"


class PpoSettings(RolloutSettings):
    """`[tune.NAME.ppo]`: what answers are worth, and how far a step may go."""

    rewards: list[str] = Field([], description="rules that are added to the reward model's score, as in grpo")
    reward_model: str = Field("", description="a tuning stage of method reward, or its directory")
    updates: int = Field(2, ge=1, description="steps on each set of answers")
    kl: float = Field(0.1, ge=0, description="weight of the divergence from the base inside the reward")
    kl_target: float = Field(0.0, ge=0, description="divergence per token that kl adapts to; 0: kl is fixed")
    gamma: float = Field(1.0, gt=0, le=1, description="discount of later rewards")
    gae_lambda: float = Field(0.95, ge=0, le=1, description="of the advantages: 0 trusts the critic, 1 the rewards")
    clip: float = Field(0.2, gt=0, description="largest change of a token's probability that still pays")
    value_clip: float = Field(0.2, gt=0, description="largest change of a value in one set of answers")
    value_weight: float = Field(0.5, gt=0, description="of the critic's loss")
    ptx: list[str] = Field([], description="conversations of the tuning set, learned on beside the answers")
    ptx_weight: float = Field(1.0, ge=0, description="of a token of ptx beside a token of an answer")
    ema: float = Field(0.0, ge=0, lt=1, description="decay of the mean of the actor's weights, kept in ema/; 0: none")


def token_rewards(logprobs: Tensor, reference: Tensor, score: float, kl: float) -> Tensor:
    """Of one answer [T]: -kl x (log-probability - the reference's) at each token, and the score at the last."""
    rewards = -kl * (logprobs - reference)
    rewards[-1] += score
    return rewards


def advantages(rewards: Tensor, values: Tensor, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """Generalised advantages (Schulman et al. 2015, 1506.02438) and returns of one answer, both [T].

    delta_t = r_t + gamma V_(t+1) - V_t with V = 0 after the end; A_t = delta_t + gamma lambda A_(t+1); return A + V.
    """
    following = torch.cat((values[1:], values.new_zeros(1)))
    deltas = rewards + gamma * following - values
    found, running = torch.zeros_like(deltas), deltas.new_zeros(())
    for step in range(len(deltas) - 1, -1, -1):
        running = deltas[step] + gamma * lam * running
        found[step] = running
    return found, found + values


def actor_loss(logprobs: Tensor, old: Tensor, advantage: Tensor, clip: float) -> Tensor:
    """-min(ratio A, clamp(ratio, 1 - clip, 1 + clip) A) of each token."""
    ratio = (logprobs - old).exp()
    return -torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)


def critic_loss(values: Tensor, old: Tensor, returns: Tensor, clip: float) -> Tensor:
    """Half of the larger squared error, of the value and of the value clipped to the old one, of each token."""
    near = old + (values - old).clamp(-clip, clip)
    return 0.5 * torch.maximum((values - returns).square(), (near - returns).square())


class Proximal:
    """The objective; its unit is a token of an answer, or of ptx."""

    def __init__(self, how: PpoSettings) -> None:
        self.how = how

    def units(self, batch: Batch) -> float:
        return batch.supervised

    def report(self, figures: Mapping[str, list[float]]) -> dict[str, float]:
        told = {name: values[0] for name, values in figures.items()}
        tokens, ptx = told.pop("tokens", 0.0) or 1.0, told.pop("ptx_tokens", 0.0)
        loss = told.pop("ptx_loss", 0.0)
        return {name: value / tokens for name, value in told.items()} | ({"ptx_loss": loss / ptx} if ptx else {})

    def __call__(self, policy: Decoder, batch: Batch, last: Figures) -> Outcome:
        nothing = torch.zeros(1, device=batch.tokens.device)
        names = ("tokens", "clipped", "value_loss", "logprob", "ptx_tokens", "ptx_loss")
        told = dict.fromkeys(names, nothing)
        if "advantage" not in batch.columns:
            hidden_BTD = policy.hidden(batch.tokens, batch.context())
            loss = next_token_loss(hidden_BTD, policy.head_weight(), batch.tokens, batch.weights, policy.compiled)
            told |= {"ptx_tokens": nothing + batch.supervised, "ptx_loss": loss.detach()[None]}
            return Outcome(self.how.ptx_weight * loss, told)
        column = batch.columns
        logprobs_N, values_N = answer_token_logprobs(policy, batch), answer_values(policy, batch)
        actor_N = actor_loss(logprobs_N, column["logprob"], column["advantage"], self.how.clip)
        critic_N = critic_loss(values_N, column["value"], column["return"], self.how.value_clip)
        far_N = ((logprobs_N - column["logprob"]).exp() - 1).abs() > self.how.clip
        each = {"tokens": torch.ones_like(actor_N), "clipped": far_N, "value_loss": critic_N, "logprob": logprobs_N}
        told |= {name: values.detach().float().sum()[None] for name, values in each.items()}
        return Outcome((actor_N + self.how.value_weight * critic_N).sum(), told)


def answer_values(policy: Decoder, batch: Batch) -> Tensor:
    """What the critic expects before each answer token [N]."""
    critic = policy.get_submodule(CRITIC)
    assert isinstance(critic, Decoder)
    critic.compute_dtype = policy.compute_dtype
    hidden_BTD = critic.hidden(batch.tokens, batch.context())
    return scores_at(critic, hidden_BTD[:, :-1][batch.weights[:, 1:] > 0])


def whitened(values: Tensor) -> Tensor:
    """Mean 0 and deviation 1."""
    return (values - values.mean()) / (values.std(correction=0) + 1e-8)


def adapted(kl: float, divergence: float, target: float, horizon: float = 10.0) -> float:
    """The weight moved towards the target divergence (Ziegler et al. 2019, arXiv 1909.08593), by 2 % a set at most."""
    error = max(-0.2, min(0.2, divergence / target - 1)) if target else 0.0
    return kl * (1 + error / horizon)
