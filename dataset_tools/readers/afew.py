"""Reads AFEW.

{Train,Val}[_AFEW]/<Emotion>/012345678.avi   the folder of a video is its label; frames are decoded when imported

Test videos have no label. The aligned faces that come with the videos (AlignedFaces_LBPTOP_Points) are not read. The
data set does not say which videos show the same person: a split other than the official one is by video.
"""

import argparse
from pathlib import Path

import pandas as pd
import pyarrow as pa

from .conventions import BASIC_EMOTIONS, BASIC_EMOTIONS_BY_NAME, OFFICIAL_TRAIN_VAL, TRAIN_VAL, restricted_license
from .emotion_maps import add_emotion_arguments, canonical_name, map_emotions
from .frame_table import Folder, ReadReport, add_crop_argument, ambiguous_folders_error, build_frame_table
from .interface import About
from .video_frames import COUNTED, add_sampling_argument, list_video_frames, sample_clips

ABOUT = About(
    name="AFEW",
    license=restricted_license("afew-agreement", "https://cs.anu.edu.au/few/"),
    citation="Dhall, Goecke, Lucey and Gedeon, Collecting Large, Richly Annotated Facial-Expression Databases from "
    "Movies, IEEE MultiMedia 19(3), 2012",
    emotions=BASIC_EMOTIONS,
    splits=OFFICIAL_TRAIN_VAL,
)
IGNORED = {"videos_ignored": "videos in other places, which this reader does not read"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this data set."""
    add_sampling_argument(parser)
    add_emotion_arguments(parser)
    add_crop_argument(parser)


def read(root: Path, args: argparse.Namespace) -> tuple[pa.Table, ReadReport]:
    """Read sampled frames of the videos of `root`."""
    report = ReadReport(COUNTED | IGNORED)
    folder = Folder(root, report)
    pattern = r"(?P<split>train|val)(?:_afew)?/(?P<folder>[^/]+)/(?P<name>[^/]+)\.(?:avi|mp4)"
    videos = folder.find(pattern, "train_afew/Angry/012345678.avi", args.crop)
    _check_unique_videos(videos)
    folder.count_others(r"[^/]+\.(?:avi|mp4)", "videos_ignored", videos["path"])
    folder.count_others(r"[^/]+\.(?:jpe?g|png|bmp)", "images_ignored")
    report.tally.add("rows", len(videos))
    labels = videos.assign(clip=videos["path"], split=videos["split"].str.lower().map(TRAIN_VAL))
    names = labels["folder"].map(canonical_name)
    labels["emotion"], emotions = map_emotions(names, BASIC_EMOTIONS_BY_NAME, {}, args, report)
    labels = labels.assign(video_id=labels["split"] + "_" + labels["name"]).drop(columns="path")
    labels["group_id"] = labels["video_id"]
    frames = list_video_frames(folder, videos.assign(clip=videos["path"])[["path", "clip"]], report)
    return build_frame_table(sample_clips(labels, frames, args, report), report, emotions=emotions), report


def _check_unique_videos(videos: pd.DataFrame) -> None:
    """Refuse duplicate videos: in two file formats, in two folders, or under two emotions."""
    keys = videos["split"].str.lower() + "/" + videos["name"]
    if (is_duplicate := keys.duplicated()).any():
        paths = videos["path"][keys == keys[is_duplicate].iloc[0]]
        raise ambiguous_folders_error(f"{is_duplicate.sum():,} videos", paths.iloc[0], paths.iloc[1])
