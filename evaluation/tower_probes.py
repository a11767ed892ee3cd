"""Linear probes on a checkpoint's frozen tower: what its features are worth without the branches.

Each AU has a logistic regression on [its own region ; face], and one on [all regions ; face]; the emotion has one on
[all regions ; face]. Regions are the means of what the local branch reads in them, the face is the mean of the tower's
tokens. Classes are balanced; the penalty of each regression is that which predicts held-out groups of the training
split best. A model that does not beat them has learned nothing that its tower did not know.
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
"""What a model and the probes are compared by."""

ProbeFeatures = tuple[np.ndarray, np.ndarray]
"""Faces `(N, W)` and AU regions `(N, A, ΣW_l)`."""


def has_probes(model: MF2Model) -> bool:
    """Whether there is a frozen tower whose AU regions can be probed."""
    return model.config.freeze_vision and "au" in model.branches


@torch.no_grad()
def probe_features(model: MF2Model, image_processor: MF2ImageProcessor, split: Split) -> ProbeFeatures:
    """What the probes read of a split, with the data set's landmarks."""
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
    """Name, AU probabilities `(N, A)` and emotion scores `(N, E)` of both probes."""
    groups = train.groups
    own = [
        np.concatenate([regions, _beside(faces, regions)], -1) for faces, regions in (train_features, eval_features)
    ]
    whole = [
        np.concatenate([regions.reshape(len(faces), -1), faces], -1)
        for faces, regions in (train_features, eval_features)
    ]
    emotion = tuned_probabilities(whole[0], train.labels.emotion, whole[1], groups, len(EMOTIONS))
    num_aus = train.labels.aus.shape[1]
    for name in (OWN_REGION, ALL_REGIONS):
        pairs = [[of[:, au] for of in own] if name == OWN_REGION else whole for au in range(num_aus)]
        shown = tqdm(zip(pairs, train.labels.aus.T, strict=True), desc=name, total=num_aus, leave=False)
        probs = [tuned_probabilities(x[0], labels, x[1], groups, 2)[:, 1] for x, labels in shown]
        yield name, (np.stack(probs, axis=1), emotion)


def _beside(faces: np.ndarray, regions: np.ndarray) -> np.ndarray:
    return np.broadcast_to(faces[:, None], (*regions.shape[:2], faces.shape[-1]))


def tuned_probabilities(
    train_x: np.ndarray, labels: np.ndarray, eval_x: np.ndarray, groups: np.ndarray, num_classes: int
) -> np.ndarray:
    """As `class_probabilities`, with balanced classes and the penalty that predicts held-out groups best."""
    best = choose_penalty(train_x, labels, groups, num_classes)
    return class_probabilities(train_x, labels, eval_x, num_classes, "balanced", best)


def choose_penalty(x: np.ndarray, labels: np.ndarray, groups: np.ndarray, num_classes: int) -> float:
    """The inverse penalty of the least log loss on held-out groups, each class counting the same."""
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
        for seen, held_out in GroupKFold(FOLDS).split(x, groups=groups):
            probs[held_out] = class_probabilities(
                x[seen], labels[seen], x[held_out], num_classes, "balanced", inverse_penalty
            )
        probs = probs.clip(1e-6)  # of a class that a fold never saw
        probs /= probs.sum(1, keepdims=True)
        losses.append(log_loss(labels, probs, sample_weight=weights, labels=list(range(num_classes))))
    return INVERSE_PENALTIES[int(np.argmin(losses))]


# -------------------------------------------------------------------------------------------------------- comparison
def measure_tower_probes(
    model: MF2Model, image_processor: MF2ImageProcessor, train: Split, evaluation: Split
) -> list[dict[str, Any]]:
    """The scores of both probes on the evaluation split, as [`headline`] has them."""
    features = [probe_features(model, image_processor, split) for split in (train, evaluation)]
    rows = []
    for name, (au_probs, emotion_scores) in predict_tower_probes(features[0], train, features[1]):
        scored = {
            "aus": au_metrics(au_probs, evaluation.labels.aus, model.label_space.au_codes),
            "emotion": emotion_metrics(emotion_scores, evaluation.labels.emotion, model.label_space.emotions),
        }
        rows.append({"name": name, **headline(scored)})
    return rows


def headline(evaluation: Mapping[str, Any]) -> dict[str, float | None]:
    """`SCORES` of an evaluation's `aus` and `emotion`; None where nothing is labelled."""
    aus, emotion = evaluation["aus"], evaluation["emotion"]
    return {
        "au_f1": aus["f1"],
        "au_ap": aus["average_precision"],
        "emotion_top1": emotion.get("top1"),
        "emotion_macro_f1": emotion.get("macro_f1"),
    }


def not_above_probes(evaluation: Mapping[str, Any], probes: Sequence[Mapping[str, Any]]) -> list[str]:
    """The names of the scores in which the better probe is not beaten."""
    own = headline(evaluation)
    return [
        title
        for name, title in SCORES.items()
        if own[name] is not None and own[name] <= max(probe[name] for probe in probes)
    ]
