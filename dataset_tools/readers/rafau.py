"""Reads RAF-AU.

RAFAU_label.txt             lines `0007.jpg 1+4+L12`, or `null` (no label); left and right merge into the AU; a name
                            may lack its leading zeros (`7.jpg`)
aligned/0007_aligned.jpg    --crop aligned (default); or original/0007.jpg
"""

import argparse
from pathlib import Path

import pandas as pd
import pyarrow as pa

from ...labels_mf2 import ACTION_UNITS
from .conventions import RAF_CROPS, RANDOM_BY_PHOTOGRAPH, add_raf_crop_argument, restricted_license
from .frame_table import Folder, ReadReport, build_frame_table, parse_au_lists, read_text_lines
from .interface import About

ABOUT = About(
    name="RAF-AU",
    license=restricted_license("raf-au-terms", "http://www.whdeng.cn/RAF/model3.html"),
    citation="Yan, Li, Que, Pei and Deng, RAF-AU Database: In-the-Wild Facial Expressions with Subjective Emotion "
    "Judgement and Objective AU Annotations, ACCV 2020",
    au_ids=tuple(ACTION_UNITS),
    active="listed",
    splits=RANDOM_BY_PHOTOGRAPH,
)
COUNTED = {"dropped_null": "dropped: rows of null"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this data set."""
    add_raf_crop_argument(parser)


def read(root: Path, args: argparse.Namespace) -> tuple[pa.Table, ReadReport]:
    """Read the photographs of `root` that have a label."""
    report = ReadReport(COUNTED)
    folder = Folder(root, report)
    path = folder.find_one(r"RAFAU_label\.txt", "RAFAU_label.txt")
    lines = read_text_lines(folder.read(path), r"(?P<name>[^/\s]+)\.jpg\s+(?P<aus>\S.*)", report)
    lines["name"] = lines["name"].map(_zero_pad)
    lines = report.drop(lines, lines["aus"].str.lower() == "null", "dropped_null", "name")
    aus, is_valid = parse_au_lists(lines["aus"])
    labels = report.drop(pd.concat([lines, aus], axis=1), ~is_valid, "malformed", ["name", "aus"])
    labels = labels.assign(video_id=labels["name"], group_id=labels["name"])
    suffix = RAF_CROPS[args.crop]
    images = folder.images(rf"{args.crop}/(?P<name>[^/\s]+){suffix}", f"such as {args.crop}/0007{suffix}.jpg")
    images["name"] = images["name"].map(_zero_pad)
    return build_frame_table(labels, report, images, on=["name"]), report


def _zero_pad(name: str) -> str:
    """`7` -> `0007`; a name that is not a number stays unchanged."""
    return name.zfill(4) if name.isdecimal() else name
