"""Reads pictures and videos as one stream of frames; unreadable files give a frame with an error."""

import logging
import os
import re
import zlib
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageSequence

from ..images_mf2 import read_image
from ..utils.command_line import one_line
from ..utils.suffixes import PICTURE_SUFFIXES, VIDEO_SUFFIXES
from ..utils.videos import Screen, count_video_frames, import_av
from .streaming import run_ahead

logger = logging.getLogger(__name__)

MOVING_SUFFIXES = {".avif", ".gif", ".png", ".tif", ".tiff", ".webp"}
"""Picture formats that may contain several frames; in a `.jpg`, further images are previews and depth maps."""
PAGE_S = 0.1
"""Duration in seconds of a picture without one, such as a page of a TIFF."""
NEW_SUBFILE_TYPE, REDUCED_PAGE = 254, 1
"""A TIFF tag, and its bit that marks a page as a smaller version of another one."""
MAX_PIXELS = 2**26
"""Larger pictures are refused before they are decoded."""
END_BYTES = 2**16
"""Bytes at each end of a file that are checked for changes; most pictures of faces are not larger."""
FRAMES_AHEAD = 8
"""Maximum number of decoded frames waiting, which bounds the memory."""
SEEK_GAP_S = 2.0
"""Requested frames further apart than this, in seconds, are reached by seeking instead of decoding."""
SAME_TIME_S = 1e-3
"""Tolerance in seconds for comparing a frame's time with the one in a table."""
MAX_MISSING_S = 1.0
"""A video is damaged if its last frame is more than this many seconds before its stated end."""


# --------------------------------------------------------------------------------------------------------- sources
@dataclass(frozen=True)
class Source:
    """A picture or a video; `name` is its path as given, in printable form."""

    path: Path
    name: str
    is_video: bool


def find_sources(paths: Sequence[str | Path], excluded: Path | None = None) -> tuple[list[Source], int]:
    """Collect files, and all pictures and videos in folders, sorted by path.

    Args:
        paths: files and folders; files may have any extension.
        excluded: an absolute folder whose files are skipped.
    Returns:
        The distinct sources, and the number of other files in the folders.
    Raises:
        FileNotFoundError: a path does not exist, or there is nothing to analyse.
    """
    found: dict[Path, Source] = {}
    num_other = 0
    for path in map(Path, paths):
        if path.is_dir():
            files = [file for file in _files_below(path) if excluded not in file.absolute().parents]
            known = [file for file in files if file.suffix.lower() in PICTURE_SUFFIXES | VIDEO_SUFFIXES]
            num_other += len(files) - len(known)
        elif path.exists() or path.is_symlink():
            known = [path]
        else:
            raise FileNotFoundError(f"{printable(path)} does not exist; give pictures, videos or folders.")
        for file in known:
            found[file] = Source(file, printable(file), file.suffix.lower() in VIDEO_SUFFIXES)
    if not found:
        raise FileNotFoundError(f"{', '.join(map(printable, paths))}: there is no picture and no video.")
    return list(found.values()), num_other


def compute_file_version(path: Path) -> str:
    """Identify the content of a file by its size and a checksum of both ends.

    The modification time is not used, as a copy of the file has another one.
    """
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(0)
            checksum = zlib.crc32(file.read(END_BYTES))
            file.seek(max(size - END_BYTES, 0))
            return f"{size}-{zlib.crc32(file.read(END_BYTES), checksum):08x}"
    except OSError as error:
        return f"unreadable ({error.strerror})"


def _files_below(folder: Path) -> list[Path]:
    """The files below a folder, sorted, without hidden ones (`.thumbnails/…`, `._picture.jpg`)."""
    entries = sorted(folder.rglob("*"), key=os.fsencode)
    is_visible = [not any(part.startswith(".") for part in entry.relative_to(folder).parts) for entry in entries]
    return [entry for entry, visible in zip(entries, is_visible, strict=True) if visible and not entry.is_dir()]


