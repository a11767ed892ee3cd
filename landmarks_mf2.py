"""Face and landmark detectors behind one small protocol.

A detector takes RGB pictures and gives, for each, the faces found with their 68 iBUG points. `"face-alignment"` (FAN,
the detector of the paper) and `"mediapipe"` (real time on a CPU) are built in; others are added with
`register_detector`. Nothing is imported, read or downloaded before a detector is asked for.
"""

import importlib
import inspect
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

    @property
    def area_px(self) -> float:
        """The area of the box."""
        x1, y1, x2, y2 = self.box_xyxy_px
        return (x2 - x1) * (y2 - y1)


@runtime_checkable
class LandmarkDetector(Protocol):
    """What the processor and the data tools ask of a detector."""

    name: str

    def detect(self, images: Sequence[np.ndarray]) -> list[list[DetectedFace]]:
        """The faces of each picture, in any order, an empty list where there is none.

        Args:
            images: `(height, width, 3)` uint8 RGB arrays of any sizes.
        """


# -------------------------------------------------------------------------------------------------- face-alignment
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
        package = _import_package("face_alignment", "pip install face-alignment")
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


def _import_package(name: str, install: str) -> ModuleType:
    """A detector's package, without its warnings; an `ImportError` that says how to install it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(
            f"This landmark detector needs the package {name}, which cannot be imported ({error}). Install it with "
            f"`{install}`."
        ) from error


def _weight_files() -> dict[str, str]:
    """Path to URL of the files that face-alignment wants."""
    folder = os.path.join(torch.hub.get_dir(), "checkpoints")
    api = importlib.import_module("face_alignment.api")
    detector = importlib.import_module("face_alignment.detection.sfd.sfd_detector")
    urls = (api.models_urls["2DFAN-4"], detector.models_urls["s3fd"])
    return {os.path.join(folder, url.rsplit("/", 1)[-1]): url for url in urls}


def _weights_help(device: str, error: Exception) -> str:
    files = "; ".join(f"{path} from {url}" for path, url in _weight_files().items())
    return (
        f"face-alignment could not be set up on {device} ({error}). It needs these files, which it fetches where "
        f"there is a network; put them in place (again, if they are damaged; TORCH_HOME moves the folder): {files}."
    )


# ------------------------------------------------------------------------------------------------------- mediapipe
FACE_MESH_TO_68: tuple[int, ...] = (
    *(127, 234, 93, 132, 58, 136, 150, 176, 152, 400, 379, 365, 288, 361, 323, 454, 356),  # jaw
    *(70, 63, 105, 66, 107, 336, 296, 334, 293, 300),  # brows, their upper edge
    *(6, 197, 5, 1),  # nose bridge
    *(98, 97, 2, 326, 327),  # nostrils
    *(33, 160, 158, 133, 153, 144),  # the eye of the left image half
    *(362, 385, 387, 263, 373, 380),
    *(61, 39, 37, 0, 267, 269, 291, 405, 314, 17, 84, 181),  # outer lip
    *(78, 82, 13, 312, 308, 317, 14, 87),  # inner lip
)
"""`landmarks_68[i] = face_mesh[FACE_MESH_TO_68[i]]`: the vertex of MediaPipe's face mesh that lies at an iBUG point.

