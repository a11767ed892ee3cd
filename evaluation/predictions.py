"""What a system says of the rows of a split, beside their labels.

The model sees images alone. AU labels are 1, 0 or -1 (unlabelled), emotion labels 0..E-1 or -100 (unlabelled).
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
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
from mf2.labels_mf2 import AU_UNLABELLED, EMOTION_UNLABELLED, LabelSpace
from mf2.modeling_mf2 import MF2PreTrainedModel
from mf2.processing_mf2 import MF2ImageProcessor
from mf2.utils.files import replacing
from mf2.utils.threads import fit_threads

logger = logging.getLogger(__name__)

IMAGE_NAMES = ("pixel_values", "au_boxes")

LandmarkChoice = Callable[[FaceExample], np.ndarray | None]
"""What the image processor is given for a face."""


def exact_landmarks(example: FaceExample) -> np.ndarray | None:
    """The data set's own points."""
    return example.landmarks_px


def no_landmarks(example: FaceExample) -> None:
    """None: the picture is taken as a face crop, with the regions of the mean face."""


# -------------------------------------------------------------------------------------------------------- predictions
@dataclass(frozen=True)
class Predictions:
    """Probabilities of N rows, their labels and where the rows come from.

    Args:
        au_probs: `(N, A)` float, probability of "active"; A is 0 for a system without AUs.
        au_labels: `(N, A)` int, 1 / 0 / -1.
        emotion_probs: `(N, E)` float; E is 0 for a system without emotions.
        emotion_labels: `(N,)` int, -100 unlabelled.
        video_ids, group_ids, file_names: `(N,)` str; a group is what no split divides.
        frames: `(N,)` int.
    """

    au_probs: np.ndarray
    au_labels: np.ndarray
    emotion_probs: np.ndarray
    emotion_labels: np.ndarray
    video_ids: np.ndarray
    group_ids: np.ndarray
    frames: np.ndarray
    file_names: np.ndarray

    def __len__(self) -> int:
        return len(self.emotion_labels)

    @classmethod
    def from_split(
        cls, split: Split, emotions: Sequence[str], au_probs: np.ndarray, emotion_probs: np.ndarray
    ) -> "Predictions":
        """Probabilities for the rows of a split, beside its labels.

        Args:
            split: loaded with the AUs of `au_probs`.
            emotions: E names of the columns of `emotion_probs`; the split's labels are brought to their order.
        """
        rows = split.rows
        return cls(
            au_probs=au_probs,
            au_labels=split.labels.aus,
            emotion_probs=emotion_probs,
            emotion_labels=align_emotions(split.labels.emotion, rows.features["emotion"].names, emotions),
            **{f"{name}s": np.asarray(rows[name]) for name in ("video_id", "group_id", "frame", "file_name")},
        )

    def masked(self, au_rows: np.ndarray, emotion_rows: np.ndarray) -> "Predictions":
        """The same with labels only where the `(N,)` bool arrays are True."""
        return replace(
            self,
            au_labels=np.where(au_rows[:, None], self.au_labels, AU_UNLABELLED),
            emotion_labels=np.where(emotion_rows, self.emotion_labels, EMOTION_UNLABELLED),
        )

    def to_table(self, label_space: LabelSpace) -> pd.DataFrame:
        """One row an image: keys, `AU12` (probability), `AU12_label`, `emotion`, `emotion_label`, each emotion's.

        Unlabelled is -1 for an AU and null for the emotion, as in a data set.
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
        return pd.DataFrame(columns)

    def save(self, file: str | Path, label_space: LabelSpace) -> None:
        """Write `to_table` as parquet, atomically."""
        with replacing(file) as partial_file:
            self.to_table(label_space).to_parquet(partial_file, index=False)


def align_emotions(labels: np.ndarray, data_names: Sequence[str], model_names: Sequence[str]) -> np.ndarray:
    """`(N,)` labels of a data set as labels of a model, by name; what the model does not know becomes unlabelled.

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
    landmarks_of: LandmarkChoice = exact_landmarks,
) -> Iterator[dict[str, torch.Tensor]]:
    """`pixel_values` and `au_boxes` of a split, in order of its rows."""
    collate = partial(_collate, FaceCollator(image_processor), landmarks_of)
    loader = DataLoader(split.faces, batch_size=batch_size, collate_fn=collate)
    for batch in tqdm(loader, desc=f"{split.description['split']} images", unit="batch", leave=False):
        fit_threads(device)
        yield {name: batch[name].to(device) for name in IMAGE_NAMES}


def _collate(collator: FaceCollator, landmarks_of: LandmarkChoice, examples: Sequence[FaceExample]) -> dict:
    return collator([replace(face, landmarks_px=landmarks_of(face)) for face in examples])


@torch.no_grad()
def predict(
    model: MF2PreTrainedModel,
    image_processor: MF2ImageProcessor,
    split: Split,
    batch_size: int = 64,
    device: str | torch.device = "cpu",
    landmarks_of: LandmarkChoice = exact_landmarks,
) -> Predictions:
    """What a model says of a split, from the images alone.

    Args:
        model: gives `MF2Output` and has a `label_space`; it is moved to `device` and put into evaluation mode.
        image_processor: the checkpoint's.
        split: loaded with the model's AUs.
        landmarks_of: what the image processor is told of each face.
    """
    model.to(device).eval()
    logits = collect_logits(
        model(**batch) for batch in image_batches(split, image_processor, batch_size, device, landmarks_of)
    )
    return predictions_from_logits(split, model.label_space, *logits)


def collect_logits(outputs: Iterable[Any]) -> tuple[np.ndarray | None, np.ndarray | None]:
    """AU `(N, A)` and emotion `(N, E)` logits of the outputs of all batches; None for a head that is not there."""
    parts: dict[str, list[np.ndarray]] = {"au_logits": [], "emotion_logits": []}
    for output in outputs:
        for name, found in parts.items():
            if getattr(output, name) is not None:
                found.append(getattr(output, name).float().cpu().numpy())
    au_logits, emotion_logits = (np.concatenate(found) if found else None for found in parts.values())
    return au_logits, emotion_logits


def predictions_from_logits(
    split: Split, label_space: LabelSpace, au_logits: np.ndarray | None, emotion_logits: np.ndarray | None
) -> Predictions:
    """The predictions of a split from `(N, A)` and `(N, E)` logits; None, or no column, for a head that is not there.

    Raises:
        ValueError: the split was loaded with other AUs than the logits have.
    """
    nothing = np.zeros((len(split.rows), 0))
    au_probs = nothing if au_logits is None else expit(au_logits)
    if au_probs.shape != split.labels.aus.shape:
        raise ValueError(f"There are logits of shape {au_probs.shape} for AU labels {split.labels.aus.shape}.")
    has_emotions = emotion_logits is not None and emotion_logits.shape[1]
    emotion_probs = softmax(emotion_logits, axis=1) if has_emotions else nothing
    return Predictions.from_split(split, label_space.emotions, au_probs, emotion_probs)
