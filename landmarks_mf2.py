"""The registry of detectors of faces and their 68 landmarks, and the choice of the detector for `"detect"`.

`"face-alignment"` (FAN, the detector of the paper) and `"mediapipe"` (real time on a CPU) are built in, see
`face_detectors_mf2`; others are added with `register_detector`. The model file that a detector requires is given by an
argument, by an environment variable, or by its name in the `detectors_folder`. `mf2 detectors` lists all detectors.
"""

import inspect
import logging
import os
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .face_detectors_mf2 import (
    FACE_MESH_TO_68,
    BoxDetector,
    DetectedFace,
    FaceAlignmentDetector,
    LandmarkDetector,
    MediaPipeDetector,
    Need,
)
from .labels_mf2 import NUM_LANDMARKS
from .regions_mf2 import check_landmarks, visible_box

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

BOX_SIDES = ("xmin", "ymin", "xmax", "ymax")
DetectorFactory = Callable[..., LandmarkDetector]

_FACTORIES: dict[str, DetectorFactory] = {
    FaceAlignmentDetector.name: FaceAlignmentDetector,
    MediaPipeDetector.name: MediaPipeDetector,
}
_LOADED: dict[tuple[str, str, str], LandmarkDetector] = {}

PREFERRED_DETECTOR = FaceAlignmentDetector.name
"""The detector of the paper."""
DETECTOR_VARIABLE = "MF2_LANDMARK_DETECTOR"
"""Environment variable: the registered detector of `"detect"`."""
FOLDER_VARIABLE = "MF2_DETECTORS"
"""Environment variable: the folder of model files."""
DETECT, MEAN_FACE = "detect", "mean_face"
"""Values of `landmarks` arguments: detect faces, or treat the picture as a face crop."""
WITHOUT_DETECTOR = 'Or pass landmarks=<array of (68, 2) pixels>, another detector, or "mean_face".'


# -------------------------------------------------------------------------------------------------------- registry
def detector_names() -> list[str]:
    """The names that `load_detector` knows."""
    return sorted(_FACTORIES)


def register_detector(name: str, factory: DetectorFactory) -> None:
    """Register a detector as `name`, replacing an earlier one of that name.

    `factory(device)` builds it, or `factory(device, model_file=…)` if it requires a model file.
    """
    _FACTORIES[name] = factory
    for key in [key for key in _LOADED if key[0] == name]:
        del _LOADED[key]


def _factory(name: str) -> DetectorFactory:
    if name not in _FACTORIES:
        raise ValueError(
            f"No landmark detector is called {name!r}; known are {', '.join(detector_names())}. "
            "Add others with register_detector(name, factory)."
        )
    return _FACTORIES[name]


def reads_model_file(name: str) -> bool:
    """Whether that detector takes a model file."""
    return "model_file" in inspect.signature(_factory(name)).parameters


def load_detector(
    name_or_detector: str | LandmarkDetector,
    device: "str | torch.device | None" = None,
    model_file: str | os.PathLike | None = None,
    instead: str = WITHOUT_DETECTOR,
) -> LandmarkDetector:
    """Load a registered detector, once per device and model file; a detector object is returned unchanged.

    Args:
        name_or_detector: the name of a registered detector, or a detector.
        device: device of the detector; None uses a GPU if there is one.
        model_file: model file of the detector; None uses the result of `find_model_file`.
        instead: the remedy if the detector cannot be loaded, at the end of the error message.
    Raises:
        ValueError: the name is not registered, or the detector takes no model file.
        TypeError: neither a name nor an object with `detect` and `name`.
        ImportError, OSError: its package or its weights are missing; the message says how to install them.
    """
    if not isinstance(name_or_detector, str):
        if not isinstance(name_or_detector, LandmarkDetector):
            raise TypeError(f"{name_or_detector!r} is no landmark detector: it lacks `detect` or `name`.")
        return name_or_detector
    name, options = name_or_detector, {}
    if reads_model_file(name):
        options["model_file"] = find_model_file(name) if model_file is None else model_file
    elif model_file is not None:
        raise ValueError(f"The detector {name} takes no model file; leave out {model_file}.")
    key = (name, str(device), str(options.get("model_file")))
    if key not in _LOADED:
        try:
            _LOADED[key] = _factory(name)(device, **options)
        except (ImportError, OSError) as error:
            if model_file is not None and not os.path.isfile(model_file):
                raise
            kind = ImportError if isinstance(error, ImportError) else OSError
            raise kind(f"{error} {_model_file_hint(name)}{instead}") from error
    return _LOADED[key]


