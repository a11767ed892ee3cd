"""Reads DISFA.

    ActionUnit_Labels/SN001/SN001_au1.txt   lines `frame,intensity`: frames from 1, intensities 0..5
    ActionUnit_Labels/SN001/au1.txt         (another spelling of the same)
    .../*SN001*/*12.jpg                     extracted frames: one folder per person, names that end with a number
    .../*SN001*.avi                         or the videos themselves

Extracted frames may be numbered from 0 although the labels are numbered from 1: if the folder of a person has an image
0, image k - 1 belongs to label k.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from .conventions import THREE_FOLDS, restricted_license
from .folds import DISFA_PARTS, add_fold_argument, assign_fold_splits
from .frame_table import (
    Folder,
    ReadReport,
    add_crop_argument,
    add_first_image_argument,
    align_frame_numbers,
    binarize_intensities,
    build_frame_table,
    parse_ints,
)
from .interface import About
from .video_frames import list_video_frames

HIGHEST = 5
ABOUT = About(
    name="DISFA",
    license=restricted_license("disfa-agreement", "http://mohammadmahoor.com/disfa/"),
    citation="Mavadati, Mahoor, Bartlett, Trinh and Cohn, DISFA: A Spontaneous Facial Action Intensity Database, IEEE "
    "Transactions on Affective Computing 4(2), 2013",
    au_ids=(1, 2, 4, 5, 6, 9, 12, 15, 17, 20, 25, 26),
    active="intensity 2 or more (--threshold)",
    splits=THREE_FOLDS,
)
COUNTED = {
    "people": "people",
    "unreadable_videos": "videos that cannot be opened",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this data set."""
    parser.add_argument(
        "--threshold",
        type=int,
        choices=range(1, HIGHEST + 1),
        default=2,
        help="an AU of this intensity is active (default: %(default)s)",
    )
    add_first_image_argument(parser)
    add_fold_argument(parser)
    add_crop_argument(parser)


def read(root: Path, args: argparse.Namespace) -> tuple[pa.Table, ReadReport]:
    """Read the frames of `root` that have labels and an image."""
    report = ReadReport(COUNTED, threshold=args.threshold, fold=args.fold)
    folder = Folder(root, report)
    labels = _read_labels(folder, report, args.threshold)
    images = align_frame_numbers(_find_images(folder, report, args), labels, "subject", args.first_image, report)
    labels["split"] = assign_fold_splits(labels["subject"], DISFA_PARTS, args.fold)
    labels = report.drop(labels, labels["split"].isna(), "no_part", ["subject", "frame"])
    labels["video_id"] = labels["group_id"] = labels["subject"]
    return build_frame_table(labels, report, images, on=["subject", "frame"]), report


def _read_labels(folder: Folder, report: ReadReport, threshold: int) -> pd.DataFrame:
    """Read one row for each person and frame; an AU without a value there is unlabelled."""
    numbers = "|".join(map(str, ABOUT.au_ids))
    files = folder.find(
        rf"ActionUnit_Labels/(?P<subject>SN\d{{3}})/(?:SN\d{{3}}_)?au0?(?P<au>{numbers})\.txt",
        "ActionUnit_Labels/SN001/SN001_au1.txt (or SN001/au1.txt)",
    )
    files = files.assign(au=files["au"].astype(int), subject=files["subject"].str.upper())
    files = report.drop(files, files.duplicated(["subject", "au"]), "rejected_files", "path")
    tables = []
    for subject, au_id, path in files[["subject", "au", "path"]].itertuples(index=False):
        frames, intensities = _read_intensities(folder.read(path), path, report)
        label = binarize_intensities(intensities, threshold, HIGHEST)
        tables.append(pd.DataFrame({"subject": subject, "frame": frames, "au": au_id, "label": label}))
    long = pd.concat(tables, ignore_index=True)
    labels = long.pivot(index=["subject", "frame"], columns="au", values="label").add_prefix("AU").reset_index()
    report.tally.add("rows", len(labels))
    report.tally.add("people", labels["subject"].nunique())
    return labels


def _read_intensities(data: bytes, path: str, report: ReadReport) -> tuple[np.ndarray, np.ndarray]:
    """Read lines `frame,intensity` as two arrays (n,); invalid lines and values are counted and left out."""
    table = parse_ints(data, 2, np.int32)
    is_invalid = (table[:, 0] < 1) | (table[:, 1] < 0) | (table[:, 1] > HIGHEST)
    report.count("values_unknown", [f"{path}:{line}" for line in np.flatnonzero(is_invalid) + 1])
    table = table[~is_invalid]
    frames, first = np.unique(table[:, 0], return_index=True)
    report.count("values_unknown", [f"{path}: frame {frame} again" for frame in np.delete(table[:, 0], first)])
    return frames, table[first, 1]


def _find_images(folder: Folder, report: ReadReport, args: argparse.Namespace) -> pd.DataFrame:
    """Find the images: `subject`, `frame` (the number of the image) and `path`."""
    try:
        images = folder.images(
            r"[^/]*(?P<subject>SN\d{3})(?:[^/]*/)?[^/]*?(?P<frame>\d{1,7})",
            "of a person, such as SN001/00001.jpg",
            args.crop,
        )
    except FileNotFoundError:
        videos = folder.match(r"[^/]*(?P<subject>SN\d{3})[^/]*\.(?:avi|mp4)", args.crop)
        if videos.empty:
            raise
        images = list_video_frames(folder, videos, report)
    return images.assign(subject=images["subject"].str.upper())
