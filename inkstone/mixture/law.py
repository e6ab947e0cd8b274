"""The law that predicts a domain's held-out loss from the weights r of a mixture, fitted on a few dozen proxy runs.

    L_i(r) = c_i + a_i (sum_j A_ij r_j)^(-g_i)

A scaling law in "effective tokens of domain i"; A_ij says what a token of domain j is worth for domain i, against one
of i itself (A_ii = 1). Each domain is fitted by itself: logarithms of positive parameters, Huber loss in units of the
noise found, weak priors (a few dozen noisy runs do not determine a dozen parameters), L-BFGS in float64 with exact
gradients, two starts. On our proxies it predicts better than the exponential law of data mixing laws (docs/log.md).
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float64]

_NOISE = 0.03
"""Nats: what a proxy's loss is first taken to be off by; fits are repeated with what is then found."""
_WORTH = (1.0, 0.2, 1.0)
"""Before any measurement a token is worth 1 for its own domain and 0.2 for others, give or take a factor e."""
_POWER = (0.3, 0.5)
"""And g is 0.3, give or take a factor e^0.5: without it a noisy domain gets a cliff instead of a curve."""


@dataclass(frozen=True)
class Laws:
    """One law per domain: c, a, g [K] and A [K, K]."""

    c: Array
    a: Array
    g: Array
    transfer: Array

    def predict(self, weights_NK: Array) -> Array:
        """Losses [N, K] of mixtures [N, K]."""
        losses: Array = self.c + self.a * (weights_NK @ self.transfer.T) ** -self.g
        return losses

    def gradient(self, weights_K: Array) -> Array:
        """d L_i / d r_j, [K, K]."""
        slope_K = -self.a * self.g * (self.transfer @ weights_K) ** (-self.g - 1)
        gradient: Array = slope_K[:, None] * self.transfer
        return gradient


def fit_laws(weights_NK: Array, losses_NK: Array, seed: int = 0, starts: int = 2) -> Laws:
    """Fit every domain's law on N mixtures and the losses measured for them."""
    draws = torch.Generator().manual_seed(seed)
    weights = torch.from_numpy(np.ascontiguousarray(weights_NK, np.float64))
    fitted = []
    for domain in range(losses_NK.shape[1]):
        losses = torch.from_numpy(np.ascontiguousarray(losses_NK[:, domain], np.float64))
        tries = [_fit_one(weights, losses, domain, _NOISE, draws if start else None) for start in range(starts)]
        first = min(tries, key=lambda found: found.objective)
        noise = min(max(1.48 * float(first.residuals.abs().median()), 0.003), 0.3)  # their scale, outliers aside
        fitted.append(_fit_one(weights, losses, domain, noise, None, first.values).values)
    c, a, g = (np.array([float(law[place]) for law in fitted]) for place in range(3))
    transfer = np.stack([law[3:].numpy() for law in fitted])
    own = transfer.diagonal().copy()  # only a A^-g is determined: say it in units of the domain's own tokens
    return Laws(c, a * own**-g, g, transfer / own[:, None])


class _Fit(NamedTuple):
    objective: float
    values: Tensor  # c, a, g, A_1 ... A_K
    residuals: Tensor


def _fit_one(
    weights_NK: Tensor,
    losses_N: Tensor,
    domain: int,
    noise: float,
    draws: torch.Generator | None,
    begin: Tensor | None = None,
) -> _Fit:
    """The most likely law of one domain, from `begin` or a plain start, which `draws` shakes."""
    low, spread = float(losses_N.min()), max(float(losses_N.max() - losses_N.min()), 0.05)
    own, other, worth_width = _WORTH
    power, power_width = _POWER
    expected = torch.full((3 + weights_NK.shape[1],), other, dtype=torch.float64)
    expected[:3] = torch.tensor([max(low - spread, 0.3 * low), spread, power])
    expected[3 + domain] = own
    expected = expected.log()
    width = torch.full_like(expected, worth_width)
    width[:3] = torch.tensor([1.0, 2.0, power_width])
    logs = expected.clone() if begin is None else begin.log()
    if draws is not None:
        logs += torch.randn(logs.shape, generator=draws, dtype=torch.float64) * 0.5
    logs.requires_grad_()

    def residuals() -> Tensor:
        c, a, g, worth_N = logs[0].exp(), logs[1].exp(), logs[2].exp(), weights_NK @ logs[3:].exp()
        predicted_N: Tensor = c + a * worth_N**-g
        return predicted_N - losses_N

    def objective() -> Tensor:
        scaled = residuals() / noise
        doubt: Tensor = ((logs - expected) / width).square().sum() / 2
        return torch.nn.functional.huber_loss(scaled, torch.zeros_like(scaled), reduction="sum") + doubt

    solver = torch.optim.LBFGS(
        [logs], max_iter=200, history_size=20, tolerance_grad=1e-6, tolerance_change=1e-9, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        solver.zero_grad()
        value = objective()
        value.backward()
        return value

    solver.step(closure)
    with torch.no_grad():
        value = float(objective())
        return _Fit(value if np.isfinite(value) else float("inf"), logs.detach().exp(), residuals())


def rank_correlation(one: Array, other: Array) -> float | None:
    """Spearman's; None where there is nothing to rank."""
    if len(one) < 3:
        return None
    ranks = [np.argsort(np.argsort(values, kind="stable"), kind="stable").astype(np.float64) for values in (one, other)]
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])
