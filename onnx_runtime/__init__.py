"""Inference with checkpoints exported by `mf2 export --onnx`, without torch."""

from .recognizer import Recognizer

__all__ = ["Recognizer"]
