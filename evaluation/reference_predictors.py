"""Simple reference predictors that a checkpoint's scores are compared with, on one data set.

All are scored on the evaluation split, AUs at the threshold 0.5:

- always "active" and the most frequent emotion; for generated data also the emotions that the true AUs allow;
- logistic regression on the data set's 68 landmarks, aligned by the eyes; the mean face where there are none;
- a linear probe (the same regression) on an untrained tower of the checkpoint's architecture: faces aligned by the
  data set's landmarks, the last feature map average-pooled to a grid and flattened;
- for a checkpoint with a frozen tower, two linear probes on that tower, see `tower_probes`;
- the checkpoint itself, with the data set's landmarks, with noisy landmarks, and without (the mean face).

`mf2 evaluate --references` prints them as a Markdown table and writes the scores of every AU and emotion.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F
from tqdm import tqdm
from transformers import set_seed
from transformers.utils import CONFIG_NAME

from mf2.configuration_mf2 import MF2Config
from mf2.data_loading.collators import row_seed
from mf2.data_loading.splits import FaceExample, Labels, Split
from mf2.evaluation.logistic import class_probabilities
from mf2.evaluation.metrics import au_metrics, emotion_metrics
from mf2.evaluation.predictions import LandmarkChoice, exact_landmarks, image_batches, no_landmarks, predict
from mf2.evaluation.tower_probes import has_probes, predict_tower_probes, probe_features
from mf2.labels_mf2 import EMOTIONS
from mf2.modeling_mf2 import MF2Model
from mf2.processing_mf2 import MF2ImageProcessor
from mf2.regions_mf2 import alignment_matrix, apply_matrix, eye_centers, mean_face
from mf2.utils.environment import describe_environment
from mf2.utils.files import read_json
from mf2.utils.markdown import markdown_table

JITTER = 0.03
"""Standard deviation of the noise on landmarks, as a fraction of the distance between the eye centres."""
PROBE_GRID = 4
"""Side of the grid to which the untrained tower's feature map is pooled; it preserves the layout of the face."""
BATCH_SIZE = 64
ALIGNED_SIZE = (100, 100)
"""Height and width to which landmarks are aligned; features are standardised, so that the size does not matter."""

ReferencePredictions = tuple[np.ndarray, np.ndarray]
"""AU probabilities `(N, A)` and emotion scores `(N, E)`."""


# ---------------------------------------------------------------------------------------------------------- landmarks
def jittered_landmarks(example: FaceExample, seed: int, jitter: float = JITTER) -> np.ndarray | None:
    """The landmarks with independent Gaussian noise on x and y, which depends on (seed, row) only."""
    if example.landmarks_px is None:
        return None
    left, right = eye_centers(example.landmarks_px)
    noise = np.random.default_rng(row_seed(seed, 0, example.row)).standard_normal(example.landmarks_px.shape)
    return example.landmarks_px + jitter * np.linalg.norm(right - left) * noise


def aligned_landmarks(split: Split) -> np.ndarray:
    """`(N, 136)`: the landmarks aligned by the eye centres; the mean face for faces without landmarks."""
    aligned = [mean_face(ALIGNED_SIZE) if points is None else _align(points) for points in split.rows["landmarks"]]
    return np.stack(aligned).reshape(len(aligned), -1)


def _align(landmarks_px: Any) -> np.ndarray:
    return apply_matrix(landmarks_px, alignment_matrix(landmarks_px, ALIGNED_SIZE))


# ---------------------------------------------------------------------------------------------------------- the model
def load_checkpoint(folder: str) -> tuple[MF2Model, MF2ImageProcessor]:
    """Load a checkpoint in evaluation mode, and its image processor.

    Raises:
        FileNotFoundError: the folder holds no checkpoint.
        ValueError: it is not an MF² checkpoint, or does not recognise both AUs and the eight emotions.
    """
    file = Path(folder, CONFIG_NAME)
    if not file.is_file():
        raise FileNotFoundError(f"{folder} is no checkpoint folder: it has no {CONFIG_NAME}.")
    model_type = read_json(file).get("model_type")
    if model_type != MF2Config.model_type:
        raise ValueError(f"{file} is of a {model_type!r} model; it must be {MF2Config.model_type!r}.")
    model = MF2Model.from_pretrained(folder).eval()
    if list(model.config.emotions) != list(EMOTIONS) or not model.config.au_ids:
        raise ValueError(f"{folder} does not recognise both AUs and the emotions {', '.join(EMOTIONS)}.")
    return model, MF2ImageProcessor.from_pretrained(folder)


def untrained_tower(config: MF2Config, seed: int) -> MF2Model:
    """Build a model around a newly initialised tower of the same `vision_config`, with its last feature map only."""
    set_seed(seed)
    return MF2Model(MF2Config.from_dict(config.to_dict() | {"local_feature_levels": [-1]})).eval()


def model_predictions(
    model: MF2Model, image_processor: MF2ImageProcessor, split: Split, choose_landmarks: LandmarkChoice
) -> ReferencePredictions:
    """The checkpoint's predictions for a split, with the chosen landmarks."""
    found = predict(model, image_processor, split, BATCH_SIZE, model.device, choose_landmarks)
    return found.au_probs, found.emotion_probs


