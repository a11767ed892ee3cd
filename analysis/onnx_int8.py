"""An exported file in int8: weights in 8 bits, and activations in 8 bits with ranges seen on given faces.

What is computed in int8 is tried from most to least (`RECIPES`), and the first file is kept whose scores on labelled
faces are nearly those of the file in float32. Always left in float32 are products of two activations, which are few,
and layers with few outputs: a readout's thousands of inputs differ too much for one range, and cost next to nothing.
"""

import json
import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from tqdm import tqdm

from ..data_loading.splits import Split
from ..evaluation.metrics import au_metrics, emotion_metrics
from ..evaluation.predictions import Predictions
from ..modeling_mf2 import MF2Model
from ..onnx_runtime.description import INPUT_NAMES, METADATA_KEY, FileDescription
from ..onnx_runtime.preparing import prepare_faces
from ..onnx_runtime.recognizer import ExportedModel, default_threads
from ..processing_mf2 import MF2Processor
from .onnx_export import export_onnx, keep_files
from .onnx_settings import INT8, MAX_LOSS, MIN_OPSET

RECIPES = {
    "convolutions and products": ("Conv", "MatMul"),
    "products": ("MatMul",),
}
"""What is computed in int8, by name."""
MIN_OUTPUTS = 64
"""Of a layer in int8."""
FACES_PER_PASS = 16


@dataclass(frozen=True)
class Int8Record:
    """What a file's metadata say of its quantisation; scores are those of the float32 file and of the int8 file.

    Args:
        layers: the name among `RECIPES`.
        data: the data set of the faces.
        calibration_faces, checked_faces: how many gave the ranges, and how many the scores.
        au_f1, emotion_top1: at the checkpoint's thresholds; None where nothing is labelled.
    """

    layers: str
    data: str
    calibration_faces: int
    checked_faces: int
    au_f1: tuple[float, float] | None
    emotion_top1: tuple[float, float] | None

    def losses(self) -> dict[str, float]:
        """What int8 costs of each score that there is, as a fraction."""
        pairs = {"au_f1": self.au_f1, "emotion_top1": self.emotion_top1}
        return {name: pair[0] - pair[1] for name, pair in pairs.items() if pair is not None}

    def is_near(self) -> bool:
        """Whether no score loses more than `MAX_LOSS`."""
        return all(loss <= MAX_LOSS + 1e-9 for loss in self.losses().values())

    def to_line(self) -> str:
        """`products: AU F1 0.885 → 0.884, emotion top-1 0.800 → 0.798 on 425 faces`."""
        names = {"AU F1": self.au_f1, "emotion top-1": self.emotion_top1}
        scores = (f"{name} {pair[0]:.4f} → {pair[1]:.4f}" for name, pair in names.items() if pair is not None)
        return f"{self.layers}: {', '.join(scores)} on {self.checked_faces:,} faces"


