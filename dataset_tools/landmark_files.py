"""Reads files of landmarks in pixels of the images.

A CSV has the columns `video, frame, x0, y0, ... x67, y67`; an `.npz` file the arrays `video` (N,), `frame` (N,) and
`landmarks` (N, 68, 2). OpenFace's output for a video is read as well: `frame`, `success`, `x_0` … `y_67`; the video is
then the name of the file. Cells may be quoted, and separated by commas, semicolons or tabs.
"""

import csv
import importlib.util
import re
import zipfile
from collections import defaultdict
from collections.abc import Collection, Container, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ..labels_mf2 import NUM_LANDMARKS
from ..utils.text_tables import decimal_point, find_delimiter

if TYPE_CHECKING:
    import pyarrow.csv as pacsv

_POINT_COLUMNS = tuple(f"{axis}{point}" for point in range(NUM_LANDMARKS) for axis in "xy")
COLUMNS = ("video", "frame", *_POINT_COLUMNS)
MAX_SHOWN = 4
"""Number of names that an error message lists."""
BATCH_ROWS = 1000

Frame = tuple[str, int]  # video id, frame number


@dataclass(frozen=True)
class FrameRange:
    """The first and the last frame number of a video in a file, and the number of its frames there.

    `origin` is the number of the first frame of the video itself, if the format defines it: OpenFace counts from 1.
    """

    first: int
    last: int
    count: int
    origin: int | None = None


# --------------------------------------------------------------------------------------------------------- reading
def read_landmarks(path: str | Path, frames: Container[Frame]) -> dict[Frame, npt.NDArray[np.float32]]:
    """Read the landmarks of the given frames.

    Returns:
        (68, 2) float32 by (video, frame). A frame is missing, like one whose face was not found, if it has no row, if
        its row has an empty or infinite value, or if OpenFace's `success` is 0.
    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a missing column or array, a value that is not a number, or two rows for one frame.
    """
    path = Path(path)
    landmarks: dict[Frame, npt.NDArray[np.float32]] = {}
    for videos, numbers, points in _read_rows(path):
        for key, xy in zip(zip(videos, numbers, strict=True), points, strict=True):
            if key in landmarks:
                raise _read_error(path, f"two rows for frame {key[1]} of {key[0]}")
            if key in frames and np.isfinite(xy).all():
                landmarks[key] = xy.astype(np.float32)
    return landmarks


def list_videos(path: str | Path) -> dict[str, FrameRange]:
    """Video -> its frames in a file; raises the errors of `read_landmarks`."""
    path = Path(path)
    frames: dict[str, list[int]] = defaultdict(list)
    for videos, numbers, _ in _read_rows(path):
        for video, number in zip(videos, numbers, strict=True):
            frames[video].append(number)
    origin = 1 if path.suffix != ".npz" and frames and _is_openface(_read_header(path)[0]) else None
    return {video: FrameRange(min(numbers), max(numbers), len(numbers), origin) for video, numbers in frames.items()}


_Rows = tuple[list[str], list[int], npt.NDArray[np.floating]]  # videos, frames, (N, 68, 2) points


def _read_rows(path: Path) -> Iterator[_Rows]:
    if not path.is_file():
        raise FileNotFoundError(f"The landmark file {path} does not exist.")
    try:
        yield from _read_npz(path) if path.suffix == ".npz" else _read_csv(path)
    except (zipfile.BadZipFile, ValueError) as error:  # Arrow's are ValueErrors
        raise _read_error(path, error) from None


def _read_error(path: Path, error: Exception | str) -> ValueError:
    return ValueError(f"The landmark file {path} cannot be read: {error}.")


def _read_npz(path: Path) -> Iterator[_Rows]:
    with np.load(path, allow_pickle=False) as file:
        if missing := [name for name in ("video", "frame", "landmarks") if name not in file]:
            raise ValueError(f"it lacks the arrays {', '.join(missing)}")
        videos, frames, points = file["video"], file["frame"], file["landmarks"]
    if points.shape != (len(videos), NUM_LANDMARKS, 2) or frames.shape != videos.shape:
        raise ValueError(f"video, frame and landmarks have the shapes {videos.shape}, {frames.shape}, {points.shape}")
    yield videos.astype(str).tolist(), frames.astype(int).tolist(), points


