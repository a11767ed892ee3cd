"""Predictions of a system for the rows of a split, with their labels.

Models predict from images only. AU labels are 1, 0 or -1 (unlabelled), emotion labels 0..E-1 or -100 (unlabelled).
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.special import expit, softmax
from torch.utils.data import DataLoader
from tqdm import tqdm

from mf2.data_loading.collators import FaceCollator
from mf2.data_loading.splits import FaceExample, Split
from mf2.labels_mf2 import AFFECT, AU_UNLABELLED, EMOTION_UNLABELLED, LabelSpace
from mf2.modeling_mf2 import MF2PreTrainedModel
from mf2.processing_mf2 import MF2ImageProcessor
from mf2.utils.files import replacing
from mf2.utils.threads import fit_threads

logger = logging.getLogger(__name__)

IMAGE_NAMES = ("pixel_values", "au_boxes")

LandmarkChoice = Callable[[FaceExample], np.ndarray | None]
"""Face -> `(68, 2)` landmarks for the image processor, in pixels, or None."""


def exact_landmarks(example: FaceExample) -> np.ndarray | None:
    """The data set's landmarks."""
    return example.landmarks_px


def no_landmarks(example: FaceExample) -> None:
    """None: the picture is treated as a face crop, with the regions of the mean face."""


# -------------------------------------------------------------------------------------------------------- predictions
@dataclass(frozen=True)
class Predictions:
    """Probabilities for N rows, with their labels and keys.

    Args:
        au_probs: `(N, A)` float, probability of "active"; A is 0 for a system without AUs.
        au_labels: `(N, A)` int, 1 / 0 / -1.
        emotion_probs: `(N, E)` float; E is 0 for a system without emotions.
        emotion_labels: `(N,)` int, -100 unlabelled.
        video_ids, group_ids, file_names: `(N,)` str; the rows of a group are never divided between splits.
        frames: `(N,)` int.
        affect: `(N, 2)` float valence and arousal; zero columns for a system without them.
        affect_labels: `(N, 2)` float, NaN unlabelled; zero columns where they are not read.
    """

    au_probs: np.ndarray
    au_labels: np.ndarray
    emotion_probs: np.ndarray
    emotion_labels: np.ndarray
    video_ids: np.ndarray
    group_ids: np.ndarray
    frames: np.ndarray
    file_names: np.ndarray
    affect: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))
    affect_labels: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))

    def __post_init__(self) -> None:
        for name in ("affect", "affect_labels"):
            if not getattr(self, name).size:
                object.__setattr__(self, name, np.zeros((len(self), 0)))

    def __len__(self) -> int:
        return len(self.emotion_labels)

    @classmethod
    def from_split(
        cls,
        split: Split,
        emotions: Sequence[str],
        au_probs: np.ndarray,
        emotion_probs: np.ndarray,
        affect: np.ndarray | None = None,
    ) -> "Predictions":
        """Combine probabilities for the rows of a split with its labels.

        Args:
            split: loaded with the AUs of `au_probs`.
            emotions: E names of the columns of `emotion_probs`; the split's labels are mapped to them.
            affect: `(N, 2)` valence and arousal; None for a system without them.
        """
        rows, no_columns = split.rows, np.zeros((len(split.rows), 0))
        labels = split.labels.affect
        return cls(
            au_probs=au_probs,
            au_labels=split.labels.aus,
            emotion_probs=emotion_probs,
            emotion_labels=align_emotions(split.labels.emotion, rows.features["emotion"].names, emotions),
            affect=no_columns if affect is None else affect,
            affect_labels=no_columns if affect is None or labels is None else labels,
            **{f"{name}s": np.asarray(rows[name]) for name in ("video_id", "group_id", "frame", "file_name")},
        )

    def masked(self, au_rows: np.ndarray, emotion_rows: np.ndarray, affect_rows: np.ndarray) -> "Predictions":
        """A copy that keeps labels only where the `(N,)` bool arrays are True."""
        return replace(
            self,
            au_labels=np.where(au_rows[:, None], self.au_labels, AU_UNLABELLED),
            emotion_labels=np.where(emotion_rows, self.emotion_labels, EMOTION_UNLABELLED),
            affect_labels=np.where(affect_rows[:, None], self.affect_labels, np.nan),
        )

    def to_table(self, label_space: LabelSpace) -> pd.DataFrame:
        """One row per image: keys, `AU12` (probability), `AU12_label`, `emotion`, `emotion_label`, `emotion_…`,
        `valence`, `valence_label`, ….

        Unlabelled is -1 for an AU, null for the emotion and NaN for valence and arousal, as in a data set.
        """
        columns: dict[str, Any] = {
            "video_id": self.video_ids,
            "group_id": self.group_ids,
            "frame": self.frames,
            "file_name": self.file_names,
        }
        columns |= dict(zip(label_space.au_codes, self.au_probs.T, strict=True))
        columns |= {f"{code}_label": self.au_labels[:, i] for i, code in enumerate(label_space.au_codes)}
        if label_space.emotions:
            names = np.array([*label_space.emotions, None], dtype=object)
            labels = np.where(
                self.emotion_labels == EMOTION_UNLABELLED, len(label_space.emotions), self.emotion_labels
            )
            columns |= {"emotion": names[self.emotion_probs.argmax(1)], "emotion_label": names[labels]}
            columns |= {f"emotion_{name}": self.emotion_probs[:, i] for i, name in enumerate(label_space.emotions)}
        if label_space.affect:
            columns |= dict(zip(AFFECT, self.affect.T, strict=True))
            columns |= {f"{name}_label": values for name, values in zip(AFFECT, self.affect_labels.T, strict=False)}
        return pd.DataFrame(columns)

    def save(self, file: str | Path, label_space: LabelSpace) -> None:
        """Write `to_table` as parquet, atomically."""
        with replacing(file) as partial_file:
            self.to_table(label_space).to_parquet(partial_file, index=False)