def export_int8(
    model: MF2Model,
    processor: MF2Processor,
    file: str | Path,
    data: str,
    *,
    calibration_faces: int = 128,
    max_check_faces: int | None = None,
    opset: int = MIN_OPSET,
) -> Int8Record:
    """Write the image path of a model as ONNX in int8, if it sees nearly what the model sees.

    Args:
        model: in evaluation mode, float32, on the CPU.
        file: what is written; see `export_onnx`.
        data: labelled MFA data set: faces of its split `train` give the ranges, those of `validation` the scores.
        calibration_faces: of `train`, evenly spaced.
        max_check_faces: of `validation`, evenly spaced; None takes all.
    Returns:
        What stands in the metadata.
    Raises:
        ImportError: the packages of the extra `onnx` are missing.
        ValueError: the validation split labels nothing of the model's, or each recipe loses more than `MAX_LOSS`: then
            the message has the scores, and nothing is left; and as `export_onnx` and `load_mfa`.
    """
    space = model.label_space
    calibration = Split.load(data, "train", calibration_faces, space.au_ids)
    check = Split.join([data], "validation", max_check_faces, space)
    file = Path(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{file.name}.", dir=file.parent) as scratch:
        exact = Path(scratch, "float32.onnx")
        export_onnx(model, processor, exact, opset=opset)
        scorer = _Scorer(exact, check)
        batches = list(batches_of(calibration, scorer.exact))
        tried = []
        for layers, operators in RECIPES.items():
            folder = Path(scratch, layers)
            folder.mkdir()
            quantize(exact, folder / file.name, operators, batches)
            names = {"layers": layers, "data": str(check.description["name"])}
            record = scorer.compare(folder / file.name, names | {"calibration_faces": len(calibration.rows)})
            tried.append(record)
            if record.is_near():
                _describe(folder / file.name, replace(scorer.exact.description, dtype=INT8, int8=asdict(record)))
                keep_files(folder, file)
                return record
    lines = "; ".join(record.to_line() for record in tried)
    raise ValueError(
        f"int8 loses more than {100 * MAX_LOSS:g} points ({lines}); {file} was not written. Try more "
        "--calibration_faces, or --dtype float32."
    )


# ------------------------------------------------------------------------------------------------------------- faces
def batches_of(split: Split, exported: ExportedModel) -> Iterator[dict[str, np.ndarray]]:
    """What an exported model reads of the faces of a split, `FACES_PER_PASS` at a time."""
    faces = split.faces
    for start in range(0, len(faces), FACES_PER_PASS):
        examples = faces.__getitems__(range(start, min(start + FACES_PER_PASS, len(faces))))
        landmarks = [None if face.landmarks_px is None else face.landmarks_px[None] for face in examples]
        images = [face.image for face in examples]
        yield prepare_faces(images, landmarks, exported.description, exported.label_space.region_au_ids)


class _Scorer:
    """Holds files against that in float32, on labelled faces."""

    def __init__(self, exact: Path, check: Split):
        self.exact, self.check = ExportedModel(exact, default_threads()), check
        self.scores = self._score(self.exact)

    def compare(self, file: Path, facts: Mapping[str, Any]) -> Int8Record:
        """The record of a file in int8."""
        found = self._score(ExportedModel(file, default_threads()))
        pairs: dict[str, Any] = {}
        for name, value in self.scores.items():
            other = found[name]
            pairs[name] = None if value is None or other is None else (round(value, 6), round(other, 6))
        return Int8Record(**facts, checked_faces=len(self.check.rows), **pairs)

    def _score(self, exported: ExportedModel) -> dict[str, float | None]:
        space, count = exported.label_space, len(self.check.rows)
        batches = tqdm(batches_of(self.check, exported), desc="checking", total=-(-count // FACES_PER_PASS))
        outputs = [exported.run(*(batch[name] for name in INPUT_NAMES)) for batch in batches]
        probs = {
            name: np.concatenate([output[name] for output in outputs]) if name in outputs[0] else np.zeros((count, 0))
            for name in ("au_probs", "emotion_probs")
        }
        predictions = Predictions.from_split(self.check, space.emotions, **probs)
        aus = au_metrics(predictions.au_probs, predictions.au_labels, space.au_codes, space.thresholds)
        emotion = emotion_metrics(predictions.emotion_probs, predictions.emotion_labels, space.emotions)
        return {"au_f1": aus["f1"], "emotion_top1": emotion.get("top1")}


# ------------------------------------------------------------------------------------------------------ quantisation
class _Reader:
    """Batches for onnxruntime's calibrator."""

    def __init__(self, batches: Sequence[Mapping[str, np.ndarray]], names: Sequence[str]):
        self._left = iter([{name: batch[name] for name in names} for batch in batches])

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next batch; None after the last."""
        return next(self._left, None)


def quantize(exact: Path, file: Path, operators: Sequence[str], batches: Sequence[Mapping[str, np.ndarray]]) -> None:
    """Write a float32 file in int8: weights by output channel, activations by the ranges that the batches have.

    Args:
        exact: the file in float32.
        operators: ONNX names of what is computed in int8.
        batches: inputs by name.
    """
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    is_large = exact.with_name(f"{exact.name}.data").exists()
    with tempfile.TemporaryDirectory(dir=file.parent) as scratch, _quiet():
        prepared = Path(scratch, "prepared.onnx")
        # the batch is symbolic and shapes are known without it
        quant_pre_process(exact, prepared, skip_symbolic_shape=True, save_as_external_data=is_large)
        graph = onnx.load(str(prepared), load_external_data=False).graph
        quantize_static(
            prepared,
            file,
            _Reader(batches, [entry.name for entry in graph.input]),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(operators),
            nodes_to_exclude=kept_in_float(graph),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
            use_external_data_format=is_large,
        )


def kept_in_float(graph: onnx.GraphProto) -> list[str]:
    """Names of the products of two activations, and of those with fewer than `MIN_OUTPUTS` outputs."""
    columns = {weight.name: weight.dims[-1] for weight in graph.initializer if weight.dims}
    return [
        node.name for node in graph.node if node.op_type == "MatMul" and columns.get(node.input[1], 0) < MIN_OUTPUTS
    ]


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the quantiser's advice from the user."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def _describe(file: Path, description: FileDescription) -> None:
    """Put a description into a file's metadata."""
    model = onnx.load(str(file), load_external_data=False)
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, {METADATA_KEY: json.dumps(description.to_dict(), ensure_ascii=False)})
    onnx.save(model, str(file))
