"""Reads AFEW.

{Train,Val}_AFEW/<Emotion>/012345678.avi   the folder of a video is its label; frames are decoded when imported
"""

import argparse
from pathlib import Path

import pyarrow as pa

from ...labels_mf2 import EMOTIONS
from .emotion_maps import add_emotion_arguments, canonical_name, map_emotions
from .frame_table import Folder, ReadReport, frame_table
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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this data set."""
    add_sampling_argument(parser)
    add_emotion_arguments(parser)


def read(root: Path, args: argparse.Namespace) -> tuple[pa.Table, ReadReport]:
    """Sampled frames of the videos of `root`."""
    report = ReadReport(COUNTED)
    folder = Folder(root, report)
    videos = folder.find(
        r"(?P<split>train|val)_afew/(?P<folder>[^/]+)/(?P<name>[^/]+)\.(?:avi|mp4)", "train_afew/Angry/012345678.avi"
    )
    report.tally.add("rows", len(videos))
    labels = videos.assign(clip=videos["path"], split=videos["split"].str.lower().map(SPLITS))
    names = labels["folder"].map(canonical_name)
    labels["emotion"], emotions = map_emotions(names, OWN_EMOTIONS, {}, args, report)
    labels = labels.assign(video_id=labels["split"] + "_" + labels["name"]).drop(columns="path")
    labels["group_id"] = labels["video_id"]
    frames = frames_of_videos(folder, videos.assign(clip=videos["path"])[["path", "clip"]], report)
    return frame_table(sample_clips(labels, frames, args, report), report, emotions=emotions), report
