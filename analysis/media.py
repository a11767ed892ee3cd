"""Pictures and videos as one stream of frames; what cannot be read is a frame that says why."""

import os
import re
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from PIL import Image, ImageSequence

from ..images_mf2 import read_image
from ..utils.command_line import one_line
from .streaming import run_ahead

PICTURE_SUFFIXES = {
    ".avif",
    ".bmp",
    ".gif",
    ".jfif",
    ".jp2",
    ".jpeg",
    ".jpg",
    ".pgm",
    ".png",
    ".ppm",
    ".tif",
    ".tiff",
    ".webp",
}
VIDEO_SUFFIXES = {
    ".avi",
    ".flv",
    ".m4v",
    ".mkv",
    ".mov",
    ".mp4",
    ".mpeg",
    ".mpg",
    ".mts",
    ".ogv",
    ".ts",
    ".webm",
    ".wmv",
}
ANIMATED_SUFFIXES = {".gif", ".png", ".webp"}
MAX_PIXELS = 2**26
"""Larger pictures are refused before they are decoded."""
FRAMES_AHEAD = 8
"""Decoded frames that may wait for the caller: what large frames cost."""
MAX_MISSING_S = 1.0
"""A video whose last frame comes earlier than this before its stated end is broken."""


# --------------------------------------------------------------------------------------------------------- sources
@dataclass(frozen=True)
class Source:
    """A picture or a video: `name` is its path as it was given, fit to be printed and stored."""

    path: Path
    name: str
    is_video: bool


def find_sources(paths: Sequence[str | Path], left_out: Path | None = None) -> tuple[list[Source], int]:
    """Files and, below folders, every picture and video, sorted by path.

    Args:
        paths: a file that is named itself is taken whatever it is called.
        left_out: an absolute folder whose files are not looked at.
    Returns:
        The sources, each once, and the number of other files that folders hold.
    Raises:
        FileNotFoundError: no such path, or nothing to analyse.
    """
    found: dict[Path, Source] = {}
    num_other = 0
    for path in map(Path, paths):
        if path.is_dir():
            files = [file for file in _files_below(path) if left_out not in file.absolute().parents]
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


def _files_below(folder: Path) -> list[Path]:
    return [entry for entry in sorted(folder.rglob("*"), key=os.fsencode) if not entry.is_dir()]


def printable(path: str | Path) -> str:
    """The path with what UTF-8 has no letter for, and control characters, spelt out."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return re.sub(r"[\x00-\x1f\x7f]", lambda match: f"\\x{ord(match[0]):02x}", text)


# ---------------------------------------------------------------------------------------------------------- frames
@dataclass(frozen=True)
class Frame:
    """A frame of a source, or, where `image` is None, the error in its place.

    Args:
        source_idx: place of the source in the run.
        index: number of the frame in its video as it is decoded, from 0; 0 for a picture.
        time_s: since the beginning, in seconds.
        image: `(height, width, 3)` uint8 RGB, upright.
    """

    source: Source
    source_idx: int
    index: int = 0
    time_s: float = 0.0
    image: np.ndarray | None = None
    error: str = ""


def read_frames(
    sources: Iterable[tuple[int, Source]],
    fps: float | None = None,
    skip: tuple[int, int] = (-1, -1),
    num_threads: int = 4,
) -> Iterator[Frame]:
    """The frames of all sources, in order, decoded ahead of the caller; several pictures at once.

    Args:
        sources: with their places in the run.
        fps: frames a second to take of a video at the most; None takes all.
        skip: place of a source and the number of its last frame that is not wanted.
        num_threads: pictures decoded at once.
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
    """The error in place of a frame, if that frame is wanted."""
    return [Frame(source, source_idx, index, error=error)] if index >= first else []


# -------------------------------------------------------------------------------------------------------- pictures
def _read_picture(source: Source, source_idx: int, first: int) -> Iterable[Frame]:
    """One frame; those of an animated picture come one by one, from the first that is wanted."""
    try:
        if (animation := _open_animation(source.path)) is not None:
            return _read_animation(animation, source, source_idx, first)
        image = read_image(source.path, "the picture", MAX_PIXELS)
    except (OSError, ValueError) as error:
        return _failure(source, source_idx, 0, first, one_line(error))
    return [Frame(source, source_idx, image=image)] if first == 0 else []


def _open_animation(path: Path) -> Image.Image | None:
    """The picture if it moves; of everything else, and of what cannot be opened, `read_image` tells."""
    if path.suffix.lower() not in ANIMATED_SUFFIXES:
        return None
    try:
        image = Image.open(path)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    if getattr(image, "is_animated", False):
        return image
    image.close()
    return None


def _read_animation(animation: Image.Image, source: Source, source_idx: int, first: int) -> Iterator[Frame]:
    index, time_s = -1, 0.0
    try:
        with animation:
            for index, image in enumerate(ImageSequence.Iterator(animation)):
                if index >= first:
                    picture = read_image(image.copy(), "the picture", MAX_PIXELS)
                    yield Frame(source, source_idx, index, time_s, picture)
                time_s += image.info.get("duration", 100) / 1000
    except (OSError, ValueError, SyntaxError) as error:
        yield from _failure(
            source, source_idx, index + 1, first, f"damaged after {index + 1} frames: {one_line(error)}"
        )


# ---------------------------------------------------------------------------------------------------------- videos
def import_av() -> ModuleType:
    """PyAV, or an `ImportError` that says how to get it."""
    try:
        import av
    except ImportError as error:
        raise ImportError(
            f"Videos need the package av, which cannot be imported ({error}); pip install 'mf2-face[video]'."
        ) from error
    return av


def _read_video(source: Source, source_idx: int, fps: float | None, first: int) -> Iterator[Frame]:
    """Frames as they are decoded; an error ends the video after what could be read of it."""
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
            for index, decoded in enumerate(container.decode(stream)):
                time_s = index / float(rate) if decoded.time is None else float(decoded.time)
                slot = index if fps is None else int(time_s * fps + 1e-6)
                if slot != last_slot and index >= first:
                    yield Frame(source, source_idx, index, time_s, _upright(decoded))
                last_slot = slot
            _check_end(container, stream, index, time_s)
    except (av.FFmpegError, OSError, ValueError, RuntimeError) as error:
        text = f"unreadable as a video after {index + 1} frames: {one_line(error)}"
        yield from _failure(source, source_idx, index + 1, first, text)


def _check_end(container: Any, stream: Any, index: int, time_s: float) -> None:
    """Raise a `ValueError` where a video ends before it says that it does, which decoders pass over in silence."""
    if index < 0:
        raise ValueError("it holds no frame")
    length_s = None
    if stream.duration is not None:
        length_s = float(stream.duration * stream.time_base)
    elif container.duration is not None and len(container.streams) == 1:
        length_s = container.duration / 1e6
    if length_s is not None and time_s < length_s - MAX_MISSING_S:
        raise ValueError(f"it ends at {time_s:.1f} s of {length_s:.1f} s")


def _upright(decoded: Any) -> np.ndarray:
    """`(height, width, 3)` RGB of a decoded frame, turned as its container says."""
    image = decoded.to_ndarray(format="rgb24")
    quarter_turns = round((getattr(decoded, "rotation", 0) or 0) / 90) % 4
    return np.ascontiguousarray(np.rot90(image, quarter_turns)) if quarter_turns else image
