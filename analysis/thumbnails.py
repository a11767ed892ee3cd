"""Thumbnails of faces, cropped from their source, as JPEG data URIs."""

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..utils.data_uris import make_data_uri
from ..utils.suffixes import VIDEO_SUFFIXES
from . import media
from .media import Source

MARGIN = 0.35
"""Margin around a face's box, as a fraction of its longer side."""
JPEG_QUALITY = 82

Thumbnails = dict[tuple[str, int, int], str]
"""(source, frame, face) -> data URI."""


def make_thumbnails(rows: Iterable[Mapping[str, Any]], size: int) -> Thumbnails:
    """Make thumbnails of analysed faces; every source is opened once.

    Args:
        rows: with `source`, `frame`, `time_s`, `face` and the box `x0` … `y1` in pixels, NaN if missing.
        size: width and height in pixels.
    Returns:
        The thumbnails; unreadable sources are skipped.
    """
    by_source: dict[str, dict[int, list[Mapping[str, Any]]]] = {}
    for row in rows:
        by_source.setdefault(str(row["source"]), {}).setdefault(int(row["frame"]), []).append(row)
    thumbnails = {}
    for source, by_frame in by_source.items():
        times = {frame: float(faces[0]["time_s"]) for frame, faces in by_frame.items()}
        for frame, image in read_frames(source, times):
            for row in by_frame[frame]:
                box = [float(row.get(name, np.nan)) for name in ("x0", "y0", "x1", "y1")]
                thumbnails[face_key(row)] = to_data_uri(crop_face(image, box, size))
    return thumbnails


def face_key(row: Mapping[str, Any]) -> tuple[str, int, int]:
    """Unique key of a face in a run: source, frame and id."""
    return str(row["source"]), int(row["frame"]), int(row["face"])


def read_frames(source: str, times: Mapping[int, float]) -> Iterator[tuple[int, np.ndarray]]:
    """Read frames of a picture or video, one at a time; unreadable frames are skipped.

    Args:
        source: path of the picture or video.
        times: frame number -> time in seconds.
    Yields:
        Frame number and `(height, width, 3)` uint8 image.
    """
    path = Path(source)
    for frame in media.pick_frames(Source(path, source, path.suffix.lower() in VIDEO_SUFFIXES), times):
        if frame.image is not None:
            yield frame.index, frame.image


def crop_face(image: np.ndarray, box_xyxy_px: Sequence[float] | None, size: int) -> Image.Image:
    """Crop a square around a face's box with a margin; the centre of the picture if there is no box (None, NaN)."""
    height, width = image.shape[:2]
    if box_xyxy_px is None or np.isnan(box_xyxy_px).any():
        x0, y0, x1, y1 = 0.0, 0.0, float(width), float(height)
        side = float(min(width, height))
    else:
        x0, y0, x1, y1 = box_xyxy_px
        side = min(max(x1 - x0, y1 - y0) * (1 + 2 * MARGIN), width, height)
    left = np.clip((x0 + x1 - side) / 2, 0, width - side)
    top = np.clip((y0 + y1 - side) / 2, 0, height - side)
    corners = (left, top, left + side, top + side)
    return Image.fromarray(image).resize((size, size), Image.Resampling.LANCZOS, box=corners)


def to_data_uri(picture: Image.Image) -> str:
    """The picture as `data:image/jpeg;base64,…`."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=JPEG_QUALITY)
    return make_data_uri(buffer.getvalue(), "image/jpeg")
