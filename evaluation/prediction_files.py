"""Read files of predictions: a CSV of any system, and all formats of `mf2 analyze` and `mf2 evaluate`.

| file | keys of the rows |
|---|---|
| `video, frame, AU…, emotion, valence, arousal` | `video_id` and `frame` of the data set |
| `predictions.parquet` of `mf2 evaluate` | the same |
| `faces.parquet`, `faces.csv`, `faces.jsonl` of `mf2 analyze` | path of the picture or video, and frame from 0 |
| `pyfeat.csv` | the same |
| `openface/`, or one CSV of OpenFace | name of the file, and frame from 1 |
| `abaw/`, or one of its files | `<video>/00001.jpg` |

If a frame has several faces, the one with the lowest id is used; in a picture, that is the largest face.
"""

import json
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from mf2.dataset_tools.au_columns import find_au_columns
from mf2.hub.file_names import METRICS_NAME
from mf2.labels_mf2 import ACTION_UNITS, AFFECT, EMOTIONS, LabelSpace
from mf2.utils.face_table import STATUS_OK, TABLE_NAME, free_name
from mf2.utils.files import read_json
from mf2.utils.text_tables import decimal_point, find_delimiter

logger = logging.getLogger(__name__)

_LANDMARK_COLUMN = re.compile(r"[xyXYZ]_\d+")
ANALYSIS_MANIFEST = "manifest.json"
EMOTION_PREFIX = "emotion_"
PYFEAT_EMOTIONS = {name.lower(): EMOTION_PREFIX + name for name in EMOTIONS} | {
    {"Happiness": "Happy", "Sadness": "Sad"}.get(name, name): EMOTION_PREFIX + name for name in EMOTIONS
}
"""Columns of py-feat -> ours: lower-case nouns of its first detector, and what its second one writes."""


@dataclass(frozen=True)
class PredictionFile:
    """The content of a prediction file of any format.

    Args:
        table: `video`, `frame`, `AU…`, `emotion`, `emotion_…`, `valence` and `arousal`, as far as the file has them,
            unchecked.
        are_paths: whether `video` is the path of a picture or video, with frames from 0, instead of a `video_id`.
        is_ours: whether the format is a known one, whose other columns were dropped; in a CSV of another system they
            are an error.
        thresholds: AU code -> threshold, if they are recorded next to the file.
    """

    table: pd.DataFrame
    are_paths: bool = False
    is_ours: bool = True
    thresholds: Mapping[str, float] | None = None


def read_prediction_file(path: str | Path) -> PredictionFile:
    """Read a prediction file, or an output folder of `mf2 analyze` or `mf2 evaluate`.

    Raises:
        FileNotFoundError: it does not exist, or the folder has no prediction file.
        ValueError: it is not a table.
    """
    path = Path(path)
    if path.is_dir():
        return _read_folder(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no predictions file {path}.")
    table = read_table(path)
    for required, read in _READERS:
        if required <= set(table.columns):
            return read(_drop_landmarks(table), path)
    return PredictionFile(table, is_ours=False)


def _read_folder(folder: Path) -> PredictionFile:
    """Read an output folder of an analysis or evaluation, or a sub-folder of an analysis."""
    names = [
        *(f"{TABLE_NAME}.{suffix}" for suffix in ("parquet", "csv", "jsonl")),
        "predictions.parquet",
        "pyfeat.csv",
    ]
    for name in names:
        if (folder / name).is_file():
            return read_prediction_file(folder / name)
    if files := [file for name in ("au", "expr", "va") if (file := folder / f"{name}.txt").is_file()]:
        parts = [read_table(file).set_index("image_location") for file in files]
        return _read_abaw(pd.concat(parts, axis=1).reset_index(), folder / "au.txt")
    if files := sorted(folder.glob("*.csv")):
        return _join([_read_openface_file(_drop_landmarks(read_table(file)), file) for file in files], folder)
    for name in ("openface", "abaw"):
        if (folder / name).is_dir():
            return _read_folder(folder / name)
    raise FileNotFoundError(f"{folder} holds no predictions: neither {', '.join(names)} nor openface/ or abaw/.")


def read_table(file: Path) -> pd.DataFrame:
    """Read a parquet, JSON Lines or CSV file as a table; names and ids are strings."""
    try:
        if file.suffix == ".parquet":
            return pd.read_parquet(file)
        if file.suffix == ".jsonl":
            with file.open(encoding="utf-8") as lines:
                return pd.DataFrame([json.loads(line) for line in lines])
        with file.open(encoding="utf-8-sig") as lines:
            delimiter = find_delimiter(lines.readline())
            point = decimal_point(delimiter, lines.readline())
        names = dict.fromkeys(("video", "source", "input", "image_location", "video_id"), str)
        return pd.read_csv(file, sep=delimiter, decimal=point, dtype=names, skipinitialspace=True)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError, OSError, ValueError) as error:
        kind = "table" if file.suffix in (".parquet", ".jsonl") else "CSV"
        raise ValueError(f"{file} is no {kind}: {error}") from None


