"""Reads the layout that CASME II and CAS(ME)2 share: the apex frames of expressions that a spreadsheet lists.

    *.xlsx    columns Subject, Filename, OnsetFrame, ApexFrame, OffsetFrame, Action Units (`4+L14`, `?`),
              Estimated Emotion
    .../sub01/EP02_01f/reg_img46.jpg   frames, in one folder per person and expression; the name ends with a number


AUs that no row lists count as not coded, and get no column.
"""

import argparse
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
import pyarrow as pa

from .emotion_maps import add_emotion_arguments, canonical_name, map_emotions
from .frame_table import (
    EDITION_REMEDY,
    Folder,
    ReadReport,
    add_crop_argument,
    add_edition_argument,
    build_frame_table,
    parse_au_lists,
)
from .spreadsheets import Sheets, read_sheets

COLUMNS = {
    "subject": "Subject",
    "filename": "Filename",
    "apexframe": "ApexFrame",
    "actionunit": "Action Units",
    "estimatedemotion": "Estimated Emotion",
}
"""Column name in lower case, letters only, singular -> the official column name."""

EMOTION_DEFAULTS = {"Repression": "Other"}
"""Emotion of the data set -> the one of `EMOTIONS` that it maps to by default."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of these data sets."""
    add_emotion_arguments(parser)
    add_crop_argument(parser)
    add_edition_argument(parser)


def parse_table_with_header(sheets: Sheets, path: str) -> pd.DataFrame:
    """Read the columns `COLUMNS` of the first sheet by its header.

    Raises:
        ValueError: a column is missing; the header is shown.
    """
    rows = next(iter(sheets.values()))
    header = rows[0] if rows else []
    keys = [re.sub(r"[^a-z]", "", name.lower()).removesuffix("s") for name in header]
    if missing := [name for key, name in COLUMNS.items() if keys.count(key) != 1]:
        raise ValueError(f"{path} must have the columns {', '.join(missing)}; its header is {', '.join(header)}.")
    return pd.DataFrame([row for row in rows[1:] if any(row)], columns=keys, dtype=object)


def read_expressions(
    root: Path,
    args: argparse.Namespace,
    emotions: Sequence[str],
    parse_table: Callable[[Sheets, str], pd.DataFrame] = parse_table_with_header,
) -> tuple[pa.Table, ReadReport]:
    """Read the apex frames of `root` that have labels and an image.

    Args:
        emotions: the emotions of the data set in its official order; others that the rows name are appended.
        parse_table: returns the columns `COLUMNS` of a workbook, given its sheets and its path (for errors); the
            number in `subject` is that of the person's folder.
    """
    report = ReadReport()
    folder = Folder(root, report)
    path = folder.find_one(r"[^/~]*\.xlsx", "spreadsheet (*.xlsx) of labels", args.edition, EDITION_REMEDY)
    table = parse_table(read_sheets(folder.read(path), path), path)[list(COLUMNS)]
    report.tally.add("rows", len(table))
    person = table["subject"].str.extract(r"([0-9]{1,4})(?:\.0)?$", expand=False)
    apex = table["apexframe"].str.extract(r"^([0-9]{1,7})(?:\.0)?$", expand=False)
    table = table.assign(person=person, apex=apex, row=table.index + 2)
    table = report.drop(table, person.isna() | apex.isna(), "malformed", ["filename", "apexframe"])
    aus, is_valid = parse_au_lists(table["actionunit"])
    report.count("values_unknown", table["actionunit"][~is_valid])
    aus = aus.loc[:, (aus == 1).any()]
    names = table["estimatedemotion"].map(canonical_name).where(table["estimatedemotion"] != "")
    dataset_emotions = [*emotions, *sorted(set(names.dropna()) - set(emotions))]
    labels = aus.assign(person=table["person"].astype(int), video=table["filename"], frame=table["apex"].astype(int))
    labels["emotion"], emotions = map_emotions(names, dataset_emotions, EMOTION_DEFAULTS, args, report)
    labels["group_id"] = "sub" + labels["person"].astype(str).str.zfill(2)
    labels["video_id"] = labels["group_id"] + "_" + labels["video"]
    images = folder.images(
        r"(?:sub|s)?0*(?P<person>\d{1,4})/(?P<video>[^/]+)/[^/]*?(?P<frame>\d{1,7})",
        "such as sub01/EP02_01f/reg_img46.jpg",
        args.crop,
    )
    images = images.assign(person=images["person"].astype(int))
    return build_frame_table(labels, report, images, on=["person", "video", "frame"], emotions=emotions), report
