"""Inference with an exported checkpoint and any number of exported adapters.

from mf2.onnx_runtime import Recognizer

recognizer = Recognizer("mf2.onnx")
recognizer("face.jpg")[0]["au_probs"]["AU12"]
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from .. import __version__
from ..images_mf2 import ImageSource, image_name, read_image, split_images
from ..labels_mf2 import AFFECT, LabelSpace
from ..landmarks_mf2 import (
    DetectedFace,
    LandmarkDetector,
    check_landmark_word,
    describe_place,
    detect_in_pictures,
    faces_from_landmarks,
    find_detector,
    largest_first,
)
from .description import INPUT_NAMES, FileDescription
from .preparing import prepare_faces

SUFFIX = ".onnx"


def import_onnxruntime() -> ModuleType:
    """Import onnxruntime; the `ImportError` says how to install it."""
    try:
        import onnxruntime
    except ImportError as error:
        raise ImportError(
            f"ONNX files need the package onnxruntime, which cannot be imported ({error}); pip install onnxruntime."
        ) from error
    return onnxruntime


def find_model(model: str | Path) -> Path:
    """Return the ONNX file: `model` itself, or the only one in a checkpoint's folder.

    Raises:
        FileNotFoundError: there is none; the message says how to export one.
        ValueError: the folder has several, or the file has another extension.
    """
    path = Path(model)
    if path.is_file():
        if path.suffix != SUFFIX:
            raise ValueError(f"{model} is no {SUFFIX} file; name what `mf2 export --onnx` wrote.")
        return path
    files = sorted(path.glob(f"*{SUFFIX}"))
    if len(files) > 1:
        raise ValueError(f"{model} holds {', '.join(file.name for file in files)}; name one of them.")
    if not files:
        checkpoint = path if path.is_dir() else "CHECKPOINT"
        file = path / f"mf2{SUFFIX}" if path.is_dir() else path
        raise FileNotFoundError(
            f"There is no ONNX file at {model}; write one: mf2 export --model {checkpoint} --onnx {file}"
        )
    return files[0]


def default_threads() -> int:
    """Number of cores available to this process, limited by `OMP_NUM_THREADS`."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limit = os.environ.get("OMP_NUM_THREADS", "")
    return min(cores, int(limit)) if limit.isdecimal() and int(limit) else cores


class ExportedModel:
    """An ONNX file in an onnxruntime session."""

    def __init__(self, file: Path, num_threads: int):
        runtime = import_onnxruntime()
        options = runtime.SessionOptions()
        options.intra_op_num_threads = num_threads
        options.log_severity_level = 3  # errors only; warnings are about internal optimisations
        try:
            self.session = runtime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its exception classes have no common base class
            reason = str(error).splitlines()[0]
            raise ValueError(f"{file} cannot be loaded as an ONNX model ({reason}); export it again.") from error
        metadata = self.session.get_modelmeta().custom_metadata_map
        self.description = FileDescription.from_metadata(metadata, file)
        self.label_space = self.description.label_space
        self.input_names = [entry.name for entry in self.session.get_inputs()]

    def run(self, pixel_values: np.ndarray, au_boxes: np.ndarray) -> dict[str, np.ndarray]:
        """Run the model on float32 `(B, 3, H, W)` and `(B, A, 2, 4)`; returns the outputs by name."""
        feeds = dict(zip(INPUT_NAMES, (pixel_values, au_boxes), strict=True))
        names = [entry.name for entry in self.session.get_outputs()]
        outputs = self.session.run(names, {name: feeds[name] for name in self.input_names})
        return dict(zip(names, outputs, strict=True))


