"""Bootstrap confidence intervals over videos: frames of a video are correlated, so whole videos are resampled.

Every score is a function of sums over videos (hits, labels, the confusion matrix, a histogram of probabilities). The
sums are computed once per video; a resample is then a vector of weights, and all resamples are one matrix product.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import sparse

from mf2.labels_mf2 import AU_UNLABELLED, EMOTION_UNLABELLED

CONFIDENCE_LEVEL = 0.95
NUM_SCORE_BINS = 1024
"""Average precision inside a resample counts probabilities of one quantile bin as tied; up to this many distinct
probabilities it is exact."""


class Resampler:
    """Resamples of videos with replacement, the same for every score.

    Args:
        groups: `(N,)` the video of each row.
        num_resamples: number of resamples.
        seed: random seed; the same seed and number of videos give the same resamples.
    """

    def __init__(self, groups: Sequence[Any] | np.ndarray, num_resamples: int = 1000, seed: int = 0):
        _, self.group_index = np.unique(np.asarray(groups), return_inverse=True)
        self.num_groups = int(self.group_index.max()) + 1
        self.num_resamples = num_resamples
        rng, size = np.random.default_rng(seed), self.num_groups
        weights = [
            np.bincount(rng.integers(size, size=size), minlength=size).astype(np.float32) for _ in range(num_resamples)
        ]
        self._weights = np.stack(weights, axis=1)  # (G, R)

    def sum(self, values: np.ndarray) -> np.ndarray:
        """Sum `(N, …)` row values over the rows of each resample: `(R, …)`."""
        rows = sparse.csr_array(
            (np.ones(len(values), np.float32), (self.group_index, np.arange(len(values)))),
            shape=(self.num_groups, len(values)),
        )
        totals = rows @ values.reshape(len(values), -1).astype(np.float32)  # (G, K)
        return (self._weights.T @ totals).astype(float).reshape(-1, *values.shape[1:])

    def histogram(self, rows: np.ndarray, cells: np.ndarray, num_cells: int) -> np.ndarray:
        """Count how often each cell occurs in each resample: `(n,)` rows and their cells -> `(R, num_cells)`."""
        counts = sparse.csr_array(
            (np.ones(len(rows), np.float32), (cells, self.group_index[rows])), shape=(num_cells, self.num_groups)
        )
        return (counts @ self._weights).T.astype(float)


def confidence_interval(samples: np.ndarray, level: float = CONFIDENCE_LEVEL) -> list[float] | None:
    """Return the percentile interval `[low, high]` of `(R,)` samples.

    Resamples where the score is undefined (NaN) are left out; None if it is undefined in all of them.
    """
    known = samples[~np.isnan(samples)]
    if not len(known):
        return None
    return np.quantile(known, [(1 - level) / 2, (1 + level) / 2]).tolist()


# ------------------------------------------------------------------------------------------------------------ samples
def au_f1_samples(
    resampler: Resampler, probs: np.ndarray, labels: np.ndarray, thresholds: Sequence[float] | float = 0.5
) -> np.ndarray:
    """`(R, A)` F1 of each AU, as `metrics.au_metrics` defines it.

    NaN if a resample has no positive label of an AU: its F1 would be 0 for any prediction. An AU without a positive
    label in all the data scores 0, as in `metrics.au_metrics`.

    Args:
        probs, labels, thresholds: as for `metrics.au_metrics`.
    """
    labelled, positive = labels != AU_UNLABELLED, labels == 1
    predicted = (probs >= np.asarray(thresholds)) & labelled
    sums = resampler.sum(np.stack([predicted & positive, predicted, positive], axis=1))  # (R, 3, A)
    hits, num_predicted, num_positive = sums.swapaxes(0, 1)
    is_zero = labelled.any(0) & ~positive.any(0)
    return np.where((num_positive > 0) | is_zero, _ratio(2 * hits, num_predicted + num_positive), np.nan)


def au_average_precision_samples(resampler: Resampler, probs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """`(R, A)` average precision of each AU; NaN if a resample has no positive label of it."""
    return np.stack([_average_precision(resampler, *columns) for columns in zip(probs.T, labels.T, strict=True)], 1)


def _average_precision(resampler: Resampler, probs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    rows = np.flatnonzero(labels != AU_UNLABELLED)
    if not len(rows):
        return np.full(resampler.num_resamples, np.nan)
    bins, num_bins = _descending_bins(probs[rows])
    is_positive = labels[rows] == 1
    positives = resampler.histogram(rows[is_positive], bins[is_positive], num_bins)
    predicted = np.cumsum(resampler.histogram(rows, bins, num_bins), axis=1)
    precision = _ratio(np.cumsum(positives, axis=1), predicted)
    total = positives.sum(1)
    return np.where(total > 0, _ratio((positives * precision).sum(1), total), np.nan)


def _descending_bins(scores: np.ndarray) -> tuple[np.ndarray, int]:
    """Bin of each score, 0 for the largest, and the number of bins: one per distinct score, or quantile bins."""
    distinct, index = np.unique(scores, return_inverse=True)
    if len(distinct) > NUM_SCORE_BINS:
        edges = np.unique(np.quantile(scores, np.arange(1, NUM_SCORE_BINS) / NUM_SCORE_BINS))
        index = np.searchsorted(edges, scores, side="right")
    num_bins = int(index.max()) + 1
    return num_bins - 1 - index, num_bins


def emotion_samples(resampler: Resampler, scores: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """`top1`, `macro_f1`, `uar` `(R,)` and `f1` `(R, E)`, as `metrics.emotion_metrics` defines them; NaN if undefined.

    Args:
        scores: `(N, E)` float; the largest wins.
        labels: `(N,)` int, -100 unlabelled.
    """
    rows, num_classes = np.flatnonzero(labels != EMOTION_UNLABELLED), scores.shape[1]
    cells = labels[rows] * num_classes + scores[rows].argmax(1)
    confusion = resampler.histogram(rows, cells, num_classes**2).reshape(-1, num_classes, num_classes)
    hits, support, predicted = np.einsum("rkk->rk", confusion), confusion.sum(2), confusion.sum(1)
    f1 = np.where(support > 0, _ratio(2 * hits, support + predicted), np.nan)
    recall = np.where(support > 0, _ratio(hits, support), np.nan)
    total = support.sum(1)
    top1 = np.where(total > 0, _ratio(hits.sum(1), total), np.nan)
    return {"top1": top1, "macro_f1": mean_of_known(f1), "uar": mean_of_known(recall), "f1": f1}


def affect_samples(resampler: Resampler, values: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """`ccc`, `rmse`, `pcc` and `sagr`, each `(R, 2)`, as `metrics.affect_metrics` defines them.

    NaN if a resample has no label, or for CCC and PCC no two different ones.

    Args:
        values, labels: as for `metrics.affect_metrics`.
    """
    labelled = ~np.isnan(labels)
    x, y = np.where(labelled, values, 0), np.where(labelled, labels, 0)
    same_sign = labelled & (np.sign(values) == np.sign(labels))
    sums = resampler.sum(np.stack([labelled, x, y, x * x, y * y, x * y, same_sign], axis=1))  # (R, 7, 2)
    count = sums[:, :1]
    mean_x, mean_y, square_x, square_y, product, sagr = _ratio(sums[:, 1:], count).swapaxes(0, 1)
    variance_x, variance_y = (square_x - mean_x**2).clip(0), (square_y - mean_y**2).clip(0)
    covariance, is_defined = product - mean_x * mean_y, count[:, 0] > 0
    scale = variance_x + variance_y + (mean_x - mean_y) ** 2
    varies = is_defined & (variance_y > 1e-9)
    return {
        "ccc": np.where(varies, _ratio(2 * covariance, scale), np.nan),
        "rmse": np.where(is_defined, np.sqrt((square_x + square_y - 2 * product).clip(0)), np.nan),
        "pcc": np.where(varies, _ratio(covariance, np.sqrt(variance_x * variance_y)), np.nan),
        "sagr": np.where(is_defined, sagr, np.nan),
    }


# ------------------------------------------------------------------------------------------------------------ helpers
def mean_of_known(samples: np.ndarray) -> np.ndarray:
    """`(R, K)` -> `(R,)`: mean over the defined columns; NaN if none is."""
    known = ~np.isnan(samples)
    return np.where(known.any(1), _ratio(np.where(known, samples, 0).sum(1), known.sum(1)), np.nan)


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """`part / whole`; 0 where `whole` is 0."""
    return np.divide(part, whole, out=np.zeros_like(part, dtype=float), where=whole > 0)
