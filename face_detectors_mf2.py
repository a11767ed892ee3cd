"""The built-in detectors: FAN of the package face-alignment, as in the paper, and MediaPipe's FaceLandmarker.

A detector returns, for each RGB picture, its faces with their 68 iBUG points. Both detect boxes first and then the
points in each box; for small faces, boxes are also detected in tiles, see `face_tiles_mf2`. Packages and model files
are loaded or downloaded when a detector is built.
"""

import atexit
import hashlib
import importlib
import importlib.metadata
import importlib.util
import os
import pickle
import warnings
import weakref
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

import numpy as np
from PIL import Image

from .face_tiles_mf2 import find_in_tiles, merge_boxes, tile_sides

if TYPE_CHECKING:
    import torch


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

    @property
    def side_px(self) -> float:
        """The shorter side of the box."""
        x1, y1, x2, y2 = self.box_xyxy_px
        return min(x2 - x1, y2 - y1)


@runtime_checkable
class LandmarkDetector(Protocol):
    """The interface of a detector for the processor and the data tools."""

    @property
    def name(self) -> str:
        """The name of the detector."""

    def detect(self, images: Sequence[np.ndarray]) -> list[list[DetectedFace]]:
        """Detect the faces of each picture, in any order; an empty list for a picture without a face.

        Args:
            images: `(height, width, 3)` uint8 RGB arrays of any sizes.
        """


@dataclass(frozen=True)
class Need:
    """A requirement of a detector: its name, whether it is met, and how to meet it."""

    name: str
    is_there: bool
    remedy: str


