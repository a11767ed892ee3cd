"""Other tools over the frames of a split: their predictions in the evaluator's form, and the time that they take.

Each tool is optional. One that is not installed, or whose weights are not on disk, is skipped with a line; none is let
download anything.
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
"""HSEmotion's EfficientNet-B0 of eight classes."""
EMOTION_NAMES = {name.lower(): name for name in EMOTIONS} | {
    "angry": "Anger",
    "happy": "Happiness",
    "sad": "Sadness",
    "contempt": "Other",
}
"""What tools call emotions -> what they are called here; contempt is none of the eight and counts as Other."""
PYFEAT_DETECTORS = ("Detectorv2", "Detectorv1", "Detector")
"""py-feat's detectors of AUs and emotions, newest first; the last is that of releases before 2."""
NO_FACE = "Neutral"
"""The emotion of a frame in which a tool finds no face; no AU is active there."""

Found: TypeAlias = pd.DataFrame
"""A row a picture with a face: `picture`, its number, and `AU…` and `emotion` as far as the tool has them."""


class Missing(Exception):  # noqa: N818 - it is no error: the tool is skipped
    """A tool cannot run here; the message says what is to be put where."""


def require(module: str, package: str) -> None:
    """Raise `Missing` where a package is not installed."""
    if importlib.util.find_spec(module) is None:
        raise Missing(f"{package} is not installed (pip install {package})")


def require_weights(file: Path, source: str) -> None:
    """Raise `Missing` where a file of weights is not on disk."""
    if not file.is_file():
        raise Missing(f"its weights are not here: put {file.name} of {source} at {file}")


# -------------------------------------------------------------------------------------------------------------- tools
def emotiefflib(pictures: Sequence[Path], args: argparse.Namespace) -> Callable[[], Found]:
    """HSEmotion by its library: each picture is a face crop."""
    require("emotiefflib", "emotiefflib")
    source = "https://github.com/sb-ai-lab/EmotiEffLib, models/affectnet_emotions/onnx"
    require_weights(Path.home() / ".emotiefflib" / f"{MODEL}.onnx", source)
    from emotiefflib.facial_analysis import EmotiEffLibRecognizer

    recognizer = EmotiEffLibRecognizer(engine="onnx", model_name=MODEL, device="cpu")

    def predict() -> Found:
        names = [recognizer.predict_emotions(read(picture), logits=False)[0][0] for picture in progress(pictures)]
        return emotions_of(dict(enumerate(names)))

    return predict


def deepface(pictures: Sequence[Path], args: argparse.Namespace) -> Callable[[], Found]:
    """DeepFace's emotion model: each picture is a face crop, and its channels are BGR."""
    require("deepface", "deepface")
    home = Path(os.environ.get("DEEPFACE_HOME", Path.home()))
    file = home / ".deepface" / "weights" / f"facial_expression_model_weights.{deepface_suffix()}"
    require_weights(file, "https://github.com/serengil/deepface_models/releases")
    from deepface import DeepFace

    options = {"actions": ["emotion"], "detector_backend": "skip", "enforce_detection": False, "silent": True}

    def predict() -> Found:
        faces = [DeepFace.analyze(read(picture)[..., ::-1], **options)[0] for picture in progress(pictures)]
        return emotions_of({number: face["dominant_emotion"] for number, face in enumerate(faces)})

    return predict


def deepface_suffix() -> str:
    """Of the weights that DeepFace will read, by what it runs on; releases without engines need TensorFlow."""
    try:
        from deepface.commons.backend_utils import get_backend_engine
    except ImportError:
        return "h5"
    return {"tensorflow": "h5", "pytorch": "pth"}.get(get_backend_engine(), "onnx")


