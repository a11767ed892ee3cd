"""Face and landmark detectors behind one small protocol.

A detector takes RGB pictures and gives, for each, the faces found with their 68 iBUG points. `"face-alignment"` (FAN,
the detector of the paper) is built in; others are added with `register_detector`. Nothing is imported, read or
downloaded before a detector is asked for.
"""

import importlib
import os
import pickle
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from PIL import Image


@dataclass(frozen=True)
class DetectedFace:
    """One face: its box x1 y1 x2 y2, its `(68, 2)` float32 points, both in pixels, and a score in [0, 1]."""

    box_xyxy_px: tuple[float, float, float, float]
    landmarks_px: np.ndarray
    score: float


@runtime_checkable
class LandmarkDetector(Protocol):
    """What the processor and the data tools ask of a detector."""

    name: str

    def detect(self, images: Sequence[np.ndarray]) -> list[list[DetectedFace]]:
        """The faces of each picture, in any order, an empty list where there is none.

        Args:
            images: `(height, width, 3)` uint8 RGB arrays of any sizes.
        """


class FaceAlignmentDetector:
    """FAN landmarks on S3FD boxes, by the package face-alignment (Bulat and Tzimiropoulos, ICCV 2017).

    Boxes are searched in a picture of at most `max_side` pixels, which bounds time and memory; the landmarks are then
    found in the full picture.

    Args:
        device: `"cpu"`, `"cuda"`, `"cuda:1"`, `"mps"`; None takes a GPU where there is one.
        max_side: the longer side, in pixels, of the picture in which boxes are searched.
    Raises:
        ImportError: the package is not installed; says how to get it.
        OSError: it cannot be set up, mostly because its weights are neither in the cache nor to be downloaded; says
            which file goes where.
    """

    name = "face-alignment"

    def __init__(self, device: str | torch.device | None = None, max_side: int = 1280):
        self.device = str(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.max_side = max_side
        self._model = self._load()

    def _load(self) -> Any:
        package = _import_face_alignment()
        try:
            return package.FaceAlignment(package.LandmarksType.TWO_D, device=self.device, compile=False)
        except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
            raise OSError(_weights_help(self.device, error)) from error

    def detect(self, images: Sequence[np.ndarray]) -> list[list[DetectedFace]]:
        """See `LandmarkDetector.detect`; scores are those of the face boxes."""
        return [self._detect_one(image) for image in images]

    def _detect_one(self, image: np.ndarray) -> list[DetectedFace]:
        boxes = self._find_boxes(image)
        if not boxes:
            return []
        landmarks = self._model.get_landmarks_from_image(image, detected_faces=boxes)
        faces = []
        for box, points in zip(boxes, landmarks, strict=True):
            x1, y1, x2, y2, score = box.tolist()
            faces.append(DetectedFace((x1, y1, x2, y2), np.asarray(points, dtype=np.float32), score))
        return faces

    def _find_boxes(self, image: np.ndarray) -> list[np.ndarray]:
        """Boxes `(5,)`: x1 y1 x2 y2 in pixels of the full picture, and the score."""
        height, width = image.shape[:2]
        scale = min(1.0, self.max_side / max(height, width))
        if scale < 1:
            smaller = (round(width * scale), round(height * scale))
            image = np.asarray(Image.fromarray(image).resize(smaller, Image.Resampling.BILINEAR))
        boxes = self._model.face_detector.detect_from_image(image.copy())
        return [np.append(np.asarray(box[:4]) / scale, box[4]) for box in boxes]


def _import_face_alignment() -> ModuleType:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module("face_alignment")
    except ImportError as error:
        raise ImportError(
            f"Landmark detection needs the package face-alignment, which cannot be imported ({error}). Install it "
            "with `pip install face-alignment`, or pass landmarks=<array of (68, 2) pixels>, another detector, or "
            "None for the mean face."
        ) from error


def _weight_files() -> dict[str, str]:
    """Path to URL of the files that face-alignment wants."""
    folder = os.path.join(torch.hub.get_dir(), "checkpoints")
    api = importlib.import_module("face_alignment.api")
    detector = importlib.import_module("face_alignment.detection.sfd.sfd_detector")
    urls = (api.models_urls["2DFAN-4"], detector.models_urls["s3fd"])
    return {os.path.join(folder, url.rsplit("/", 1)[-1]): url for url in urls}


def _weights_help(device: str, error: Exception) -> str:
    files = "\n".join(f"  {path}\n    from {url}" for path, url in _weight_files().items())
    return (
        f"face-alignment could not be set up on {device} ({error}). It needs these files, which it fetches where "
        f"there is a network; put them in place (again, if they are damaged; TORCH_HOME moves the folder):\n{files}\n"
        "Or pass landmarks=<array of (68, 2) pixels>, another detector, or None for the mean face."
    )


# ------------------------------------------------------------------------------------------------------- registry
DetectorFactory = Callable[[str | torch.device | None], LandmarkDetector]

_FACTORIES: dict[str, DetectorFactory] = {FaceAlignmentDetector.name: FaceAlignmentDetector}
_LOADED: dict[tuple[str, str], LandmarkDetector] = {}


def register_detector(name: str, factory: DetectorFactory) -> None:
    """Make a detector known as `name`. `factory(device)` builds it; an earlier one of that name is replaced."""
    _FACTORIES[name] = factory
    for key in [key for key in _LOADED if key[0] == name]:
        del _LOADED[key]


def load_detector(
    name_or_detector: str | LandmarkDetector, device: str | torch.device | None = None
) -> LandmarkDetector:
    """The detector of that name, built once for each device; a detector is returned as it is.

    Raises:
        ValueError: the name is not registered; lists those that are.
        TypeError: neither a name nor something with `detect` and `name`.
    """
    if not isinstance(name_or_detector, str):
        if not isinstance(name_or_detector, LandmarkDetector):
            raise TypeError(f"{name_or_detector!r} is no landmark detector: it lacks `detect` or `name`.")
        return name_or_detector
    if name_or_detector not in _FACTORIES:
        raise ValueError(
            f"No landmark detector is called {name_or_detector!r}; known are {', '.join(sorted(_FACTORIES))}. "
            "Add others with register_detector(name, factory)."
        )
    key = (name_or_detector, str(device))
    if key not in _LOADED:
        _LOADED[key] = _FACTORIES[name_or_detector](device)
    return _LOADED[key]