def printable(path: str | Path) -> str:
    """The path with undecodable bytes and control characters escaped."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return re.sub(r"[\x00-\x1f\x7f]", lambda match: f"\\x{ord(match[0]):02x}", text)


# ---------------------------------------------------------------------------------------------------------- frames
@dataclass(frozen=True)
class Frame:
    """A frame of a source, or an error if `image` is None.

    Args:
        source: the picture or video.
        source_idx: index of the source in the run.
        index: number of the decoded frame in its video, from 0; 0 for a picture.
        time_s: time from the start, in seconds.
        image: `(height, width, 3)` uint8 RGB, upright.
        error: why the frame could not be read.
        is_moving: whether it belongs to a video or an animation.
    """

    source: Source
    source_idx: int
    index: int = 0
    time_s: float = 0.0
    image: np.ndarray | None = None
    error: str = ""
    is_moving: bool = False

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels; (0, 0) without an image."""
        return (0, 0) if self.image is None else (self.image.shape[0], self.image.shape[1])


def read_frames(
    sources: Iterable[tuple[int, Source]],
    fps: float | None = None,
    skip: tuple[int, int] = (-1, -1),
    num_threads: int = 4,
) -> Iterator[Frame]:
    """Yield the frames of all sources in order, decoded ahead of the caller.

    Args:
        sources: (index in the run, source).
        fps: maximum number of frames per second of a video; None for all.
        skip: index of a source and the number of its last frame to skip.
        num_threads: number of pictures decoded in parallel.
    """
    with ThreadPoolExecutor(num_threads) as pool:
        pending: deque[Future[Iterable[Frame]]] = deque()
        for source_idx, source in sources:
            first = skip[1] + 1 if source_idx == skip[0] else 0
            if source.is_video:
                yield from _drain(pending)
                yield from run_ahead(_read_video(source, source_idx, fps, first), FRAMES_AHEAD)
            else:
                pending.append(pool.submit(_read_picture, source, source_idx, first))
                if len(pending) > FRAMES_AHEAD:
                    yield from pending.popleft().result()
        yield from _drain(pending)


def _drain(pending: deque[Future[Iterable[Frame]]]) -> Iterator[Frame]:
    while pending:
        yield from pending.popleft().result()


def _failure(source: Source, source_idx: int, index: int, first: int, error: str) -> list[Frame]:
    """A frame with the error, unless that frame is to be skipped."""
    return [Frame(source, source_idx, index, error=error)] if index >= first else []


# -------------------------------------------------------------------------------------------------------- pictures
def _read_picture(source: Source, source_idx: int, first: int) -> Iterable[Frame]:
    """Read a picture as one frame, or an animated picture frame by frame, starting at `first`."""
    try:
        if (animation := _open_animation(source.path)) is not None:
            return _read_animation(animation, source, source_idx, first)
        image = read_image(source.path, "the picture", MAX_PIXELS)
    except (OSError, ValueError) as error:
        return _failure(source, source_idx, 0, first, one_line(error))
    return [Frame(source, source_idx, image=image)] if first == 0 else []


def _open_animation(path: Path) -> Image.Image | None:
    """Open an animated picture; None for still pictures and unreadable files, which `read_image` handles."""
    if path.suffix.lower() not in MOVING_SUFFIXES:
        return None
    try:
        image = Image.open(path)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    if getattr(image, "is_animated", False):
        return image
    image.close()
    return None


def _is_whole_page(image: Image.Image) -> bool:
    """Whether a page is an image of its own and not a reduced version of another TIFF page."""
    return not getattr(image, "tag_v2", {}).get(NEW_SUBFILE_TYPE, 0) & REDUCED_PAGE


def _read_animation(animation: Image.Image, source: Source, source_idx: int, first: int) -> Iterator[Frame]:
    index, time_s = -1, 0.0
    try:
        with animation:
            for index, image in enumerate(filter(_is_whole_page, ImageSequence.Iterator(animation))):
                if index >= first:
                    picture = read_image(image.copy(), "the picture", MAX_PIXELS)
                    yield Frame(source, source_idx, index, time_s, picture, is_moving=True)
                time_s += image.info.get("duration", PAGE_S * 1000) / 1000
    except (OSError, ValueError, SyntaxError) as error:
        yield from _failure(
            source, source_idx, index + 1, first, f"damaged after {index + 1} frames: {one_line(error)}"
        )