def _read_csv(path: Path) -> Iterator[_Rows]:
    return _read_with_arrow(path) if importlib.util.find_spec("pyarrow") else _read_with_csv_module(path)


def _read_with_csv_module(path: Path) -> Iterator[_Rows]:
    """The same as `_read_with_arrow` without pyarrow, several times slower."""
    names, delimiter, decimal_point = _read_header(path)
    columns = {name: names.index(name) for name in _required_columns(names)}
    with path.open(encoding="utf-8-sig", newline="") as file:
        lines = (line for line in csv.reader(file, delimiter=delimiter) if line)
        next(lines)
        while rows := list(islice(lines, BATCH_ROWS)):
            if ragged := next((row for row in rows if len(row) != len(names)), None):
                raise ValueError(f"the row {delimiter.join(ragged)[:60]} has {len(ragged)} cells, not {len(names)}")
            cells = {name: [row[column].strip() for row in rows] for name, column in columns.items()}
            if "" in cells["frame"]:
                raise ValueError("a row has no frame")
            numbers = {name: [_parse_number(cell, decimal_point) for cell in cells[name]] for name in _POINT_COLUMNS}
            points = np.array([numbers[name] for name in _POINT_COLUMNS], dtype=np.float32).T
            if "success" in cells:
                points[[_parse_number(cell, decimal_point) == 0 for cell in cells["success"]]] = np.nan
            videos = cells.get("video") or [path.stem] * len(rows)
            yield videos, [int(cell) for cell in cells["frame"]], points.reshape(-1, NUM_LANDMARKS, 2)


def _parse_number(cell: str, decimal_point: str) -> float:
    return float(cell.replace(decimal_point, ".")) if cell not in ("", "NA", "N/A", "NULL", "null") else float("nan")


def _read_with_arrow(path: Path) -> Iterator[_Rows]:
    import pyarrow as pa  # imported here because small installations lack it
    import pyarrow.compute as pc

    reader, names = _open_csv(path)
    for batch in reader:
        points = np.column_stack([batch[name].to_numpy(zero_copy_only=False) for name in _POINT_COLUMNS])
        if "success" in names:
            points[batch["success"].to_numpy(zero_copy_only=False) == 0] = np.nan
        videos = batch["video"] if "video" in names else pa.array([path.stem] * len(batch))
        if pc.any(pc.is_null(batch["frame"])).as_py():
            raise ValueError("a row has no frame")
        yield videos.to_pylist(), batch["frame"].to_pylist(), points.reshape(-1, NUM_LANDMARKS, 2)


def _read_header(path: Path) -> tuple[list[str], str, str]:
    """Read the normalised column names, the delimiter and the decimal point."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        header, first_row = file.readline(), file.readline()
    delimiter = find_delimiter(header)
    names = [_normalize_column(name) for name in next(csv.reader([header], delimiter=delimiter), [])]
    return names, delimiter, decimal_point(delimiter, first_row)


def _is_openface(names: Container[str]) -> bool:
    return "success" in names and "video" not in names


def _required_columns(names: Collection[str]) -> list[str]:
    """The columns of a file that are read; a `ValueError` if one is missing."""
    is_openface = _is_openface(names)
    required = [name for name in COLUMNS if not (is_openface and name == "video")]
    if missing := [name for name in required if name not in names]:
        shown = ", ".join(missing[:6]) + (" ..." if len(missing) > 6 else "")
        raise ValueError(f"it lacks the columns {shown}; it must have video, frame, x0, y0, ... x67, y67")
    return [*required, *["success"] * ("success" in names)]


def _open_csv(path: Path) -> "tuple[pacsv.CSVStreamingReader, list[str]]":
    """Check the header of a file; returns a streaming reader of its rows, and its columns."""
    import pyarrow as pa
    import pyarrow.csv as pacsv

    names, delimiter, decimal_point = _read_header(path)
    columns = _required_columns(names)
    numbers = dict.fromkeys((*_POINT_COLUMNS, "success"), pa.float32())
    reader = pacsv.open_csv(
        path,
        read_options=pacsv.ReadOptions(column_names=names, skip_rows=1),
        parse_options=pacsv.ParseOptions(delimiter=delimiter),
        convert_options=pacsv.ConvertOptions(
            column_types={"video": pa.string(), "frame": pa.int32(), **numbers},
            include_columns=columns,
            decimal_point=decimal_point,
        ),
    )
    return reader, columns


def _normalize_column(name: str) -> str:
    """Rename OpenFace's ` x_0` to `x0`; its `X_0` is a 3D point and stays unchanged."""
    return re.sub(r"^([xy])_(\d+)$", r"\1\2", name.strip())


