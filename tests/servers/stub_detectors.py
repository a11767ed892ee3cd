"""Landmark detectors that look at colours, for the tests of what uses a detector."""

import os
import time
from collections.abc import Sequence

import numpy as np

from mf2.landmarks_mf2 import DetectedFace


class RedFaces:
    """A picture has a face of its red value, none if that is 0, and a second, smaller one if it is odd.

    `DETECTOR_LOG` names a file that gets a line for each picture, `DETECTOR_PAUSE_S` is what a picture takes.
    """

    name = "red"

    def __init__(self, device: str | None = None, model_file: str | None = None) -> None:
        self.model_file = model_file

    def detect(self, images: Sequence[np.ndarray]) -> list[list[DetectedFace]]:
        return [self._detect_one(image) for image in images]

    def _detect_one(self, image: np.ndarray) -> list[DetectedFace]:
        red = round(float(image[..., 0].mean()))
        if log := os.environ.get("DETECTOR_LOG"):
            with open(log, "a") as file:
                file.write(f"{red}\n")
        time.sleep(float(os.environ.get("DETECTOR_PAUSE_S", "0")))
        near = DetectedFace((0, 0, 10, 10), np.full((68, 2), red, np.float32), 0.9)
        far = DetectedFace((0, 0, 3, 3), np.full((68, 2), -1, np.float32), 0.99)
        return [far, near] if red % 2 else [near] if red else []


class OtherRedFaces(RedFaces):
    """The same under another name."""
