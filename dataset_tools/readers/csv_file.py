"""Reads your own images with a CSV file of labels.

    path,AU1,AU12,emotion,group_id        optional: valence, arousal, video_id, frame, split, landmarks
    anna/001.jpg,1,0,Happiness,anna

`path` is relative to the folder of images, with slashes of either kind, or an absolute path in that folder. An AU
column (`AU1`, `AU01`, `au_1`, `AU01_c`, …) holds 1, 0, or -1 or nothing for unlabelled (or intensities, with
`--threshold`); `emotion` is a name or empty; `valence` and `arousal` lie in -1..1 or are empty; `landmarks` are 136
numbers x0;y0;x1;y1;... in pixels of the image. All images of one `group_id` (a person, for example) belong to the same
split; without that column, each image is a group.
"""

import argparse
import posixpath
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd
import pyarrow as pa

from ...labels_mf2 import ACTION_UNITS, AFFECT, AU_UNLABELLED, EMOTIONS
from ...utils.suffixes import PICTURE_SUFFIXES
from ..au_columns import find_au_columns
from .conventions import restricted_license
from .emotion_maps import add_emotion_arguments, canonical_name, map_emotions
from .frame_table import (
    EMOTION_MISSING,
    Folder,
    ReadReport,
    binarize_intensities,
    build_frame_table,
    parse_landmarks,
    read_text_table,
)
from .interface import About

