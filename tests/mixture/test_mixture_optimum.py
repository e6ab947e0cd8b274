"""The optimum: no mixture under the caps is better, and caps hold whatever they are."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_mixture_law import known

from inkstone.errors import InputError
from inkstone.mixture.optimum import best_weights, capped, repetition_caps

NATURAL = np.array([0.6, 0.25, 0.1, 0.05])
POSITIVE = st.lists(st.floats(0.001, 10), min_size=4, max_size=4).map(np.array)


def objective(weights: np.ndarray, targets: np.ndarray, naturalness: float) -> float:
    return float(
        known().predict(weights[None])[0] @ targets + naturalness * (weights * np.log(weights / NATURAL)).sum()
    )


@settings(max_examples=25, deadline=None)
@given(POSITIVE, POSITIVE, st.floats(0, 0.2), st.integers(0, 100))
def test_no_drawn_mixture_under_the_caps_beats_the_optimum(
    targets: np.ndarray, room: np.ndarray, naturalness: float, seed: int
) -> None:
    targets, caps = targets / targets.sum(), np.minimum(1, 1.2 * room / room.sum())
    if caps.sum() < 1:
        caps = np.ones(4)
    best = best_weights(known(), targets, NATURAL, naturalness, caps)
    assert best.sum() == pytest.approx(1) and (best <= caps * (1 + 1e-9)).all() and (best > 0).all()
    draws = np.random.default_rng(seed)
    drawn = [capped(draws.dirichlet(np.full(4, 0.7)) + 1e-9, caps) for _ in range(100)]
    near = [capped(best * np.exp(draws.normal(0, 0.02, 4)), caps) for _ in range(100)]
    value = objective(best, targets, naturalness)
    assert all(objective(other, targets, naturalness) >= value - 1e-6 for other in [*drawn, *near])


@given(POSITIVE, POSITIVE)
def test_capping_keeps_the_sum_the_caps_and_the_proportions_below_them(wanted: np.ndarray, room: np.ndarray) -> None:
    caps = np.minimum(1, 1.5 * room / room.sum())
    if caps.sum() < 1:
        return
    mix = capped(wanted, caps)
    assert mix.sum() == pytest.approx(1) and (mix <= caps * (1 + 1e-9)).all()
    loose = mix < caps * (1 - 1e-9)
    ratios = mix[loose] / wanted[loose]
    assert np.allclose(ratios, ratios[:1])


def test_a_domain_that_was_given_no_weight_takes_what_the_others_cannot() -> None:
    assert capped(np.array([1.0, 0.0]), np.array([0.4, 1.0])) == pytest.approx([0.4, 0.6])


def test_a_stronger_pull_to_the_natural_mix_ends_nearer_to_it() -> None:
    distances = []
    for naturalness in (0.0, 0.1, 10.0):
        best = best_weights(known(), np.full(4, 0.25), NATURAL, naturalness, np.ones(4))
        distances.append(np.abs(best - NATURAL).sum())
    assert distances[0] > distances[1] > distances[2] and distances[2] < 0.05


def test_a_budget_beyond_the_allowed_repetitions_is_refused_with_the_number_that_would_do() -> None:
    assert repetition_caps(np.array([100.0, 10.0]), 4, 200).tolist() == [1, 0.2]
    with pytest.raises(InputError, match=r"do not fill the budget of 1,000: raise it to 9.1 or more, or train less"):
        repetition_caps(np.array([100.0, 10.0]), 4, 1000)
