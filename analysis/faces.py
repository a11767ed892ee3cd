"""Locates the faces of frames (detected, read from a file, or the whole picture) and tracks them."""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..dataset_tools.detectors import choose_backend, describe_backend, load_backend
from ..dataset_tools.landmark_files import FrameRange, list_videos, match_videos, read_landmarks, shorten
from ..landmarks_mf2 import (
    DetectedFace,
    LandmarkDetector,
    detect_in_pictures,
    faces_from_landmarks,
    largest_first,
)
from ..regions_mf2 import check_landmarks
from ..utils.command_line import one_line
from ..utils.files import sha256_of_file
from .face_arguments import MEAN_FACE, FaceSearch
from .media import Frame, Source, count_frames
from .tracking import FaceTracker

logger = logging.getLogger(__name__)

WITHOUT_DETECTOR = (
    "Or give points with --landmarks FILE, take every picture as a face crop with --landmarks mean_face, or name "
    "another --backend."
)


@dataclass(frozen=True)
class Face:
    """A face in a frame: its id in the source and its position; `detected` is None for a face crop."""

    id: int
    detected: DetectedFace | None

    @property
    def landmarks_px(self) -> np.ndarray | None:
        """`(68, 2)` landmarks in pixels of the frame; None for a face crop."""
        return None if self.detected is None else self.detected.landmarks_px


@dataclass(frozen=True)
class LocatedFrame:
    """A frame and its faces, without the image if there are none; `error` is why faces could not be searched."""

    frame: Frame
    faces: list[Face] = field(default_factory=list)
    error: str = ""


FindFaces = Callable[[Sequence[Frame]], list[list[DetectedFace] | Exception | None]]
"""Frames -> for each its faces, an error, or None for a face crop."""


# --------------------------------------------------------------------------------------------------------- finders
def make_finder(search: FaceSearch, preferred: str, device: str | None, sources: Sequence[Source]) -> FindFaces:
    """Make the function that finds faces.

    Args:
        search: how faces are found.
        preferred: the checkpoint's detector.
        device: device of the detector.
        sources: the sources to be analysed.
    Raises:
        ValueError, ImportError, OSError: the detector cannot be set up, or the file cannot be read or has no landmarks
            of the sources.
    """
    if search.landmarks == MEAN_FACE:
        return lambda frames: [None] * len(frames)
    if search.is_file:
        return _GivenLandmarks(Path(search.landmarks), sources, search.first_frame)
    backend = choose_backend(preferred, search.backend, search.model_file)
    return _Detection(load_backend(backend, device, search.model_file, WITHOUT_DETECTOR), search)


def describe_finder(search: FaceSearch, preferred: str) -> dict[str, Any] | None:
    """Describe what finds the faces: a detector (see `describe_detector`), a file with its SHA-256, or None."""
    if search.landmarks == MEAN_FACE:
        return None
    if search.is_file:
        file = Path(search.landmarks)
        return {"name": file.name, "sha256": sha256_of_file(file) if file.is_file() else None}
    return describe_backend(choose_backend(preferred, search.backend, search.model_file), search.model_file)


class _Detection:
    """Runs a detector; an error affects only the frame that caused it."""

    def __init__(self, detector: LandmarkDetector, search: FaceSearch):
        self.detector, self.search = detector, search

    def __call__(self, frames: Sequence[Frame]) -> list[list[DetectedFace] | Exception | None]:
        found: dict[int, list[DetectedFace] | Exception] = {}
        uses_tiles = [self._uses_tiles(frame) for frame in frames]
        for in_tiles in set(uses_tiles):
            indices = [index for index, is_tiled in enumerate(uses_tiles) if is_tiled == in_tiles]
            found |= zip(indices, self._detect([frames[index] for index in indices], in_tiles), strict=True)
        return [found[index] for index in range(len(frames))]

    def _uses_tiles(self, frame: Frame) -> bool:
        return self.search.small_faces == "always" or (self.search.small_faces == "pictures" and not frame.is_moving)

    def _detect(self, frames: Sequence[Frame], in_tiles: bool) -> list[list[DetectedFace] | Exception]:
        try:
            images = [frame.image for frame in frames if frame.image is not None]
            found = detect_in_pictures(self.detector, images, in_tiles)
            return [self._filter_faces(faces) for faces in found]
        except Exception as error:  # detectors raise errors of any type on unusual pictures
            if len(frames) == 1:
                return [error]
            return [found for frame in frames for found in self._detect([frame], in_tiles)]

    def _filter_faces(self, faces: Sequence[DetectedFace]) -> list[DetectedFace]:
        """Faces that pass the limits and can be aligned, largest first; some detectors return faces without eyes."""
        accepted = []
        for face in faces:
            if face.score < self.search.min_face_score or face.side_px < self.search.min_face_size:
                continue
            try:
                check_landmarks(face.landmarks_px)
            except ValueError:
                continue
            accepted.append(face)
        return largest_first(accepted)


