"""Match predictions that are named by paths of pictures and videos to the rows of a split.

A picture matches the row whose `file_name` is a suffix of its path (`v0/00001.jpg` for `data/v0/00001.jpg`), or has
its path as a suffix. A video matches the `video_id` that its path ends with, with or without the file extension.
Frames of a video count from 0 in the predictions; in the data they count from 0 if the split has a frame 0, else
from 1.
"""

import logging
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pandas as pd

from mf2.dataset_tools.landmark_files import match_videos, shorten
from mf2.utils.suffixes import VIDEO_SUFFIXES

logger = logging.getLogger(__name__)

TARGET = "the data set"


def match_paths(table: pd.DataFrame, rows: Any) -> np.ndarray:
    """Return the position of each split row's prediction.

    Args:
        table: predictions with `video` (a path) and `frame` (from 0).
        rows: N rows of a split with `video_id`, `frame` and `file_name`.
    Returns:
        `(N,)` int: positions in `table`; -1 for a row without a prediction.
    Raises:
        ValueError: no path matches a row, or a path matches several.
    """
    sources = table["video"].drop_duplicates().tolist()
    videos, frames = list(rows["video_id"]), np.asarray(rows["frame"])
    picture_files = _match_pictures([name for name in sources if not _is_video(name)], list(rows["file_name"]))
    other_sources = [name for name in sources if name not in picture_files]
    video_ids = match_videos(other_sources, dict.fromkeys(videos), TARGET)
    if not picture_files and not video_ids:
        raise ValueError(
            f"No prediction is of a row of the split: they are of {shorten(sources) or 'nothing'}, and the data have "
            f"{shorten(map(str, rows['file_name']))} of the videos {shorten(dict.fromkeys(videos))}."
        )
    origin = 0 if not len(frames) or frames.min() == 0 else 1
    logger.info(
        f"Of {len(sources):,} pictures and videos with predictions, {len(picture_files):,} are pictures of the split "
        f"and {len(video_ids):,} its videos" + (f", whose frames count from {origin} there." if video_ids else ".")
    )
    by_file, by_frame = {}, {}
    for position, (name, frame) in enumerate(zip(table["video"], table["frame"].astype(int), strict=True)):
        if name in video_ids:
            by_frame[video_ids[name], frame + origin] = position
        elif name in picture_files and frame == 0:
            by_file[picture_files[name]] = position
    return np.array(
        [
            by_file.get(name, by_frame.get((video, int(frame)), -1))
            for name, video, frame in zip(rows["file_name"], videos, frames, strict=True)
        ],
        dtype=int,
    )


def _is_video(name: str) -> bool:
    return PurePosixPath(name.replace("\\", "/")).suffix.lower() in VIDEO_SUFFIXES


def _match_pictures(names: Sequence[str], file_names: Sequence[str]) -> dict[str, str]:
    """Map each picture to the `file_name` of its row."""
    candidates = {_short_name(file_name): file_name for file_name in file_names}
    if len(candidates) < len(file_names):  # the folders are needed to tell them apart
        candidates = {file_name: file_name for file_name in file_names}
    return {name: candidates[found] for name, found in match_videos(names, candidates, TARGET).items()}


def _short_name(file_name: str) -> str:
    """`f.png` for `f/f.png`, which is how a single picture is stored; any other `file_name` unchanged."""
    path = PurePosixPath(file_name)
    return path.name if len(path.parts) == 2 and path.parts[0] == path.stem else file_name