def _model_file_hint(name: str) -> str:
    """Says where the model file of a detector is searched; empty for a detector without one."""
    if (file := _default_model_file(name)) is None:
        return ""
    return f"It is looked for at {file}, and where the environment variable {_variable(name)} says. "


# ----------------------------------------------------------------------------------------------------- model files
def detectors_folder() -> Path:
    """The folder in which model files of detectors are searched: `MF2_DETECTORS`, else `~/.cache/mf2/detectors`."""
    if folder := os.environ.get(FOLDER_VARIABLE):
        return Path(folder).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache, "mf2", "detectors")


def find_model_file(name: str, model_file: str | os.PathLike | None = None) -> Path | None:
    """Find the model file of a detector: the argument, its environment variable, or its file in the folder, or None.

    Raises:
        FileNotFoundError: the environment variable names a missing file.
    """
    if model_file is not None:
        return Path(model_file)
    variable, default = _variable(name), _default_model_file(name)
    if variable and (file := os.environ.get(variable)):
        if not Path(file).expanduser().is_file():
            raise FileNotFoundError(f"{variable} names {file}, which is no file; correct or unset it.")
        return Path(file).expanduser()
    return default if default is not None and default.is_file() else None


def _variable(name: str) -> str | None:
    return getattr(_factory(name), "model_variable", None)


def _default_model_file(name: str) -> Path | None:
    model_name = getattr(_factory(name), "model_name", None)
    return model_name and detectors_folder() / model_name


# ------------------------------------------------------------------------------------------------------ "detect"
def detector_needs(name: str, model_file: str | os.PathLike | None = None) -> list[Need]:
    """The requirements of a built-in detector and whether they are met; empty for other registered detectors."""
    factory = _factory(name)
    if not (inspect.isclass(factory) and issubclass(factory, BoxDetector)):
        return []
    return factory.needs(find_model_file(name, model_file) or _default_model_file(name))


def is_ready(name: str) -> bool:
    """Whether all requirements of a detector are met, so that it works without a network."""
    return all(need.is_there for need in detector_needs(name))


def choose_detector(preferred: str, name: str | None = None, model_file: str | os.PathLike | None = None) -> str:
    """Choose the detector that `"detect"` runs.

    It is `name` if given; else a detector that takes a model file, if one is given; else that of the environment
    variable `MF2_LANDMARK_DETECTOR`; else the preferred one. If the preferred one is not ready but another is, that is
    used with a warning.

    Args:
        preferred: the checkpoint's detector.
        name: the user's choice.
        model_file: the user's model file.
    """
    if name is not None:
        return name
    preferred = os.environ.get(DETECTOR_VARIABLE) or preferred
    if model_file is not None:
        return next((other for other in (preferred, *detector_names()) if reads_model_file(other)), preferred)
    if DETECTOR_VARIABLE in os.environ or is_ready(preferred):
        return preferred
    others = [other for other in detector_names() if other != preferred and is_ready(other)]
    if not others:
        return preferred
    missing = ", ".join(need.name for need in detector_needs(preferred) if not need.is_there)
    _warn_once(
        f"The detector {preferred} is not ready ({missing}); {others[0]} finds the faces instead. Scores of AUs "
        f"change a little with the detector; name one, or set {DETECTOR_VARIABLE}."
    )
    return others[0]


@lru_cache
def _warn_once(text: str) -> None:
    logger.warning(text)


def find_detector(
    preferred: str,
    device: "str | torch.device | None" = None,
    name: str | None = None,
    model_file: str | os.PathLike | None = None,
    instead: str = WITHOUT_DETECTOR,
) -> LandmarkDetector:
    """Load the detector of `"detect"`, see `choose_detector` and `load_detector`."""
    chosen = choose_detector(preferred, name, model_file)
    return load_detector(
        chosen, device, model_file, f"With mf2-face installed, `mf2 detectors` shows what is there. {instead}"
    )


