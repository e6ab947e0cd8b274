"""From logits to the next token: repetition penalty, temperature, top-k, top-p, or plain argmax.

The order is the field's (and transformers'): penalise, scale, keep the k best, keep the smallest set whose
probability reaches p, draw. Every draw comes from the request's own generator, so a request's tokens do not depend on
what else is in the batch.
"""

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor


class SamplingSettings(BaseModel):
    """How one request's tokens are chosen."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    temperature: float = Field(0.0, ge=0, description="0 is greedy: always the most probable token")
    top_p: float = Field(1.0, gt=0, le=1, description="keep the smallest set of tokens with this much probability")
    top_k: int = Field(0, ge=0, description="keep this many tokens; 0 keeps all")
    repetition_penalty: float = Field(1.0, gt=0, description="above 1 discourages tokens already in the text")
    max_new_tokens: int = Field(256, ge=1, description="stop after this many tokens")
    seed: int = Field(0, description="of the draws; the same seed gives the same text")


def choose(logits_V: Tensor, seen_ids: list[int], settings: SamplingSettings, generator: torch.Generator) -> int:
    """The next token id. `seen_ids` are the prompt's and the answer's tokens so far."""
    logits_V = logits_V.float()
    if settings.repetition_penalty != 1.0:
        logits_V = _penalise(logits_V, seen_ids, settings.repetition_penalty)
    if settings.temperature == 0:
        return int(logits_V.argmax())
    logits_V = logits_V / settings.temperature
    if settings.top_k:
        floor = logits_V.topk(min(settings.top_k, logits_V.numel())).values[-1]
        logits_V = logits_V.masked_fill(logits_V < floor, -torch.inf)
    probabilities = logits_V.softmax(-1)
    if settings.top_p < 1:
        probabilities = _nucleus(probabilities, settings.top_p)
    return int(torch.multinomial(probabilities, 1, generator=generator))


def _penalise(logits_V: Tensor, seen_ids: list[int], penalty: float) -> Tensor:
    """Divide positive and multiply negative logits of seen tokens (Keskar et al. 2019, arXiv 1909.05858)."""
    ids = torch.tensor(sorted(set(seen_ids)), dtype=torch.long, device=logits_V.device)
    seen = logits_V[ids]
    return logits_V.index_put((ids,), torch.where(seen > 0, seen / penalty, seen * penalty))


def _nucleus(probabilities: Tensor, top_p: float) -> Tensor:
    """Zero everything outside the smallest set that reaches `top_p` (Holtzman et al. 2020, arXiv 1904.09751)."""
    ordered, order = probabilities.sort(descending=True)
    # A token is kept while the mass before it is below top_p, so the first one always stays.
    outside = ordered.cumsum(-1) - ordered >= top_p
    return probabilities.index_fill(0, order[outside], 0.0)