class Recognizer:
    """Recognises batches of faces with files of `mf2 export --onnx`; needs NumPy, Pillow and onnxruntime.

    Args:
        model: file of a checkpoint, or of an adapter with its base; or a folder with only one ONNX file.
        adapters: files of further adapters, each named after its file without extension.
        num_threads: number of threads; see `default_threads`.
    Attributes:
        label_spaces: column prefix (`""`, then `"<adapter>."`) -> label space of those columns.
    Raises:
        FileNotFoundError, ValueError: a file does not exist or is invalid, or adapters need other preprocessing.
        ImportError: onnxruntime is missing.
    """

    device = "cpu"

    def __init__(self, model: str | Path, adapters: Sequence[str | Path] = (), num_threads: int | None = None):
        files = [find_model(file) for file in (model, *adapters)]
        prefixes = ["", *(f"{file.stem.replace('.', '_')}." for file in files[1:])]
        if len(set(prefixes)) < len(prefixes):
            raise ValueError(
                f"Adapters are called {', '.join(name[:-1] for name in prefixes[1:])}; names must differ."
            )
        num_threads = num_threads or default_threads()
        self._models = {prefix: ExportedModel(file, num_threads) for prefix, file in zip(prefixes, files, strict=True)}
        self.description = self._models[""].description
        for file, exported in zip(files, self._models.values(), strict=True):
            if not exported.description.has_same_preprocessing(self.description):
                raise ValueError(f"{file} reads other pictures than {files[0]}; analyse with each alone.")
        self.label_spaces: dict[str, LabelSpace] = {
            prefix: exported.label_space for prefix, exported in self._models.items()
        }
        regions = [au_id for space in self.label_spaces.values() for au_id in space.region_au_ids]
        self.au_ids = tuple(dict.fromkeys(regions))

    @property
    def landmark_detector(self) -> str:
        """The detector that the checkpoint prefers."""
        return self.description.landmark_detector

    @property
    def versions(self) -> dict[str, str]:
        """Package -> version of what computes the results."""
        return {"mf2": __version__, "onnxruntime": import_onnxruntime().__version__}

    # ------------------------------------------------------------------------------------------------------- pictures
    def __call__(
        self,
        images: ImageSource | Iterable[ImageSource],
        landmarks: str | LandmarkDetector | ArrayLike | Sequence[ArrayLike | None] | None = None,
    ) -> list[Any]:
        """Analyse pictures; the results are those of the pipeline `facial-state-analysis`, without captions.

        Args:
            images: one picture or several, see `read_image`.
            landmarks: points in pixels of the upright picture, `(68, 2)` or `(faces, 68, 2)`, or a list of them for
                several pictures; `"detect"`, or a detector; `"mean_face"` or None treats every picture as a face crop.
        Returns:
            For one picture a list of its faces, the largest first; for several pictures a list of such lists.
            A face has `face`, `box`, `score`, `landmarks_found`, `au_probs`, `active_aus`, `emotion`, `emotion_probs`,
            and of models that recognise them `valence` and `arousal`.
        """
        sources = split_images(images)
        is_one = sources[0] is images
        pictures = [read_image(source, image_name(source, idx)) for idx, source in enumerate(sources)]
        faces = self._locate(pictures, [landmarks] if is_one and _is_points(landmarks) else landmarks)
        found = [self._describe(picture, located) for picture, located in zip(pictures, faces, strict=True)]
        return found[0] if is_one else found

    def _locate(self, pictures: Sequence[np.ndarray], landmarks: Any) -> list[list[DetectedFace] | None]:
        """The faces of each picture, or None for a face crop."""
        landmarks = check_landmark_word(landmarks)
        if landmarks is None:
            return [None] * len(pictures)
        if isinstance(landmarks, str):
            landmarks = find_detector(self.landmark_detector)
        if isinstance(landmarks, LandmarkDetector):
            return [largest_first(faces) for faces in detect_in_pictures(landmarks, pictures)]
        if len(landmarks) != len(pictures):
            raise ValueError(f"{len(landmarks)} sets of landmarks for {len(pictures)} images; give one for each.")
        return [None if points is None else largest_first(faces_from_landmarks(points)) for points in landmarks]

    def _describe(self, picture: np.ndarray, faces: list[DetectedFace] | None) -> list[dict[str, Any]]:
        if faces is not None and not faces:
            return []
        points = None if faces is None else np.stack([face.landmarks_px for face in faces])
        inputs = self.prepare([picture], [points])
        outputs = self._run("", inputs)
        size, picture_size = inputs["pixel_values"].shape[-2:], picture.shape[:2]
        located: Sequence[DetectedFace | None] = faces or [None]
        positions = [
            describe_place(face, matrix, size, picture_size)
            for face, matrix in zip(located, inputs["align_matrix"], strict=True)
        ]
        return [{"face": idx, **position, **self._state(outputs, idx)} for idx, position in enumerate(positions)]

    def _state(self, outputs: Mapping[str, np.ndarray], idx: int) -> dict[str, Any]:
        space = self.label_spaces[""]
        state: dict[str, Any] = {}
        if space.au_ids:
            probs = dict(zip(space.au_codes, outputs["au_probs"][idx].tolist(), strict=True))
            limits = space.thresholds_by_code
            state = {"au_probs": probs, "active_aus": [code for code, prob in probs.items() if prob >= limits[code]]}
        if space.emotions:
            emotions = dict(zip(space.emotions, outputs["emotion_probs"][idx].tolist(), strict=True))
            state |= {"emotion": max(emotions, key=emotions.__getitem__), "emotion_probs": emotions}
        if space.affect:
            state |= zip(AFFECT, outputs["affect"][idx].tolist(), strict=True)
        return state

    # -------------------------------------------------------------------------------------------------------- batches
    def prepare(self, pictures: Sequence[np.ndarray], landmarks: Sequence[ArrayLike | None]) -> dict[str, np.ndarray]:
        """Preprocess faces, see `prepare_faces`, with the boxes of the AUs of all label spaces."""
        return prepare_faces(pictures, landmarks, self.description, self.au_ids)

    def recognize(self, inputs: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
        """Recognise a batch of faces.

        Args:
            inputs: `pixel_values` `(B, 3, H, W)` and `au_boxes` `(B, A, 2, 4)`, see `prepare`.
        Returns:
            For each face the columns `AU1`, …, `emotion`, `emotion_Neutral`, …, `valence`, `arousal`, with the prefix
            of each label space.
        """
        rows: list[dict[str, Any]] = [{} for _ in inputs["pixel_values"]]
        for prefix, space in self.label_spaces.items():
            for row, columns in zip(rows, _columns(self._run(prefix, inputs), space, prefix), strict=True):
                row |= columns
        return rows

    def _run(self, prefix: str, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The outputs of one model, with the boxes of its regions."""
        regions = [self.au_ids.index(au_id) for au_id in self.label_spaces[prefix].region_au_ids]
        return self._models[prefix].run(inputs["pixel_values"], inputs["au_boxes"][:, regions])


def _columns(outputs: Mapping[str, np.ndarray], space: LabelSpace, prefix: str) -> list[dict[str, Any]]:
    """The columns of each face of a batch."""
    columns: list[dict[str, Any]] = [{} for _ in next(iter(outputs.values()))]
    if space.au_ids:
        for row, probs in zip(columns, outputs["au_probs"].tolist(), strict=True):
            row |= zip((prefix + code for code in space.au_codes), probs, strict=True)
    if space.emotions:
        names = [f"{prefix}emotion_{name}" for name in space.emotions]
        for row, probs in zip(columns, outputs["emotion_probs"].tolist(), strict=True):
            row |= {f"{prefix}emotion": space.emotions[int(np.argmax(probs))], **dict(zip(names, probs, strict=True))}
    if space.affect:
        for row, values in zip(columns, outputs["affect"].tolist(), strict=True):
            row |= zip((prefix + name for name in AFFECT), values, strict=True)
    return columns


def _is_points(landmarks: Any) -> bool:
    """Whether the argument is landmarks, of one picture or several."""
    return landmarks is not None and not isinstance(landmarks, (str, LandmarkDetector))
