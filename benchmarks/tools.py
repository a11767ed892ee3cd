"""Runs other tools on the frames of a split: their predictions in the evaluator's format, and the time they take.

Each tool is optional: tools that are not installed, or whose weights are missing, are skipped with a message. Nothing
is downloaded.
"""

import argparse
import importlib.util
import logging
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from huggingface_hub import constants
from huggingface_hub.errors import LocalEntryNotFoundError
from PIL import Image
from tqdm import tqdm

from mf2.data_loading.splits import Split
from mf2.dataset_tools.au_columns import find_au_columns
from mf2.evaluation.prediction_files import EMOTION_PREFIX, read_prediction_file
from mf2.labels_mf2 import ACTION_UNITS, AU_IDS, EMOTIONS
from mf2.utils.files import replacing, write_json
from mf2.utils.markdown import markdown_table

logger = logging.getLogger(__name__)

MODEL = "enet_b0_8_best_vgaf"
"""HSEmotion's EfficientNet-B0 with eight classes."""
EMOTION_NAMES = {name.lower(): name for name in EMOTIONS} | {
    "angry": "Anger",
    "happy": "Happiness",
    "sad": "Sadness",
    "contempt": "Other",
}
"""Emotion name of a tool -> name here; contempt is not one of the eight and becomes Other."""
PYFEAT_DETECTORS = ("Detectorv2", "Detectorv1", "Detector")
"""Names of py-feat's detector class, newest first; the last one is that of releases before 2."""
NO_FACE = "Neutral"
"""Emotion of frames in which a tool finds no face; their AUs are inactive."""

ToolPredictions: TypeAlias = pd.DataFrame
"""One row per picture with a face: `picture` (its number), and `AU…` and `emotion` if the tool has them."""


class Missing(Exception):  # noqa: N818 - not an error: the tool is skipped
    """A tool cannot run; the message says what is missing."""


def require(module: str, package: str) -> None:
    """Raise `Missing` if a package is not installed."""
    if importlib.util.find_spec(module) is None:
        raise Missing(f"{package} is not installed (pip install {package})")


def require_weights(file: Path, source: str) -> None:
    """Raise `Missing` if a file of weights does not exist."""
    if not file.is_file():
        raise Missing(f"its weights are not here: put {file.name} of {source} at {file}")


# -------------------------------------------------------------------------------------------------------------- tools
def emotiefflib(pictures: Sequence[Path], args: argparse.Namespace) -> Callable[[], ToolPredictions]:
    """HSEmotion in its own library; each picture is a face crop."""
    require("emotiefflib", "emotiefflib")
    source = "https://github.com/sb-ai-lab/EmotiEffLib, models/affectnet_emotions/onnx"
    require_weights(Path.home() / ".emotiefflib" / f"{MODEL}.onnx", source)
    from emotiefflib.facial_analysis import EmotiEffLibRecognizer

    recognizer = EmotiEffLibRecognizer(engine="onnx", model_name=MODEL, device="cpu")

    def predict() -> ToolPredictions:
        names = [recognizer.predict_emotions(read(picture), logits=False)[0][0] for picture in progress(pictures)]
        return emotion_table(dict(enumerate(names)))

    return predict


def deepface(pictures: Sequence[Path], args: argparse.Namespace) -> Callable[[], ToolPredictions]:
    """DeepFace's emotion model; each picture is a face crop in BGR."""
    require("deepface", "deepface")
    home = Path(os.environ.get("DEEPFACE_HOME", Path.home()))
    file = home / ".deepface" / "weights" / f"facial_expression_model_weights.{deepface_suffix()}"
    require_weights(file, "https://github.com/serengil/deepface_models/releases")
    from deepface import DeepFace

    options = {"actions": ["emotion"], "detector_backend": "skip", "enforce_detection": False, "silent": True}

    def predict() -> ToolPredictions:
        faces = [DeepFace.analyze(read(picture)[..., ::-1], **options)[0] for picture in progress(pictures)]
        return emotion_table({number: face["dominant_emotion"] for number, face in enumerate(faces)})

    return predict


def deepface_suffix() -> str:
    """Extension of the weights that DeepFace loads, by its engine; releases without engines need TensorFlow."""
    try:
        from deepface.commons.backend_utils import get_backend_engine
    except ImportError:
        return "h5"
    return {"tensorflow": "h5", "pytorch": "pth"}.get(get_backend_engine(), "onnx")


def pyfeat(pictures: Sequence[Path], args: argparse.Namespace) -> Callable[[], ToolPredictions]:
    """py-feat with its own detectors; its output is read as in `mf2 evaluate`."""
    require("feat", "py-feat")
    import feat

    name = next((name for name in PYFEAT_DETECTORS if hasattr(feat, name)), None)
    if name is None:
        raise Missing(f"this release of py-feat has none of {', '.join(PYFEAT_DETECTORS)}")
    try:
        with no_downloads():
            detector = getattr(feat, name)(device="cpu")
    except LocalEntryNotFoundError:
        once = f"python -c 'from feat import {name}; {name}()'"
        folder = Path(feat.__file__).with_name("resources")
        raise Missing(f"its weights are not in {folder}: run once with a net: {once}") from None

    def predict() -> ToolPredictions:
        paths = [str(picture) for picture in pictures]
        if hasattr(detector, "detect"):
            table = detector.detect(paths, data_type="image")
        else:
            table = detector.detect_image(paths)
        file = pictures[0].parents[1] / "pyfeat_output.csv"
        pd.DataFrame(table).to_csv(file, index=False)
        return by_picture(file)

    return predict


