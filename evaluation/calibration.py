"""Whether probabilities mean what they say: calibration error, Brier score, and the temperature that mends them.

Labels are those of `metrics`: AUs 1, 0 or -1, emotions 0..E-1 or -100; unlabelled entries never count. Pure numpy.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from mf2.evaluation.metrics import mean_of_known
from mf2.labels_mf2 import AU_UNLABELLED, EMOTION_UNLABELLED

NUM_BINS = 15
"""Bins of equal width in a reliability diagram: what Guo et al. (arXiv 1706.04599) use."""
TEMPERATURE_BOUNDS = (0.05, 20.0)


# ------------------------------------------------------------------------------------------------------------- scores
def reliability(probs: np.ndarray, outcomes: np.ndarray, num_bins: int = NUM_BINS) -> dict[str, list]:
    """A reliability diagram: where the probabilities of a bin lie, and how often they came true.

    Args:
        probs: `(N,)` float in [0, 1].
        outcomes: `(N,)` bool, whether what the probability speaks of is so.
        num_bins: bins of equal width; one holds its lower edge, the last also 1.
    Returns:
        `{"prob": [...], "rate": [...], "count": [...]}`: mean probability, share that came true and number of entries
        of the bins that hold any, in order.
    """
    bins = np.minimum((probs * num_bins).astype(int), num_bins - 1)
    counts = np.bincount(bins, minlength=num_bins)
    filled = counts > 0
    means = [np.bincount(bins, weights=values, minlength=num_bins)[filled] for values in (probs, outcomes)]
    prob, rate = (total / counts[filled] for total in means)
    return {"prob": prob.tolist(), "rate": rate.tolist(), "count": counts[filled].tolist()}


def expected_calibration_error(diagram: dict[str, list]) -> float:
    """The mean distance between probability and rate in a reliability diagram, bins weighted by their counts."""
    distance = np.abs(np.subtract(diagram["prob"], diagram["rate"]))
    return float(np.average(distance, weights=diagram["count"]))


def binary_calibration(probs: np.ndarray, outcomes: np.ndarray) -> dict[str, Any]:
    """`ece`, `brier` (mean squared distance to 0 or 1), `brier_prevalence` and `reliability` of `(N,)` entries.

    `brier_prevalence`, p (1 - p), is what always saying the prevalence p reaches.
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
        `{"ece", "brier", "brier_prevalence", "reliability", "per_au": {code: {...}}}`; None without any label.
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
    """Calibration of the likeliest emotion (`ece`, `reliability`) and the Brier score over all of them.

    Args:
        probs: `(N, E)` float, rows sum to 1.
        labels: `(N,)` int, -100 unlabelled.
    Returns:
        `brier` is the sum over the classes, 0 to 2; `brier_prevalence` that of always giving the labels' frequencies.
        None without any label.
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
    """Mean negative log-likelihood of `(N,)` logits under labels 1 / 0 / -1; NaN without a label."""
    labelled = labels != AU_UNLABELLED
    if not labelled.any():
        return float("nan")
    signed = np.where(labels[labelled] == 1, -1, 1) * logits[labelled] / temperature
    return float(np.mean(np.logaddexp(0, signed)))


def emotion_nll(logits: np.ndarray, labels: np.ndarray, temperature: float = 1.0) -> float:
    """Mean negative log-likelihood of `(N, E)` logits under labels 0..E-1 / -100; NaN without a label."""
    rows = labels != EMOTION_UNLABELLED
    if not rows.any():
        return float("nan")
    return float(-np.mean(log_softmax(logits[rows] / temperature, axis=1)[np.arange(rows.sum()), labels[rows]]))


def fit_au_temperatures(logits: np.ndarray, labels: np.ndarray) -> list[float]:
    """The temperature of each AU by which its logits are to be divided; 1 for an AU that is not labelled both ways.

    Args:
        logits: `(N, A)`.
        labels: `(N, A)` int, 1 / 0 / -1.
    """
    return [
        _fit(lambda t, z=z, y=y: au_nll(z, y, t)) if {0, 1} <= set(y.tolist()) else 1.0
        for z, y in zip(logits.T, labels.T, strict=True)
    ]


def fit_emotion_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The temperature of `(N, E)` emotion logits; 1 where the labels hold fewer than two emotions."""
    known = set(labels.tolist()) - {EMOTION_UNLABELLED}
    return _fit(lambda t: emotion_nll(logits, labels, t)) if len(known) > 1 else 1.0


def _fit(loss: Any) -> float:
    """The temperature of the smallest loss: it is convex in 1/T, so a search over log T finds the one minimum."""
    found = minimize_scalar(lambda log_t: loss(np.exp(log_t)), bounds=np.log(TEMPERATURE_BOUNDS), method="bounded")
    return float(np.exp(found.x))
