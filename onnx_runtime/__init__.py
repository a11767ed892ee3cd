"""Exported checkpoints, `mf2 export --onnx`, on onnxruntime: faces to action units and emotions without torch."""

from .recognizer import Recognizer

__all__ = ["Recognizer"]
