"""Reads AFEW.

{Train,Val}[_AFEW]/<Emotion>/012345678.avi   the folder of a video is its label; frames are decoded when imported

Test videos have no label. Faces that come with the videos (AlignedFaces_LBPTOP_Points) are not read. Nothing says
which videos show the same person: a split other than the official one is by video.
"""

import argparse
from pathlib import Path

import pandas as pd
import pyarrow as pa

from ...labels_mf2 import EMOTIONS
from .emotion_maps import add_emotion_arguments, canonical_name, map_emotions
from .frame_table import Folder, ReadReport, add_crop_argument, frame_table, two_versions
from .interface import About, License
from .video_frames import COUNTED, add_sampling_argument, frames_of_videos, sample_clips

OWN_EMOTIONS = ("Anger", "Disgust", "Fear", "Happiness", "Neutral", "Sadness", "Surprise")
SPLITS = {"train": "train", "val": "validation"}
ABOUT = About(
    name="AFEW",
    license=License("other", "afew-agreement", "https://cs.anu.edu.au/few/"),
    citation="Dhall, Goecke, Lucey and Gedeon, Collecting Large, Richly Annotated Facial-Expression Databases from "
    "Movies, IEEE MultiMedia 19(3), 2012",
    emotions=tuple(name for name in EMOTIONS if name in OWN_EMOTIONS),
    splits="official Train and Val",
)


IGNORED = {"videos_ignored": "videos elsewhere, which this reader does not look at"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this data set."""
    add_sampling_argument(parser)
    add_emotion_arguments(parser)
    add_crop_argument(parser)


def read(root: Path, args: argparse.Namespace) -> tuple[pa.Table, ReadReport]:
    """Sampled frames of the videos of `root`."""
    report = ReadReport(COUNTED | IGNORED)
    folder = Folder(root, report)
    pattern = r"(?P<split>train|val)(?:_afew)?/(?P<folder>[^/]+)/(?P<name>[^/]+)\.(?:avi|mp4)"
    videos = folder.find(pattern, "train_afew/Angry/012345678.avi", args.crop)
    _check_one_version(videos)
    folder.count_others(r"[^/]+\.(?:avi|mp4)", "videos_ignored", videos["path"])
    folder.count_others(r"[^/]+\.(?:jpe?g|png|bmp)", "images_ignored")
    report.tally.add("rows", len(videos))
    labels = videos.assign(clip=videos["path"], split=videos["split"].str.lower().map(SPLITS))
    names = labels["folder"].map(canonical_name)
    labels["emotion"], emotions = map_emotions(names, OWN_EMOTIONS, {}, args, report)
    labels = labels.assign(video_id=labels["split"] + "_" + labels["name"]).drop(columns="path")
    labels["group_id"] = labels["video_id"]
    frames = frames_of_videos(folder, videos.assign(clip=videos["path"])[["path", "clip"]], report)
    return frame_table(sample_clips(labels, frames, args, report), report, emotions=emotions), report


def _check_one_version(videos: pd.DataFrame) -> None:
    """Refuse videos that are there twice: as two kinds of file, in two folders, or under two emotions."""
    keys = videos["split"].str.lower() + "/" + videos["name"]
    if (again := keys.duplicated()).any():
        first = videos["path"][keys == keys[again].iloc[0]]
        raise two_versions(f"{again.sum():,} videos", first.iloc[0], first.iloc[1])
