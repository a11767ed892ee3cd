"""Scores of image-only predictions, each with the scores of trivial predictors. NumPy only.

AU labels are 1, 0 or -1 (unlabelled), emotion labels 0..E-1 or -100 (unlabelled); unlabelled entries are ignored.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from mf2.labels_mf2 import AFFECT, AU_UNLABELLED, EMOTION_UNLABELLED

THRESHOLD_BOUNDS = (0.02, 0.98)
"""Range of tuned thresholds; without it, an AU with few training labels could be predicted never or always."""


# ------------------------------------------------------------------------------------------------------ action units
def f1_score(predicted: np.ndarray, labels: np.ndarray) -> float:
    """F1 of the positive class of two boolean `(N,)` arrays; 0 where nothing is positive in either."""
    true_positives = np.sum(predicted & labels)
    positives = predicted.sum() + labels.sum()
    return float(2 * true_positives / positives) if positives else 0.0


def all_positive_f1(prevalence: float) -> float:
    """F1 of always predicting "active": 2p / (1 + p)."""
    return 2 * prevalence / (1 + prevalence)


def average_precision(scores: np.ndarray, labels: np.ndarray) -> float | None:
    """Area under the precision-recall curve as a step function; tied scores count as one step.

    Args:
        scores: `(N,)` float.
        labels: `(N,)` bool.
    Returns:
        None if there is no positive label.
    """
    if not labels.any():
        return None
    order = np.argsort(-scores, kind="stable")
    scores, labels = scores[order], labels[order]
    last_of_tie = np.append(np.diff(scores) != 0, True)
    true_positives = np.cumsum(labels)[last_of_tie]
    predicted = (np.arange(len(labels)) + 1)[last_of_tie]
    gained_recall = np.diff(true_positives, prepend=0) / labels.sum()
    return float(np.sum(gained_recall * true_positives / predicted))


def au_metrics(
    probs: np.ndarray, labels: np.ndarray, au_codes: Sequence[str], thresholds: Sequence[float] | float = 0.5
) -> dict[str, Any]:
    """F1 per AU and their unweighted mean, with prevalence, the all-positive baseline and average precision.

    Args:
        probs: `(N, A)` float, probability of "active".
        labels: `(N, A)` int, 1 / 0 / -1.
        au_codes: A names, such as `AU12`.
        thresholds: probability from which an AU is "active"; one for all AUs, or A values.
    Returns:
        `{"f1", "f1_all_positive", "average_precision", "prevalence", "per_au": {code: {...}}, "unlabelled": [code,
        ...]}`. Means are over the AUs with labels; None if there are none. An AU without a positive label scores 0.
        The prevalence is the average precision of a random order.
    """
    limits = np.broadcast_to(np.asarray(thresholds, dtype=float), (len(au_codes),))
    per_au: dict[str, dict[str, Any]] = {}
    for index, code in enumerate(au_codes):
        labelled = labels[:, index] != AU_UNLABELLED
        if labelled.any():
            per_au[code] = _one_au(probs[labelled, index], labels[labelled, index] == 1, float(limits[index]))
    return {
        "f1": mean_of_known(au["f1"] for au in per_au.values()),
        "f1_all_positive": mean_of_known(au["f1_all_positive"] for au in per_au.values()),
        "average_precision": mean_of_known(au["average_precision"] for au in per_au.values()),
        "prevalence": mean_of_known(au["prevalence"] for au in per_au.values()),
        "per_au": per_au,
        "unlabelled": [code for code in au_codes if code not in per_au],
    }


def _one_au(probs: np.ndarray, labels: np.ndarray, threshold: float) -> dict[str, Any]:
    predicted = probs >= threshold
    hits = int(np.sum(predicted & labels))
    prevalence = float(labels.mean())
    return {
        "f1": f1_score(predicted, labels),
        "f1_all_positive": all_positive_f1(prevalence),
        "precision": _ratio(hits, predicted.sum()),
        "recall": _ratio(hits, labels.sum()),
        "average_precision": average_precision(probs, labels),
        "prevalence": prevalence,
        "threshold": threshold,
        "num_labelled": len(labels),
    }


def tune_thresholds(probs: np.ndarray, labels: np.ndarray) -> list[float]:
    """Choose the threshold with the best F1 for each AU, from predictions of a training split.

    Candidates lie halfway between neighbouring probabilities, within `THRESHOLD_BOUNDS`; among equally good ones,
    the one nearest to 0.5 is chosen. An AU without a positive label gets 0.5.

    Args:
        probs: `(N, A)` float.
        labels: `(N, A)` int, 1 / 0 / -1.
    """
    is_labelled = labels != AU_UNLABELLED
    return [_best_threshold(probs[rows, index], labels[rows, index] == 1) for index, rows in enumerate(is_labelled.T)]


def _best_threshold(probs: np.ndarray, labels: np.ndarray) -> float:
    if not labels.any():
        return 0.5
    order = np.argsort(probs)
    probs, labels = probs[order].astype(float), labels[order]
    candidates = np.clip([*((probs[:-1] + probs[1:]) / 2), 0.5], *THRESHOLD_BOUNDS)
    first_active = np.searchsorted(probs, candidates, side="left")
    positives_from = np.append(np.cumsum(labels[::-1])[::-1], 0)  # [i]: positive labels among probs[i:]
    f1 = 2 * positives_from[first_active] / (len(probs) - first_active + labels.sum())
    best = candidates[f1 >= f1.max() - 1e-12]
    return float(best[np.argmin(np.abs(best - 0.5))])


# ----------------------------------------------------------------------------------------------------------- emotions
def emotion_metrics(scores: np.ndarray, labels: np.ndarray, emotions: Sequence[str]) -> dict[str, Any]:
    """Top-1, macro-F1, unweighted average recall, per-class scores and the confusion matrix.

    `paper_compatible_accuracy` is the one-vs-rest binary accuracy, averaged over the classes, for comparison with the
    paper's Table III. Rejecting every class reaches 1 - 1/E, so two trivial baselines are reported with it.

    Args:
        scores: `(N, E)` float; the largest wins.
        labels: `(N,)` int, -100 unlabelled.
        emotions: E names.
    Returns:
        The scores; macro-F1 and UAR are means over the classes that occur in the labels. `{"num_labelled": 0}` if
        nothing is labelled.
    """
    labelled = labels != EMOTION_UNLABELLED
    num_labelled = int(labelled.sum())
    if not num_labelled:
        return {"num_labelled": 0}
    num_classes = len(emotions)
    confusion = confusion_matrix(scores[labelled].argmax(-1), labels[labelled], num_classes)
    per_class = {name: _one_class(confusion, index) for index, name in enumerate(emotions)}
    present = [values for values in per_class.values() if values["support"]]
    top1 = float(np.trace(confusion) / num_labelled)
    majority = max(values["support"] for values in present) / num_labelled
    return {
        "top1": top1,
        "macro_f1": mean_of_known(values["f1"] for values in present),
        "uar": mean_of_known(values["recall"] for values in present),
        "majority_top1": majority,
        "majority_macro_f1": all_positive_f1(majority) / len(present),
        "majority_uar": 1 / len(present),
        "paper_compatible_accuracy": _one_vs_rest_accuracy(top1, num_classes),
        "paper_compatible_accuracy_never": 1 - 1 / num_classes,
        "paper_compatible_accuracy_constant": _one_vs_rest_accuracy(majority, num_classes),
        "per_class": per_class,
        "confusion": confusion.tolist(),
        "num_labelled": num_labelled,
    }


def decision_metrics(predicted: Sequence[int], labels: Sequence[int], num_classes: int) -> dict[str, Any]:
    """`emotion_metrics` of class indices instead of scores; the classes are named by their index."""
    names = [str(index) for index in range(num_classes)]
    return emotion_metrics(np.eye(num_classes)[np.asarray(predicted)], np.asarray(labels), names)


def confusion_matrix(predicted: np.ndarray, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """`(E, E)` int counts: rows are labels, columns predictions."""
    return np.bincount(labels * num_classes + predicted, minlength=num_classes**2).reshape(num_classes, num_classes)


def _one_class(confusion: np.ndarray, index: int) -> dict[str, Any]:
    hits, support, predicted = confusion[index, index], confusion[index].sum(), confusion[:, index].sum()
    return {
        "precision": _ratio(hits, predicted),
        "recall": _ratio(hits, support),
        "f1": _ratio(2 * hits, support + predicted),
        "support": int(support),
    }


def _one_vs_rest_accuracy(top1: float, num_classes: int) -> float:
    """Mean binary accuracy over the classes of a single-label prediction: each error is wrong for two classes."""
    return 1 - 2 * (1 - top1) / num_classes


# ------------------------------------------------------------------------------------------------ valence and arousal
def affect_metrics(values: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """CCC, RMSE, PCC and SAGR of valence and of arousal, and their means, with those of a constant.

    - CCC: concordance correlation coefficient (Lin, Biometrics 45, 1989), 2 cov / (var + var + squared difference of
      the means), with moments over N; the ABAW competitions rank by the mean over valence and arousal.
    - PCC: Pearson's correlation; 0 if a column is constant.
    - SAGR: share of the rows with the sign of the label (Nicolaou et al., IEEE Transactions on Affective Computing 2,
      2011).

    Args:
        values: `(N, 2)` float.
        labels: `(N, 2)` float, -1 to 1, NaN unlabelled.
    Returns:
        `{"ccc", "rmse", "pcc", "sagr", "constant_…", "per_dimension": {"valence": {...}, ...}, "num_labelled"}`. The
        constant is the mean of the labels (its CCC and PCC are 0), and for SAGR the more frequent sign.
        `{"num_labelled": 0}` if nothing is labelled.
    """
    labelled = ~np.isnan(labels)
    per_dimension = {
        name: _one_dimension(values[labelled[:, i], i].astype(float), labels[labelled[:, i], i].astype(float))
        for i, name in enumerate(AFFECT)
        if labels.shape[1] and labelled[:, i].any()
    }
    if not per_dimension:
        return {"num_labelled": 0}
    scores = [name for name in next(iter(per_dimension.values())) if name != "num_labelled"]
    means = {name: mean_of_known(found[name] for found in per_dimension.values()) for name in scores}
    return means | {"per_dimension": per_dimension, "num_labelled": int(labelled.any(1).sum())}


def _one_dimension(values: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    deviations, spread = values - values.mean(), labels - labels.mean()
    covariance, variances = float((deviations * spread).mean()), (float(values.var()), float(labels.var()))
    signs = np.sign(labels)
    return {
        "ccc": _ratio(2 * covariance, sum(variances) + (values.mean() - labels.mean()) ** 2),
        "rmse": float(np.sqrt(np.square(values - labels).mean())),
        "pcc": _ratio(covariance, float(np.sqrt(variances[0] * variances[1]))),
        "sagr": float((np.sign(values) == signs).mean()),
        "constant_ccc": 0.0,
        "constant_rmse": float(np.sqrt(variances[1])),
        "constant_pcc": 0.0,
        "constant_sagr": float(max((signs == sign).mean() for sign in (-1, 0, 1))),
        "num_labelled": len(labels),
    }


# ------------------------------------------------------------------------------------------------------------ helpers
def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole else 0.0


def mean_of_known(values: Iterable[float | None]) -> float | None:
    """The mean of the values that are not None; None if all are None."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def scalar_metrics(
    aus: dict[str, Any], emotion: dict[str, Any], affect: dict[str, Any] | None = None
) -> dict[str, float]:
    """Flat scalars for training logs: `au_f1`, `au_f1/AU12`, `emotion_top1`, `affect_ccc`, … and their baselines."""
    flat = {f"au_{name}": aus[name] for name in ("f1", "f1_all_positive", "average_precision")}
    flat |= {f"au_f1/{code}": values["f1"] for code, values in aus["per_au"].items()}
    flat |= {f"emotion_{name}": emotion.get(name) for name in ("top1", "majority_top1", "macro_f1", "uar")}
    affect = affect or {}
    flat |= {f"affect_{name}": affect.get(name) for name in ("ccc", "rmse")}
    flat |= {f"affect_ccc/{name}": found["ccc"] for name, found in affect.get("per_dimension", {}).items()}
    return {name: value for name, value in flat.items() if value is not None}