# ---------------------------------------------------------------------------------------------------------- videos
def _read_video(source: Source, source_idx: int, fps: float | None, first: int) -> Iterator[Frame]:
    """Yield decoded frames; after an error, a last frame with the error."""
    av = import_av()
    index = last_slot = -1
    time_s = 0.0
    try:
        with av.open(os.fspath(source.path)) as container:
            if not container.streams.video:
                raise ValueError("it has no video stream")
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            rate = stream.average_rate or stream.guessed_rate or Fraction(25)
            start_s = max(container.start_time or 0, 0) / 1e6  # .ts and .mts files do not start at 0
            screen = Screen(stream)
            for index, decoded in enumerate(container.decode(stream)):
                time_s = index / float(rate) if decoded.time is None else float(decoded.time) - start_s
                slot = index if fps is None else int(time_s * fps + 1e-6)
                if slot != last_slot and index >= first:
                    image = screen.show(decoded)
                    yield Frame(source, source_idx, index, time_s, image, is_moving=True)
                last_slot = slot
            _check_end(container, stream, index, time_s)
    except (av.FFmpegError, OSError, ValueError, RuntimeError) as error:
        text = f"unreadable as a video after {index + 1} frames: {one_line(error)}"
        yield from _failure(source, source_idx, index + 1, first, text)


def pick_frames(source: Source, times: Mapping[int, float]) -> Iterator[Frame]:
    """Yield the requested frames of a source in order, one at a time; unreadable frames are skipped.

    Between distant frames the video is not decoded: the reader seeks to the keyframe before the requested frame, which
    it recognises by its time. If that fails, all frames up to it are decoded.

    Args:
        source: the picture or video.
        times: frame number -> time in seconds, as `read_frames` gives both.
    """
    missing = dict(times)
    if source.is_video:
        for frame in _seek_frames(source, times):
            del missing[frame.index]
            yield frame
    if not missing:
        return
    for frame in read_frames([(0, source)], skip=(0, min(missing) - 1)):
        if frame.index in missing and frame.image is not None:
            yield frame
        if frame.index >= max(missing):
            return


def _seek_frames(source: Source, times: Mapping[int, float]) -> Iterator[Frame]:
    """Yield frames of a video by seeking to their times; stops at the first that is not found."""
    av = import_av()
    try:
        with av.open(os.fspath(source.path)) as container:
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            start_s = max(container.start_time or 0, 0) / 1e6
            screen = Screen(stream)
            decoding, reached_s = container.decode(stream), 0.0
            for index in sorted(times):
                if times[index] - reached_s > SEEK_GAP_S:
                    container.seek(int((times[index] + start_s) * 1e6))
                    decoding = container.decode(stream)
                for decoded in decoding:
                    if decoded.time is None:
                        return
                    reached_s = float(decoded.time) - start_s
                    if reached_s > times[index] - SAME_TIME_S:
                        break
                if abs(reached_s - times[index]) > SAME_TIME_S:
                    return
                yield Frame(source, 0, index, times[index], screen.show(decoded), is_moving=True)
    except (av.FFmpegError, OSError, ValueError, RuntimeError, IndexError) as error:
        logger.debug(f"{source.path}: no jumping to frames ({one_line(error)}).")


def count_frames(source: Source) -> int:
    """Return the number of frames of a video, without decoding it, or of an animation.

    Raises:
        ValueError: the file cannot be read.
    """
    if not source.is_video:
        with Image.open(source.path) as image:
            return getattr(image, "n_frames", 1)
    return count_video_frames(source.path)


def _check_end(container: Any, stream: Any, index: int, time_s: float) -> None:
    """Raise a `ValueError` if a video ends before its stated end, which decoders do not report."""
    if index < 0:
        raise ValueError("it holds no frame")
    length_s = None
    if stream.duration is not None:
        length_s = float(stream.duration * stream.time_base)
    elif container.duration is not None and len(container.streams) == 1:
        length_s = container.duration / 1e6
    if length_s is not None and time_s < length_s - MAX_MISSING_S:
        raise ValueError(f"it ends at {time_s:.1f} s of {length_s:.1f} s")