class _GivenLandmarks:
    """Landmarks read from a file.

    Its column `video` is the path of a source or its last parts, with or without the extension, see `match_videos`.
    Numbered pictures in a folder, such as `clip/00012.jpg`, also match frame 12 of `clip`.
    """

    def __init__(self, file: Path, sources: Sequence[Source], first_frame: int | None = None):
        ranges = list_videos(file)
        self.videos = match_videos([source.name for source in sources], ranges)
        self.folders = match_videos({name for source in sources if (name := _numbered_folder(source))}, ranges)
        matched = {*self.videos.values(), *self.folders.values()}
        if not matched:
            raise ValueError(
                f"The landmark file {file} has landmarks of {shorten(ranges) or 'nothing'}, and of none of "
                f"{shorten(source.name for source in sources)}: its column video must name them."
            )
        self.first_frames = {
            source.name: _infer_first_frame(source, ranges[self.videos[source.name]], first_frame)
            for source in sources
            if source.name in self.videos
        }
        if from_one := [name for name, number in self.first_frames.items() if number == 1]:
            logger.warning(
                f"{file}: the frames of {shorten(from_one)} count from 1; --first_frame 0 takes them from 0."
            )
        self.points = read_landmarks(file, _Videos(matched))

    def __call__(self, frames: Sequence[Frame]) -> list[list[DetectedFace] | Exception | None]:
        return [self._find(frame) for frame in frames]

    def _find(self, frame: Frame) -> list[DetectedFace] | Exception:
        name, keys = frame.source.name, []
        if name in self.videos:
            keys.append((self.videos[name], frame.index + self.first_frames[name]))
        if (folder := _numbered_folder(frame.source)) in self.folders:
            keys.append((self.folders[folder], int(frame.source.path.stem)))
        points = next((self.points[key] for key in keys if key in self.points), None)
        try:
            return [] if points is None else faces_from_landmarks(points)
        except ValueError as error:
            return error


def _numbered_folder(source: Source) -> str | None:
    """The folder of a picture whose file name is a number; None for other sources."""
    path = Path(source.name)
    return str(path.parent) if path.stem.isdecimal() and not source.is_video and path.parent.name else None


def _infer_first_frame(source: Source, frames: FrameRange, first_frame: int | None) -> int:
    """Infer the number of a source's first frame in a landmark file.

    Frames count from 0 if the file has a frame 0, from 1 if its last number is the number of frames, else from 0.
    """
    if first_frame is not None:
        return first_frame
    if frames.origin is not None or frames.first == 0:
        return frames.origin or 0
    if frames.count == 1 and not source.is_video:
        return frames.first
    return int(frames.last == count_frames(source))


@dataclass(frozen=True)
class _Videos:
    """The set of all frames of some videos, as (video, frame)."""

    names: set[str]

    def __contains__(self, key: object) -> bool:
        return isinstance(key, tuple) and key[0] in self.names


# -------------------------------------------------------------------------------------------------------- locating
def locate_faces(
    frames: Iterable[Frame], find: FindFaces, batch_size: int, tracker: FaceTracker | None = None
) -> Iterator[LocatedFrame]:
    """Yield the frames with their faces, whose ids are persistent within a source.

    Args:
        frames: in order.
        find: finds the faces of up to `batch_size` frames at once.
        batch_size: maximum number of frames per call of `find`.
        tracker: state of the first source, if an earlier run analysed its beginning.
    """
    source_idx, current_tracker = None, tracker or FaceTracker()
    for batch in _batches(frames, batch_size):
        found = iter(find([frame for frame in batch if frame.image is not None]))
        for frame in batch:
            if frame.source_idx != source_idx:
                current_tracker = current_tracker if source_idx is None else FaceTracker()
                source_idx = frame.source_idx
            if frame.image is None:
                yield LocatedFrame(frame, error=frame.error)
            else:
                yield _locate(frame, next(found), current_tracker)


def _locate(frame: Frame, found: list[DetectedFace] | Exception | None, tracker: FaceTracker) -> LocatedFrame:
    if found is None:
        return LocatedFrame(frame, [Face(0, None)])
    if isinstance(found, Exception):
        error = f"no face could be looked for: {one_line(found)}"
        return LocatedFrame(replace(frame, image=None), error=error)
    if not found:
        return LocatedFrame(replace(frame, image=None))
    ids = tracker.update([face.box_xyxy_px for face in found], frame.time_s)
    faces = sorted((Face(*pair) for pair in zip(ids, found, strict=True)), key=lambda face: face.id)
    return LocatedFrame(frame, faces)


def _batches(frames: Iterable[Frame], batch_size: int) -> Iterator[list[Frame]]:
    batch: list[Frame] = []
    for frame in frames:
        batch.append(frame)
        if len(batch) == batch_size:
            yield batch
            batch = []
    if batch:
        yield batch
