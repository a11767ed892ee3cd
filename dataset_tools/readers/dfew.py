"""Reads DFEW.

EmoLabel_DataSplit/{train,test}(single-labeled)/set_1.csv   columns video_name, label; five folds (--fold)
Clip/.../00001/12.jpg                                       the frames of clip 1
"""

import argparse
from pathlib import Path

import pandas as pd
import pyarrow as pa

from .conventions import BASIC_EMOTIONS, TRAIN_TEST, restricted_license
from .emotion_maps import add_emotion_arguments, map_emotions
from .frame_table import Folder, ReadReport, add_crop_argument, build_frame_table, read_text_table
from .interface import About
from .video_frames import COUNTED, add_sampling_argument, sample_clips

CODES = {
    "1": "Happiness",
    "2": "Sadness",
    "3": "Neutral",
    "4": "Anger",
    "5": "Surprise",
    "6": "Disgust",
    "7": "Fear",
}
FOLDS = range(1, 6)
ABOUT = About(
    name="DFEW",
    license=restricted_license("dfew-agreement", "https://dfew-dataset.github.io/"),
    citation="Jiang, Zong, Zheng, Tang, Xia, Lu and Liu, DFEW: A Large-Scale Database for Recognizing Dynamic Facial "
    "Expressions in the Wild, ACM Multimedia 2020",
    emotions=BASIC_EMOTIONS,
    splits="five official folds (--fold), test as validation",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this data set."""
    parser.add_argument("--fold", type=int, choices=FOLDS, default=1, help="set_1 to set_5 (default: %(default)s)")
    add_sampling_argument(parser)
    add_emotion_arguments(parser)
    add_crop_argument(parser)


def read(root: Path, args: argparse.Namespace) -> tuple[pa.Table, ReadReport]:
    """Read sampled frames of the clips of `root` that have a label."""
    report = ReadReport(COUNTED, fold=args.fold)
    folder = Folder(root, report)
    files = folder.find(
        rf"(?P<split>train|test)\(single-labell?ed\)/set_{args.fold}\.csv",
        f"EmoLabel_DataSplit/train(single-labeled)/set_{args.fold}.csv",
    )
    tables = [
        read_text_table(folder.root / path, report, ("video_name", "label")).assign(split=TRAIN_TEST[split.lower()])
        for split, path in files.to_numpy()
    ]
    labels = pd.concat(tables, ignore_index=True)
    codes = labels["label"].str.strip()
    labels["emotion"], emotions = map_emotions(codes.map(CODES).fillna(codes), list(CODES.values()), {}, args, report)
    labels["clip"] = labels["video_name"].str.strip().str.zfill(5)
    labels = labels.assign(video_id=labels["clip"], group_id=labels["clip"])
    frames = folder.images(r"(?P<clip>\d{5})/[^/]*?(?P<frame>\d{1,7})", "such as Clip/00001/1.jpg", args.crop)
    return build_frame_table(sample_clips(labels, frames, args, report), report, emotions=emotions), report