SPLITS = ("train", "validation")
ABOUT = About(
    name="CSV file",
    license=restricted_license("the owner's terms", ""),
    citation="-",
    au_ids=tuple(ACTION_UNITS),
    active="1, or --threshold",
    emotions=EMOTIONS,
    affect=True,
    splits="column split, or at random by group_id",
)
COUNTED = {
    "columns_not_used": "columns that are not used",
    "dropped_outside": "dropped: rows whose path leads out of the folder of images",
    "dropped_kind": "dropped: rows whose path does not end like an image file",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this data set."""
    parser.add_argument("--labels", type=Path, metavar="CSV", help="the file (default: the one CSV file in ROOT)")
    parser.add_argument("--threshold", type=float, help="AU columns are intensities from 0; this and more is active")
    add_emotion_arguments(parser)


def read(root: Path, args: argparse.Namespace) -> tuple[pa.Table, ReadReport]:
    """Read the images of `root` that the CSV file labels.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a column is missing, or a value is invalid for its column; the row is named.
    """
    report = ReadReport(COUNTED, threshold=args.threshold)
    folder = Folder(root, report)
    table = read_text_table(_find_labels_file(root, args.labels), report)
    if "path" not in table:
        raise ValueError(f"The CSV file lacks the column path; it has {', '.join(table)}.")
    known = {"path", "emotion", *AFFECT, "group_id", "video_id", "frame", "split", "landmarks"}
    aus = find_au_columns(table)
    known |= set(aus.names.values())
    report.count("columns_not_used", [name for name in table if name not in known])
    if aus.intensities and args.threshold is None:
        raise ValueError(f"{', '.join(aus.intensities)} are intensities from 0 to 5; give --threshold, 2 for example.")
    labels = pd.DataFrame({"name": _relative_paths(table["path"], root)})
    labels["video_id"] = _fill_names(table, "video_id", labels["name"].str.replace(r"\.\w+$", "", regex=True))
    labels["group_id"] = _fill_names(table, "group_id", labels["video_id"])
    labels["frame"] = _read_frames(table)
    for au_id, column in aus.names.items():
        labels[ACTION_UNITS[au_id].code] = _read_aus(table[column], args.threshold)
    labels["emotion"], emotions = _read_emotions(table, args, report)
    for name in (affect := [name for name in AFFECT if name in table]):
        labels[name] = _read_affect(table[name])
    if "split" in table:
        _check_values(table["split"], table["split"].isin(["", *SPLITS]), f"must be {' or '.join(SPLITS)}, or empty")
        labels["split"] = table["split"].where(table["split"] != "", None)
    if "landmarks" in table:
        labels["landmarks"] = parse_landmarks(table["landmarks"], report)
    if not aus.names and "emotion" not in table and not affect:
        raise ValueError(
            f"The CSV file has neither an AU column nor emotion, valence or arousal; it has {', '.join(table)}."
        )
    labels = report.drop(labels, labels["name"].str.match(r"\.\./|/|[A-Za-z]:"), "dropped_outside", "name")
    suffixes = labels["name"].map(lambda name: PurePosixPath(name).suffix.lower())
    labels = report.drop(labels, ~suffixes.isin(PICTURE_SUFFIXES), "dropped_kind", "name")
    images = folder.images(r"(?P<name>.*)", "at all")
    images = images.assign(name=images["path"])
    return build_frame_table(labels, report, images, on=["name"], emotions=emotions), report


def _find_labels_file(root: Path, labels_file: Path | None) -> Path:
    if labels_file is not None:
        if not labels_file.is_file():
            raise FileNotFoundError(f"The file {labels_file} does not exist.")
        return labels_file
    files = sorted(path for path in root.glob("*.csv") if path.name != "landmarks.csv")
    if len(files) != 1:
        names = ", ".join(path.name for path in files) or "none"
        raise FileNotFoundError(f"{root} must hold one CSV file, it holds {names}; name it with --labels.")
    return files[0]


def _relative_paths(values: pd.Series, root: Path) -> pd.Series:
    """Paths relative to the folder, from paths with slashes of either kind, `./`, or absolute ones in the folder."""
    roots = {path.as_posix().rstrip("/") + "/" for path in (root, root.absolute(), root.resolve())}

    def relative(text: str) -> str:
        path = text.strip().replace("\\", "/")
        path = next((path[len(top) :] for top in roots if top != "./" and path.startswith(top)), path)
        return posixpath.normpath(path) if path else path

    return values.map(relative)


def _fill_names(table: pd.DataFrame, name: str, default: pd.Series) -> pd.Series:
    """A column of names, filled with `default` where it is empty or missing."""
    if name not in table:
        return default
    return table[name].str.strip().where(table[name].str.strip() != "", default)


def _read_frames(table: pd.DataFrame) -> pd.Series:
    if "frame" not in table:
        return pd.Series(0, table.index, np.int32)
    is_number = table["frame"].str.fullmatch(r"\s*[0-9]{1,9}\s*").astype(bool)
    _check_values(table["frame"], is_number, "must be a number from 0")
    return table["frame"].astype(np.int32)


def _read_aus(values: pd.Series, threshold: float | None) -> np.ndarray:
    """Texts -> labels 1, 0, -1; with a threshold, the texts may be intensities.

    Raises:
        ValueError: a value is neither.
    """
    empty = values.str.strip() == ""
    numbers = pd.to_numeric(values.mask(empty, str(AU_UNLABELLED)), errors="coerce").astype(float)
    if threshold is None:
        _check_values(values, numbers.isin([0, 1, AU_UNLABELLED]), "must be 1, 0, -1 or empty (or give --threshold)")
        return numbers.to_numpy(np.int8)
    is_intensity = numbers.ge(0) & np.isfinite(numbers)
    _check_values(values, (numbers == AU_UNLABELLED) | is_intensity, "must be an intensity")
    return binarize_intensities(numbers.to_numpy(), threshold, np.inf)


def _read_affect(values: pd.Series) -> pd.Series:
    """Texts -> valence or arousal, NaN for an empty text; a `ValueError` for a value outside -1..1."""
    numbers = pd.to_numeric(values, errors="coerce").astype(np.float32)
    _check_values(values, (values.str.strip() == "") | (numbers.abs() <= 1), "must lie in -1..1, or be empty")
    return numbers


def _read_emotions(
    table: pd.DataFrame, args: argparse.Namespace, report: ReadReport
) -> tuple[pd.Series, tuple[str, ...]]:
    """Emotion indices and the list that they index: `EMOTIONS`, or the file's list if it has no name of `EMOTIONS`."""
    if "emotion" not in table:
        return pd.Series(EMOTION_MISSING, table.index, np.int8), EMOTIONS
    names = table["emotion"].str.strip()
    names = names.mask(names == "").map(canonical_name, na_action="ignore")
    file_emotions = sorted(names.dropna().unique())
    mapped = [canonical_name(pair.partition("=")[0]) for pair in args.emotion_map]
    unknown = [name for name in file_emotions if name not in (*EMOTIONS, *mapped)]
    if not args.own_emotions and unknown:
        _check_custom_emotions(file_emotions, unknown)
    use_file_emotions = args.own_emotions or bool(unknown)
    all_emotions = [*EMOTIONS, *(name for name in file_emotions if name not in EMOTIONS)]
    options = argparse.Namespace(emotion_map=args.emotion_map, own_emotions=use_file_emotions)
    return map_emotions(names, file_emotions if use_file_emotions else all_emotions, {}, options, report)


def _check_custom_emotions(file_emotions: list[str], unknown: list[str]) -> None:
    """Raise a `ValueError` if unknown names look like misspelt ones, or are numbers, and not a list of their own."""
    if len(file_emotions) > len(unknown):
        raise ValueError(
            f"The emotions {', '.join(unknown)} are none of {', '.join(EMOTIONS)}; give --emotion_map "
            f"{unknown[0]}=Other (or =none), or --own_emotions to keep the file's own list."
        )
    if all(name.lstrip("+-").isdigit() for name in unknown):
        raise ValueError(f"The emotions are numbers ({', '.join(unknown)}); write names, or give --own_emotions.")


def _check_values(values: pd.Series, is_valid: pd.Series, rule: str) -> None:
    """Raise a `ValueError` that shows the first invalid value, its row and the rule."""
    if not is_valid.all():
        row = int(np.flatnonzero(~is_valid)[0])
        raise ValueError(
            f"Row {row + 1} of the CSV file: {values.name} is {values.iloc[[row]].tolist()[0]!r}; it {rule}."
        )
