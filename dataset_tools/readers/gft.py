"""Reads GFT.

    .../001A/12.jpg      the frames of person A of group 001
    .../001A*.csv        one row per frame: a column `frame` and columns of AUs, 0 or 1

No public source describes the columns of the label files. They are found by their names (`frame`; `1`, `AU1` or
`AU01`); a file whose header has no such columns is an error that shows it.
"""

import argparse
import re
from pathlib import Path

import pandas as pd
import pyarrow as pa

from .conventions import restricted_license
from .frame_table import (
    Folder,
    ReadReport,
    add_crop_argument,
    add_first_image_argument,
    align_frame_numbers,
    build_frame_table,
    parse_occurrence,
    read_text_table,
)
from .interface import About

ABOUT = About(
    name="GFT",
    license=restricted_license("gft-agreement", "https://osf.io/7wcyz/"),
    citation="Girard, Chu, Jeni and Cohn, Sayette Group Formation Task (GFT) Spontaneous Facial Expression Database, "
    "FG 2017",
    au_ids=(1, 2, 4, 6, 7, 10, 12, 15, 23, 24),
    active="occurrence",
    splits="none: at random by group of people",
)
UNLABELLED = (9, 999, -999)
_FRAME_COLUMN = re.compile(r"frames?(?:[ _]?(?:#|no|number|id))?", re.ASCII | re.IGNORECASE)
_AU_COLUMN = re.compile(r"(?:AU)?[ _]?0*(\d{1,2})", re.ASCII | re.IGNORECASE)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this data set."""
    add_first_image_argument(parser)
    add_crop_argument(parser)


def read(root: Path, args: argparse.Namespace) -> tuple[pa.Table, ReadReport]:
    """Read the frames of `root` that have labels and an image."""
    report = ReadReport()
    folder = Folder(root, report)
    files = folder.find(r"(?P<person>\d{3}[A-Z])[^/]*\.csv", "label file such as 001A.csv")
    labels = pd.concat([_read_file(folder, path, report).assign(person=person) for person, path in files.to_numpy()])
    labels = labels.reset_index(drop=True)
    labels["person"] = labels["person"].str.upper()
    labels = labels.assign(video_id=labels["person"], group_id=labels["person"].str[:3])
    images = folder.images(r"(?P<person>\d{3}[A-Z])/[^/]*?(?P<frame>\d{1,7})", "such as 001A/1.jpg", args.crop)
    images = images.assign(person=images["person"].str.upper())
    images = align_frame_numbers(images, labels, "person", args.first_image, report)
    return build_frame_table(labels, report, images, on=["person", "frame"]), report


def _read_file(folder: Folder, path: str, report: ReadReport) -> pd.DataFrame:
    table = read_text_table(folder.root / path, report)
    frame_columns = [name for name in table if _FRAME_COLUMN.fullmatch(name)]
    matches = {name: _AU_COLUMN.fullmatch(name) for name in table}
    au_columns = {f"AU{int(match[1])}": name for name, match in matches.items() if match}
    au_columns = {f"AU{au_id}": au_columns[f"AU{au_id}"] for au_id in ABOUT.au_ids if f"AU{au_id}" in au_columns}
    if len(frame_columns) != 1 or not au_columns:
        raise ValueError(
            f"{path} must have one column `frame` and columns such as AU1 or 01; its header is {', '.join(table)}."
        )
    frames = table[frame_columns[0]].str.strip()
    numbered = frames.str.fullmatch(r"[0-9]{1,7}").astype(bool)
    table = report.drop(table.assign(file=path), ~numbered, "malformed", "file")
    labels = {au: parse_occurrence(table[name], report, UNLABELLED) for au, name in au_columns.items()}
    return pd.DataFrame({"frame": table[frame_columns[0]].astype(int), **labels})
