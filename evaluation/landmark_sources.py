"""Sources of the landmarks that faces are aligned by (data set, detector, none), and the scores under each of them.

A model's scores depend on the landmarks. Users' own pictures come without any, so the scores to expect there are those
with a detector or, without one, with the mean face.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from mf2.data_loading.splits import FaceExample
from mf2.evaluation.arguments import SOURCES
from mf2.evaluation.predictions import Predictions, exact_landmarks, no_landmarks
from mf2.evaluation.scores import evaluate_predictions
from mf2.labels_mf2 import LabelSpace
from mf2.landmarks_mf2 import DETECT, LandmarkDetector, detect_in_pictures, find_detector

logger = logging.getLogger(__name__)

GIVEN = "given"
SCORES = {"aus": ("f1",), "aus_tuned": ("f1",), "emotion": ("top1", "macro_f1", "uar"), "affect": ("ccc", "rmse")}
"""Task -> names of the scores that are compared."""


@dataclass
class LandmarkSource:
    """Gives the image processor the landmarks of each face, and counts faces.

    Args:
        name: one of `SOURCES`.
        locate: face -> `(68, 2)` points in pixels of the picture, or None.
        num_faces, num_located, num_given: faces so far, those with points from this source, and those with points in
            the data set.
    """

    name: str
    locate: Callable[[FaceExample], np.ndarray | None]
    num_faces: int = 0
    num_located: int = 0
    num_given: int = 0

    def __call__(self, example: FaceExample) -> np.ndarray | None:
        """The `(68, 2)` points of a face in pixels of its picture; None if the source has none."""
        points = self.locate(example)
        self.num_faces += 1
        self.num_located += points is not None
        self.num_given += example.landmarks_px is not None
        return points


def _detect(detector: LandmarkDetector, example: FaceExample) -> np.ndarray | None:
    """The landmarks of the largest detected face, as with `processor(landmarks="detect")`."""
    found = detect_in_pictures(detector, [example.image])[0]
    return max(found, key=lambda face: face.area_px).landmarks_px if found else None


def landmark_sources(
    names: Sequence[str] | None, preferred_detector: str, device: str | torch.device
) -> dict[str, LandmarkSource]:
    """Return the named sources in the order of `SOURCES`; by default all, but `detect` only if a detector is ready.

    Args:
        names: of `SOURCES`; None for all.
        preferred_detector: the detector that the checkpoint names.
    Raises:
        ImportError, OSError, ValueError: a detector was asked for and cannot be set up.
    """
    sources = {}
    for name in SOURCES if names is None else [name for name in SOURCES if name in names]:
        if name != DETECT:
            sources[name] = LandmarkSource(name, exact_landmarks if name == GIVEN else no_landmarks)
            continue
        try:
            detector = find_detector(preferred_detector, device)
        except (ImportError, OSError, ValueError) as error:
            if names is not None:
                raise
            logger.warning(f"Scores with detected landmarks are left out: {error}")
            continue
        sources[name] = LandmarkSource(name, partial(_detect, detector))
    return sources


def headline_source(predictions: Mapping[str, Predictions]) -> str:
    """The source whose scores are reported in full: the data set's landmarks if they were measured, else the first."""
    return GIVEN if GIVEN in predictions else next(iter(predictions))


def compare_landmarks(
    predictions: Mapping[str, Predictions],
    sources: Mapping[str, LandmarkSource],
    label_space: LabelSpace,
    **resampling: Any,
) -> dict[str, dict[str, Any]]:
    """Source -> `brief_scores` of its predictions; `by_landmarks` in `metrics.json`."""
    return {
        name: brief_scores(
            evaluate_predictions(predictions[name], label_space, **resampling), source.num_faces, source.num_located
        )
        for name, source in sources.items()
    }


def brief_scores(evaluation: Mapping[str, Any], num_faces: int, num_located: int) -> dict[str, Any]:
    """`faces`, `located` (faces with landmarks), and the `SCORES` of an evaluation with their intervals."""
    return {"faces": num_faces, "located": num_located} | {
        task: {key: evaluation[task].get(key) for score in wanted for key in (score, f"{score}_interval")}
        for task, wanted in SCORES.items()
        if task in evaluation
    }