# ------------------------------------------------------------------------------------------------------------ formats
def _read_faces(table: pd.DataFrame, file: Path) -> PredictionFile:
    """`faces.…`: adapters' columns are dropped; the thresholds are in the manifest."""
    space = _read_json_beside(file, ANALYSIS_MANIFEST).get("label_space")
    table = _first_faces(table[table["status"] == STATUS_OK].rename(columns={"source": "video"}), "face")
    return PredictionFile(_select_scores(table), are_paths=True, thresholds=_thresholds(space))


def _read_evaluation(table: pd.DataFrame, file: Path) -> PredictionFile:
    """`predictions.parquet`, without its labels."""
    space = _read_json_beside(file, METRICS_NAME).get("model", {}).get("label_space")
    table = table.rename(columns={"video_id": "video"})
    columns = [name for name in table.columns if not name.endswith("_label")]
    return PredictionFile(_select_scores(table[columns]), thresholds=_thresholds(space))


def _read_pyfeat(table: pd.DataFrame, file: Path) -> PredictionFile:
    """`pyfeat.csv`, and py-feat's own output; emotions are probabilities."""
    table = table.rename(columns={"input": "video"} | PYFEAT_EMOTIONS)
    found = table[table["FaceScore"].notna() | table["FaceRectX"].notna()]
    person = found["Identity"].astype(str) if "Identity" in found else None
    found = found.assign(face=person.str.extract(r"(\d+)$")[0].astype(float)) if person is not None else found
    return PredictionFile(_select_scores(_first_faces(found, "face")), are_paths=True)


def _read_abaw(table: pd.DataFrame, file: Path) -> PredictionFile:
    """`au.txt`, `expr.txt` and `va.txt`, or some: AUs are 0 or 1, the emotion is its number in the first column."""
    names = table["image_location"].str.replace(r"\.\w+$", "", regex=True)
    table = table.drop(columns="image_location").assign(video=names)
    if EMOTIONS[0] in table.columns:
        numbers = table[EMOTIONS[0]].astype(int)
        table = table.drop(columns=list(EMOTIONS), errors="ignore").assign(
            emotion=[EMOTIONS[number] if 0 <= number < len(EMOTIONS) else number for number in numbers]
        )
    return PredictionFile(_select_scores(table.assign(frame=0)), are_paths=True)


def _read_openface(table: pd.DataFrame, file: Path) -> PredictionFile:
    return _join([_read_openface_file(table, file)], file.parent)


def _read_openface_file(table: pd.DataFrame, file: Path) -> pd.DataFrame:
    """Read one source: frames of a video count from 1, pictures have none; decisions (`AU01_c`) are used."""
    table = table.rename(columns=str.strip).assign(video=file.stem)
    if "success" in table.columns:
        table = table[table["success"] == 1]
    table = table[table["confidence"] > 0]
    table = table.assign(frame=table["frame"] - 1 if "frame" in table.columns else 0)
    table = _first_faces(table, "face_id" if "face_id" in table.columns else "face")
    return table[[name for name in table.columns if not name.endswith("_r")]]