# -------------------------------------------------------------------------------------------------------- matching
def match_videos(
    names: Iterable[str], file_videos: Iterable[str], source: str = "the landmark file"
) -> dict[str, str]:
    """Match names of videos to the videos named in a file.

    `dir/clip.mp4`, `clip.mp4`, `dir/clip` and `clip` match each other: two names match if their last parts are equal
    (as many as both have), where the last part may lack its suffix. Of several matches, the one with the most common
    parts is used.

    Args:
        names: the names to match.
        file_videos: the names in the file.
        source: the file in words, for error messages.
    Returns:
        Name -> matching name in the file, for the names that have a match.
    Raises:
        ValueError: a name matches two videos of the file equally well, or two names match the same one.
    """
    by_stem = defaultdict(list)
    for video in file_videos:
        for stem in {_parts(video)[-1], _stem(video)}:
            by_stem[stem].append(video)
    matches = {}
    for name in names:
        candidates = {video for stem in (_parts(name)[-1], _stem(name)) for video in by_stem[stem]}
        scores = {video: score for video in candidates if (score := _match_score(name, video))}
        best = [video for video, score in scores.items() if score == max(scores.values())]
        if len(best) > 1:
            raise ValueError(
                f"{name} may be {' or '.join(sorted(best))} of {source}; write its folder or suffix there."
            )
        if best:
            matches[name] = best[0]
    names_by_video = defaultdict(list)
    for name, video in matches.items():
        names_by_video[video].append(name)
    for video, same_video in names_by_video.items():
        if len(same_video) > 1:
            raise ValueError(
                f"{video} of {source} may be {' or '.join(same_video[:2])}; write its folder or suffix there."
            )
    return matches


def _parts(name: str) -> tuple[str, ...]:
    return PurePosixPath(name.replace("\\", "/")).parts or ("",)


def _stem(name: str) -> str:
    return PurePosixPath(_parts(name)[-1]).stem


def _match_score(first: str, second: str) -> float:
    """The number of common last parts of two names, plus a half for an equal suffix; 0 if they do not match."""
    *folders, last = _parts(first)
    *other_folders, other = _parts(second)
    if last != other and other != _stem(first) and last != _stem(second):
        return 0
    num_common = min(len(folders), len(other_folders))
    folders = [part for part in folders[len(folders) - num_common :] if part != "/"]
    other_folders = [part for part in other_folders[len(other_folders) - num_common :] if part != "/"]
    return 1 + num_common + (last == other) / 2 if folders == other_folders else 0


def shorten(names: Iterable[str]) -> str:
    """The first few names and the number of others, for an error message."""
    names = list(names)
    more = f" and {len(names) - MAX_SHOWN:,} more" if len(names) > MAX_SHOWN else ""
    return ", ".join(names[:MAX_SHOWN]) + more


def read_matching_landmarks(path: str | Path, frames: Collection[Frame]) -> dict[Frame, npt.NDArray[np.float32]]:
    """Read the landmarks of frames whose videos may be named differently in the file, see `match_videos`.

    Raises:
        FileNotFoundError: as `read_landmarks`.
        ValueError: as `read_landmarks` and `match_videos`; or the file has landmarks of none of the frames.
    """
    file_videos = list_videos(path)
    videos = match_videos(dict(frames), file_videos)
    file_frames = {(videos[video], number): (video, number) for video, number in frames if video in videos}
    landmarks = read_landmarks(path, file_frames)
    if frames and not landmarks:
        ranges = (f"{video} (frames {numbers.first} to {numbers.last})" for video, numbers in file_videos.items())
        requested = (f"{video} frame {number}" for video, number in frames)
        raise ValueError(
            f"The landmark file {path} has landmarks of none of the images. It has {shorten(ranges) or 'no row'}; "
            f"wanted: {shorten(requested)}."
        )
    return {file_frames[key]: points for key, points in landmarks.items()}
