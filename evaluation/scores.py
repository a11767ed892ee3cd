"""All scores of predictions, with their confidence intervals and baselines."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from mf2.evaluation.bootstrap import (
    CONFIDENCE_LEVEL,
    Resampler,
    affect_samples,
    au_average_precision_samples,
    au_f1_samples,
    confidence_interval,
    emotion_samples,
    mean_of_known,
)
from mf2.evaluation.calibration import au_calibration, emotion_calibration
from mf2.evaluation.metrics import affect_metrics, au_metrics, emotion_metrics
from mf2.evaluation.predictions import Predictions
from mf2.labels_mf2 import AFFECT, AU_UNLABELLED, EMOTION_UNLABELLED, LabelSpace

MAX_GROUPS = 50
"""Maximum number of groups; more would leave too few rows in each."""
GAP_SCORES = {"au_f1": "aus_tuned", "emotion_macro_f1": "emotion", "emotion_uar": "emotion"}


# --------------------------------------------------------------------------------------------------------- everything
def evaluate_predictions(
    predictions: Predictions,
    label_space: LabelSpace,
    *,
    num_bootstrap: int = 1000,
    seed: int = 0,
    groups: Sequence[Any] | np.ndarray | None = None,
) -> dict[str, Any]:
    """Every score of the predictions.

    Args:
        label_space: AUs and emotions of the columns, and the system's AU thresholds.
        num_bootstrap: number of resamples; 0 for no intervals.
        seed: random seed of the resamples.
        groups: `(N,)` units that are resampled as a whole; `predictions.group_ids`, the videos, by default.
    Returns:
        `aus` (at 0.5) and `aus_tuned` (at the system's thresholds): see `au_metrics`; `emotion`: see
        `emotion_metrics`; with valence and arousal in the label space also `affect`: see `affect_metrics`, and, if all
        three are labelled, `mtl_sum`: see `mtl_sum`; `calibration`: `{"aus", "emotion"}`, None for a system that gives
        decisions only; `bootstrap`: settings of the intervals. The interval of a score `f1` is `f1_interval`:
        `[low, high]`, or None if it is undefined.
    """
    groups = predictions.group_ids if groups is None else np.asarray(groups)
    resampler = _make_resampler(groups, num_bootstrap, seed)
    return {
        **score_tasks(predictions, label_space, resampler),
        "calibration": score_calibration(predictions, label_space),
        "bootstrap": {
            "num_resamples": resampler.num_resamples if resampler else 0,
            "num_videos": len(np.unique(groups)),
            "level": CONFIDENCE_LEVEL,
            "seed": seed,
        },
    }


def _make_resampler(groups: np.ndarray, num_bootstrap: int, seed: int) -> Resampler | None:
    """A resampler of the groups; None if there is only one group or no interval is wanted."""
    return Resampler(groups, num_bootstrap, seed) if num_bootstrap and len(np.unique(groups)) > 1 else None


def score_tasks(predictions: Predictions, label_space: LabelSpace, resampler: Resampler | None) -> dict[str, Any]:
    """`aus`, `aus_tuned`, `emotion` and maybe `affect` and `mtl_sum`, with intervals if there is a resampler."""
    scores: dict[str, Any] = {
        "aus": score_aus(predictions, label_space, 0.5, resampler),
        "aus_tuned": score_aus(predictions, label_space, label_space.thresholds, resampler),
        "emotion": score_emotion(predictions, label_space, resampler),
    }
    if label_space.affect:
        scores["affect"] = score_affect(predictions, resampler)
        if (total := mtl_sum(scores)) is not None:
            scores["mtl_sum"] = total
    return scores


# -------------------------------------------------------------------------------------------------------- the tasks
def score_aus(
    predictions: Predictions, label_space: LabelSpace, thresholds: Sequence[float] | float, resampler: Resampler | None
) -> dict[str, Any]:
    """`au_metrics` with intervals of F1 and average precision, per AU and of their means."""
    probs, labels, codes = predictions.au_probs, predictions.au_labels, label_space.au_codes
    scores = au_metrics(probs, labels, codes, thresholds)
    if resampler is None or not scores["per_au"]:
        return scores
    samples = {
        "f1": au_f1_samples(resampler, probs, labels, thresholds),
        "average_precision": au_average_precision_samples(resampler, probs, labels),
    }
    for name, au_samples in samples.items():
        scores[f"{name}_interval"] = confidence_interval(mean_of_known(au_samples))
        for index, code in enumerate(codes):
            if code in scores["per_au"]:
                scores["per_au"][code][f"{name}_interval"] = confidence_interval(au_samples[:, index])
    return scores


def score_emotion(predictions: Predictions, label_space: LabelSpace, resampler: Resampler | None) -> dict[str, Any]:
    """`emotion_metrics` with intervals of top-1, macro-F1, UAR and each class's F1."""
    probs, labels, emotions = predictions.emotion_probs, predictions.emotion_labels, label_space.emotions
    scores = emotion_metrics(probs, labels, emotions)
    if resampler is None or not scores["num_labelled"]:
        return scores
    samples = emotion_samples(resampler, probs, labels)
    for name in ("top1", "macro_f1", "uar"):
        scores[f"{name}_interval"] = confidence_interval(samples[name])
    for index, name in enumerate(emotions):
        scores["per_class"][name]["f1_interval"] = confidence_interval(samples["f1"][:, index])
    return scores


def score_affect(predictions: Predictions, resampler: Resampler | None) -> dict[str, Any]:
    """`affect_metrics` with intervals, of valence, of arousal and of their means."""
    values, labels = predictions.affect, predictions.affect_labels
    scores = affect_metrics(values, labels)
    if resampler is None or not scores["num_labelled"]:
        return scores
    for name, samples in affect_samples(resampler, values, labels).items():
        scores[f"{name}_interval"] = confidence_interval(mean_of_known(samples))
        for index, dimension in enumerate(AFFECT):
            if dimension in scores["per_dimension"]:
                scores["per_dimension"][dimension][f"{name}_interval"] = confidence_interval(samples[:, index])
    return scores


def mtl_sum(scores: dict[str, Any]) -> float | None:
    """P of ABAW's multi-task challenge: mean CCC + macro-F1 of the emotions + mean F1 of the AUs at their thresholds.

    None if one of the three is not labelled. (Kollias, ABAW: Valence-Arousal Estimation, Expression Recognition,
    Action Unit Detection & Multi-Task Learning Challenges, CVPR Workshops 2022.)
    """
    parts = scores["affect"].get("ccc"), scores["emotion"].get("macro_f1"), scores["aus_tuned"]["f1"]
    return None if None in parts else float(sum(parts))


def score_calibration(predictions: Predictions, label_space: LabelSpace) -> dict[str, Any]:
    """Calibration of both tasks; None for a task without labels, or with decisions instead of probabilities."""
    aus = emotion = None
    if not is_decision(predictions.au_probs):
        aus = au_calibration(predictions.au_probs, predictions.au_labels, label_space.au_codes)
    if not is_decision(predictions.emotion_probs):
        emotion = emotion_calibration(predictions.emotion_probs, predictions.emotion_labels)
    return {"aus": aus, "emotion": emotion}


def is_decision(probs: np.ndarray) -> bool:
    """Whether every value is 0 or 1."""
    return bool(np.isin(probs, (0, 1)).all())


# ----------------------------------------------------------------------------------------------------------- by group
def evaluate_by_group(
    predictions: Predictions,
    label_space: LabelSpace,
    values: Sequence[Any],
    *,
    num_bootstrap: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Compute the scores of each group of rows, and the gaps between the best and the worst group.

    Args:
        values: `(N,)` the group of each row; None is a group of its own.
        num_bootstrap, seed: as for `evaluate_predictions`; all groups share the resamples, so that a video with rows
            in two groups is resampled in both.
    Returns:
        `{"groups": {value: {"rows", "videos", "aus", "aus_tuned", "emotion"}}, "gaps": {score: {"best", "worst",
        "gap", "gap_interval"}}}`. Gaps are of mean AU F1 at the system's thresholds, emotion macro-F1
        and UAR.
    Raises:
        ValueError: more than `MAX_GROUPS` values.
    """
    names = np.array(["unknown" if value is None else str(value) for value in values])
    distinct = np.unique(names)
    if len(distinct) > MAX_GROUPS:
        raise ValueError(f"The grouping column has {len(distinct)} values; at most {MAX_GROUPS} can be compared.")
    resampler = _make_resampler(predictions.group_ids, num_bootstrap, seed)
    groups, samples = {}, {}
    for name in distinct.tolist():
        rows = names == name
        part = predictions.masked(rows, rows, rows)
        videos = len(np.unique(predictions.group_ids[rows]))
        scores = score_tasks(part, label_space, resampler)
        groups[name] = {"rows": int(rows.sum()), "videos": videos, **scores}
        samples[name] = _gap_samples(part, label_space, resampler)
    return {"groups": groups, "gaps": {score: _gap(score, groups, samples) for score in GAP_SCORES}}


def _gap_samples(predictions: Predictions, label_space: LabelSpace, resampler: Resampler | None) -> dict[str, Any]:
    if resampler is None:
        return {}
    samples = {}
    if (predictions.au_labels != AU_UNLABELLED).any():
        f1 = au_f1_samples(resampler, predictions.au_probs, predictions.au_labels, label_space.thresholds)
        samples["au_f1"] = mean_of_known(f1)
    if (predictions.emotion_labels != EMOTION_UNLABELLED).any():
        found = emotion_samples(resampler, predictions.emotion_probs, predictions.emotion_labels)
        samples |= {f"emotion_{name}": found[name] for name in ("macro_f1", "uar")}
    return samples


def _gap(score: str, groups: dict[str, Any], samples: dict[str, dict[str, np.ndarray]]) -> dict[str, Any] | None:
    """The gap of a score between the best and the worst group; None if fewer than two groups have the score."""
    task = GAP_SCORES[score]
    values = {name: scores[task].get(score.partition("_")[2]) for name, scores in groups.items()}
    values = {name: value for name, value in values.items() if value is not None}
    if len(values) < 2:
        return None
    best, worst = max(values, key=values.__getitem__), min(values, key=values.__getitem__)
    gap = {"best": best, "worst": worst, "gap": values[best] - values[worst], "gap_interval": None}
    if score in samples[best]:
        gap["gap_interval"] = confidence_interval(samples[best][score] - samples[worst][score])
    return gap
