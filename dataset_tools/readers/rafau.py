"""Reads RAF-AU.

RAFAU_label.txt             lines `0007.jpg 1+4+L12`, or `null` (no label); left and right merge into the AU; a number
                            may lack its zeros (`7.jpg`)
aligned/0007_aligned.jpg    --crop aligned (default); or original/0007.jpg
"""

import argparse
from pathlib import Path

import pandas as pd
import pyarrow as pa

from ...labels_mf2 import ACTION_UNITS
from .frame_table import Folder, ReadReport, frame_table, listed_aus, read_text_lines
from .interface import About, License

CROPS = {"aligned": "_aligned", "original": ""}
"""Folder -> what its file names add."""

ABOUT = About(
    name="RAF-AU",
    license=License("other", "raf-au-terms", "http://www.whdeng.cn/RAF/model3.html"),
    citation="Yan, Li, Que, Pei and Deng, RAF-AU Database: In-the-Wild Facial Expressions with Subjective Emotion "
    "Judgement and Objective AU Annotations, ACCV 2020",
    au_ids=tuple(ACTION_UNITS),
    active="listed",
    splits="none: photographs at random",
)
COUNTED = {"dropped_null": "dropped: rows of null"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this data set."""
    parser.add_argument("--crop", choices=list(CROPS), default="aligned", help="default: %(default)s")


def read(root: Path, args: argparse.Namespace) -> tuple[pa.Table, ReadReport]:
    """The photographs of `root` that have a label."""
    report = ReadReport(COUNTED)
    folder = Folder(root, report)
    path = folder.find_one(r"RAFAU_label\.txt", "RAFAU_label.txt")
    lines = read_text_lines(folder.read(path), r"(?P<name>[^/\s]+)\.jpg\s+(?P<aus>\S.*)", report)
    lines["name"] = lines["name"].map(_padded)
    lines = report.drop(lines, lines["aus"].str.lower() == "null", "dropped_null", "name")
    aus, understood = listed_aus(lines["aus"])
    labels = report.drop(pd.concat([lines, aus], axis=1), ~understood, "malformed", ["name", "aus"])
    labels = labels.assign(video_id=labels["name"], group_id=labels["name"])
    suffix = CROPS[args.crop]
    images = folder.images(rf"{args.crop}/(?P<name>[^/\s]+){suffix}", f"such as {args.crop}/0007{suffix}.jpg")
    images["name"] = images["name"].map(_padded)
    return frame_table(labels, report, images, on=["name"]), report


def _padded(name: str) -> str:
    """`7` -> `0007`; other names as they are."""
    return name.zfill(4) if name.isdecimal() else name
