"""Which detector finds faces and their 68 landmarks: the registry, and the way from `"detect"` to a detector.

`"face-alignment"` (FAN, the detector of the paper) and `"mediapipe"` (real time on a CPU) are built in, see
`face_detectors_mf2`; others are added with `register_detector`. A model file that a detector wants from its user is
named by an argument, by an environment variable, or lies in the `detectors_folder`. `mf2 detectors` shows all of it.
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
from .regions_mf2 import check_landmarks, seen_box

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
"""The words for where faces are, wherever landmarks are asked for: find them, or take the picture as a face crop."""
WITHOUT_DETECTOR = 'Or pass landmarks=<array of (68, 2) pixels>, another detector, or "mean_face".'


# -------------------------------------------------------------------------------------------------------- registry
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


def _factory(name: str) -> DetectorFactory:
    if name not in _FACTORIES:
        raise ValueError(
            f"No landmark detector is called {name!r}; known are {', '.join(detector_names())}. "
            "Add others with register_detector(name, factory)."
        )
    return _FACTORIES[name]


def reads_model_file(name: str) -> bool:
    """Whether that detector reads a file that the user names."""
    return "model_file" in inspect.signature(_factory(name)).parameters


def load_detector(
    name_or_detector: str | LandmarkDetector,
    device: "str | torch.device | None" = None,
    model_file: str | os.PathLike | None = None,
    instead: str = WITHOUT_DETECTOR,
) -> LandmarkDetector:
    """The detector of that name, built once for each device and model file; a detector is returned as it is.

    Args:
        model_file: of the detector; None takes what `find_model_file` finds.
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
            raise kind(f"{error} {_where_to_put(name)}{instead}") from error
    return _LOADED[key]


def _where_to_put(name: str) -> str:
    """Where the model file of a detector is looked for; nothing of one that reads none."""
    if (file := _place_of_model(name)) is None:
        return ""
    return f"It is looked for at {file}, and where the environment variable {_variable(name)} says. "


# ----------------------------------------------------------------------------------------------------- model files
def detectors_folder() -> Path:
    """Where model files of detectors are looked for: what `MF2_DETECTORS` says, else `~/.cache/mf2/detectors`."""
    if folder := os.environ.get(FOLDER_VARIABLE):
        return Path(folder).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache, "mf2", "detectors")


def find_model_file(name: str, model_file: str | os.PathLike | None = None) -> Path | None:
    """The model file of a detector: as given, else as its environment variable says, else in the folder, or None.

    Raises:
        FileNotFoundError: the environment variable names a file that is not there.
    """
    if model_file is not None:
        return Path(model_file)
    variable, place = _variable(name), _place_of_model(name)
    if variable and (named := os.environ.get(variable)):
        if not Path(named).expanduser().is_file():
            raise FileNotFoundError(f"{variable} names {named}, which is no file; correct or unset it.")
        return Path(named).expanduser()
    return place if place is not None and place.is_file() else None


def _variable(name: str) -> str | None:
    return getattr(_factory(name), "model_variable", None)


def _place_of_model(name: str) -> Path | None:
    model_name = getattr(_factory(name), "model_name", None)
    return model_name and detectors_folder() / model_name


# ------------------------------------------------------------------------------------------------------ "detect"
def detector_needs(name: str, model_file: str | os.PathLike | None = None) -> list[Need]:
    """What a detector needs and whether it is there; nothing is known of the needs of registered ones."""
    factory = _factory(name)
    if not (inspect.isclass(factory) and issubclass(factory, BoxDetector)):
        return []
    found, place = find_model_file(name, model_file), _place_of_model(name)
    return factory.needs(found or place)


def is_ready(name: str) -> bool:
    """Whether everything that a detector needs is there, so that it starts without a network."""
    return all(need.is_there for need in detector_needs(name))


