"""Linear probes on a checkpoint's frozen vision tower: the scores that its features reach without the branches.

There are two logistic regressions per AU, on [the AU's region ; face] and on [all regions ; face], and one for the
emotion on [all regions ; face]. A region is the mean of the features that the local branch reads in it; the face is
the mean of the tower's tokens. Classes are balanced, and the penalty of each regression is chosen on held-out groups
of the training split. A model that does not beat the probes has learned nothing beyond its tower.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from mf2.data_loading.splits import Split
from mf2.evaluation.logistic import class_probabilities
from mf2.evaluation.metrics import au_metrics, emotion_metrics
from mf2.evaluation.predictions import image_batches
from mf2.labels_mf2 import EMOTIONS
from mf2.modeling_mf2 import MF2Model
from mf2.processing_mf2 import MF2ImageProcessor

INVERSE_PENALTIES = (3e-4, 3e-3, 3e-2)
FOLDS = 3
BATCH_SIZE = 64
OWN_REGION = "linear probe on the frozen tower, own region and face"
ALL_REGIONS = "linear probe on the frozen tower, all regions and face"
SCORES = {"au_f1": "mean AU F1", "au_ap": "mean AP", "emotion_top1": "emotion top-1", "emotion_macro_f1": "macro-F1"}
"""Scores by which a model and the probes are compared -> their titles."""

ProbeFeatures = tuple[np.ndarray, np.ndarray]
"""Features of the faces `(N, W)` and of the AU regions `(N, A, ΣW_l)`."""


def has_probes(model: MF2Model) -> bool:
    """Whether the model has a frozen tower whose AU regions can be probed."""
    return model.config.freeze_vision and "au" in model.branches


@torch.no_grad()
def probe_features(model: MF2Model, image_processor: MF2ImageProcessor, split: Split) -> ProbeFeatures:
    """Compute the probes' features of a split, with the data set's landmarks."""
    faces, regions = [], []
    for batch in image_batches(split, image_processor, BATCH_SIZE, model.device):
        sampled = model.sample_vision(batch["pixel_values"], batch["au_boxes"])
        faces.append(sampled.tokens.mean(1).float().cpu())
        if sampled.regions is not None:
            regions.append(sampled.regions.mean(2).float().cpu())
    return torch.cat(faces).numpy(), torch.cat(regions).numpy()


def predict_tower_probes(
    train_features: ProbeFeatures, train: Split, eval_features: ProbeFeatures
) -> Iterator[tuple[str, tuple[np.ndarray, np.ndarray]]]:
    """Yield the name, AU probabilities `(N, A)` and emotion scores `(N, E)` of each probe."""
    groups = train.groups
    own_regions = [
        np.concatenate([regions, _repeat_for_regions(faces, regions)], -1)
        for faces, regions in (train_features, eval_features)
    ]
    all_regions = [
        np.concatenate([regions.reshape(len(faces), -1), faces], -1)
        for faces, regions in (train_features, eval_features)
    ]
    emotion = fit_tuned_probe(all_regions[0], train.labels.emotion, all_regions[1], groups, len(EMOTIONS))
    num_aus = train.labels.aus.shape[1]
    for name in (OWN_REGION, ALL_REGIONS):
        pairs = [[x[:, au] for x in own_regions] if name == OWN_REGION else all_regions for au in range(num_aus)]
        progress = tqdm(zip(pairs, train.labels.aus.T, strict=True), desc=name, total=num_aus, leave=False)
        probs = [fit_tuned_probe(x[0], labels, x[1], groups, 2)[:, 1] for x, labels in progress]
        yield name, (np.stack(probs, axis=1), emotion)


def _repeat_for_regions(faces: np.ndarray, regions: np.ndarray) -> np.ndarray:
    return np.broadcast_to(faces[:, None], (*regions.shape[:2], faces.shape[-1]))


def fit_tuned_probe(
    train_x: np.ndarray, labels: np.ndarray, eval_x: np.ndarray, groups: np.ndarray, num_classes: int
) -> np.ndarray:
    """`class_probabilities` with balanced classes and the penalty that scores best on held-out groups."""
    best = choose_penalty(train_x, labels, groups, num_classes)
    return class_probabilities(train_x, labels, eval_x, num_classes, "balanced", best)


def choose_penalty(x: np.ndarray, labels: np.ndarray, groups: np.ndarray, num_classes: int) -> float:
    """The inverse penalty with the smallest class-balanced log loss on held-out groups."""
    from sklearn.metrics import log_loss
    from sklearn.model_selection import GroupKFold
    from sklearn.utils.class_weight import compute_sample_weight

    labelled = labels >= 0
    x, labels, groups = x[labelled], labels[labelled], groups[labelled]
    if len(np.unique(labels)) < 2 or len(np.unique(groups)) < FOLDS:
        return INVERSE_PENALTIES[0]
    weights = compute_sample_weight("balanced", labels)
    losses = []
    for inverse_penalty in INVERSE_PENALTIES:
        probs = np.zeros((len(labels), num_classes))
        for fitted, held_out in GroupKFold(FOLDS).split(x, groups=groups):
            probs[held_out] = class_probabilities(
                x[fitted], labels[fitted], x[held_out], num_classes, "balanced", inverse_penalty
            )
        probs = probs.clip(1e-6)  # a class without a row in this fold has probability 0
        probs /= probs.sum(1, keepdims=True)
        losses.append(log_loss(labels, probs, sample_weight=weights, labels=list(range(num_classes))))
    return INVERSE_PENALTIES[int(np.argmin(losses))]


# -------------------------------------------------------------------------------------------------------- comparison
def measure_tower_probes(
    model: MF2Model, image_processor: MF2ImageProcessor, train: Split, evaluation: Split
) -> list[dict[str, Any]]:
    """Fit both probes on a training split and return their `headline_scores` on the evaluation split."""
    features = [probe_features(model, image_processor, split) for split in (train, evaluation)]
    rows = []
    for name, (au_probs, emotion_scores) in predict_tower_probes(features[0], train, features[1]):
        evaluated = {
            "aus": au_metrics(au_probs, evaluation.labels.aus, model.label_space.au_codes),
            "emotion": emotion_metrics(emotion_scores, evaluation.labels.emotion, model.label_space.emotions),
        }
        rows.append({"name": name, **headline_scores(evaluated)})
    return rows


def headline_scores(evaluation: Mapping[str, Any]) -> dict[str, float | None]:
    """The `SCORES` of an evaluation; None where nothing is labelled."""
    aus, emotion = evaluation["aus"], evaluation["emotion"]
    return {
        "au_f1": aus["f1"],
        "au_ap": aus["average_precision"],
        "emotion_top1": emotion.get("top1"),
        "emotion_macro_f1": emotion.get("macro_f1"),
    }


def scores_not_above_probes(evaluation: Mapping[str, Any], probes: Sequence[Mapping[str, Any]]) -> list[str]:
    """Titles of the scores in which the model does not beat the better probe."""
    scores = headline_scores(evaluation)
    return [
        title
        for name, title in SCORES.items()
        if scores[name] is not None and scores[name] <= max(probe[name] for probe in probes)
    ]
