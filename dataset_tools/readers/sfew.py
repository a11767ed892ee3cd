"""Reads SFEW 2.0.

    [Train/]Train_Aligned_Faces/<Emotion>/Film_001234567_00000012.png
    [Val/]Val_Aligned_Faces[_new]/<Emotion>/...

The test faces have no label. Where both versions of the validation faces are there, --crop chooses one.

The film, what stands before the first long number of a name, is the group.
"""

import argparse
import os
from pathlib import Path

import pandas as pd
import pyarrow as pa

from ...labels_mf2 import EMOTIONS
from .emotion_maps import add_emotion_arguments, canonical_name, map_emotions
from .frame_table import Folder, ReadReport, add_crop_argument, frame_table, two_versions
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
    add_crop_argument(parser)


def read(root: Path, args: argparse.Namespace) -> tuple[pa.Table, ReadReport]:
    """The faces of `root`; the folder of one is its label."""
    report = ReadReport()
    folder = Folder(root, report)
    labels = folder.images(
        r"(?P<split>Train|Val)_Aligned_Faces(?:_new)?/(?P<folder>[^/]+)/(?P<name>[^/]+)",
        "such as Train/Train_Aligned_Faces/Angry/name.png",
    )
    labels = _one_version(labels.assign(split=labels["split"].str.lower().map(SPLITS)), args.crop, report)
    report.tally.add("rows", len(labels))
    labels["emotion"], emotions = map_emotions(labels["folder"].map(canonical_name), OWN_EMOTIONS, {}, args, report)
    film = labels["name"].str.extract(r"^(.+?)_\d{5,}", expand=False)
    labels = labels.assign(
        video_id=labels["name"],
        group_id=film.fillna(labels["name"]),
    )
    return frame_table(labels, report, emotions=emotions), report


def _one_version(images: pd.DataFrame, crop: str | None, report: ReadReport) -> pd.DataFrame:
    """The images without those of the splits of `crop` that are elsewhere.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: a face is there in two versions.
    """
    if crop is not None:
        inside = ("/" + images["path"]).str.contains(f"/{crop.strip('/')}/", regex=False)
        if not inside.any():
            raise FileNotFoundError(f"No image is in {crop}; they are in {_folders(images)}.")
        other = images["split"].isin(images["split"][inside]) & ~inside
        report.tally.add("images_ignored", int(other.sum()), _folders(images[other]))
        images = images[~other].reset_index(drop=True)
    keys = ["split", "folder", "name"]
    if (again := images.duplicated(keys)).any():
        first = images[images.duplicated(keys, keep=False)].sort_values(keys)["path"]
        raise two_versions(f"{again.sum():,} faces", first.iloc[0], first.iloc[1])
    return images


def _folders(images: pd.DataFrame) -> str:
    return ", ".join(sorted({os.path.dirname(os.path.dirname(path)) for path in images["path"]}))
