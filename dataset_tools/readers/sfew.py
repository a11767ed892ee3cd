"""Reads SFEW 2.0.

    [Train/]Train_Aligned_Faces/<Emotion>/Film_001234567_00000012.png
    [Val/]Val_Aligned_Faces[_new]/<Emotion>/...

The test faces have no label. If both versions of the validation faces are present, --crop chooses one.

The group is the film: the part of a file name before its first long number.
"""

import argparse
import os
from pathlib import Path

import pandas as pd
import pyarrow as pa

from .conventions import BASIC_EMOTIONS, BASIC_EMOTIONS_BY_NAME, OFFICIAL_TRAIN_VAL, TRAIN_VAL, restricted_license
from .emotion_maps import add_emotion_arguments, canonical_name, map_emotions
from .frame_table import Folder, ReadReport, add_crop_argument, ambiguous_folders_error, build_frame_table
from .interface import About

ABOUT = About(
    name="SFEW 2.0",
    license=restricted_license("sfew-agreement", "https://cs.anu.edu.au/few/"),
    citation="Dhall, Goecke, Lucey and Gedeon, Static Facial Expression Analysis in Tough Conditions: Data, "
    "Evaluation Protocol and Benchmark, ICCV Workshops 2011",
    emotions=BASIC_EMOTIONS,
    splits=OFFICIAL_TRAIN_VAL,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this data set."""
    add_emotion_arguments(parser)
    add_crop_argument(parser)


def read(root: Path, args: argparse.Namespace) -> tuple[pa.Table, ReadReport]:
    """Read the faces of `root`; the folder of a face is its label."""
    report = ReadReport()
    folder = Folder(root, report)
    labels = folder.images(
        r"(?P<split>Train|Val)_Aligned_Faces(?:_new)?/(?P<folder>[^/]+)/(?P<name>[^/]+)",
        "such as Train/Train_Aligned_Faces/Angry/name.png",
    )
    labels = _choose_version(labels.assign(split=labels["split"].str.lower().map(TRAIN_VAL)), args.crop, report)
    report.tally.add("rows", len(labels))
    names = labels["folder"].map(canonical_name)
    labels["emotion"], emotions = map_emotions(names, BASIC_EMOTIONS_BY_NAME, {}, args, report)
    film = labels["name"].str.extract(r"^(.+?)_\d{5,}", expand=False)
    labels = labels.assign(video_id=labels["name"], group_id=film.fillna(labels["name"]))
    return build_frame_table(labels, report, emotions=emotions), report


def _choose_version(images: pd.DataFrame, crop: str | None, report: ReadReport) -> pd.DataFrame:
    """Keep, of each split that has images in the folder `crop`, only those images.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: a face is present in two versions.
    """
    if crop is not None:
        in_crop = ("/" + images["path"]).str.contains(f"/{crop.strip('/')}/", regex=False)
        if not in_crop.any():
            raise FileNotFoundError(f"No image is in {crop}; they are in {_list_folders(images)}.")
        is_other_version = images["split"].isin(images["split"][in_crop]) & ~in_crop
        report.tally.add("images_ignored", int(is_other_version.sum()), _list_folders(images[is_other_version]))
        images = images[~is_other_version].reset_index(drop=True)
    keys = ["split", "folder", "name"]
    if (is_duplicate := images.duplicated(keys)).any():
        paths = images[images.duplicated(keys, keep=False)].sort_values(keys)["path"]
        raise ambiguous_folders_error(f"{is_duplicate.sum():,} faces", paths.iloc[0], paths.iloc[1])
    return images


def _list_folders(images: pd.DataFrame) -> str:
    return ", ".join(sorted({os.path.dirname(os.path.dirname(path)) for path in images["path"]}))
