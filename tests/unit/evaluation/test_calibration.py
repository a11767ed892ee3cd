"""Calibration scores against hand-made references, and temperatures that are known."""

import numpy as np
import pytest
from scipy.special import expit, softmax
from sklearn.metrics import brier_score_loss, log_loss

from mf2.evaluation.calibration import (
    NUM_BINS,
    au_calibration,
    au_nll,
    binary_calibration,
    emotion_calibration,
    emotion_nll,
    expected_calibration_error,
    fit_au_temperatures,
    fit_emotion_temperature,
    reliability,
)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_reliability_of_four_entries_by_hand():
    diagram = reliability(np.array([0.1, 0.2, 0.9, 1.0]), np.array([False, True, True, True]), num_bins=2)
    assert diagram["count"] == [2, 2]
    assert diagram["prob"] == pytest.approx([0.15, 0.95]) and diagram["rate"] == [0.5, 1.0]
    assert expected_calibration_error(diagram) == pytest.approx((0.35 + 0.05) / 2)


def test_scores_equal_a_loop_over_the_bins_and_scikit_learn(rng):
    probs = rng.random(500)
    outcomes = rng.random(500) < probs**2
    found = binary_calibration(probs, outcomes)
    error = 0.0
    for low in range(NUM_BINS):
        rows = (probs >= low / NUM_BINS) & (probs < (low + 1) / NUM_BINS)
        error += rows.mean() * abs(probs[rows].mean() - outcomes[rows].mean()) if rows.any() else 0
    assert found["ece"] == pytest.approx(error)
    assert found["brier"] == pytest.approx(brier_score_loss(outcomes, probs))
    constant = np.full(500, outcomes.mean())
    assert found["brier_prevalence"] == pytest.approx(brier_score_loss(outcomes, constant))


def test_probabilities_that_are_true_have_little_error(rng):
    probs = rng.random(200_000)
    assert binary_calibration(probs, rng.random(200_000) < probs)["ece"] < 0.01


def test_unlabelled_entries_never_count(rng):
    probs, labels = rng.random((100, 3)), rng.choice([-1, 0, 1], size=(100, 3))
    labels[:, 2] = -1
    found = au_calibration(probs, labels, ["AU1", "AU2", "AU4"])
    assert list(found["per_au"]) == ["AU1", "AU2"]
    rows = labels[:, 0] != -1
    assert found["per_au"]["AU1"] == binary_calibration(probs[rows, 0], labels[rows, 0] == 1)
    assert sum(found["reliability"]["count"]) == (labels != -1).sum()
    assert au_calibration(probs, np.full((100, 3), -1), ["AU1", "AU2", "AU4"]) is None


def test_emotion_scores_equal_scikit_learn(rng):
    probs, labels = rng.dirichlet(np.ones(4), 300), rng.integers(0, 4, 300)
    labels[::5] = -100
    found, rows = emotion_calibration(probs, labels), labels != -100
    expected = brier_score_loss(labels[rows], probs[rows], scale_by_half=False, labels=range(4))
    assert found["brier"] == pytest.approx(expected)
    hits = probs[rows].argmax(1) == labels[rows]
    assert found["ece"] == binary_calibration(probs[rows].max(1), hits)["ece"]
    assert emotion_calibration(probs, np.full(300, -100)) is None


# ------------------------------------------------------------------------------------------------------- temperatures
def test_likelihoods_equal_scikit_learn(rng):
    logits, labels = rng.normal(size=200), rng.choice([-1, 0, 1], size=200)
    rows = labels != -1
    assert au_nll(logits, labels, 2.0) == pytest.approx(log_loss(labels[rows], expit(logits[rows] / 2)))
    scores, emotion = rng.normal(size=(200, 4)), rng.integers(0, 4, 200)
    assert emotion_nll(scores, emotion, 2.0) == pytest.approx(log_loss(emotion, softmax(scores / 2, axis=1)))
    assert np.isnan(au_nll(logits, np.full(200, -1))) and np.isnan(emotion_nll(scores, np.full(200, -100)))


def test_the_temperature_of_overconfident_logits_is_found(rng):
    true_logits = rng.normal(0, 1.5, (20_000, 2))
    labels = (rng.random((20_000, 2)) < expit(true_logits)).astype(int)
    assert fit_au_temperatures(true_logits * [3.0, 0.5], labels) == pytest.approx([3.0, 0.5], rel=0.06)


def test_the_emotion_temperature_is_found(rng):
    true_logits = rng.normal(0, 1.5, (20_000, 4))
    labels = (softmax(true_logits, axis=1).cumsum(1) > rng.random((20_000, 1))).argmax(1)
    assert fit_emotion_temperature(true_logits * 2.5, labels) == pytest.approx(2.5, rel=0.06)


def test_what_cannot_be_fitted_stays_as_it_is(rng):
    labels = np.stack([np.ones(50, int), np.full(50, -1), rng.integers(0, 2, 50)], axis=1)
    assert fit_au_temperatures(rng.normal(size=(50, 3)), labels)[:2] == [1.0, 1.0]
    assert fit_emotion_temperature(rng.normal(size=(50, 4)), np.full(50, 2)) == 1.0
