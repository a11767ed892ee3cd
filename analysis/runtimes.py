"""What `mf2 analyze` asks of whatever computes: PyTorch, or onnxruntime with an exported file. No torch."""

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
    """A checkpoint with any number of adapters, ready to see faces; inputs are arrays or tensors, as its own.

    Attributes:
        label_spaces: what each answer means, by column prefix: `""`, then `"<adapter>."`.
    """

    label_spaces: dict[str, LabelSpace]

    @property
    def device(self) -> Any:
        """Where it computes."""

    @property
    def landmark_detector(self) -> str:
        """The detector that the checkpoint prefers."""

    @property
    def versions(self) -> dict[str, str]:
        """Of what computes, by package."""

    def prepare(self, pictures: Sequence[np.ndarray], landmarks: Sequence[ArrayLike | None]) -> Mapping[str, Any]:
        """What is read of faces.

        Args:
            pictures: `(height, width, 3)` uint8 RGB, of any sizes.
            landmarks: for each picture `(faces, 68, 2)` in its pixels, or None for a face crop.
        Returns:
            `pixel_values` `(N, 3, H, W)` and `au_boxes` `(N, A, 2, 4)` of all faces, and `align_matrix` `(N, 2, 3)`,
            NumPy, pixels of the picture to those of `pixel_values`.
        """

    def recognize(self, inputs: Mapping[str, Any]) -> list[dict[str, Any]]:
        """What is seen in each face of `inputs`, as columns of a row."""


def runtime_of(model: str, runtime: str | None = None) -> str:
    """The runtime that is asked for; else onnx for an exported file, and where there is no torch, torch otherwise."""
    has_torch = importlib.util.find_spec("torch") is not None
    return runtime or (TORCH if has_torch and Path(model).suffix != SUFFIX else ONNX)
