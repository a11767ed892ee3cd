"""Export of a checkpoint's image path to ONNX, checked against PyTorch before the file is put in place.

    pixel_values (B, 3, H, W), au_boxes (B, A, 2, 4)  ->  au_logits (B, A), au_probs (B, A), emotion_probs (B, E),
                                                          affect (B, 2): valence and arousal, of models that have them

Inputs and outputs are float32 for every dtype of the weights. The file's metadata describe the outputs and the
preprocessing. Aligning faces and computing AU boxes is done by the processor and is not part of the graph.
"""

import json
import logging
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import nn

from .. import __version__
from ..labels_mf2 import ACTION_UNITS
from ..modeling_mf2 import MF2Model
from ..onnx_runtime.description import INPUT_NAMES, METADATA_KEY, FileDescription
from ..processing_mf2 import MF2Processor
from ..regions_mf2 import au_boxes_from_landmarks, mean_face
from .onnx_settings import CHECKED_BATCHES, MIN_OPSET, TOLERANCES


class ImagePath(nn.Module):
    """The exported module: image inputs to recognition outputs, in the order of `output_names`."""

    def __init__(self, model: MF2Model):
        super().__init__()
        self.model = model
        space = model.label_space
        self.output_names = ["au_logits", "au_probs"] * bool(space.au_ids) + ["emotion_probs"] * bool(space.emotions)
        self.output_names += ["affect"] * space.affect

    def forward(self, pixel_values: torch.Tensor, au_boxes: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """`(B, 3, H, W)` and `(B, A, 2, 4)` -> one float32 tensor per name in `output_names`."""
        recognition = self.model.recognize(self.model.encode_branches(pixel_values, au_boxes))
        outputs = []
        if recognition.au_logits is not None:
            au_logits = recognition.au_logits.float()
            outputs += [au_logits, au_logits.sigmoid()]
        if recognition.emotion_logits is not None:
            outputs.append(recognition.emotion_logits.float().softmax(-1))
        if recognition.affect is not None:
            outputs.append(recognition.affect.float())
        return tuple(outputs)


def export_onnx(
    model: MF2Model, processor: MF2Processor, file: str | Path, *, opset: int = MIN_OPSET, dtype: str = "float32"
) -> float:
    """Write the image path of a model as ONNX, if its outputs agree with PyTorch's.

    Args:
        model: in evaluation mode, float32, on the CPU; with `dtype` float16 its weights are converted.
        processor: the model's.
        file: file to write; weights beyond ONNX's limit of 2 GB go to `<file>.data`.
        opset: ONNX opset version, at least `MIN_OPSET`.
        dtype: of the weights, a key of `TOLERANCES`.
    Returns:
        The largest difference to PyTorch in float32, see `TOLERANCES`.
    Raises:
        ImportError: the packages of the extra `onnx` are missing.
        ValueError: the opset is too old, or the outputs differ from PyTorch's by more than the tolerance; no file is
            written.
    """
    if opset < MIN_OPSET:
        raise ValueError(f"opset is {opset}; at least {MIN_OPSET} is needed.")
    runtime = _import_onnx()
    file = Path(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    processor = processor.for_label_spaces(model.label_space)
    path = ImagePath(model).eval()
    expected = [(inputs, _run_torch(path, inputs)) for inputs in golden_inputs(processor)]
    program = _make_program(path.to(getattr(torch, dtype)), expected[-1][0], opset)
    program.model.metadata_props[METADATA_KEY] = json.dumps(
        describe(model, processor, dtype).to_dict(), ensure_ascii=False
    )
    with tempfile.TemporaryDirectory(prefix=f".{file.name}.", dir=file.parent) as scratch:
        written = Path(scratch, file.name)
        program.save(written)
        worst = compare(runtime, written, expected)
        if not worst <= TOLERANCES[dtype]:
            raise ValueError(
                f"The exported graph differs from PyTorch by {worst:.2g}, more than {TOLERANCES[dtype]:g}; {file} was "
                "not written. Try --dtype float32 or another --opset."
            )
        keep_files(Path(scratch), file)
    return worst


def keep_files(scratch: Path, file: Path) -> None:
    """Move a finished file and what lies beside it to its place, the graph last."""
    for part in sorted(scratch.iterdir(), key=lambda part: part.name == file.name):
        part.replace(file.parent / part.name)


def _import_onnx() -> ModuleType:
    """Import onnxruntime and the exporter's packages; the `ImportError` names the extra to install."""
    try:
        import onnxruntime
        import onnxscript  # noqa: F401  (torch's exporter is built on it)
    except ImportError as error:
        raise ImportError(f"ONNX needs packages that are missing ({error}); pip install 'mf2-face[onnx]'.") from error
    return onnxruntime


# ---------------------------------------------------------------------------------------------------------- the graph
def _make_program(path: ImagePath, example: Sequence[torch.Tensor], opset: int) -> Any:
    batch = torch.export.Dim("batch")
    with _quiet_exporter(), torch.no_grad():
        return torch.onnx.export(
            path,
            tuple(example),
            dynamo=True,
            verbose=False,
            opset_version=opset,
            input_names=list(INPUT_NAMES),
            output_names=path.output_names,
            dynamic_shapes={name: {0: batch} for name in INPUT_NAMES},
        )


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Suppress the exporter's own log messages and warnings."""
    loggers = [logging.getLogger(name) for name in ("onnxscript", "onnx_ir", "torch.onnx")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def describe(model: MF2Model, processor: MF2Processor, dtype: str) -> FileDescription:
    """Describe the file in its metadata: names and thresholds of the outputs, and the preprocessing."""
    space, images = model.label_space, processor.image_processor
    return FileDescription(
        version=__version__,
        dtype=dtype,
        au_codes=list(space.au_codes),
        au_names=list(space.au_names),
        au_thresholds=list(space.thresholds),
        region_au_codes=[ACTION_UNITS[au_id].code for au_id in space.region_au_ids],
        emotions=list(space.emotions),
        image_size=[images.size["height"], images.size["width"]],
        image_mean=list(images.image_mean) if images.do_normalize else [0.0] * 3,
        image_std=list(images.image_std) if images.do_normalize else [1.0] * 3,
        rescale_factor=images.rescale_factor if images.do_rescale else 1.0,
        do_align=images.do_align,
        au_region_size=images.au_region_size,
        eye_centers=[list(center) for center in images.eye_centers],
        landmark_detector=images.landmark_detector,
        affect=space.affect,
    )


# ---------------------------------------------------------------------------------------------------------- the check
def golden_inputs(processor: MF2Processor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield fixed test inputs: noise of several frequencies and boxes of shifted mean faces, in `CHECKED_BATCHES`."""
    size = (processor.image_processor.size["height"], processor.image_processor.size["width"])
    au_ids, region_size = processor.au_ids, processor.image_processor.au_region_size
    generator = torch.Generator().manual_seed(0)
    for count in CHECKED_BATCHES:
        layers = [torch.rand(count, 3, *_coarser(size, factor), generator=generator) for factor in (16, 4, 1)]
        pixels = torch.stack([nn.functional.interpolate(layer, size, mode="bilinear") for layer in layers]).mean(0)
        shifts = (torch.rand(count, 1, 2, generator=generator).numpy() - 0.5) * 0.1 * max(size)
        boxes = au_boxes_from_landmarks(mean_face(size) + shifts, size, au_ids, region_size)
        yield pixels * 2 - 1, torch.from_numpy(boxes)


def _coarser(size: tuple[int, int], factor: int) -> tuple[int, int]:
    return max(size[0] // factor, 1), max(size[1] // factor, 1)


@torch.inference_mode()
def _run_torch(path: ImagePath, inputs: Sequence[torch.Tensor]) -> list[np.ndarray]:
    return [output.numpy() for output in path(*inputs)]


def compare(
    runtime: ModuleType, file: Path, expected: Sequence[tuple[Sequence[torch.Tensor], list[np.ndarray]]]
) -> float:
    """Largest |a - b| / (1 + |b|) between onnxruntime's outputs a and the expected b; NaN if a value is NaN."""
    session = runtime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]
    distances = []
    for inputs, outputs in expected:
        feeds = {name: tensor.numpy() for name, tensor in zip(INPUT_NAMES, inputs, strict=True)}
        found = session.run(None, {name: feeds[name] for name in names})
        distances += [np.max(np.abs(a - b) / (1 + np.abs(b))) for a, b in zip(found, outputs, strict=True)]
    return float(np.max(distances))
