"""Which row of a split a prediction is of, where predictions are named by the paths of pictures and videos.

A picture is the row whose `file_name` ends its path (`data/v0/00001.jpg` and `v0/00001.jpg`), or is ended by it. A
video is the `video_id` that ends its path, with or without its suffix. Frames of a video count from 0 in the
predictions, and in the data as their file names do: from 0 where the split has a frame 0, else from 1.
"""

import logging
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pandas as pd

from mf2.dataset_tools.landmark_files import listed, match_videos
from mf2.utils.suffixes import VIDEO_SUFFIXES

logger = logging.getLogger(__name__)

PLACE = "the data set"


def match_paths(table: pd.DataFrame, rows: Any) -> np.ndarray:
    """`(N,)` for each row of a split the position of its prediction; -1 where there is none.

    Args:
        table: with `video`, a path, and `frame`, from 0.
        rows: of a split, with `video_id`, `frame` and `file_name`.
    Raises:
        ValueError: no path is of any row, or one may be of several.
    """
    sources = table["video"].drop_duplicates().tolist()
    videos, frames = list(rows["video_id"]), np.asarray(rows["frame"])
    of_picture = _match_pictures([name for name in sources if not _is_video(name)], list(rows["file_name"]))
    rest = [name for name in sources if name not in of_picture]
    of_video = match_videos(rest, dict.fromkeys(videos), PLACE)
    if not of_picture and not of_video:
        raise ValueError(
            f"No prediction is of a row of the split: they are of {listed(sources) or 'nothing'}, and the data have "
            f"{listed(map(str, rows['file_name']))} of the videos {listed(dict.fromkeys(videos))}."
        )
    origin = 0 if not len(frames) or frames.min() == 0 else 1
    logger.info(
        f"Of {len(sources):,} pictures and videos with predictions, {len(of_picture):,} are pictures of the split and "
        f"{len(of_video):,} its videos" + (f", whose frames count from {origin} there." if of_video else ".")
    )
    by_file, by_frame = {}, {}
    for place, (name, frame) in enumerate(zip(table["video"], table["frame"].astype(int), strict=True)):
        if name in of_video:
            by_frame[of_video[name], frame + origin] = place
        elif name in of_picture and frame == 0:
            by_file[of_picture[name]] = place
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
    """The `file_name` that each picture is."""
    shown = {_own_name(file_name): file_name for file_name in file_names}
    if len(shown) < len(file_names):  # the folders are needed to tell them apart
        shown = {file_name: file_name for file_name in file_names}
    return {name: shown[found] for name, found in match_videos(names, shown, PLACE).items()}


def _own_name(file_name: str) -> str:
    """`f.png` of `f/f.png`, as a picture that is its own video is filed; another `file_name` as it is."""
    path = PurePosixPath(file_name)
    return path.name if len(path.parts) == 2 and path.parts[0] == path.stem else file_name
