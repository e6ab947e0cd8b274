"""What the engine is asked for and what it says: requests, new tokens, log-probabilities."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch
from torch import Tensor

from inkstone.generate.sampler import SamplingSettings


class Constraint(Protocol):
    """What an answer must look like, told token by token; `grammar.py` makes one from a JSON schema."""

    def allowed(self) -> Tensor:
        """Marks [V] of what may come next; where nothing may, the answer ends."""

    def accept(self, token: int) -> None: ...


Top = tuple[tuple[int, float], ...]
"""The most probable tokens of a place with their log-probabilities, best first."""


@dataclass(frozen=True)
class Request:
    """What is asked for.

    With `logprobs` above 0 each token comes with its log-probability and that many of the best; with `prompt_logprobs`
    the prompt's tokens do too, all but the first (0: no others beside them).
    """

    prompt: Sequence[int]
    sampling: SamplingSettings = field(default_factory=SamplingSettings)
    stop_ids: Collection[int] = ()
    logprobs: int = 0
    prompt_logprobs: int | None = None
    constraint: Constraint | None = None


@dataclass(frozen=True)
class TokenScore:
    """A token that was there or was chosen, as the model itself saw it: before penalties and temperature."""

    logprob: float
    top: Top = ()


@dataclass(frozen=True)
class Delta:
    """A new token of a request; at a stop token, which is not returned, only its end.

    `prompt` comes with the first one, where it was asked for.
    """

    id: int
    token: int | None
    logprob: float | None = None
    finish: Literal["stop", "length"] | None = None
    top: Top = ()
    prompt: tuple[TokenScore, ...] = ()


def score_tokens(logits_NV: Tensor, tokens: Sequence[int], most: int) -> list[TokenScore]:
    """Each token's log-probability in its row, and the `most` best of the row."""
    if not tokens:
        return []
    logprobs_NV = logits_NV.float().log_softmax(-1)
    own = logprobs_NV.gather(1, torch.tensor(tokens, device=logits_NV.device)[:, None])[:, 0].tolist()
    if not most:
        return [TokenScore(logprob) for logprob in own]
    best = logprobs_NV.topk(min(most, logprobs_NV.shape[1]))
    rows = zip(own, best.indices.tolist(), best.values.tolist(), strict=True)
    return [TokenScore(logprob, tuple(zip(ids, values, strict=True))) for logprob, ids, values in rows]
