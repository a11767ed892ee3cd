"""Where the faces of frames are: detected, read from a file, or the whole picture; and which face is which."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from ..dataset_tools.detectors import load_backend
from ..dataset_tools.landmark_files import read_landmarks
from ..landmarks_mf2 import DETECT, MEAN_FACE, DetectedFace, LandmarkDetector, detect_in_pictures
from ..pipeline_mf2 import faces_from_landmarks, largest_first
from ..regions_mf2 import check_landmarks
from ..utils.command_line import one_line
from .media import Frame
from .tracking import FaceTracker

WITHOUT_DETECTOR = (
    "Or give points with --landmarks FILE, take every picture as a face crop with --landmarks mean_face, or name "
    "another --backend."
)


@dataclass(frozen=True)
class Face:
    """A face of a frame: its id in the source, and where it is; `detected` is None where a picture is a face crop."""

    id: int
    detected: DetectedFace | None

    @property
    def landmarks_px(self) -> np.ndarray | None:
        """`(68, 2)` points in pixels of the frame; None for a face crop."""
        return None if self.detected is None else self.detected.landmarks_px


@dataclass(frozen=True)
class LocatedFrame:
    """A frame and its faces, without its image where there are none; `error` says why nothing was looked for."""

    frame: Frame
    faces: list[Face] = field(default_factory=list)
    error: str = ""


FindFaces = Callable[[Sequence[Frame]], list[list[DetectedFace] | Exception | None]]
"""Frames -> the faces of each, the error that came instead, or None for a face crop."""


# ---------------------------------------------------------------------------------------------------- ways to find
def make_finder(
    landmarks: str, backend: str, device: str | None, model_file: str | None, names: list[str]
) -> FindFaces:
    """The way that `--landmarks` names.

    Args:
        landmarks: `detect`, `mean_face`, or a file, see `dataset_tools.landmark_files`.
        backend: a registered detector, or `module:factory` of one's own.
        device: of the detector.
        model_file: of the detector.
        names: of the sources.
    Raises:
        ValueError, ImportError, OSError: the detector cannot be set up, or the file cannot be read.
    """
    if landmarks == MEAN_FACE:
        return lambda frames: [None] * len(frames)
    if landmarks == DETECT:
        return _Detection(load_backend(backend, device, model_file, WITHOUT_DETECTOR))
    return _GivenLandmarks(Path(landmarks), names)


class _Detection:
    """Runs a detector; a frame with which it fails is an error of that frame alone."""

    def __init__(self, detector: LandmarkDetector):
        self.detector = detector

    def _detect(self, images: Sequence[np.ndarray]) -> list[list[DetectedFace]]:
        return detect_in_pictures(self.detector, images, in_tiles=False)

    def __call__(self, frames: Sequence[Frame]) -> list[list[DetectedFace] | Exception | None]:
        try:
            return [_usable(faces) for faces in self._detect([frame.image for frame in frames])]
        except Exception as error:  # a detector meets odd pictures with errors of any type
            if len(frames) == 1:
                return [error]
            return [found for frame in frames for found in self([frame])]


def _usable(faces: Sequence[DetectedFace]) -> list[DetectedFace]:
    """The faces that can be aligned, the largest first; a detector may call something a face that has no eyes."""
    usable = []
    for face in faces:
        try:
            check_landmarks(face.landmarks_px)
        except ValueError:
            continue
        usable.append(face)
    return largest_first(usable)


class _GivenLandmarks:
    """Landmarks of a file.

    `video` in it is the source as it was given, or its name without folder and suffix; `frame` counts from 0. Pictures
    of a video that are numbered in a folder, `clip/00012.jpg`, are also found as frame 12 of `clip`.
    """

    def __init__(self, file: Path, names: Iterable[str]):
        self.videos = {name: self._videos(name) for name in names}
        self.points = read_landmarks(file, _Videos({key for keys in self.videos.values() for key in keys}))

    @staticmethod
    def _videos(name: str) -> tuple[str, ...]:
        path = Path(name)
        return name, path.stem, path.parent.name

    def __call__(self, frames: Sequence[Frame]) -> list[list[DetectedFace] | Exception | None]:
        return [self._find(frame) for frame in frames]

    def _find(self, frame: Frame) -> list[DetectedFace] | Exception:
        name, stem, folder = self.videos[frame.source.name]
        keys = [(name, frame.index), (stem, frame.index)]
        if stem.isdecimal() and not frame.source.is_video:
            keys.append((folder, int(stem)))
        points = next((self.points[key] for key in keys if key in self.points), None)
        try:
            return [] if points is None else faces_from_landmarks(points)
        except ValueError as error:
            return error


@dataclass(frozen=True)
class _Videos:
    """All frames of some videos."""

    names: set[str]

    def __contains__(self, key: object) -> bool:
        return isinstance(key, tuple) and key[0] in self.names


# -------------------------------------------------------------------------------------------------------- locating
def locate_faces(
    frames: Iterable[Frame], find: FindFaces, batch_size: int, tracker: FaceTracker | None = None
) -> Iterator[LocatedFrame]:
    """The frames with their faces, each with an id that stays within its source.

    Args:
        frames: in order.
        find: the way to find faces; gets up to `batch_size` frames at once.
        tracker: of the first source, where an earlier run saw its beginning.
    """
    source_idx = None
    for batch in _batches(frames, batch_size):
        found = iter(find([frame for frame in batch if frame.image is not None]))
        for frame in batch:
            if frame.source_idx != source_idx:
                is_continued = source_idx is None and tracker is not None
                source_idx, tracker = frame.source_idx, tracker if is_continued else FaceTracker()
            if frame.image is None:
                yield LocatedFrame(frame, error=frame.error)
            else:
                yield _locate(frame, next(found), tracker)


def _locate(frame: Frame, found: list[DetectedFace] | Exception | None, tracker: FaceTracker) -> LocatedFrame:
    if found is None:
        return LocatedFrame(frame, [Face(0, None)])
    if isinstance(found, Exception):
        error = f"no face could be looked for: {one_line(found)}"
        return LocatedFrame(replace(frame, image=None), error=error)
    if not found:
        return LocatedFrame(replace(frame, image=None))
    ids = tracker.update([face.box_xyxy_px for face in found], frame.time_s)
    return LocatedFrame(
        frame, [Face(*each) for each in sorted(zip(ids, found, strict=True), key=lambda each: each[0])]
    )


def _batches(frames: Iterable[Frame], batch_size: int) -> Iterator[list[Frame]]:
    batch: list[Frame] = []
    for frame in frames:
        batch.append(frame)
        if len(batch) == batch_size:
            yield batch
            batch = []
    if batch:
        yield batch
