"""What CASME II and CAS(ME)2 share: a spreadsheet of coded expressions, of which the apex frame is taken.

    *.xlsx    columns Subject, Filename, OnsetFrame, ApexFrame, OffsetFrame, Action Units (`4+L14`, `?`),
              Estimated Emotion
    .../sub01/EP02_01f/reg_img46.jpg   the frames: a folder a person, a folder an expression, a number at the end

AUs that no row lists are not coded, and have no column.
"""

import argparse
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
import pyarrow as pa

from .emotion_maps import add_emotion_arguments, canonical_name, map_emotions
from .frame_table import (
    BY_EDITION,
    Folder,
    ReadReport,
    add_crop_argument,
    add_edition_argument,
    frame_table,
    listed_aus,
)
from .spreadsheets import Sheets, read_sheets

COLUMNS = {
    "subject": "Subject",
    "filename": "Filename",
    "apexframe": "ApexFrame",
    "actionunit": "Action Units",
    "estimatedemotion": "Estimated Emotion",
}
"""Spelling without case, blanks and plural -> the column's name."""


CONVENTION = {"Repression": "Other"}
"""What stands for emotions that are not among ours."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of these data sets."""
    add_emotion_arguments(parser)
    add_crop_argument(parser)
    add_edition_argument(parser)


def table_with_header(sheets: Sheets, path: str) -> pd.DataFrame:
    """The columns `COLUMNS`, by the header of the first sheet.

    Raises:
        ValueError: a column is missing; the header is shown.
    """
    rows = next(iter(sheets.values()))
    header = rows[0] if rows else []
    spelt = [re.sub(r"[^a-z]", "", name.lower()).removesuffix("s") for name in header]
    if missing := [name for spelling, name in COLUMNS.items() if spelt.count(spelling) != 1]:
        raise ValueError(f"{path} must have the columns {', '.join(missing)}; its header is {', '.join(header)}.")
    return pd.DataFrame([row for row in rows[1:] if any(row)], columns=spelt, dtype=object)


def read_expressions(
    root: Path,
    args: argparse.Namespace,
    emotions: Sequence[str],
    table_of: Callable[[Sheets, str], pd.DataFrame] = table_with_header,
) -> tuple[pa.Table, ReadReport]:
    """The apex frames of `root` that have labels and an image.

    Args:
        emotions: the data set's emotions in the order of its own list; others that it names come after them.
        table_of: the columns `COLUMNS` of a workbook, whose path is for errors; the number in `subject` is that of
            the person's folder.
    """
    report = ReadReport()
    folder = Folder(root, report)
    path = folder.find_one(r"[^/~]*\.xlsx", "spreadsheet (*.xlsx) of labels", args.edition, BY_EDITION)
    table = table_of(read_sheets(folder.read(path), path), path)[list(COLUMNS)]
    report.tally.add("rows", len(table))
    person = table["subject"].str.extract(r"([0-9]{1,4})(?:\.0)?$", expand=False)
    apex = table["apexframe"].str.extract(r"^([0-9]{1,7})(?:\.0)?$", expand=False)
    table = table.assign(person=person, apex=apex, row=table.index + 2)
    table = report.drop(table, person.isna() | apex.isna(), "malformed", ["filename", "apexframe"])
    aus, understood = listed_aus(table["actionunit"])
    report.count("values_unknown", table["actionunit"][~understood])
    aus = aus.loc[:, (aus == 1).any()]
    names = table["estimatedemotion"].map(canonical_name).where(table["estimatedemotion"] != "")
    own = [*emotions, *sorted(set(names.dropna()) - set(emotions))]
    labels = aus.assign(person=table["person"].astype(int), video=table["filename"], frame=table["apex"].astype(int))
    labels["emotion"], emotions = map_emotions(names, own, CONVENTION, args, report)
    labels["group_id"] = "sub" + labels["person"].astype(str).str.zfill(2)
    labels["video_id"] = labels["group_id"] + "_" + labels["video"]
    images = folder.images(
        r"(?:sub|s)?0*(?P<person>\d{1,4})/(?P<video>[^/]+)/[^/]*?(?P<frame>\d{1,7})",
        "such as sub01/EP02_01f/reg_img46.jpg",
        args.crop,
    )
    images = images.assign(person=images["person"].astype(int), frame=images["frame"].astype(int))
    return frame_table(labels, report, images, on=["person", "video", "frame"], emotions=emotions), report
