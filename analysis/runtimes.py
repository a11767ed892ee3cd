"""The interface of `mf2 analyze` to its runtimes, PyTorch and onnxruntime. Does not import torch."""

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike

from ..labels_mf2 import LabelSpace
from ..onnx_runtime.recognizer import SUFFIX

TORCH, ONNX = "torch", "onnx"
RUNTIMES = (TORCH, ONNX)


class FaceRecognizer(Protocol):
    """A checkpoint with any number of adapters; inputs are NumPy arrays or tensors, depending on the runtime.

    Attributes:
        label_spaces: column prefix (`""`, then `"<adapter>."`) -> label space of those columns.
    """

    label_spaces: dict[str, LabelSpace]

    @property
    def device(self) -> Any:
        """The device that it runs on."""

    @property
    def landmark_detector(self) -> str:
        """The detector that the checkpoint prefers."""

    @property
    def versions(self) -> dict[str, str]:
        """Package -> version of what computes the results."""

    def prepare(self, pictures: Sequence[np.ndarray], landmarks: Sequence[ArrayLike | None]) -> Mapping[str, Any]:
        """Preprocess the faces of pictures.

        Args:
            pictures: `(height, width, 3)` uint8 RGB, of any sizes.
            landmarks: for each picture `(faces, 68, 2)` in pixels, or None for a face crop.
        Returns:
            `pixel_values` `(N, 3, H, W)` and `au_boxes` `(N, A, 2, 4)` of all faces, and the NumPy array
            `align_matrix` `(N, 2, 3)` from pixels of the picture to pixels of `pixel_values`.
        """

    def recognize(self, inputs: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Recognise the faces of `inputs`; returns the columns of each face's row."""


def choose_runtime(model: str, runtime: str | None = None) -> str:
    """Return the requested runtime; by default onnx for an exported file or if torch is missing, else torch."""
    has_torch = importlib.util.find_spec("torch") is not None
    return runtime or (TORCH if has_torch and Path(model).suffix != SUFFIX else ONNX)
