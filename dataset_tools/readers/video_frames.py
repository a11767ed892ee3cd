"""Samples frames of clips, and decodes frames of video files.

Frame i (from 0) of a video has the path `clip.avi#i`. Videos are decoded as a stream with PyAV (the extra `video`).
Frames are returned as a player shows them: with the video's rotation and mirroring applied, and with square pixels.
"""

import argparse
import io
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image
from tqdm import tqdm

from ...utils.videos import Screen, count_video_frames, import_av
from .frame_table import EMOTION_MISSING, Folder, ReadReport, ambiguous_folders_error

JPEG_QUALITY = 95
_VIDEO_FRAME = re.compile(r"(.+\.(?:avi|mp4))#(\d{1,9})", re.ASCII | re.IGNORECASE)

COUNTED = {
    "dropped_no_clip": "dropped: clips without frames",
    "clips": "kept clips",
    "unreadable_videos": "videos that cannot be opened",
}
"""Additional counts of a report on clips; its rows are clips."""


# --------------------------------------------------------------------------------------------------------- sampling
def add_sampling_argument(parser: argparse.ArgumentParser) -> None:
    """Add `--frames_per_clip`."""
    parser.add_argument(
        "--frames_per_clip",
        type=int,
        default=8,
        metavar="K",
        help="frames per clip: the middle ones of K equal parts, all of a shorter clip (default: %(default)s)",
    )


def sample_clips(
    labels: pd.DataFrame, frames: pd.DataFrame, args: argparse.Namespace, report: ReadReport
) -> pd.DataFrame:
    """Sample frames of each clip and give them the labels of their clip.

    Args:
        labels: `clip`, `emotion` and other labels, one row per clip; of duplicates the first is used.
        frames: `clip`, `frame` (its number) and `path` of all frames.
        args: with `frames_per_clip`; recorded in the report's settings.
    Returns:
        One row per sampled frame, with the columns of both tables.
    Raises:
        ValueError: `frames_per_clip` is below 1, or the frames of a clip lie in several folders.
    """
    if args.frames_per_clip < 1:
        raise ValueError(f"--frames_per_clip is {args.frames_per_clip}; it must be 1 or more.")
    report.settings["frames_per_clip"] = args.frames_per_clip
    labels = report.drop(labels, labels.duplicated("clip"), "labelled_twice", "clip")
    labels = report.drop(labels, labels["emotion"] == EMOTION_MISSING, "unlabelled", "clip")
    labels = report.drop(labels, ~labels["clip"].isin(frames["clip"]), "dropped_no_clip", "clip")
    report.tally.add("clips", len(labels))
    frames = frames[frames["clip"].isin(labels["clip"])].sort_values(["clip", "frame"], ignore_index=True)
    _check_single_folder(frames)
    sizes = frames.groupby("clip").size().to_numpy()
    return frames.iloc[middle_frames(sizes, args.frames_per_clip)].merge(labels, on="clip")


def _check_single_folder(frames: pd.DataFrame) -> None:
    """Refuse clips whose frames lie in several folders: versions of one clip with other sizes or crops."""
    folders = frames["path"].str.rpartition("/")[0]
    clip_folders = pd.DataFrame({"clip": frames["clip"], "folder": folders}).drop_duplicates()
    if (is_duplicate := clip_folders["clip"].duplicated()).any():
        duplicates = clip_folders["clip"][is_duplicate]
        first, second = clip_folders["folder"][clip_folders["clip"] == duplicates.iloc[0]].iloc[:2]
        raise ambiguous_folders_error(f"The frames of {duplicates.nunique():,} clips", first, second)


def middle_frames(sizes: np.ndarray, per_clip: int) -> np.ndarray:
    """Positions of the middle frames of `per_clip` equal parts of each clip.

    Args:
        sizes: (clips,) number of frames of each clip; positions count through all clips in order.
    """
    offsets = (2 * np.arange(per_clip) + 1) * sizes[:, None] // (2 * per_clip)  # (clips, per_clip)
    starts = np.cumsum(sizes) - sizes
    return np.unique(starts[:, None] + offsets)


# ----------------------------------------------------------------------------------------------------------- videos
def list_video_frames(folder: Folder, videos: pd.DataFrame, report: ReadReport) -> pd.DataFrame:
    """List all frames of video files: the columns of `videos`, with `frame` from 0 and `path` such as `clip.avi#12`.

    A video that cannot be opened is counted, and has no rows.
    """
    sizes = [_count_frames(folder.root / path) for path in tqdm(videos["path"], desc="videos", unit="video")]
    report.count("unreadable_videos", videos["path"][np.array(sizes, int) == 0])
    frames = videos.loc[videos.index.repeat(sizes)].reset_index(drop=True)
    frames["frame"] = np.concatenate([np.arange(size) for size in sizes]) if sizes else []
    return frames.assign(path=frames["path"] + "#" + frames["frame"].astype(str))


def _count_frames(path: Path) -> int:
    """The number of frames of a video; 0 if it cannot be opened."""
    try:
        return count_video_frames(path)
    except ValueError:
        return 0


def split_video_path(path: str) -> tuple[str, int] | None:
    """Split `clip.avi#12` into (`clip.avi`, 12); None for the path of an image."""
    match = _VIDEO_FRAME.fullmatch(path)
    return (match[1], int(match[2])) if match else None


class VideoReader:
    """Reads frames of videos as JPEG bytes. Frames of one video that are read in order are decoded in one pass."""

    def __init__(self) -> None:
        self._path: Path | None = None
        self._frames: Iterator[npt.NDArray[np.uint8]] = iter(())
        self._next = 0

    def read(self, path: Path, index: int) -> bytes | None:
        """Read frame `index`, from 0; None if the video ends before it or cannot be decoded."""
        av = import_av()
        if path != self._path or index < self._next:
            self._path, self._frames, self._next = path, _decode(path), 0
        try:
            for frame in self._frames:
                self._next += 1
                if self._next == index + 1:
                    return _encode(frame)
        except (av.FFmpegError, IndexError):
            self._path = None
        return None


def _decode(path: Path) -> Iterator[npt.NDArray[np.uint8]]:
    with import_av().open(str(path)) as container:
        screen = Screen(container.streams.video[0])
        for frame in container.decode(video=0):
            yield screen.show(frame)


def _encode(image: npt.NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=JPEG_QUALITY)
    return file.getvalue()
