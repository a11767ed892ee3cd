"""Reads frames of videos as a player shows them. Needs PyAV."""

import os
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

MAX_PIXEL_ASPECT = 4
"""Larger pixel aspect ratios are treated as a damaged header."""


def import_av() -> ModuleType:
    """Import PyAV, or raise an `ImportError` that says how to install it."""
    try:
        import av
    except ImportError as error:
        raise ImportError(
            f"Videos need the package av, which cannot be imported ({error}); pip install 'mf2-face[video]'."
        ) from error
    return av


def count_video_frames(path: Path) -> int:
    """Count the frames of a video by its packets, without decoding.

    Raises:
        ValueError: the file cannot be opened, or has no video stream.
    """
    av = import_av()
    try:
        with av.open(os.fspath(path)) as container:
            return sum(packet.size > 0 for packet in container.demux(video=0))
    except (av.FFmpegError, OSError, IndexError) as error:
        raise ValueError(f"{path} cannot be opened as a video: {error}") from error


def find_video_duration(path: Path) -> float:
    """The end of a video's last frame in seconds, from its packets: a header may lack it or be wrong.

    Raises:
        ValueError: it cannot be opened, or has no video stream.
    """
    av = import_av()
    try:
        with av.open(os.fspath(path)) as container:
            ends = [
                (packet.pts + (packet.duration or 0)) * packet.time_base
                for packet in container.demux(video=0)
                if packet.pts is not None
            ]
            start_s = max(container.start_time or 0, 0) / 1e6
    except (av.FFmpegError, OSError, IndexError) as error:
        raise ValueError(f"{path} cannot be opened as a video: {error}") from error
    return max(float(max(ends, default=0)) - start_s, 0.0)


class Screen:
    """Shows decoded frames of a stream as a player does: with square pixels, rotated and mirrored.

    A frame of PyAV and its side data refer to each other, so that a frame whose side data were read stays in memory
    until Python's garbage collector finds it. They are therefore only read of the first frame, and where the rotation
    changes.

    Args:
        stream: a video stream of PyAV.
    """

    def __init__(self, stream: Any):
        aspect = stream.sample_aspect_ratio
        is_plausible = aspect and 1 / MAX_PIXEL_ASPECT <= aspect <= MAX_PIXEL_ASPECT
        self._pixel_aspect = aspect if is_plausible else Fraction(1)
        self._rotation: int | None = None
        self._matrix: np.ndarray | None = None

    def show(self, decoded: Any) -> np.ndarray:
        """`(height, width, 3)` RGB of a decoded frame; it is stretched to square pixels, never reduced."""
        aspect, width, height = self._pixel_aspect, decoded.width, decoded.height
        width, height = round(width * max(aspect, 1)), round(height * max(1 / aspect, 1))
        image = decoded.reformat(width=width, height=height, format="rgb24").to_ndarray()
        if decoded.rotation != self._rotation:
            self._rotation = decoded.rotation
            matrix = decoded.side_data.get("DISPLAYMATRIX")
            self._matrix = None if matrix is None else np.frombuffer(bytes(matrix), "<i4").reshape(3, 3)
        return image if self._matrix is None else _apply_display_matrix(image, self._matrix)


def _apply_display_matrix(image: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Rotate and mirror a picture by the nearest of the eight axis-aligned orientations to a display matrix.

    Args:
        image: `(height, width, 3)`.
        matrix: `(3, 3)` as stored: x' = m00 x + m10 y, y' = m01 x + m11 y, y down (ISO 14496-12, 8.3.2).
    """
    (xx, xy), (yx, yy) = matrix[:2, :2].tolist()
    if abs(xx) + abs(yy) >= abs(xy) + abs(yx):
        x_sign, y_sign = xx, yy
    else:
        image, x_sign, y_sign = image.swapaxes(0, 1), yx, xy
    return np.ascontiguousarray(image[:: -1 if y_sign < 0 else 1, :: -1 if x_sign < 0 else 1])