def align_emotions(labels: np.ndarray, data_names: Sequence[str], model_names: Sequence[str]) -> np.ndarray:
    """Map `(N,)` labels of a data set to a model's by name; emotions that the model lacks become unlabelled.

    Raises:
        ValueError: the model has emotions, but none of the data set's.
    """
    if list(data_names) == list(model_names):
        return labels
    model_names = list(model_names)
    if model_names and not set(data_names) & set(model_names):
        raise ValueError(f"The data set's emotions are {', '.join(data_names)}, the model's {', '.join(model_names)}.")
    index = [model_names.index(name) if name in model_names else EMOTION_UNLABELLED for name in data_names]
    aligned = np.array([*index, EMOTION_UNLABELLED])[np.where(labels == EMOTION_UNLABELLED, len(index), labels)]
    if model_names and (num_lost := int(np.sum((aligned == EMOTION_UNLABELLED) & (labels != EMOTION_UNLABELLED)))):
        logger.warning(f"{num_lost:,} rows show an emotion that the model has no output for; they are not scored.")
    return aligned


# ------------------------------------------------------------------------------------------------------------ a model
def image_batches(
    split: Split,
    image_processor: MF2ImageProcessor,
    batch_size: int,
    device: str | torch.device,
    choose_landmarks: LandmarkChoice = exact_landmarks,
) -> Iterator[dict[str, torch.Tensor]]:
    """Yield batches of `pixel_values` and `au_boxes` in the order of the split's rows."""
    collate = partial(_collate, FaceCollator(image_processor), choose_landmarks)
    loader = DataLoader(split.faces, batch_size=batch_size, collate_fn=collate)
    for batch in tqdm(loader, desc=f"{split.description['split']} images", unit="batch", leave=False):
        fit_threads(device)
        yield {name: batch[name].to(device) for name in IMAGE_NAMES}


def _collate(collator: FaceCollator, choose_landmarks: LandmarkChoice, examples: Sequence[FaceExample]) -> dict:
    return collator([replace(face, landmarks_px=choose_landmarks(face)) for face in examples])


@torch.no_grad()
def predict(
    model: MF2PreTrainedModel,
    image_processor: MF2ImageProcessor,
    split: Split,
    batch_size: int = 64,
    device: str | torch.device = "cpu",
    choose_landmarks: LandmarkChoice = exact_landmarks,
) -> Predictions:
    """Predict a split from its images.

    Args:
        model: returns `MF2Output` and has a `label_space`; it is moved to `device` and set to evaluation mode.
        image_processor: the checkpoint's.
        split: loaded with the model's AUs.
        choose_landmarks: landmarks of each face for the image processor.
    """
    model.to(device).eval()
    logits = collect_logits(
        model(**batch) for batch in image_batches(split, image_processor, batch_size, device, choose_landmarks)
    )
    return predictions_from_logits(split, model.label_space, *logits)


def collect_logits(outputs: Iterable[Any]) -> tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None]:
    """AU `(N, A)` and emotion `(N, E)` logits, and valence and arousal `(N, 2)`, of all batches; None for a missing
    head."""
    parts: dict[str, list[np.ndarray]] = {"au_logits": [], "emotion_logits": [], "affect": []}
    for output in outputs:
        for name, found in parts.items():
            if getattr(output, name, None) is not None:
                found.append(getattr(output, name).float().cpu().numpy())
    au_logits, emotion_logits, affect = (np.concatenate(found) if found else None for found in parts.values())
    return au_logits, emotion_logits, affect


def predictions_from_logits(
    split: Split,
    label_space: LabelSpace,
    au_logits: np.ndarray | None,
    emotion_logits: np.ndarray | None,
    affect: np.ndarray | None = None,
) -> Predictions:
    """Convert `(N, A)` and `(N, E)` logits, and `(N, 2)` valence and arousal, to predictions.

    None, or zero columns, stand for a missing head.

    Raises:
        ValueError: the logits and the split have different numbers of AUs.
    """
    no_columns = np.zeros((len(split.rows), 0))
    au_probs = no_columns if au_logits is None else expit(au_logits)
    if au_probs.shape != split.labels.aus.shape:
        raise ValueError(f"There are logits of shape {au_probs.shape} for AU labels {split.labels.aus.shape}.")
    has_emotions = emotion_logits is not None and emotion_logits.shape[1]
    emotion_probs = softmax(emotion_logits, axis=1) if has_emotions else no_columns
    if affect is not None and not affect.shape[1]:
        affect = None
    return Predictions.from_split(split, label_space.emotions, au_probs, emotion_probs, affect)
