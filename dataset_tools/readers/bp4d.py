"""Reads BP4D.

    .../AU_OCC/F001_T1.csv       one row per frame: column 0 the frame, column N AU N: 0, 1, or 9 = unknown
    .../F001/T1/0012.jpg         the frames, numbered with 3 or 4 digits

Columns are read by position: a header may name one twice.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from ...labels_mf2 import ACTION_UNITS
from .conventions import THREE_FOLDS, restricted_license
from .folds import BP4D_PARTS, add_fold_argument, assign_fold_splits
from .frame_table import (
    Folder,
    ReadReport,
    add_crop_argument,
    add_first_image_argument,
    align_frame_numbers,
    build_frame_table,
    parse_ints,
    parse_occurrence,
)
from .interface import About

ABOUT = About(
    name="BP4D",
    license=restricted_license(
        "bp4d-agreement", "https://www.cs.binghamton.edu/~lijun/Research/3DFE/3DFE_Analysis.html"
    ),
    citation="Zhang, Yin, Cohn, Canavan, Reale, Horowitz, Liu and Girard, BP4D-Spontaneous: a high-resolution "
    "spontaneous 3D dynamic facial expression database, Image and Vision Computing 32(10), 2014",
    au_ids=(1, 2, 4, 5, 6, 7, 9, 10, 12, 14, 15, 17, 20, 23, 24, 25, 26),
    active="occurrence",
    splits=THREE_FOLDS,
)
UNKNOWN = 9
AU_COLUMNS = [ACTION_UNITS[au_id].code for au_id in ABOUT.au_ids]
COUNTED = {
    "videos": "videos (a person in a task)",
    "headers_not_counting": "files whose header is not 0, 1, 2, ... (read by position all the same)",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this data set."""
    add_fold_argument(parser)
    add_first_image_argument(parser)
    add_crop_argument(parser)


def read(root: Path, args: argparse.Namespace) -> tuple[pa.Table, ReadReport]:
    """Read the frames of `root` that have labels and an image."""
    report = ReadReport(COUNTED, fold=args.fold)
    folder = Folder(root, report)
    labels = _read_labels(folder, report)
    images = folder.images(
        r"(?P<subject>[FM]\d{3})[/_](?P<task>T\d)[/_][^/]*?(?P<frame>\d{1,7})", "such as F001/T1/0012.jpg", args.crop
    )
    images = images.assign(video_id=(images["subject"] + "_" + images["task"]).str.upper())
    labels["split"] = assign_fold_splits(labels["group_id"], BP4D_PARTS, args.fold)
    labels = report.drop(labels, labels["split"].isna(), "no_part", ["video_id", "frame"])
    images = align_frame_numbers(images[["path", "video_id", "frame"]], labels, "video_id", args.first_image, report)
    return build_frame_table(labels, report, images, on=["video_id", "frame"]), report


def _read_labels(folder: Folder, report: ReadReport) -> pd.DataFrame:
    """Read one row for each line of all label files."""
    files = folder.find(r"AU_OCC/(?P<subject>[FM]\d{3})_(?P<task>T\d)\.csv", "AU_OCC/F001_T1.csv")
    tables = []
    for subject, task, path in files.itertuples(index=False):
        table = _read_file(folder.read(path), path, report)
        if table is None:
            report.count("rejected_files", [path])
        else:
            tables.append(table.assign(video_id=f"{subject}_{task}".upper(), group_id=subject.upper()))
    if not tables:
        raise ValueError(f"{folder.root} has no AU_OCC file that can be read, see {files['path'].iloc[0]}.")
    report.tally.add("videos", len(tables))
    labels = pd.concat(tables, ignore_index=True)
    report.tally.add("rows", len(labels))
    labels = report.drop(labels, labels["frame"] < 0, "malformed", ["path", "line"])
    codes = {name: parse_occurrence(labels[name], report, (UNKNOWN,)) for name in AU_COLUMNS}
    return labels.assign(**codes).drop(columns=["path", "line"])


def _read_file(data: bytes, path: str, report: ReadReport) -> pd.DataFrame | None:
    """Read `path`, `line`, `frame` and the AU codes of each line of a file; None if it has too few columns.

    A line that cannot be parsed has a frame below 0.
    """
    header, _, body = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n").partition(b"\n")
    names = [name.strip() for name in header.decode("utf-8-sig", "replace").split(",")]
    if len(names) <= max(ABOUT.au_ids):
        return None
    if names != [str(number) for number in range(len(names))]:
        report.count("headers_not_counting", [path])
    table = parse_ints(body, len(names), np.int32)
    columns = pd.DataFrame(table[:, [0, *ABOUT.au_ids]], columns=["frame", *AU_COLUMNS])
    return columns.assign(path=path, line=np.arange(2, len(table) + 2))
