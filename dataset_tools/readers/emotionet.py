"""Reads EmotioNet.

    *.csv, *.xlsx  columns `URL` and `'AU 1'` ... `'AU 60'` (the quotes are part of the names): 0, 1, 999 = not scored
    .../name.jpg   the images, each named by the last part of its URL (or of --file_column of the CSV file)

Rows of different URLs with the same file name are ambiguous and are all dropped.
"""

import argparse
import re
from pathlib import Path

import pandas as pd
import pyarrow as pa

from ...labels_mf2 import ACTION_UNITS
from .conventions import RANDOM_BY_PHOTOGRAPH, restricted_license
from .frame_table import (
    EDITION_REMEDY,
    Folder,
    ReadReport,
    add_crop_argument,
    add_edition_argument,
    build_frame_table,
    parse_occurrence,
    read_text_table,
)
from .interface import About
from .spreadsheets import read_sheets

ABOUT = About(
    name="EmotioNet",
    license=restricted_license("emotionet-agreement", "http://cbcsl.ece.ohio-state.edu/EmotionNetChallenge/"),
    citation="Benitez-Quiroz, Srinivasan and Martinez, EmotioNet: An Accurate, Real-Time Algorithm for the Automatic "
    "Annotation of a Million Facial Expressions in the Wild, CVPR 2016",
    au_ids=(1, 2, 4, 5, 6, 9, 12, 17, 20, 25, 26),
    active="scored 1",
    splits=RANDOM_BY_PHOTOGRAPH,
)
UNSCORED = 999
COUNTED = {"dropped_same_name": "dropped: rows whose file name another URL has too"}
_AU_COLUMN = re.compile(r"'?AU ?0*(\d{1,2})'?", re.ASCII | re.IGNORECASE)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this data set."""
    parser.add_argument("--file_column", default="URL", help="its last part names the file (default: URL)")
    add_crop_argument(parser)
    add_edition_argument(parser)


def read(root: Path, args: argparse.Namespace) -> tuple[pa.Table, ReadReport]:
    """Read the photographs of `root` that have a label."""
    report = ReadReport(COUNTED, file_column=args.file_column)
    folder = Folder(root, report)
    path = folder.find_one(r"[^/~]*\.(?:csv|xlsx)", "CSV file (or *.xlsx) of labels", args.edition, EDITION_REMEDY)
    table = _read_table(folder, path, report)
    columns = {name.strip("' \""): name for name in table}
    aus = {f"AU{int(match[1])}": name for name in table if (match := _AU_COLUMN.fullmatch(name))}
    aus = {au.code: aus[au.code] for au in ACTION_UNITS.values() if au.code in aus}
    if args.file_column not in columns or not aus:
        shown = ", ".join(list(table)[:8])
        raise ValueError(f"{path} must have columns {args.file_column} and 'AU 1', ...; its header is {shown}, ...")
    urls = table[columns[args.file_column]].str.strip(" '\"")
    names = urls.str.replace(r"[?#].*$", "", regex=True).str.rsplit("/", n=1).str[-1]
    labels = pd.DataFrame({au: parse_occurrence(table[name], report, (UNSCORED,)) for au, name in aus.items()})
    labels = labels.assign(name=names, url=urls, video_id=names.str.replace(r"\.\w+$", "", regex=True))
    labels["group_id"] = labels["video_id"]
    names_of_urls = labels.drop_duplicates(["name", "url"])["name"]
    is_ambiguous = labels["name"].isin(names_of_urls[names_of_urls.duplicated()])
    labels = report.drop(labels, is_ambiguous, "dropped_same_name", "url")
    images = folder.images(r"(?P<stem>[^/]+)", "at all", args.crop)
    images = pd.DataFrame({"path": images["path"], "name": images["path"].str.rsplit("/", n=1).str[-1]})
    return build_frame_table(labels, report, images, on=["name"]), report


def _read_table(folder: Folder, path: str, report: ReadReport) -> pd.DataFrame:
    """Read the rows of the CSV file, or of the first sheet of the workbook, as text."""
    if path.lower().endswith(".csv"):
        return read_text_table(folder.root / path, report)
    header, *rows = next(iter(read_sheets(folder.read(path), path).values())) or [[]]
    rows = [row for row in rows if any(row)]
    report.tally.add("rows", len(rows))
    return pd.DataFrame(rows, columns=header, dtype=object)
