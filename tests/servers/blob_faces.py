"""Faces for tests without a detector's weights: bright rectangles on black, and a detector that finds them."""

import os
import time
from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np
from scipy import ndimage

from mf2.labels_mf2 import MEAN_FACE_68
from mf2.landmarks_mf2 import DetectedFace

MIN_BRIGHTNESS = 60


def draw_frame(boxes: Sequence[tuple[int, int, int, int]], width: int = 160, height: int = 96) -> np.ndarray:
    """`(height, width, 3)` uint8 with a patterned rectangle in each box x0 y0 x1 y1."""
    frame = np.zeros((height, width, 3), np.uint8)
    y, x = np.mgrid[:height, :width]
    pattern = np.stack([150 + 80 * np.sin(x / 5 + channel) * np.cos(y / 7) for channel in range(3)], axis=-1)
    for x0, y0, x1, y1 in boxes:
        frame[y0:y1, x0:x1] = pattern[y0:y1, x0:x1]
    return frame


def write_video(file: Path, frames: Sequence[np.ndarray], fps: int = 10) -> Path:
    """Encode frames of one size, even on both sides."""
    with av.open(str(file), "w") as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.height, stream.width, stream.pix_fmt = *frames[0].shape[:2], "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return file


class BlobDetector:
    """Every connected bright area of at least 100 pixels is a face, its points those of the mean face in its box.

    `BLOB_PAUSE_S` is how long a picture takes.
    """

    name = "blobs"

    def __init__(self, device: str | None = None) -> None:
        self.device = device

    def detect(self, images: Sequence[np.ndarray]) -> list[list[DetectedFace]]:
        return [self._detect_one(image) for image in images]

    def _detect_one(self, image: np.ndarray) -> list[DetectedFace]:
        time.sleep(float(os.environ.get("BLOB_PAUSE_S", "0")))
        areas, _ = ndimage.label(image.max(axis=-1) >= MIN_BRIGHTNESS)
        faces = []
        for rows, columns in ndimage.find_objects(areas):
            box = (columns.start, rows.start, columns.stop, rows.stop)
            size = (box[2] - box[0], box[3] - box[1])
            if size[0] * size[1] >= 100:
                points = np.array(MEAN_FACE_68) * size + box[:2]
                faces.append(DetectedFace(tuple(map(float, box)), points.astype(np.float32), 0.75))
        return faces