Every vertex belongs to the outline that MediaPipe names for the part (`FaceLandmarksConnections`); of those, the one
nearest to the point's place in the mean face was taken on the left half, and its mirror image on the right.
"""
FACE_LANDMARKER_PAGE = "https://ai.google.dev/edge/mediapipe/solutions/vision/face_landmarker"


class MediaPipeDetector:
    """MediaPipe's FaceLandmarker: finds faces and the 478 points of a face mesh, 68 of which are kept.

    It runs on the CPU whatever `device` is, in real time on small pictures. A face's box is that of its mesh, and its
    score is 1, because FaceLandmarker tells none.

    Args:
        device: not used.
        model_file: the FaceLandmarker bundle, a `.task` file.
        max_faces: how many faces are found in one picture at the most.
        min_confidence: of detection and of the mesh, in [0, 1].
    Raises:
        ImportError: the package is not installed; says how to get it.
        ValueError: no model file was named; says where there is one.
        OSError: the file is missing or is no FaceLandmarker bundle.
    """

    name = "mediapipe"

    def __init__(
        self,
        device: str | torch.device | None = None,
        model_file: str | os.PathLike | None = None,
        max_faces: int = 16,
        min_confidence: float = 0.5,
    ):
        if model_file is None:
            raise ValueError(
                f"The mediapipe detector needs a model_file, a `.task` file; {FACE_LANDMARKER_PAGE} links to one."
            )
        if not os.path.isfile(model_file):
            raise FileNotFoundError(f"The model file {model_file} does not exist; {FACE_LANDMARKER_PAGE} links to it.")
        self._package = _import_package("mediapipe", "pip install mediapipe")
        self._landmarker = self._load(os.fspath(model_file), max_faces, min_confidence)

    def _load(self, model_file: str, max_faces: int, min_confidence: float) -> Any:
        tasks = self._package.tasks
        options = tasks.vision.FaceLandmarkerOptions(
            base_options=tasks.BaseOptions(model_asset_path=model_file),
            num_faces=max_faces,
            min_face_detection_confidence=min_confidence,
            min_face_presence_confidence=min_confidence,
        )
        try:
            return tasks.vision.FaceLandmarker.create_from_options(options)
        except (OSError, RuntimeError, ValueError) as error:
            raise OSError(
                f"{model_file} is no FaceLandmarker bundle ({error}); {FACE_LANDMARKER_PAGE} links to one."
            ) from error

    def detect(self, images: Sequence[np.ndarray]) -> list[list[DetectedFace]]:
        """See `LandmarkDetector.detect`."""
        return [self._detect_one(image) for image in images]

    def _detect_one(self, image: np.ndarray) -> list[DetectedFace]:
        height, width = image.shape[:2]
        picture = self._package.Image(
            image_format=self._package.ImageFormat.SRGB, data=np.ascontiguousarray(image, dtype=np.uint8)
        )
        faces = []
        for mesh in self._landmarker.detect(picture).face_landmarks:
            points = np.array([(point.x * width, point.y * height) for point in mesh], dtype=np.float32)  # (478, 2)
            x1, y1, x2, y2 = (float(value) for value in (*points.min(axis=0), *points.max(axis=0)))
            faces.append(DetectedFace((x1, y1, x2, y2), points[list(FACE_MESH_TO_68)], score=1.0))
        return faces


# -------------------------------------------------------------------------------------------------------- registry
DetectorFactory = Callable[..., LandmarkDetector]

_FACTORIES: dict[str, DetectorFactory] = {
    FaceAlignmentDetector.name: FaceAlignmentDetector,
    MediaPipeDetector.name: MediaPipeDetector,
}
_LOADED: dict[tuple[str, str, str], LandmarkDetector] = {}

WITHOUT_DETECTOR = "Or pass landmarks=<array of (68, 2) pixels>, another detector, or None for the mean face."


def detector_names() -> list[str]:
    """The names that `load_detector` knows."""
    return sorted(_FACTORIES)


def register_detector(name: str, factory: DetectorFactory) -> None:
    """Make a detector known as `name`; an earlier one of that name is replaced.

    `factory(device)` builds it, or `factory(device, model_file=…)` if it reads a file that the user names.
    """
    _FACTORIES[name] = factory
    for key in [key for key in _LOADED if key[0] == name]:
        del _LOADED[key]


def load_detector(
    name_or_detector: str | LandmarkDetector,
    device: str | torch.device | None = None,
    model_file: str | os.PathLike | None = None,
    instead: str = WITHOUT_DETECTOR,
) -> LandmarkDetector:
    """The detector of that name, built once for each device and model file; a detector is returned as it is.

    Args:
        instead: what to do where the detector cannot be set up; ends the error.
    Raises:
        ValueError: the name is not registered, lists those that are; or a model file for one that takes none.
        TypeError: neither a name nor something with `detect` and `name`.
        ImportError, OSError: its package or its weights are missing; says what to do.
    """
    if not isinstance(name_or_detector, str):
        if not isinstance(name_or_detector, LandmarkDetector):
            raise TypeError(f"{name_or_detector!r} is no landmark detector: it lacks `detect` or `name`.")
        return name_or_detector
    if name_or_detector not in _FACTORIES:
        raise ValueError(
            f"No landmark detector is called {name_or_detector!r}; known are {', '.join(detector_names())}. "
            "Add others with register_detector(name, factory)."
        )
    factory, options = _FACTORIES[name_or_detector], {}
    if model_file is not None:
        if "model_file" not in inspect.signature(factory).parameters:
            raise ValueError(f"The detector {name_or_detector} takes no model file; leave out {model_file}.")
        options["model_file"] = model_file
    key = (name_or_detector, str(device), str(model_file))
    if key not in _LOADED:
        try:
            _LOADED[key] = factory(device, **options)
        except FileNotFoundError:  # the model file that was named
            raise
        except (ImportError, OSError) as error:
            kind = ImportError if isinstance(error, ImportError) else OSError
            raise kind(f"{error} {instead}") from error
    return _LOADED[key]
