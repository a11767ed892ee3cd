"""Reads images that a CSV file labels: your own data.

    path,AU1,AU12,emotion,group_id        and, if you like, video_id, frame, split, landmarks
    anna/001.jpg,1,0,Happiness,anna

`path` is below the folder of images, with slashes of either kind, or absolute and in it. An AU column (`AU1`, `AU01`,
`au_1`, `AU01_c`, …) holds 1, 0, and -1 or nothing for unlabelled (or intensities, with `--threshold`); an `emotion` is
a name or nothing; `landmarks` are 136 numbers x0;y0;x1;y1;... in pixels of the image.
`group_id` (a person, say) is what no split divides; without it, each image is a group.
"""

import argparse
import posixpath
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd
import pyarrow as pa

from ...labels_mf2 import ACTION_UNITS, AU_UNLABELLED, EMOTIONS
from ...utils.suffixes import PICTURE_SUFFIXES
from ..au_columns import find_au_columns
from .emotion_maps import add_emotion_arguments, canonical_name, map_emotions
from .frame_table import EMOTION_MISSING, Folder, ReadReport, active, frame_table, parse_landmarks, read_text_table
from .interface import About, License

SPLITS = ("train", "validation")
ABOUT = About(
    name="CSV file",
    license=License("other", "the owner's terms", ""),
    citation="-",
    au_ids=tuple(ACTION_UNITS),
    active="1, or --threshold",
    emotions=EMOTIONS,
    splits="column split, or at random by group_id",
)
COUNTED = {
    "columns_not_used": "columns that are not used",
    "dropped_outside": "dropped: rows whose path leads out of the folder of images",
    "dropped_kind": "dropped: rows whose path has no suffix of a picture",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this data set."""
    parser.add_argument("--labels", type=Path, metavar="CSV", help="the file (default: the one CSV file in ROOT)")
    parser.add_argument("--threshold", type=float, help="AU columns are intensities from 0; this and more is active")
    add_emotion_arguments(parser)


def read(root: Path, args: argparse.Namespace) -> tuple[pa.Table, ReadReport]:
    """The images of `root` that the file labels.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a column is missing, or a value is not what its column holds; the row is named.
    """
    report = ReadReport(COUNTED, threshold=args.threshold)
    folder = Folder(root, report)
    table = read_text_table(_labels_file(root, args.labels), report)
    if "path" not in table:
        raise ValueError(f"The CSV file lacks the column path; it has {', '.join(table)}.")
    known = {"path", "emotion", "group_id", "video_id", "frame", "split", "landmarks"}
    aus = find_au_columns(table)
    known |= set(aus.names.values())
    report.count("columns_not_used", [name for name in table if name not in known])
    if aus.intensities and args.threshold is None:
        raise ValueError(f"{', '.join(aus.intensities)} are intensities from 0 to 5; give --threshold, 2 for example.")
    labels = pd.DataFrame({"name": _relative_paths(table["path"], root)})
    labels["video_id"] = _filled(table, "video_id", labels["name"].str.replace(r"\.\w+$", "", regex=True))
    labels["group_id"] = _filled(table, "group_id", labels["video_id"])
    labels["frame"] = _read_frames(table)
    for au_id, column in aus.names.items():
        labels[ACTION_UNITS[au_id].code] = _read_aus(table[column], args.threshold)
    labels["emotion"], emotions = _read_emotions(table, args, report)
    if "split" in table:
        _refuse(table["split"], ~table["split"].isin(["", *SPLITS]), f"must be {' or '.join(SPLITS)}, or empty")
        labels["split"] = table["split"].where(table["split"] != "", None)
    if "landmarks" in table:
        labels["landmarks"] = parse_landmarks(table["landmarks"], report)
    if not aus.names and "emotion" not in table:
        raise ValueError(f"The CSV file has neither an AU column nor emotion; it has {', '.join(table)}.")
    labels = report.drop(labels, labels["name"].str.match(r"\.\./|/|[A-Za-z]:"), "dropped_outside", "name")
    suffixes = labels["name"].map(lambda name: PurePosixPath(name).suffix.lower())
    labels = report.drop(labels, ~suffixes.isin(PICTURE_SUFFIXES), "dropped_kind", "name")
    images = folder.images(r"(?P<name>.*)", "at all")
    return frame_table(labels, report, images.assign(name=images["path"]), on=["name"], emotions=emotions), report


def _labels_file(root: Path, given: Path | None) -> Path:
    if given is not None:
        if not given.is_file():
            raise FileNotFoundError(f"The file {given} does not exist.")
        return given
    found = sorted(path for path in root.glob("*.csv") if path.name != "landmarks.csv")
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise FileNotFoundError(f"{root} must hold one CSV file, it holds {names}; name it with --labels.")
    return found[0]


def _relative_paths(values: pd.Series, root: Path) -> pd.Series:
    """Paths as they are below the folder: slashes of either kind, `./`, and absolute ones that lead into it."""
    roots = {path.as_posix().rstrip("/") + "/" for path in (root, root.absolute(), root.resolve())}

    def relative(text: str) -> str:
        path = text.strip().replace("\\", "/")
        path = next((path[len(top) :] for top in roots if top != "./" and path.startswith(top)), path)
        return posixpath.normpath(path) if path else path

    return values.map(relative)


def _filled(table: pd.DataFrame, name: str, default: pd.Series) -> pd.Series:
    """A column of names; `default` where it is empty or not there."""
    if name not in table:
        return default
    return table[name].str.strip().where(table[name].str.strip() != "", default)


def _read_frames(table: pd.DataFrame) -> pd.Series:
    if "frame" not in table:
        return pd.Series(0, table.index, np.int32)
    understood = table["frame"].str.fullmatch(r"\s*[0-9]{1,9}\s*").astype(bool)
    _refuse(table["frame"], ~understood, "must be a number from 0")
    return table["frame"].astype(np.int32)


def _read_aus(values: pd.Series, threshold: float | None) -> np.ndarray:
    """Text -> 1, 0, -1; a `ValueError` for what is neither that nor, with a threshold, an intensity."""
    empty = values.str.strip() == ""
    numbers = pd.to_numeric(values.mask(empty, str(AU_UNLABELLED)), errors="coerce").astype(float)
    if threshold is None:
        _refuse(values, ~numbers.isin([0, 1, AU_UNLABELLED]), "must be 1, 0, -1 or empty (or give --threshold)")
        return numbers.to_numpy(np.int8)
    _refuse(values, ~((numbers == AU_UNLABELLED) | (numbers.ge(0) & np.isfinite(numbers))), "must be an intensity")
    return active(numbers.to_numpy(), threshold, np.inf)


def _read_emotions(
    table: pd.DataFrame, args: argparse.Namespace, report: ReadReport
) -> tuple[pd.Series, tuple[str, ...]]:
    """Indices, and what they index: the eight, or the file's own list where none of its names is one of the eight."""
    if "emotion" not in table:
        return pd.Series(EMOTION_MISSING, table.index, np.int8), EMOTIONS
    names = table["emotion"].str.strip()
    names = names.mask(names == "").map(canonical_name, na_action="ignore")
    found = sorted(names.dropna().unique())
    mapped = [canonical_name(word.partition("=")[0]) for word in args.emotion_map]
    others = [name for name in found if name not in (*EMOTIONS, *mapped)]
    if not args.own_emotions and others:
        _check_own_list(found, others)
    keep_own = args.own_emotions or bool(others)
    own = found if keep_own else [*EMOTIONS, *(name for name in found if name not in EMOTIONS)]
    options = argparse.Namespace(emotion_map=args.emotion_map, own_emotions=keep_own)
    return map_emotions(names, own, {}, options, report)


def _check_own_list(found: list[str], others: list[str]) -> None:
    """Raise a `ValueError` where the names may well be misspelt, or numbers, and not a list of their own."""
    if len(found) > len(others):
        raise ValueError(
            f"The emotions {', '.join(others)} are none of {', '.join(EMOTIONS)}; give --emotion_map "
            f"{others[0]}=Other (or =none), or --own_emotions to keep the file's own list."
        )
    if all(name.lstrip("+-").isdigit() for name in others):
        raise ValueError(f"The emotions are numbers ({', '.join(others)}); write names, or give --own_emotions.")


def _refuse(values: pd.Series, wrong: pd.Series, rule: str) -> None:
    """Raise a `ValueError` that names the first wrong value and its row."""
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise ValueError(
            f"Row {row + 1} of the CSV file: {values.name} is {values.iloc[[row]].tolist()[0]!r}; it {rule}."
        )