# ------------------------------------------------------------------------------------------------------------- base
class BoxDetector(ABC):
    """Base class of detectors that detect boxes, and then the landmarks in each box.

    Attributes:
        name: name of the detector.
        package: import name of its package.
        reach: the smallest face that it finds reliably, as a fraction of the longer side of a picture.
        model_name: default name of its model file, see `landmarks_mf2.find_model_file`.
        model_variable: environment variable with the path of its model file.
    """

    name: ClassVar[str]
    package: ClassVar[str]
    reach: ClassVar[float]
    model_name: ClassVar[str | None] = None
    model_variable: ClassVar[str | None] = None

    def detect(self, images: Sequence[np.ndarray], in_tiles: bool = False) -> list[list[DetectedFace]]:
        """See `LandmarkDetector.detect`; with `in_tiles` large pictures are also searched in tiles."""
        return [self._detect_one(image, in_tiles) for image in images]

    def _detect_one(self, image: np.ndarray, in_tiles: bool) -> list[DetectedFace]:
        sides = tile_sides(image.shape[:2], self.reach) if in_tiles else []
        boxes = find_in_tiles(self._find_boxes, image, sides) if sides else self._find_boxes(image)
        return self._find_landmarks(image, boxes) if len(boxes) else []

    @abstractmethod
    def _find_boxes(self, image: np.ndarray) -> np.ndarray:
        """Detect `(faces, 5)` float boxes: x1 y1 x2 y2 in pixels of the picture, and the score."""

    @abstractmethod
    def _find_landmarks(self, image: np.ndarray, boxes: np.ndarray) -> list[DetectedFace]:
        """Detect the landmarks in `(faces, 5)` boxes; boxes without a face are left out."""

    @classmethod
    @abstractmethod
    def model_files(cls, model_file: Path | None) -> dict[Path, str]:
        """Its model files -> the address of each."""

    @classmethod
    def needs(cls, model_file: Path | None = None) -> list[Need]:
        """Its package and its model files."""
        is_installed = importlib.util.find_spec(cls.package) is not None
        needs = [Need(f"the package {cls.package}", is_installed, f"pip install 'mf2-face[{cls.extra()}]'")]
        if is_installed:
            files = cls.model_files(model_file).items()
            needs += [Need(str(file), file.is_file(), f"put it there, from {origin}") for file, origin in files]
        return needs

    @classmethod
    def extra(cls) -> str:
        """The extra of mf2-face that installs its package."""
        return cls.name

    @classmethod
    def describe(cls, model_file: Path | None = None) -> dict[str, Any]:
        """Its name, its package's version, and the SHA-256 of each model file, by name."""
        files = [Path(need.name) for need in cls.needs(model_file)[1:] if need.is_there]
        return {
            "name": cls.name,
            "version": _version_of(cls.name),
            "model_sha256": {file.name: _sha256(file) for file in files},
        }


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _version_of(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _import_package(name: str, install: str) -> ModuleType:
    """Import the package of a detector without its warnings; an `ImportError` says how to install it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(
            f"This landmark detector needs the package {name}, which cannot be imported ({error}). Install it with "
            f"`{install}`."
        ) from error


# --------------------------------------------------------------------------------------------------- face-alignment
class FaceAlignmentDetector(BoxDetector):
    """FAN landmarks on S3FD boxes, by the package face-alignment (Bulat and Tzimiropoulos, ICCV 2017).

    Boxes are detected in a picture reduced to at most `max_side` pixels, which bounds time and memory; the landmarks
    are then detected in the full picture. Scores are those of the boxes.

    Args:
        device: `"cpu"`, `"cuda"`, `"cuda:1"`, `"mps"`; None uses a GPU if there is one.
        max_side: maximal length of the longer side, in pixels, for the detection of boxes.
    Raises:
        ImportError: the package is not installed; the message says how to install it.
        OSError: it cannot be loaded, usually because its weights are neither cached nor can be downloaded; the message
            names the files and their places.
    """

    name = "face-alignment"
    package = "face_alignment"
    reach = 16 / 1280  # S3FD finds faces of 16 pixels in a picture of max_side

    def __init__(self, device: "str | torch.device | None" = None, max_side: int = 1280):
        import torch  # imported here because other detectors do not need it

        self.device = str(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.max_side = max_side
        self._model = self._load()

    @classmethod
    def extra(cls) -> str:
        """The extra of this package that installs it."""
        return "landmarks"

    def _load(self) -> Any:
        package = _import_package("face_alignment", "pip install face-alignment")
        try:
            return package.FaceAlignment(package.LandmarksType.TWO_D, device=self.device, compile=False)
        except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
            raise OSError(_weights_help(self.device, error)) from error

    @classmethod
    def model_files(cls, model_file: Path | None = None) -> dict[Path, str]:
        """Its model files -> the address of each."""
        import torch

        folder = Path(torch.hub.get_dir(), "checkpoints")
        api = importlib.import_module("face_alignment.api")
        detector = importlib.import_module("face_alignment.detection.sfd.sfd_detector")
        urls = (api.models_urls["2DFAN-4"], detector.models_urls["s3fd"])
        return {folder / url.rsplit("/", 1)[-1]: url for url in urls}

    def _find_boxes(self, image: np.ndarray) -> np.ndarray:
        height, width = image.shape[:2]
        scale = min(1.0, self.max_side / max(height, width))
        if scale < 1:
            reduced_size = (round(width * scale), round(height * scale))
            image = np.asarray(Image.fromarray(image).resize(reduced_size, Image.Resampling.BILINEAR))
        boxes = self._model.face_detector.detect_from_image(image.copy())
        scaled = [np.append(np.asarray(box[:4], dtype=np.float64) / scale, box[4]) for box in boxes]
        return np.stack(scaled) if scaled else np.zeros((0, 5))

    def _find_landmarks(self, image: np.ndarray, boxes: np.ndarray) -> list[DetectedFace]:
        landmarks = self._model.get_landmarks_from_image(image, detected_faces=list(boxes))
        return [
            DetectedFace(tuple(box[:4]), np.asarray(points, dtype=np.float32), float(np.clip(box[4], 0, 1)))
            for box, points in zip(boxes.tolist(), landmarks, strict=True)
        ]


def _weights_help(device: str, error: Exception) -> str:
    files = "; ".join(f"{path} from {url}" for path, url in FaceAlignmentDetector.model_files().items())
    return (
        f"face-alignment could not be set up on {device} ({error}). It needs these files, which it fetches where "
        f"there is a network; put them in place (again, if they are damaged; TORCH_HOME moves the folder): {files}."
    )


# -------------------------------------------------------------------------------------------------------- mediapipe
FACE_MESH_TO_68: tuple[int, ...] = (
    *(127, 234, 132, 58, 172, 136, 149, 176, 152, 400, 378, 365, 397, 288, 361, 454, 356),  # jaw
    *(70, 63, 105, 66, 107, 336, 296, 334, 293, 300),  # brows, their upper edge
    *(168, 197, 195, 4),  # nose bridge
    *(98, 97, 2, 326, 327),  # nostrils
    *(33, 160, 158, 133, 153, 144),  # the eye of the left image half
    *(362, 385, 387, 263, 373, 380),
    *(61, 39, 37, 0, 267, 269, 291, 321, 314, 17, 84, 91),  # outer lip
    *(78, 82, 13, 312, 308, 317, 14, 87),  # inner lip
)
"""`landmarks_68[i] = face_mesh[FACE_MESH_TO_68[i]]`: the vertex of MediaPipe's face mesh that lies at an iBUG point.

Every vertex belongs to the outline that MediaPipe names for the part (`FaceLandmarksConnections`). Of those, jaw,
bridge and lower lip have the ones that lie nearest to OpenFace's points on 2,242 photographs, pairs of the left and
the right half together; the halves of the photographs choose the same. Mean distances there, in eye distances: jaw
0.128, brows 0.077, bridge 0.047, nostrils 0.043, eyes 0.034, lips 0.060. The head's pitch differs by −0.7° on average.
"""
FACE_LANDMARKER_PAGE = "https://ai.google.dev/edge/mediapipe/solutions/vision/face_landmarker"


class MediaPipeDetector(BoxDetector):
    """MediaPipe's FaceLandmarker, which detects faces and 478 points of a face mesh, of which 68 are used.

    The face detector of the bundle detects boxes with scores. FaceLandmarker is then applied to each box with its
    surroundings; boxes in which it detects no face are dropped. It runs on the CPU for any `device`, in real time on
    small pictures. The box of a face is that of its mesh.

    Args:
        device: ignored.
        model_file: the FaceLandmarker bundle, a `.task` file.
        max_faces: maximal number of faces in a picture, by score.
        min_confidence: minimal confidence of the detection and of the mesh, in [0, 1].
    Raises:
        ImportError: the package is not installed; the message says how to install it.
        FileNotFoundError: no model file is given, or it does not exist; the message says where to find one.
        OSError: the file is not a FaceLandmarker bundle.
    """

    name = "mediapipe"
    package = "mediapipe"
    reach = 0.18  # of the 128 pixels of its input: a face of 23
    model_name = "face_landmarker.task"
    model_variable = "MF2_FACE_LANDMARKER"

    def __init__(
        self,
        device: "str | torch.device | None" = None,
        model_file: str | os.PathLike | None = None,
        max_faces: int = 64,
        min_confidence: float = 0.5,
    ):
        if model_file is None:
            raise FileNotFoundError(
                f"The mediapipe detector needs a model_file, a `.task` file; {FACE_LANDMARKER_PAGE} links to one."
            )
        if not os.path.isfile(model_file):
            raise FileNotFoundError(f"The model file {model_file} does not exist; {FACE_LANDMARKER_PAGE} links to it.")
        self._package = _import_package("mediapipe", "pip install mediapipe")
        self.max_faces = max_faces
        self._detector, self._landmarker = self._load(os.fspath(model_file), min_confidence)

    @classmethod
    def model_files(cls, model_file: Path | None = None) -> dict[Path, str]:
        """Its model files -> the address of each."""
        return {} if model_file is None else {Path(model_file): FACE_LANDMARKER_PAGE}

    def _load(self, model_file: str, min_confidence: float) -> tuple[Any, Any]:
        vision, base_options = self._package.tasks.vision, self._package.tasks.BaseOptions
        try:
            with zipfile.ZipFile(model_file) as bundle:
                box_model = bundle.read("face_detector.tflite")
            detector = vision.FaceDetector.create_from_options(
                vision.FaceDetectorOptions(
                    base_options=base_options(model_asset_buffer=box_model), min_detection_confidence=min_confidence
                )
            )
            landmarker = vision.FaceLandmarker.create_from_options(
                vision.FaceLandmarkerOptions(
                    base_options=base_options(model_asset_path=model_file),
                    num_faces=MAX_FACES_IN_WINDOW,
                    min_face_detection_confidence=min_confidence * CLOSE_CONFIDENCE,
                    min_face_presence_confidence=min_confidence,
                )
            )
        except (OSError, RuntimeError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise OSError(
                f"{model_file} is no FaceLandmarker bundle ({error}); {FACE_LANDMARKER_PAGE} links to one."
            ) from error
        for task in (detector, landmarker):
            atexit.register(_prevent_close, weakref.ref(task))
        return detector, landmarker

    def _to_mediapipe(self, image: np.ndarray) -> Any:
        data = np.ascontiguousarray(image, dtype=np.uint8)
        return self._package.Image(image_format=self._package.ImageFormat.SRGB, data=data)

    def _find_boxes(self, image: np.ndarray) -> np.ndarray:
        boxes = []
        for face in self._detector.detect(self._to_mediapipe(image)).detections:
            box = face.bounding_box
            x, y = box.origin_x, box.origin_y
            boxes.append((x, y, x + box.width, y + box.height, face.categories[0].score))
        return np.array(boxes, dtype=np.float64).reshape(-1, 5)

    def _find_landmarks(self, image: np.ndarray, boxes: np.ndarray) -> list[DetectedFace]:
        best_first = boxes[np.argsort(-boxes[:, 4], kind="stable")]
        candidates = [self._find_mesh(image, box) for box in best_first[: self.max_faces]]
        faces = [face for face in candidates if face is not None]
        merged = merge_boxes(np.array([(*face.box_xyxy_px, face.score) for face in faces]).reshape(-1, 5))
        kept_boxes = {tuple(row) for row in merged.tolist()}
        return [face for face in faces if (*face.box_xyxy_px, face.score) in kept_boxes]

    def _find_mesh(self, image: np.ndarray, box: np.ndarray) -> DetectedFace | None:
        """Detect the face of a box: of the meshes in the window around it, the one with the largest overlap."""
        center, half_side = (box[:2] + box[2:4]) / 2, WINDOW_SCALE * (box[2:4] - box[:2]).max() / 2
        x1, y1 = np.floor(center - half_side).clip(min=0).astype(int)
        x2, y2 = np.ceil(center + half_side).astype(int)
        window = image[y1:y2, x1:x2]
        meshes = self._landmarker.detect(self._to_mediapipe(window)).face_landmarks
        best, best_iou = None, MIN_IOU
        for mesh in meshes:
            points = np.array([(point.x, point.y) for point in mesh]) * window.shape[1::-1] + (x1, y1)  # (478, 2)
            mesh_box = (*points.min(axis=0).tolist(), *points.max(axis=0).tolist())
            if (iou := _iou(mesh_box, box)) >= best_iou:
                points_68 = points[list(FACE_MESH_TO_68)].astype(np.float32)
                best, best_iou = DetectedFace(mesh_box, points_68, float(box[4])), iou
        return best


WINDOW_SCALE = 2.0
"""Side of the window for FaceLandmarker, relative to the side of the box."""
MAX_FACES_IN_WINDOW = 2
CLOSE_CONFIDENCE = 0.6
"""Factor of FaceLandmarker's minimal detection confidence in a window, in which a face was detected before."""
MIN_IOU = 0.3
"""Minimal overlap of a mesh and the box; a mesh with less is that of another face."""


def _iou(first: Sequence[float] | np.ndarray, second: Sequence[float] | np.ndarray) -> float:
    """Intersection over union of two boxes x1 y1 x2 y2."""
    width, height = (min(first[i + 2], second[i + 2]) - max(first[i], second[i]) for i in (0, 1))
    intersection = max(0.0, width) * max(0.0, height)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (first, second)]
    return float(intersection / (sum(areas) - intersection))


def _prevent_close(reference: "weakref.ref[Any]") -> None:
    """Prevent that a task of MediaPipe is closed when Python exits, after the end of its threads."""
    if (task := reference()) is not None:
        task._handle = None
