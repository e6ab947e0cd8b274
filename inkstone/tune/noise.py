"""NEFTune (Jain et al. 2023, arXiv 2310.05914): uniform noise on embeddings while a model learns conversations.

    [sft]
    neftune_alpha = 5        # Huozi 3.5's

Each document has noise of +-alpha / sqrt(its own length x D): the length of a packed row or of padding says nothing.
"""

import torch
from torch import Tensor, nn

from inkstone.model import Decoder
from inkstone.train import Batch, Outcome
from inkstone.train.objective import Figures, NextToken


class NoisyEmbeddings(NextToken):
    """Next-token prediction with noise where gradients are taken; held-out losses have none.

    The loop seeds torch's generator by seed and step, so a resumed run draws what an uninterrupted one does.
    """

    def __init__(self, alpha: float) -> None:
        self.alpha = alpha

    def __call__(self, policy: Decoder, batch: Batch, last: Figures) -> Outcome:
        if not torch.is_grad_enabled():
            return super().__call__(policy, batch, last)
        reach_BT1 = noise_reach(batch, self.alpha, policy.config.hidden_size)[..., None]

        def add(module: nn.Module, given: tuple[Tensor], x_BTD: Tensor) -> Tensor:
            return x_BTD + reach_BT1 * (2 * torch.rand_like(x_BTD) - 1)

        hook = policy.model.embed_tokens.register_forward_hook(add)
        try:
            return super().__call__(policy, batch, last)
        finally:
            hook.remove()


def noise_reach(batch: Batch, alpha: float, hidden_size: int) -> Tensor:
    """Largest noise [B, T] of each token: alpha / sqrt(length of its document x D)."""
    lengths = torch.bincount(batch.document_ids.flatten())[batch.document_ids]
    return alpha / (lengths.float() * hidden_size).sqrt()
