"""What a batch's loss is: the contract of an objective, and the one of pretraining and supervised fine-tuning.

An objective says how many units a batch has (tokens, pairs, answers) before the forward, and turns a policy and a batch
into a summed loss; the loop divides by the units of the whole step. So micro-batches, accumulation and ranks cannot
change a loss.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from inkstone.model import Decoder
from inkstone.model.decoder.experts import route
from inkstone.train.batches import Batch
from inkstone.train.loss import next_token_loss

Figures = Mapping[str, Tensor]


@dataclass(frozen=True)
class Outcome:
    """A batch's summed loss, and figures that are sums over the batch too; neither carries a gradient in `figures`."""

    loss: Tensor
    figures: Figures = field(default_factory=dict)


class Objective(Protocol):
    """What a training run minimises, per unit."""

    def units(self, batch: Batch) -> float:
        """How much the batch counts: what its share of the step's loss is divided by."""

    def report(self, figures: Mapping[str, list[float]]) -> dict[str, float]:
        """What metrics.jsonl shall say of a step's figures, added up over its batches and ranks."""

    def __call__(self, policy: Decoder, batch: Batch, last: Figures) -> Outcome:
        """`last` are the figures of the step before, added up over its batches and ranks; none in the first step."""


class NextToken:
    """Weighted cross entropy of each token given those before it in its document; its unit is a loss weight of 1.

    A token of weight 0.5 counts half in the sum and half in what the sum is divided by: a weighted mean. In training, a
    model with experts adds its load-balancing loss.
    """

    def units(self, batch: Batch) -> float:
        return batch.supervised

    def report(self, figures: Mapping[str, list[float]]) -> dict[str, float]:
        return {}

    def __call__(self, policy: Decoder, batch: Batch, last: Figures) -> Outcome:
        balancing = policy.config.num_experts > 0 and policy.config.router_aux_loss > 0 and torch.is_grad_enabled()
        hidden_BTD, routing = policy.hidden_and_routing(batch.tokens, batch.context())
        loss = next_token_loss(hidden_BTD, policy.head_weight(), batch.tokens, batch.weights, policy.compiled)
        if not balancing:
            return Outcome(loss)
        balance, sent_E = balance_loss(routing, policy.config.experts_per_token, batch.weights, last.get(SENT))
        return Outcome(loss + policy.config.router_aux_loss * balance, {SENT: sent_E})


SENT = "tokens to each expert"


def balance_loss(
    routing: list[Tensor], per_token: int, weights_BT: Tensor, sent_before_E: Tensor | None
) -> tuple[Tensor, Tensor]:
    """E x the sum over tokens and experts of (share of tokens sent there) x (router probability), and who was sent.

    Fedus et al. 2021 (arXiv 2101.03961, eqs. 4-6), all layers as one; k per token when balanced. The shares have no
    gradient and a product with them is no sum over tokens, so those of the step itself would make the loss depend on
    micro-batches (and be known only after the first backward): they are the shares of the step before, over all its
    ranks and micro-batches (Qiu et al. 2025, arXiv 2501.11873, count globally too), and even in the first step. A
    position counts as much as the token that it predicts, so padding does not.

    `routing` has a layer's logits [B T, E]; returns the loss and the weight [E] sent to each expert.
    """
    weights_N = torch.cat((weights_BT[:, 1:], torch.zeros_like(weights_BT[:, :1])), 1).flatten()
    num_experts = routing[0].shape[-1]
    even_E = weights_N.new_full((num_experts,), per_token / num_experts)
    sent_E = torch.zeros_like(even_E)
    probability_E = torch.zeros_like(even_E)
    for logits_NE in routing:
        chosen_Nk = route(logits_NE.detach(), per_token)[1]
        sent_E = sent_E.index_add(0, chosen_Nk.flatten(), weights_N.repeat_interleave(per_token))
        probability_E = probability_E + weights_N @ logits_NE.float().softmax(-1)
    before = even_E if sent_before_E is None else sent_before_E.to(even_E)
    share_E = before * (per_token / before.sum().clamp(min=1e-9))
    return num_experts * (share_E * probability_E).sum() / len(routing), sent_E
