"""Reads FERV39k.

4_setups/All_scenes/{train,test}_All.csv   lines `Crime/Angry/0063 Angry`, no header
.../Crime/Angry/0063/12.jpg                the frames of a clip
"""

import argparse
from pathlib import Path

import pandas as pd
import pyarrow as pa

from .conventions import BASIC_EMOTIONS, BASIC_EMOTIONS_BY_NAME, OFFICIAL_TRAIN_TEST, TRAIN_TEST, restricted_license
from .emotion_maps import add_emotion_arguments, canonical_name, map_emotions
from .frame_table import Folder, ReadReport, add_crop_argument, build_frame_table, read_text_lines
from .interface import About
from .video_frames import COUNTED, add_sampling_argument, sample_clips

ABOUT = About(
    name="FERV39k",
    license=restricted_license("ferv39k-agreement", "https://wangyanckxx.github.io/Proj_CVPR2022_FERV39k.html"),
    citation="Wang, Sun, Huang, Liu, Gao, Zhang, Ge and Zhang, FERV39k: A Large-Scale Multi-Scene Dataset for Facial "
    "Expression Recognition in Videos, CVPR 2022",
    emotions=BASIC_EMOTIONS,
    splits=OFFICIAL_TRAIN_TEST,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this data set."""
    add_sampling_argument(parser)
    add_emotion_arguments(parser)
    add_crop_argument(parser)


def read(root: Path, args: argparse.Namespace) -> tuple[pa.Table, ReadReport]:
    """Read sampled frames of the clips of `root` that have a label."""
    report = ReadReport(COUNTED)
    folder = Folder(root, report)
    files = folder.find(r"All_scenes/(?P<split>train|test)_All\.csv", "4_setups/All_scenes/train_All.csv")
    line = r"(?P<clip>[^/\s]+/[^/\s]+/[^/\s]+)\s+(?P<name>[A-Za-z]+)"
    tables = [
        read_text_lines(folder.read(path), line, report).assign(split=TRAIN_TEST[split.lower()])
        for split, path in files.to_numpy()
    ]
    labels = pd.concat(tables, ignore_index=True)
    names = labels["name"].map(canonical_name)
    labels["emotion"], emotions = map_emotions(names, BASIC_EMOTIONS_BY_NAME, {}, args, report)
    labels = labels.assign(video_id=labels["clip"], group_id=labels["clip"])
    frames = folder.images(
        r"(?P<clip>[^/]+/[^/]+/[^/]+)/[^/]*?(?P<frame>\d{1,7})", "such as Crime/Angry/0063/12.jpg", args.crop
    )
    return build_frame_table(sample_clips(labels, frames, args, report), report, emotions=emotions), report