def check_landmark_word(landmarks: Any) -> Any:
    """Return `landmarks`, with None for `"mean_face"`; a `ValueError` for any other text than `"detect"`."""
    if isinstance(landmarks, str) and landmarks not in (DETECT, MEAN_FACE):
        raise ValueError(
            f"landmarks is {landmarks!r}; give {DETECT!r}, {MEAN_FACE!r}, a detector, 68 points in pixels, or None, "
            f"which is {MEAN_FACE!r}."
        )
    return None if isinstance(landmarks, str) and landmarks == MEAN_FACE else landmarks


def detect_in_pictures(
    detector: LandmarkDetector, images: Sequence[np.ndarray], in_tiles: bool = True
) -> list[list[DetectedFace]]:
    """Detect the faces in pictures; a `BoxDetector` also searches large pictures in tiles for small faces.

    Returns:
        A list of faces for each picture.
    Raises:
        ValueError: the detector does not return a list for each picture, or not 68 points for a face.
    """
    if in_tiles and isinstance(detector, BoxDetector):
        faces_of_images = detector.detect(images, in_tiles=True)
    else:
        faces_of_images = list(detector.detect(images))
    if len(faces_of_images) != len(images):
        raise ValueError(
            f"The detector {detector.name} returned {len(faces_of_images)} lists of faces for {len(images)} pictures."
        )
    for face in (face for faces in faces_of_images for face in faces):
        if np.shape(face.landmarks_px) != (NUM_LANDMARKS, 2):
            raise ValueError(
                f"The detector {detector.name} returned landmarks of the shape {np.shape(face.landmarks_px)}; they "
                f"must be the ({NUM_LANDMARKS}, 2) iBUG points in pixels. Let its `detect` choose those of its points."
            )
    return faces_of_images


def describe_detector(name: str, model_file: str | os.PathLike | None = None) -> dict[str, Any]:
    """The detector's name, the version of its package and the SHA-256 of its model files."""
    factory = _factory(name)
    if inspect.isclass(factory) and issubclass(factory, BoxDetector):
        return factory.describe(find_model_file(name, model_file))
    return {"name": name}


# ----------------------------------------------------------------------------------------------------------- faces
def faces_from_landmarks(landmarks_px: Any) -> list[DetectedFace]:
    """Make faces from points, `(68, 2)` or `(faces, 68, 2)`; their boxes are the bounding boxes of the points."""
    points = check_landmarks(np.reshape(landmarks_px, (-1, *np.shape(landmarks_px)[-2:])))
    boxes = np.concatenate((points.min(axis=1), points.max(axis=1)), axis=1).tolist()
    return [DetectedFace(tuple(box), face, 1.0) for box, face in zip(boxes, points, strict=True)]


def largest_first(faces: Sequence[DetectedFace]) -> list[DetectedFace]:
    """Sort faces by the area of their boxes, the largest first."""
    return sorted(faces, key=lambda face: face.area_px, reverse=True)


def describe_place(
    face: DetectedFace | None, align_matrix: np.ndarray, size: tuple[int, int], picture_size: tuple[int, int]
) -> dict[str, Any]:
    """The entries of a result on the position of a face: `box`, the detector's `score`, `landmarks_found`.

    Args:
        face: the face; None for a face crop, whose box is the processed part of the picture, without a score.
        align_matrix, size, picture_size: see `visible_box`.
    """
    box = visible_box(align_matrix, size, picture_size) if face is None else face.box_xyxy_px
    return {
        "box": dict(zip(BOX_SIDES, map(float, box), strict=True)),
        "score": None if face is None else float(face.score),
        "landmarks_found": face is not None,
    }


__all__ = [
    "FACE_MESH_TO_68",
    "PREFERRED_DETECTOR",
    "BoxDetector",
    "DetectedFace",
    "FaceAlignmentDetector",
    "LandmarkDetector",
    "MediaPipeDetector",
    "Need",
    "choose_detector",
    "describe_detector",
    "describe_place",
    "detect_in_pictures",
    "detector_names",
    "detector_needs",
    "detectors_folder",
    "faces_from_landmarks",
    "find_detector",
    "find_model_file",
    "is_ready",
    "largest_first",
    "load_detector",
    "register_detector",
]
