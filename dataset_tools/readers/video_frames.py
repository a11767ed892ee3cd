"""Clips: which frames of one are taken, and frames straight from video files.

Frame i (from 0) of a video is the path `clip.avi#i`; decoding streams, and needs PyAV (the extra `video`). Frames are
as a player shows them: turned, mirrored and with square pixels.
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

from ...utils.videos import as_shown, count_video_frames, import_av, pixel_aspect_of
from .frame_table import EMOTION_MISSING, Folder, ReadReport, two_versions

JPEG_QUALITY = 95
_VIDEO_FRAME = re.compile(r"(.+\.(?:avi|mp4))#(\d{1,9})", re.ASCII | re.IGNORECASE)

COUNTED = {
    "dropped_no_clip": "dropped: clips that are not there",
    "clips": "kept clips",
    "unreadable_videos": "videos that cannot be opened",
}
"""What a report about clips counts besides; its rows are clips."""


# --------------------------------------------------------------------------------------------------------- sampling
def add_sampling_argument(parser: argparse.ArgumentParser) -> None:
    """`--frames_per_clip`."""
    parser.add_argument(
        "--frames_per_clip",
        type=int,
        default=8,
        metavar="K",
        help="frames of a clip: the middle ones of K equal parts, all of a shorter clip (default: %(default)s)",
    )


def sample_clips(
    labels: pd.DataFrame, frames: pd.DataFrame, args: argparse.Namespace, report: ReadReport
) -> pd.DataFrame:
    """The labels of clips on their sampled frames.

    Args:
        labels: one row a clip, by `clip`, with its `emotion`; the first of several is taken.
        frames: `clip`, `frame` (its number) and `path` of all frames.
        args: with `frames_per_clip`; recorded in the report's settings.
    Returns:
        One row a sampled frame: the columns of both.
    Raises:
        ValueError: not at least one frame of a clip.
    """
    if args.frames_per_clip < 1:
        raise ValueError(f"--frames_per_clip is {args.frames_per_clip}; it must be 1 or more.")
    report.settings["frames_per_clip"] = args.frames_per_clip
    labels = report.drop(labels, labels.duplicated("clip"), "labelled_twice", "clip")
    labels = report.drop(labels, labels["emotion"] == EMOTION_MISSING, "unlabelled", "clip")
    labels = report.drop(labels, ~labels["clip"].isin(frames["clip"]), "dropped_no_clip", "clip")
    report.tally.add("clips", len(labels))
    frames = frames[frames["clip"].isin(labels["clip"])].sort_values(["clip", "frame"], ignore_index=True)
    _check_one_version(frames)
    sizes = frames.groupby("clip").size().to_numpy()
    return frames.iloc[middle_frames(sizes, args.frames_per_clip)].merge(labels, on="clip")


def _check_one_version(frames: pd.DataFrame) -> None:
    """Refuse clips whose frames are in several folders: versions of it, of other sizes or crops."""
    folders = frames["path"].str.rpartition("/")[0]
    of_clip = pd.DataFrame({"clip": frames["clip"], "folder": folders}).drop_duplicates()
    if (again := of_clip["clip"].duplicated()).any():
        clip = of_clip["clip"][again].iloc[0]
        one, two = of_clip["folder"][of_clip["clip"] == clip].iloc[:2]
        raise two_versions(f"The frames of {of_clip['clip'][again].nunique():,} clips", one, two)


def middle_frames(sizes: np.ndarray, per_clip: int) -> np.ndarray:
    """Positions, in clips of those sizes one after another, of the middle frames of `per_clip` equal parts of each."""
    inside = (2 * np.arange(per_clip) + 1) * sizes[:, None] // (2 * per_clip)  # (clips, per_clip)
    starts = np.cumsum(sizes) - sizes
    return np.unique(starts[:, None] + inside)


# ----------------------------------------------------------------------------------------------------------- videos
def frames_of_videos(folder: Folder, videos: pd.DataFrame, report: ReadReport) -> pd.DataFrame:
    """All frames of video files: their columns, with `frame` from 0 and `path` as above.

    A video that cannot be opened is counted.
    """
    sizes = [_count_frames(folder.root / path) for path in tqdm(videos["path"], desc="videos", unit="video")]
    report.count("unreadable_videos", videos["path"][np.array(sizes, int) == 0])
    frames = videos.loc[videos.index.repeat(sizes)].reset_index(drop=True)
    frames["frame"] = np.concatenate([np.arange(size) for size in sizes]) if sizes else []
    return frames.assign(path=frames["path"] + "#" + frames["frame"].astype(str))


def _count_frames(path: Path) -> int:
    """The frames of a video; 0 where it cannot be opened."""
    try:
        return count_video_frames(path)
    except ValueError:
        return 0


def split_video_path(path: str) -> tuple[str, int] | None:
    """`clip.avi#12` -> (`clip.avi`, 12); None for the path of an image."""
    match = _VIDEO_FRAME.fullmatch(path)
    return (match[1], int(match[2])) if match else None


class VideoReader:
    """Frames of videos as JPEG files. Those of one video, asked for in order, are decoded in one pass."""

    def __init__(self) -> None:
        self._path: Path | None = None
        self._frames: Iterator[npt.NDArray[np.uint8]] = iter(())
        self._next = 0

    def read(self, path: Path, index: int) -> bytes | None:
        """Frame `index`, from 0; None where the video ends before it or cannot be decoded."""
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
        pixel_aspect = pixel_aspect_of(container.streams.video[0])
        for frame in container.decode(video=0):
            yield as_shown(frame, pixel_aspect)


def _encode(image: npt.NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=JPEG_QUALITY)
    return file.getvalue()