def pyfeat(pictures: Sequence[Path], args: argparse.Namespace) -> Callable[[], Found]:
    """py-feat with its own detectors; its table is read as `mf2 evaluate` reads the file of it."""
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

    def predict() -> Found:
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
    """The Hub's client finds what is on disk and nothing else."""
    before, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def openface(pictures: Sequence[Path], args: argparse.Namespace) -> Callable[[], Found]:
    """OpenFace's `FaceLandmarkImg` over the folder of pictures; its start is part of the time."""
    program = args.openface or shutil.which("FaceLandmarkImg")
    if not program or not Path(program).is_file():
        raise Missing("its executable is not here: name FaceLandmarkImg with --openface")
    folder = pictures[0].parents[1] / "openface_output"

    def predict() -> Found:
        command = [program, "-fdir", str(pictures[0].parent), "-out_dir", str(folder), "-aus", "-q"]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace")
        if done.returncode:
            raise ChildProcessError(f"{program} ended with status {done.returncode}: {done.stderr.strip()[-300:]}")
        return by_picture(folder)

    return predict


RUNNERS: Mapping[str, Callable[[Sequence[Path], argparse.Namespace], Callable[[], Found]]] = {
    "emotiefflib": emotiefflib,
    "deepface": deepface,
    "pyfeat": pyfeat,
    "openface": openface,
}
"""What loads a tool, and returns what runs it."""


# -------------------------------------------------------------------------------------------------------------- parts
def read(picture: Path) -> np.ndarray:
    """`(H, W, 3)` uint8 RGB."""
    return np.asarray(Image.open(picture).convert("RGB"))


def progress(pictures: Sequence[Path]) -> Any:
    """The pictures, with a bar."""
    return tqdm(pictures, unit="picture", leave=False)


def emotions_of(names: Mapping[int, str]) -> Found:
    """The emotions of pictures by their numbers, in our words.

    Raises:
        ValueError: a tool names an emotion that nothing here is called.
    """
    if unknown := {name for name in names.values() if name.lower() not in EMOTION_NAMES}:
        raise ValueError(f"The tool names {min(unknown)!r}; known are {', '.join(sorted(EMOTION_NAMES))}.")
    return pd.DataFrame({"picture": list(names), "emotion": [EMOTION_NAMES[name.lower()] for name in names.values()]})


def by_picture(output: Path) -> Found:
    """What a file or a folder that a tool wrote says of each picture, which is named by its number."""
    table = read_prediction_file(output).table
    table = table.assign(picture=[int(Path(str(name)).stem) for name in table["video"]])
    probs = [name for name in table.columns if name.startswith(EMOTION_PREFIX)]
    if probs:
        likeliest = table[probs].fillna(0).to_numpy(float).argmax(1)
        table = table.assign(emotion=[probs[place].removeprefix(EMOTION_PREFIX) for place in likeliest])
    kept = [name for name in table.columns if name == "emotion" or name in find_au_columns([name]).names.values()]
    return table[["picture", *kept]]


def complete(found: Found, split: Split) -> pd.DataFrame:
    """A row a frame of the split as `mf2 evaluate --predictions` reads it, frames without a face among them."""
    keys = pd.DataFrame({"video": list(split.rows["video_id"]), "frame": list(split.rows["frame"])})
    table = keys.join(found.set_index("picture"))
    known = {ACTION_UNITS[au_id].code for au_id in AU_IDS}
    codes = [name for name in table.columns if name in known]
    table[codes] = table[codes].astype(float).fillna(0.0).clip(0.0, 1.0)
    if "emotion" in table.columns:
        table["emotion"] = table["emotion"].fillna(NO_FACE)
    return table[["video", "frame", *codes, *(["emotion"] if "emotion" in table.columns else [])]]


def write_pictures(split: Split, folder: Path) -> list[Path]:
    """The frames of a split as `000000.png`, …, in order."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{number:06d}.png" for number in range(len(split.rows))]
    for number, file in enumerate(files):
        if not file.is_file():
            with replacing(file) as partial:
                Image.fromarray(split.faces[number].image).save(partial, format="PNG")
    return files


# ------------------------------------------------------------------------------------------------------------ command
def run(args: argparse.Namespace) -> int:
    """Run the tools that are here; the exit status is 1 where none is."""
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
    """Run one tool, write its CSV; what it took."""
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