def _join(tables: Sequence[pd.DataFrame], folder: Path) -> PredictionFile:
    """Join the sources of a folder, named by the paths that its analysis recorded, else by their file names."""
    table = pd.concat(tables, ignore_index=True)
    settings = _read_json_beside(folder, ANALYSIS_MANIFEST).get("settings", {})
    taken: set[str] = set()
    sources = {free_name(source, taken): source for source in settings.get("sources", ())}
    if set(sources) >= set(table["video"]) and {file.stem for file in folder.glob("*.csv")} == set(sources):
        table = table.assign(video=table["video"].map(sources))
    return PredictionFile(_select_scores(table), are_paths=True)


_READERS: tuple[tuple[set[str], Callable[[pd.DataFrame, Path], PredictionFile]], ...] = (
    ({"source", "frame", "status", "face"}, _read_faces),
    ({"video_id", "group_id", "frame"}, _read_evaluation),
    ({"input", "frame", "FaceRectX"}, _read_pyfeat),
    ({"image_location"}, _read_abaw),
    ({"confidence", "x_0"}, _read_openface),
)
"""Columns that identify a format, and its reader."""


# -------------------------------------------------------------------------------------------------------------- parts
def _drop_landmarks(table: pd.DataFrame) -> pd.DataFrame:
    """The table without landmark columns."""
    return table[[name for name in table.columns if not _LANDMARK_COLUMN.fullmatch(name.strip())]].copy()


def _read_json_beside(path: Path, name: str) -> dict[str, Any]:
    """Read the JSON file `name` next to `path`; empty if it does not exist."""
    file = path.parent / name
    try:
        return read_json(file) if file.is_file() else {}
    except json.JSONDecodeError:
        return {}


def _thresholds(space: Mapping[str, Any] | None) -> dict[str, float] | None:
    if not space:
        return None
    return dict(zip((f"AU{au_id}" for au_id in space["au_ids"]), space["thresholds"], strict=True))


def _first_faces(table: pd.DataFrame, face: str) -> pd.DataFrame:
    """One row per frame: the face with the lowest id."""
    ordered = table.sort_values(face, kind="stable") if face in table.columns else table
    first = ordered.drop_duplicates(["video", "frame"]).sort_index()
    if num_more := len(table) - len(first):
        logger.warning(f"{num_more:,} faces are not the first of their frame and are not scored.")
    return first


def _select_scores(table: pd.DataFrame) -> pd.DataFrame:
    """Keys and scores only, without empty columns."""
    aus = find_au_columns(name for name in table.columns if "." not in name)
    probs = [name for name in table.columns if name.startswith(EMOTION_PREFIX)]
    columns = ["video", "frame", *aus.names.values(), *(["emotion"] if "emotion" in table.columns else []), *probs]
    columns += [name for name in AFFECT if set(AFFECT) <= set(table.columns)]
    columns = [name for name in columns if not table[name].isna().all()]
    return table[columns].rename(columns={column: ACTION_UNITS[au_id].code for au_id, column in aus.names.items()})


def infer_label_space(table: pd.DataFrame, thresholds: Mapping[str, float] | None = None) -> LabelSpace:
    """The AUs and emotions with a column; all eight emotions if there is only an `emotion` column.

    Valence and arousal are part of it if both have a column.
    """
    codes = {au.code: au_id for au_id, au in ACTION_UNITS.items()}
    found = [name for name in table.columns if name in codes]
    emotions = [name.removeprefix(EMOTION_PREFIX) for name in table.columns if name.startswith(EMOTION_PREFIX)]
    if not emotions and "emotion" in table.columns:
        emotions = list(EMOTIONS)
    limits = [thresholds[code] for code in found] if thresholds and set(found) <= set(thresholds) else []
    labels = tuple(codes[code] for code in found), tuple(emotions), tuple(limits)
    return LabelSpace(*labels, affect=set(AFFECT) <= set(table.columns))
