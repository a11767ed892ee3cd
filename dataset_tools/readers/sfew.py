"""Reads SFEW 2.0.

    {Train,Val}/{Train,Val}_Aligned_Faces/<Emotion>/Film_001234567_00000012.png

The film, what stands before the first long number of a name, is the group.
"""

import argparse
from pathlib import Path

import pyarrow as pa

from ...labels_mf2 import EMOTIONS
from .emotion_maps import add_emotion_arguments, canonical_name, map_emotions
from .frame_table import Folder, ReadReport, frame_table
from .interface import About, License

OWN_EMOTIONS = ("Anger", "Disgust", "Fear", "Happiness", "Neutral", "Sadness", "Surprise")
SPLITS = {"train": "train", "val": "validation"}
ABOUT = About(
    name="SFEW 2.0",
    license=License("other", "sfew-agreement", "https://cs.anu.edu.au/few/"),
    citation="Dhall, Goecke, Lucey and Gedeon, Static Facial Expression Analysis in Tough Conditions: Data, "
    "Evaluation Protocol and Benchmark, ICCV Workshops 2011",
    emotions=tuple(name for name in EMOTIONS if name in OWN_EMOTIONS),
    splits="official Train and Val",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this data set."""
    add_emotion_arguments(parser)


def read(root: Path, args: argparse.Namespace) -> tuple[pa.Table, ReadReport]:
    """The faces of `root`; the folder of one is its label."""
    report = ReadReport()
    folder = Folder(root, report)
    labels = folder.images(
        r"(?P<split>Train|Val)/(?:Train|Val)_Aligned_Faces/(?P<folder>[^/]+)/(?P<name>[^/]+)",
        "such as Train/Train_Aligned_Faces/Angry/name.png",
    )
    report.tally.add("rows", len(labels))
    labels["emotion"], emotions = map_emotions(labels["folder"].map(canonical_name), OWN_EMOTIONS, {}, args, report)
    film = labels["name"].str.extract(r"^(.+?)_\d{5,}", expand=False)
    labels = labels.assign(
        split=labels["split"].str.lower().map(SPLITS),
        video_id=labels["name"],
        group_id=film.fillna(labels["name"]),
    )
    return frame_table(labels, report, emotions=emotions), report
