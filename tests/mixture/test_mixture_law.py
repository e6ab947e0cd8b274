"""The law finds parameters that are known, and predicts mixtures it has not seen."""

import numpy as np
import pytest

from inkstone.mixture.law import Laws, fit_laws, rank_correlation

TRANSFER = np.array([[1, 0.4, 0.02, 0.05], [0.3, 1, 0.1, 0.02], [0.05, 0.2, 1, 0.6], [0.02, 0.05, 0.5, 1.0]])


def known() -> Laws:
    c, a, g = np.array([2.0, 2.5, 1.5, 3.0]), np.array([1.2, 0.8, 1.5, 0.9]), np.array([0.35, 0.5, 0.25, 0.4])
    return Laws(c, a, g, TRANSFER)


def mixtures(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).dirichlet(np.full(4, 0.8), count) * 0.99 + 0.0025


def test_losses_of_a_known_law_are_predicted_on_mixtures_the_fit_has_not_seen() -> None:
    fitted = fit_laws(mixtures(24, 1), known().predict(mixtures(24, 1)))
    unseen = mixtures(50, 2)
    assert np.abs(fitted.predict(unseen) - known().predict(unseen)).max() < 0.02
    assert fitted.transfer.diagonal() == pytest.approx(1)
    # The large entries of the table are found, the tiny ones are found to be tiny.
    large, tiny = TRANSFER >= 0.3, TRANSFER <= 0.05
    assert np.allclose(fitted.transfer[large], TRANSFER[large], rtol=0.25)
    assert fitted.transfer[tiny].max() < 0.15


def test_one_wrong_measurement_in_24_does_not_bend_the_law() -> None:
    weights = mixtures(24, 1)
    losses = known().predict(weights) + np.random.default_rng(3).normal(0, 0.005, (24, 4))
    losses[7] += 1.0
    unseen = mixtures(50, 2)
    error = np.abs(fit_laws(weights, losses).predict(unseen) - known().predict(unseen))
    assert np.median(error) < 0.03


def test_gradients_are_those_of_the_predictions() -> None:
    laws, r = known(), np.array([0.1, 0.2, 0.3, 0.4])
    step = 1e-6 * np.eye(4)
    numeric = (laws.predict(r + step) - laws.predict(r - step)).T / 2e-6
    assert np.allclose(laws.gradient(r), numeric, rtol=1e-5)


def test_rank_correlation_is_one_for_any_rising_relation_and_unknown_for_two_points() -> None:
    values = np.array([0.3, 1.0, 0.1, 7.0])
    assert rank_correlation(values, np.exp(values)) == pytest.approx(1)
    assert rank_correlation(values, -values) == pytest.approx(-1)
    assert rank_correlation(values[:2], values[:2]) is None
