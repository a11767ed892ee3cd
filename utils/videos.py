"""Frames of videos as a player shows them, for analyses and for the readers of data sets. Needs PyAV."""

import os
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

MAX_PIXEL_ASPECT = 4
"""Pixels that are stretched more are a damaged header."""


def import_av() -> ModuleType:
    """PyAV, or an `ImportError` that says how to get it."""
    try:
        import av
    except ImportError as error:
        raise ImportError(
            f"Videos need the package av, which cannot be imported ({error}); pip install 'mf2-face[video]'."
        ) from error
    return av


def count_video_frames(path: Path) -> int:
    """The frames of a video from its packets, which needs no decoding.

    Raises:
        ValueError: it cannot be opened, or has no video stream.
    """
    av = import_av()
    try:
        with av.open(os.fspath(path)) as container:
            return sum(packet.size > 0 for packet in container.demux(video=0))
    except (av.FFmpegError, OSError, IndexError) as error:
        raise ValueError(f"{path} cannot be opened as a video: {error}") from error


def pixel_aspect_of(stream: Any) -> Fraction:
    """The width of a stream's stored pixels, in their heights."""
    aspect = stream.sample_aspect_ratio
    return aspect if aspect and 1 / MAX_PIXEL_ASPECT <= aspect <= MAX_PIXEL_ASPECT else Fraction(1)


def as_shown(decoded: Any, pixel_aspect: Fraction) -> np.ndarray:
    """`(height, width, 3)` RGB of a decoded frame as a player shows it: with square pixels, turned and mirrored.

    Args:
        pixel_aspect: see `pixel_aspect_of`; the picture is made wider or higher, never smaller.
    """
    width, height = decoded.width, decoded.height
    width, height = round(width * max(pixel_aspect, 1)), round(height * max(1 / pixel_aspect, 1))
    image = decoded.reformat(width=width, height=height, format="rgb24").to_ndarray()
    matrix = decoded.side_data.get("DISPLAYMATRIX")
    return image if matrix is None else _lay_out(image, np.frombuffer(bytes(matrix), "<i4").reshape(3, 3))


def _lay_out(image: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """A picture under a container's display matrix, the nearest of the four turns and their mirror images.

    Args:
        matrix: `(3, 3)` as it is stored: x' = m00 x + m10 y, y' = m01 x + m11 y, y down (ISO 14496-12, 8.3.2).
    """
    (xx, xy), (yx, yy) = matrix[:2, :2].tolist()
    if abs(xx) + abs(yy) >= abs(xy) + abs(yx):
        x_sign, y_sign = xx, yy
    else:
        image, x_sign, y_sign = image.swapaxes(0, 1), yx, xy
    return np.ascontiguousarray(image[:: -1 if y_sign < 0 else 1, :: -1 if x_sign < 0 else 1])