def choose_detector(preferred: str, name: str | None = None, model_file: str | os.PathLike | None = None) -> str:
    """The detector that `"detect"` runs.

    It is the one that is named; else the one that reads a model file, where one is given; else that of the environment
    variable `MF2_LANDMARK_DETECTOR`; else the preferred one; but where that one is not ready and another is, the other
    with a warning.

    Args:
        preferred: the checkpoint's.
        name: the user's.
        model_file: the user's.
    """
    if name is not None:
        return name
    preferred = os.environ.get(DETECTOR_VARIABLE) or preferred
    if model_file is not None:
        return next((each for each in (preferred, *detector_names()) if reads_model_file(each)), preferred)
    if DETECTOR_VARIABLE in os.environ or is_ready(preferred):
        return preferred
    others = [each for each in detector_names() if each != preferred and is_ready(each)]
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
    """The detector of `"detect"`, loaded: see `choose_detector` and `load_detector`."""
    chosen = choose_detector(preferred, name, model_file)
    return load_detector(
        chosen, device, model_file, f"With mf2-face installed, `mf2 detectors` shows what is there. {instead}"
    )


def check_landmark_word(landmarks: Any) -> Any:
    """`landmarks`, with None for the mean face; a `ValueError` for a word that is not in the vocabulary."""
    if isinstance(landmarks, str) and landmarks not in (DETECT, MEAN_FACE):
        raise ValueError(
            f"landmarks is {landmarks!r}; give {DETECT!r}, {MEAN_FACE!r}, a detector, 68 points in pixels, or None, "
            f"which is {MEAN_FACE!r}."
        )
    return None if isinstance(landmarks, str) and landmarks == MEAN_FACE else landmarks


def detect_in_pictures(
    detector: LandmarkDetector, images: Sequence[np.ndarray], in_tiles: bool = True
) -> list[list[DetectedFace]]:
    """The faces of pictures; in tiles, small ones of large pictures too, where the detector is a `BoxDetector`.

    Other detectors are given the pictures as they are.

    Raises:
        ValueError: the detector does not give the 68 points of a face, or no list for each picture.
    """
    if in_tiles and isinstance(detector, BoxDetector):
        found = detector.detect(images, in_tiles=True)
    else:
        found = list(detector.detect(images))
    if len(found) != len(images):
        raise ValueError(
            f"The detector {detector.name} returned {len(found)} lists of faces for {len(images)} pictures."
        )
    for face in (face for faces in found for face in faces):
        if np.shape(face.landmarks_px) != (NUM_LANDMARKS, 2):
            raise ValueError(
                f"The detector {detector.name} returned landmarks of the shape {np.shape(face.landmarks_px)}; they "
                f"must be the ({NUM_LANDMARKS}, 2) iBUG points in pixels. Let its `detect` choose those of its points."
            )
    return found


def describe_detector(name: str, model_file: str | os.PathLike | None = None) -> dict[str, Any]:
    """What a result was found with: the detector's name, its package's version and the SHA-256 of its model files."""
    factory = _factory(name)
    if inspect.isclass(factory) and issubclass(factory, BoxDetector):
        return factory.describe(find_model_file(name, model_file))
    return {"name": name}


# ----------------------------------------------------------------------------------------------------------- faces
def faces_from_landmarks(landmarks_px: Any) -> list[DetectedFace]:
    """Given points, `(68, 2)` or `(faces, 68, 2)`, as faces whose boxes span their points."""
    points = check_landmarks(np.reshape(landmarks_px, (-1, *np.shape(landmarks_px)[-2:])))
    boxes = np.concatenate((points.min(axis=1), points.max(axis=1)), axis=1).tolist()
    return [DetectedFace(tuple(box), face, 1.0) for box, face in zip(boxes, points, strict=True)]


def largest_first(faces: Sequence[DetectedFace]) -> list[DetectedFace]:
    """The faces by the area of their boxes, the largest first."""
    return sorted(faces, key=lambda face: face.area_px, reverse=True)


def describe_place(
    face: DetectedFace | None, align_matrix: np.ndarray, size: tuple[int, int], picture_size: tuple[int, int]
) -> dict[str, Any]:
    """Where a face is, as results say it: `box`, the detector's `score`, `landmarks_found`.

    Args:
        face: None is a face crop, whose box is what was seen of the picture, without a score.
        align_matrix, size, picture_size: see `seen_box`.
    """
    box = seen_box(align_matrix, size, picture_size) if face is None else face.box_xyxy_px
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
