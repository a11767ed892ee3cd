"""Calibration of probabilities: calibration error, Brier score and temperature scaling.

Labels are as in `metrics`: AUs 1, 0 or -1, emotions 0..E-1 or -100; unlabelled entries are ignored. NumPy and SciPy
only.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from mf2.evaluation.metrics import mean_of_known
from mf2.labels_mf2 import AU_UNLABELLED, EMOTION_UNLABELLED

NUM_BINS = 15
"""Number of equal-width bins of a reliability diagram, as in Guo et al. (arXiv 1706.04599)."""
TEMPERATURE_BOUNDS = (0.05, 20.0)


# ------------------------------------------------------------------------------------------------------------- scores
def reliability(probs: np.ndarray, outcomes: np.ndarray, num_bins: int = NUM_BINS) -> dict[str, list]:
    """Compute a reliability diagram: predicted probability against observed frequency, by bin.

    Args:
        probs: `(N,)` float in [0, 1].
        outcomes: `(N,)` bool, whether the event occurred.
        num_bins: bins of equal width; each includes its lower edge, the last one also 1.
    Returns:
        `{"prob": [...], "rate": [...], "count": [...]}`: mean probability, observed frequency and number of entries of
        the non-empty bins, in order.
    """
    bins = np.minimum((probs * num_bins).astype(int), num_bins - 1)
    counts = np.bincount(bins, minlength=num_bins)
    filled = counts > 0
    means = [np.bincount(bins, weights=values, minlength=num_bins)[filled] for values in (probs, outcomes)]
    prob, rate = (total / counts[filled] for total in means)
    return {"prob": prob.tolist(), "rate": rate.tolist(), "count": counts[filled].tolist()}


def expected_calibration_error(diagram: dict[str, list]) -> float:
    """Mean distance between probability and observed frequency, bins weighted by their counts."""
    distance = np.abs(np.subtract(diagram["prob"], diagram["rate"]))
    return float(np.average(distance, weights=diagram["count"]))


def binary_calibration(probs: np.ndarray, outcomes: np.ndarray) -> dict[str, Any]:
    """`ece`, `brier` (mean squared distance to 0 or 1), `brier_prevalence` and `reliability` of `(N,)` entries.

    `brier_prevalence`, p (1 - p), is the score of always predicting the prevalence p.
    """
    diagram, prevalence = reliability(probs, outcomes), float(outcomes.mean())
    return {
        "ece": expected_calibration_error(diagram),
        "brier": float(np.mean((probs - outcomes) ** 2)),
        "brier_prevalence": prevalence * (1 - prevalence),
        "reliability": diagram,
    }


def au_calibration(probs: np.ndarray, labels: np.ndarray, au_codes: Sequence[str]) -> dict[str, Any] | None:
    """Calibration of each AU, the means over the AUs, and one reliability diagram over all labelled entries.

    Args:
        probs: `(N, A)` float.
        labels: `(N, A)` int, 1 / 0 / -1.
        au_codes: A names.
    Returns:
        `{"ece", "brier", "brier_prevalence", "reliability", "per_au": {code: {...}}}`; None if nothing is labelled.
    """
    labelled = labels != AU_UNLABELLED
    if not labelled.any():
        return None
    per_au = {
        code: binary_calibration(probs[rows, index], labels[rows, index] == 1)
        for index, (code, rows) in enumerate(zip(au_codes, labelled.T, strict=True))
        if rows.any()
    }
    means = {name: mean_of_known(au[name] for au in per_au.values()) for name in ("ece", "brier", "brier_prevalence")}
    return {**means, "reliability": reliability(probs[labelled], labels[labelled] == 1), "per_au": per_au}


def emotion_calibration(probs: np.ndarray, labels: np.ndarray) -> dict[str, Any] | None:
    """Calibration of the most probable emotion (`ece`, `reliability`) and the Brier score over all emotions.

    Args:
        probs: `(N, E)` float, rows sum to 1.
        labels: `(N,)` int, -100 unlabelled.
    Returns:
        `brier` is the sum over the classes, 0 to 2; `brier_prevalence` that of always predicting the labels'
        frequencies. None if nothing is labelled.
    """
    rows = labels != EMOTION_UNLABELLED
    if not rows.any():
        return None
    probs, labels = probs[rows], labels[rows]
    truth = np.eye(probs.shape[1])[labels]
    diagram = reliability(probs.max(1), probs.argmax(1) == labels)
    return {
        "ece": expected_calibration_error(diagram),
        "brier": float(np.mean(((probs - truth) ** 2).sum(1))),
        "brier_prevalence": float(1 - (truth.mean(0) ** 2).sum()),
        "reliability": diagram,
    }


# -------------------------------------------------------------------------------------------------------- temperature
def au_nll(logits: np.ndarray, labels: np.ndarray, temperature: float = 1.0) -> float:
    """Mean negative log-likelihood of `(N,)` logits under labels 1 / 0 / -1; NaN if nothing is labelled."""
    labelled = labels != AU_UNLABELLED
    if not labelled.any():
        return float("nan")
    signed = np.where(labels[labelled] == 1, -1, 1) * logits[labelled] / temperature
    return float(np.mean(np.logaddexp(0, signed)))


def emotion_nll(logits: np.ndarray, labels: np.ndarray, temperature: float = 1.0) -> float:
    """Mean negative log-likelihood of `(N, E)` logits under labels 0..E-1 / -100; NaN if nothing is labelled."""
    rows = labels != EMOTION_UNLABELLED
    if not rows.any():
        return float("nan")
    return float(-np.mean(log_softmax(logits[rows] / temperature, axis=1)[np.arange(rows.sum()), labels[rows]]))


def fit_au_temperatures(logits: np.ndarray, labels: np.ndarray) -> list[float]:
    """Fit the temperature that divides each AU's logits; 1 for an AU without both positive and negative labels.

    Args:
        logits: `(N, A)`.
        labels: `(N, A)` int, 1 / 0 / -1.
    """
    return [
        _fit(lambda t, z=z, y=y: au_nll(z, y, t)) if {0, 1} <= set(y.tolist()) else 1.0
        for z, y in zip(logits.T, labels.T, strict=True)
    ]


def fit_emotion_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """Fit the temperature of `(N, E)` emotion logits; 1 if the labels have fewer than two emotions."""
    known = set(labels.tolist()) - {EMOTION_UNLABELLED}
    return _fit(lambda t: emotion_nll(logits, labels, t)) if len(known) > 1 else 1.0


def _fit(loss: Any) -> float:
    """Return the temperature with the smallest loss; it is convex in 1/T, so a search over log T finds the minimum."""
    found = minimize_scalar(lambda log_t: loss(np.exp(log_t)), bounds=np.log(TEMPERATURE_BOUNDS), method="bounded")
    return float(np.exp(found.x))