@torch.no_grad()
def tower_features(model: MF2Model, image_processor: MF2ImageProcessor, split: Split) -> np.ndarray:
    """`(N, width · PROBE_GRID²)`: the tower's last feature map, pooled and flattened."""
    batches = image_batches(split, image_processor, BATCH_SIZE, model.device)
    maps = (model.encode_vision(batch["pixel_values"]).maps[-1] for batch in batches)
    return torch.cat([F.adaptive_avg_pool2d(last, PROBE_GRID).flatten(1).cpu() for last in maps]).numpy()


# ------------------------------------------------------------------------------------------------ logistic regression
def probe_predictions(train_x: np.ndarray, train_labels: Labels, eval_x: np.ndarray) -> ReferencePredictions:
    """Predictions of a logistic regression per AU (balanced classes) and one for the emotion, on `(N, F)` features."""
    fit = partial(class_probabilities, train_x, eval_x=eval_x)
    au_columns = tqdm(train_labels.aus.T, desc="fitting AUs", leave=False)
    au_probs = [fit(labels, num_classes=2, class_weight="balanced")[:, 1] for labels in au_columns]
    return np.stack(au_probs, axis=1), fit(train_labels.emotion, num_classes=len(EMOTIONS))


# ------------------------------------------------------------------------------------------------------------- report
def predict_references(
    model: MF2Model, image_processor: MF2ImageProcessor, train: Split, evaluation: Split, seed: int
) -> Iterator[tuple[str, ReferencePredictions]]:
    """Yield the predictions of each reference for the evaluation split, the checkpoint's last."""
    landmarks = [aligned_landmarks(split) for split in (train, evaluation)]
    yield "logistic regression on landmarks", probe_predictions(landmarks[0], train.labels, landmarks[1])
    tower = untrained_tower(model.config, seed).to(model.device)
    features = [tower_features(tower, image_processor, split) for split in (train, evaluation)]
    yield "linear probe on an untrained tower", probe_predictions(features[0], train.labels, features[1])
    if has_probes(model):
        frozen = [probe_features(model, image_processor, split) for split in (train, evaluation)]
        yield from predict_tower_probes(frozen[0], train, frozen[1])
    choices: dict[str, LandmarkChoice] = {
        "exact landmarks": exact_landmarks,
        f"landmarks jittered by {JITTER:.0%} of the eye distance": partial(jittered_landmarks, seed=seed),
        "no landmarks (mean face)": no_landmarks,
    }
    for name, choice in choices.items():
        yield f"checkpoint, {name}", model_predictions(model, image_processor, evaluation, choice)


def score_references(
    predictions: Iterator[tuple[str, ReferencePredictions]], split: Split, config: MF2Config
) -> list[dict]:
    """One row per reference, the trivial ones first: `reference`, `au_f1`, `emotion_top1` and all scores."""
    rows = []
    for name, (au_probs, emotion_scores) in predictions:
        aus = au_metrics(au_probs, split.labels.aus, config.label_space.au_codes)
        emotion = emotion_metrics(emotion_scores, split.labels.emotion, config.emotions)
        row = {"reference": name, "au_f1": aus["f1"], "emotion_top1": emotion.get("top1")}
        rows.append(row | {"aus": aus, "emotion": emotion})
    baselines = {"au_f1": aus["f1_all_positive"], "emotion_top1": emotion.get("majority_top1")}
    ceiling = {"au_f1": None, "emotion_top1": split.description["emotion_ceiling"]}
    return [
        {"reference": "always active; most frequent emotion", **baselines},
        {"reference": "what the true action units allow", **ceiling},
        *rows,
    ]


def format_table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as a Markdown table; "-" where there is nothing to score."""
    scores = [["-" if row[name] is None else f"{row[name]:.3f}" for name in ("au_f1", "emotion_top1")] for row in rows]
    cells = [(row["reference"], *score) for row, score in zip(rows, scores, strict=True)]
    return markdown_table(("reference", "mean AU F1", "emotion top-1"), cells)


def measure_references(folder: str, data: str, seed: int, device: str) -> dict[str, Any]:
    """Score every reference on the evaluation split of a data set.

    Args:
        folder: the checkpoint.
        data: data set with both splits, a folder or Hub id.
        seed: random seed of the landmark noise and of the untrained tower.
    Returns:
        `scores`, one row per reference, and the conditions of `describe_conditions`.
    Raises:
        FileNotFoundError, ValueError: the checkpoint or data set does not exist, or lacks the labels.
    """
    model, image_processor = load_checkpoint(folder)
    model.to(device)
    train, evaluation = (Split.load(data, name, None, model.config.au_ids) for name in ("train", "validation"))
    predictions = predict_references(model, image_processor, train, evaluation, seed)
    rows = score_references(predictions, evaluation, model.config)
    return describe_conditions(model, folder, train, evaluation, seed) | {"scores": rows}


def describe_conditions(model: MF2Model, folder: str, train: Split, evaluation: Split, seed: int) -> dict[str, Any]:
    """The settings, data and environment that the scores depend on."""
    import sklearn

    return {
        "model": Path(folder).resolve().name,
        "data": {"train": train.description, "evaluation": evaluation.description},
        "faces_without_landmarks": sum(found is None for found in evaluation.rows["landmarks"]),
        "seed": seed,
        "jitter": JITTER,
        "probe_grid": PROBE_GRID,
        "environment": describe_environment(1) | {"scikit-learn": sklearn.__version__, "device": str(model.device)},
    }