@contextmanager
def no_downloads() -> Iterator[None]:
    """Set the Hub client to offline mode."""
    before, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def openface(pictures: Sequence[Path], args: argparse.Namespace) -> Callable[[], ToolPredictions]:
    """OpenFace's `FaceLandmarkImg` on the folder of pictures; the time includes its start."""
    program = args.openface or shutil.which("FaceLandmarkImg")
    if not program or not Path(program).is_file():
        raise Missing("its executable is not here: name FaceLandmarkImg with --openface")
    folder = pictures[0].parents[1] / "openface_output"

    def predict() -> ToolPredictions:
        command = [program, "-fdir", str(pictures[0].parent), "-out_dir", str(folder), "-aus", "-q"]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace")
        if done.returncode:
            raise ChildProcessError(f"{program} ended with status {done.returncode}: {done.stderr.strip()[-300:]}")
        return by_picture(folder)

    return predict


RUNNERS: Mapping[str, Callable[[Sequence[Path], argparse.Namespace], Callable[[], ToolPredictions]]] = {
    "emotiefflib": emotiefflib,
    "deepface": deepface,
    "pyfeat": pyfeat,
    "openface": openface,
}
"""Tool -> function that loads it and returns a function that runs it."""


# -------------------------------------------------------------------------------------------------------------- parts
def read(picture: Path) -> np.ndarray:
    """Read a picture as `(H, W, 3)` uint8 RGB."""
    return np.asarray(Image.open(picture).convert("RGB"))


def progress(pictures: Sequence[Path]) -> Any:
    """The pictures with a progress bar."""
    return tqdm(pictures, unit="picture", leave=False)


def emotion_table(names: Mapping[int, str]) -> ToolPredictions:
    """Map emotion names of a tool, by number of the picture, to names here.

    Raises:
        ValueError: an emotion is unknown.
    """
    if unknown := {name for name in names.values() if name.lower() not in EMOTION_NAMES}:
        raise ValueError(f"The tool names {min(unknown)!r}; known are {', '.join(sorted(EMOTION_NAMES))}.")
    return pd.DataFrame({"picture": list(names), "emotion": [EMOTION_NAMES[name.lower()] for name in names.values()]})


def by_picture(output: Path) -> ToolPredictions:
    """Read a tool's output file or folder by picture; pictures are named by their number."""
    table = read_prediction_file(output).table
    table = table.assign(picture=[int(Path(str(name)).stem) for name in table["video"]])
    probs = [name for name in table.columns if name.startswith(EMOTION_PREFIX)]
    if probs:
        likeliest = table[probs].fillna(0).to_numpy(float).argmax(1)
        table = table.assign(emotion=[probs[index].removeprefix(EMOTION_PREFIX) for index in likeliest])
    columns = [name for name in table.columns if name == "emotion" or name in find_au_columns([name]).names.values()]
    return table[["picture", *columns]]


def complete(found: ToolPredictions, split: Split) -> pd.DataFrame:
    """Make a table for `mf2 evaluate --predictions`, one row per frame, including frames without a face."""
    keys = pd.DataFrame({"video": list(split.rows["video_id"]), "frame": list(split.rows["frame"])})
    table = keys.join(found.set_index("picture"))
    known = {ACTION_UNITS[au_id].code for au_id in AU_IDS}
    codes = [name for name in table.columns if name in known]
    table[codes] = table[codes].astype(float).fillna(0.0).clip(0.0, 1.0)
    if "emotion" in table.columns:
        table["emotion"] = table["emotion"].fillna(NO_FACE)
    return table[["video", "frame", *codes, *(["emotion"] if "emotion" in table.columns else [])]]


def write_pictures(split: Split, folder: Path) -> list[Path]:
    """Write the frames of a split as `000000.png`, …, in order."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{number:06d}.png" for number in range(len(split.rows))]
    for number, file in enumerate(files):
        if not file.is_file():
            with replacing(file) as partial:
                Image.fromarray(split.faces[number].image).save(partial, format="PNG")
    return files


# ------------------------------------------------------------------------------------------------------------ command
def run(args: argparse.Namespace) -> int:
    """Run the available tools; the exit status is 1 if there are none."""
    if args.max_rows is not None and args.max_rows < 1:
        raise ValueError(f"--max_rows is {args.max_rows}; it must be >= 1.")
    output = Path(args.output_dir)
    split = Split.load(args.data, args.split, args.max_rows, AU_IDS)
    pictures = write_pictures(split, output / "pictures")
    measured: dict[str, Any] = {}
    for name in args.tools:
        try:
            measured[name] = measure(name, pictures, split, args)
        except Missing as reason:
            print(f"{name} is skipped: {reason}.")
    if not measured:
        return 1
    write_json(output / "tools.json", {"data": split.description, "tools": measured})
    rows = [[name, *(f"{value:.4g}" for value in entry.values())] for name, entry in measured.items()]
    print(markdown_table(["tool", "start, s", "s a picture", "pictures", "without a face"], rows))
    print(f"Predictions are in {output}; score them: mf2 evaluate --predictions {output}/NAME.csv --data {args.data}")
    return 0


def measure(name: str, pictures: Sequence[Path], split: Split, args: argparse.Namespace) -> dict[str, float]:
    """Run one tool and write its CSV; returns its times and counts."""
    start = perf_counter()
    predict = RUNNERS[name](pictures, args)
    loaded = perf_counter()
    found = predict()
    seconds = perf_counter() - loaded
    with replacing(Path(args.output_dir, f"{name}.csv")) as partial:
        complete(found, split).to_csv(partial, index=False)
    return {
        "start_seconds": loaded - start,
        "seconds_per_picture": seconds / len(pictures),
        "pictures": len(pictures),
        "without_face": len(pictures) - len(found),
    }
