"""Reads the basic emotions of RAF-DB.

basic/EmoLabel/list_patition_label.txt        (sic) lines
 `train_00001.jpg 5`; the prefix is the split
basic/Image/aligned/train_00001_aligned.jpg   --crop aligned (default); or basic/Image/original/train_00001.jpg
"""

import argparse
from pathlib import Path

import pyarrow as pa

from .conventions import (
    BASIC_EMOTIONS,
    OFFICIAL_TRAIN_TEST,
    RAF_CROPS,
    TRAIN_TEST,
    add_raf_crop_argument,
    restricted_license,
)
from .emotion_maps import add_emotion_arguments, map_emotions
from .frame_table import Folder, ReadReport, build_frame_table, read_text_lines
from .interface import About

CODES = {
    "1": "Surprise",
    "2": "Fear",
    "3": "Disgust",
    "4": "Happiness",
    "5": "Sadness",
    "6": "Anger",
    "7": "Neutral",
}
ABOUT = About(
    name="RAF-DB",
    license=restricted_license("raf-db-terms", "http://www.whdeng.cn/RAF/model1.html"),
    citation="Li, Deng and Du, Reliable Crowdsourcing and Deep Locality-Preserving Learning for Expression "
    "Recognition in the Wild, CVPR 2017",
    emotions=BASIC_EMOTIONS,
    splits=OFFICIAL_TRAIN_TEST,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this data set."""
    add_raf_crop_argument(parser)
    add_emotion_arguments(parser)


def read(root: Path, args: argparse.Namespace) -> tuple[pa.Table, ReadReport]:
    """Read the photographs of `root` that have a label."""
    report = ReadReport()
    folder = Folder(root, report)
    path = folder.find_one(r"EmoLabel/list_patition_label\.txt", "EmoLabel/list_patition_label.txt")
    labels = read_text_lines(folder.read(path), r"(?P<name>(?P<split>train|test)_\d+)\.jpg\s+(?P<code>\d+)", report)
    names = labels["code"].map(CODES).fillna(labels["code"])
    labels["emotion"], emotions = map_emotions(names, list(CODES.values()), {}, args, report)
    labels = labels.assign(split=labels["split"].map(TRAIN_TEST), video_id=labels["name"], group_id=labels["name"])
    suffix = RAF_CROPS[args.crop]
    images = folder.images(
        rf"{args.crop}/(?P<name>(?:train|test)_\d+){suffix}", f"such as Image/{args.crop}/train_00001{suffix}.jpg"
    )
    return build_frame_table(labels, report, images, on=["name"], emotions=emotions), report
