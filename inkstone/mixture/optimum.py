"""The best weights: minimise sum_i w_i L_i(r) + naturalness x KL(r || natural) where no domain exceeds its cap.

The objective is convex in r (a decreasing power of a linear form, and the KL), so exponentiated gradient steps, each
followed by the KL projection on the capped simplex, find its minimum; the step adapts until nothing moves.
"""

import numpy as np

from inkstone.errors import InputError
from inkstone.mixture.law import Array, Laws


def repetition_caps(tokens_K: Array, repetition_cap: float, budget_tokens: int) -> Array:
    """The largest weight of each domain: what `repetition_cap` passes over it give of the budget.

    Raises InputError where all domains together cannot fill the budget.
    """
    caps: Array = np.minimum(1.0, repetition_cap * tokens_K / budget_tokens)
    if caps.sum() < 1:
        raise InputError(
            f"[mixture] repetition_cap = {repetition_cap:g} passes over {int(tokens_K.sum()):,} tokens do not fill the "
            f"budget of {budget_tokens:,}: raise it to {budget_tokens / tokens_K.sum():.1f} or more, or train less"
        )
    return caps


def capped(weights_K: Array, caps_K: Array) -> Array:
    """The nearest mixture (in KL) under the caps: capped domains stay at their cap, the rest grow in proportion."""
    weights = weights_K / weights_K.sum()
    full = np.zeros(len(weights), bool)
    while True:
        room = 1.0 - caps_K[full].sum()
        loose = weights[~full].sum()
        if loose <= 0:  # all that is wanted is full: what is left goes where there is room
            weights = np.where(full, weights, caps_K)
            loose = weights[~full].sum()
        scaled = np.where(full, caps_K, weights * (room / loose if loose > 0 else 0.0))
        over = (scaled > caps_K * (1 + 1e-12)) & ~full
        if not over.any():
            return scaled
        full |= over


def best_weights(laws: Laws, targets_K: Array, natural_K: Array, naturalness: float, caps_K: Array) -> Array:
    """The mixture with the smallest objective."""
    targets = targets_K / targets_K.sum()

    def objective(weights: Array) -> float:
        divergence = float((weights * np.log(np.maximum(weights, 1e-300) / natural_K)).sum())
        return float(laws.predict(weights[None])[0] @ targets) + naturalness * divergence

    weights = capped(0.5 * natural_K + 0.5 / len(natural_K), caps_K)
    value, step = objective(weights), 0.5
    for _ in range(20_000):
        slope = targets @ laws.gradient(weights) + naturalness * (np.log(np.maximum(weights, 1e-300) / natural_K) + 1)
        moved = capped(np.maximum(weights * np.exp(np.clip(-step * (slope - slope.mean()), -2, 2)), 1e-9), caps_K)
        better = objective(moved)
        if better < value:
            weights, value, step = moved, better, step * 1.2
        elif step > 1e-9:
            step *= 0.5
        else:
            break
    return weights
