"""Reads CK+, the last (peak) frame of each sequence.

    cohn-kanade-images/S005/001/S005_001_00000011.png
    FACS/.../S005_001_00000011_facs.txt         one line per active AU: number and intensity (0 = present, not graded)
    Emotion/.../S005_001_00000011_emotion.txt   one number; many sequences have no such file
    Landmarks/.../S005_001_00000011_landmarks.txt   68 lines x y, in pixels of cohn-kanade-images

The first part of a name is the person. If there are several versions of the images, --crop chooses one; the landmarks
only fit cohn-kanade-images. AUs that a FACS file does not list are not active; earlier frames are not labelled.
"""

import argparse
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from ...labels_mf2 import ACTION_UNITS, EMOTIONS
from .conventions import RANDOM_BY_PERSON, restricted_license
from .emotion_maps import add_emotion_arguments, map_emotions
from .frame_table import Folder, ReadReport, add_crop_argument, build_frame_table, to_points
from .interface import About

CODES = ("Neutral", "Anger", "Contempt", "Disgust", "Fear", "Happiness", "Sadness", "Surprise")
EMOTION_DEFAULTS = {"Contempt": "Other"}
ORIGINAL = "cohn-kanade-images"
ABOUT = About(
    name="CK+",
    license=restricted_license("ck-plus-agreement", "http://www.jeffcohn.net/Resources/"),
    citation="Lucey, Cohn, Kanade, Saragih, Ambadar and Matthews, The Extended Cohn-Kanade Dataset (CK+), CVPR "
    "Workshops 2010",
    au_ids=tuple(ACTION_UNITS),
    active="listed, with any intensity",
    emotions=EMOTIONS,
    splits=RANDOM_BY_PERSON,
)
COUNTED = {
    "facs_files": "FACS files",
    "emotion_files": "emotion files",
    "no_emotion_file": "sequences without a readable emotion file (unlabelled)",
    "no_facs_file": "sequences without a readable FACS file (unlabelled)",
    "landmark_files": "landmark files of kept images",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this data set."""
    add_emotion_arguments(parser)
    add_crop_argument(parser)


def read(root: Path, args: argparse.Namespace) -> tuple[pa.Table, ReadReport]:
    """Read the labelled frames of `root`."""
    report = ReadReport(COUNTED)
    folder = Folder(root, report)
    aus = _read_facs(folder, report)
    names = _read_emotions(folder, report)
    labels = aus.join(names, how="outer")
    report.tally.add("rows", len(labels))
    report.tally.add("no_emotion_file", len(labels.index.difference(names.index)))
    report.tally.add("no_facs_file", len(labels.index.difference(aus.index)))
    labels["emotion"], emotions = map_emotions(labels["emotion"], CODES, EMOTION_DEFAULTS, args, report)
    labels = labels.reset_index(names="name")
    parts = labels["name"].str.split("_", expand=True).reindex(columns=range(3))
    labels = labels.assign(
        group_id=parts[0], video_id=parts[0] + "_" + parts[1], frame=pd.to_numeric(parts[2]).astype(int)
    )
    example = "such as cohn-kanade-images/S005/001/S005_001_00000011.png"
    images = folder.images(r"(?P<name>S\d+_\d+_\d{1,9})", example, args.crop)
    labels["landmarks"] = _read_landmarks(folder, labels["name"], images, report)
    return build_frame_table(labels, report, images, on=["name"], emotions=emotions), report


def _read_landmarks(folder: Folder, names: pd.Series, images: pd.DataFrame, report: ReadReport) -> list[Any]:
    """Read the (136,) points of each frame, or None; they only fit the images of cohn-kanade-images."""
    is_original = ("/" + images["path"]).str.contains(f"/{ORIGINAL}/", case=False, regex=False)
    files = folder.match(r"(?P<name>S\d+_\d+_\d{1,9})_landmarks\.txt")
    landmark_paths = dict(files[files["name"].isin(images["name"][is_original])].to_numpy())
    landmarks = []
    for name in names:
        path, points = landmark_paths.get(name), None
        if path is not None and (lines := _parse_numbers(folder.read(path))) and all(len(line) == 2 for line in lines):
            points = to_points(np.array(lines))
        if path is not None:
            report.count("landmark_files" if points is not None else "rejected_files", [path])
        landmarks.append(points)
    return landmarks


def _read_facs(folder: Folder, report: ReadReport) -> pd.DataFrame:
    """Read name of a frame -> 1 or 0 of each AU; a file with any invalid line gives no labels."""
    pattern, emotions = r"(?P<name>S\d+_\d+_\d{1,9})_facs\.txt", r"(?P<name>S\d+_\d+_\d{1,9})_emotion\.txt"
    files = folder.match(pattern)
    if files.empty and folder.match(emotions).empty:
        folder.find(pattern, "FACS/.../S005_001_00000011_facs.txt, nor Emotion/.../S005_001_00000011_emotion.txt")
    report.tally.add("facs_files", len(files))
    rows = {}
    for name, path in files[["name", "path"]].itertuples(index=False):
        pairs = _parse_numbers(folder.read(path))
        if pairs and all(len(pair) == 2 and float(pair[0]).is_integer() for pair in pairs):
            active = {int(pair[0]) for pair in pairs}
            rows[name] = {au.code: int(au.id in active) for au in ACTION_UNITS.values()}
        else:
            report.count("rejected_files", [path])
    return pd.DataFrame.from_dict(rows, orient="index", columns=[au.code for au in ACTION_UNITS.values()])


def _read_emotions(folder: Folder, report: ReadReport) -> pd.DataFrame:
    """Read name of a frame -> name of its emotion."""
    files = folder.match(r"(?P<name>S\d+_\d+_\d{1,9})_emotion\.txt")
    report.tally.add("emotion_files", len(files))
    names = {}
    for name, path in files[["name", "path"]].itertuples(index=False):
        match _parse_numbers(folder.read(path)):
            case [[code]] if code in range(len(CODES)):
                names[name] = CODES[int(code)]
            case _:
                report.count("rejected_files", [path])
    return pd.DataFrame({"emotion": pd.Series(names, dtype=object)})


def _parse_numbers(data: bytes) -> list[list[float]] | None:
    """Parse the numbers of each line that is not empty; None if something is not a finite number."""
    try:
        lines = [[float(word) for word in line.split()] for line in data.decode("ascii").splitlines()]
    except ValueError:
        return None
    return [line for line in lines if line] if all(math.isfinite(n) for line in lines for n in line) else None
