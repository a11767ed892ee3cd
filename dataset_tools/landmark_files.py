"""Landmarks that are given in a file, in pixels of the images.

A CSV has the columns `video, frame, x0, y0, ... x67, y67`; an `.npz` the arrays `video` (N,), `frame` (N,) and
`landmarks` (N, 68, 2). What OpenFace writes of a video is read as well: `frame`, `success`, `x_0` … `y_67`, without a
video, which the file is called after. Cells may be quoted, and separated by commas, semicolons or tabs.
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
SHOWN = 4
"""Names that an error spells out."""
ROWS_AT_ONCE = 1000

Frame = tuple[str, int]  # video id, frame number


@dataclass(frozen=True)
class FrameRange:
    """The numbers of the frames that a file has of a video: the first, the last, and how many.

    `origin` is the number of the video's own first frame where the format settles it: OpenFace counts from 1.
    """

    first: int
    last: int
    count: int
    origin: int | None = None


# --------------------------------------------------------------------------------------------------------- reading
def read_landmarks(path: str | Path, wanted: Container[Frame]) -> dict[Frame, npt.NDArray[np.float32]]:
    """Read the landmarks of the `wanted` frames.

    Returns:
        (68, 2) float32 by (video, frame). A frame whose row has an empty or infinite value, or OpenFace's `success` 0,
        is left out, as one without a row is: its face was not found.
    Raises:
        FileNotFoundError: no such file.
        ValueError: a missing column or array, a value that is no number, or two rows for one frame.
    """
    path = Path(path)
    found: dict[Frame, npt.NDArray[np.float32]] = {}
    for videos, frames, points in _rows_of(path):
        for key, xy in zip(zip(videos, frames, strict=True), points, strict=True):
            if key in found:
                raise _unreadable(path, f"two rows for frame {key[1]} of {key[0]}")
            if key in wanted and np.isfinite(xy).all():
                found[key] = xy.astype(np.float32)
    return found


def list_videos(path: str | Path) -> dict[str, FrameRange]:
    """The frames that a file has, by video; the same errors as `read_landmarks`."""
    path = Path(path)
    frames: dict[str, list[int]] = defaultdict(list)
    for videos, numbers, _ in _rows_of(path):
        for video, number in zip(videos, numbers, strict=True):
            frames[video].append(number)
    origin = 1 if path.suffix != ".npz" and frames and _is_openface(_read_header(path)[0]) else None
    return {name: FrameRange(min(all_), max(all_), len(all_), origin) for name, all_ in frames.items()}


_Rows = tuple[list[str], list[int], npt.NDArray[np.floating]]  # videos, frames, (N, 68, 2) points


def _rows_of(path: Path) -> Iterator[_Rows]:
    if not path.is_file():
        raise FileNotFoundError(f"The landmark file {path} does not exist.")
    try:
        yield from _read_npz(path) if path.suffix == ".npz" else _read_csv(path)
    except (zipfile.BadZipFile, ValueError) as error:  # Arrow's are ValueErrors
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: Exception | str) -> ValueError:
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
    return _read_with_arrow(path) if importlib.util.find_spec("pyarrow") else _read_plainly(path)


def _read_plainly(path: Path) -> Iterator[_Rows]:
    """What `_read_with_arrow` reads, several times slower."""
    names, delimiter, decimal_point = _read_header(path)
    places = {name: names.index(name) for name in _wanted_columns(names)}
    with path.open(encoding="utf-8-sig", newline="") as file:
        lines = (line for line in csv.reader(file, delimiter=delimiter) if line)
        next(lines)
        while rows := list(islice(lines, ROWS_AT_ONCE)):
            if ragged := next((row for row in rows if len(row) != len(names)), None):
                raise ValueError(f"the row {delimiter.join(ragged)[:60]} has {len(ragged)} cells, not {len(names)}")
            cells = {name: [row[place].strip() for row in rows] for name, place in places.items()}
            if "" in cells["frame"]:
                raise ValueError("a row has no frame")
            numbers = {name: [_number(cell, decimal_point) for cell in cells[name]] for name in _POINT_COLUMNS}
            points = np.array([numbers[name] for name in _POINT_COLUMNS], dtype=np.float32).T
            if "success" in cells:
                points[[_number(cell, decimal_point) == 0 for cell in cells["success"]]] = np.nan
            videos = cells.get("video") or [path.stem] * len(rows)
            yield videos, [int(cell) for cell in cells["frame"]], points.reshape(-1, NUM_LANDMARKS, 2)


def _number(cell: str, decimal_point: str) -> float:
    return float(cell.replace(decimal_point, ".")) if cell not in ("", "NA", "N/A", "NULL", "null") else float("nan")


def _read_with_arrow(path: Path) -> Iterator[_Rows]:
    import pyarrow as pa  # not above: small installations do without it
    import pyarrow.compute as pc

    reader, names = _open(path)
    for batch in reader:
        points = np.column_stack([batch[name].to_numpy(zero_copy_only=False) for name in _POINT_COLUMNS])
        if "success" in names:
            points[batch["success"].to_numpy(zero_copy_only=False) == 0] = np.nan
        videos = batch["video"] if "video" in names else pa.array([path.stem] * len(batch))
        if pc.any(pc.is_null(batch["frame"])).as_py():
            raise ValueError("a row has no frame")
        yield videos.to_pylist(), batch["frame"].to_pylist(), points.reshape(-1, NUM_LANDMARKS, 2)


def _read_header(path: Path) -> tuple[list[str], str, str]:
    """The columns by our names, what separates cells, and the decimal point."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        header, first_row = file.readline(), file.readline()
    delimiter = find_delimiter(header)
    names = [_column(name) for name in next(csv.reader([header], delimiter=delimiter), [])]
    return names, delimiter, decimal_point(delimiter, first_row)


def _is_openface(names: Container[str]) -> bool:
    return "success" in names and "video" not in names


def _wanted_columns(names: Collection[str]) -> list[str]:
    """Those of a file's columns that are read; a `ValueError` where one is missing."""
    is_openface = _is_openface(names)
    wanted = [name for name in COLUMNS if not (is_openface and name == "video")]
    if missing := [name for name in wanted if name not in names]:
        shown = ", ".join(missing[:6]) + (" ..." if len(missing) > 6 else "")
        raise ValueError(f"it lacks the columns {shown}; wanted are video, frame, x0, y0, ... x67, y67")
    return [*wanted, *["success"] * ("success" in names)]


def _open(path: Path) -> "tuple[pacsv.CSVStreamingReader, list[str]]":
    """A streaming reader of the file's rows, after its header was checked, and its columns."""
    import pyarrow as pa
    import pyarrow.csv as pacsv

    names, delimiter, decimal_point = _read_header(path)
    wanted = _wanted_columns(names)
    numbers = dict.fromkeys((*_POINT_COLUMNS, "success"), pa.float32())
    reader = pacsv.open_csv(
        path,
        read_options=pacsv.ReadOptions(column_names=names, skip_rows=1),
        parse_options=pacsv.ParseOptions(delimiter=delimiter),
        convert_options=pacsv.ConvertOptions(
            column_types={"video": pa.string(), "frame": pa.int32(), **numbers},
            include_columns=wanted,
            decimal_point=decimal_point,
        ),
    )
    return reader, wanted


def _column(name: str) -> str:
    """A column by our name: OpenFace writes ` x_0` for `x0`; its `X_0` is another thing, a point in space."""
    return re.sub(r"^([xy])_(\d+)$", r"\1\2", name.strip())


# -------------------------------------------------------------------------------------------------------- matching
def match_videos(names: Iterable[str], in_file: Iterable[str], place: str = "the landmark file") -> dict[str, str]:
    """Which video of a file each name means, by name.

    `dir/clip.mp4`, `clip.mp4`, `dir/clip` and `clip` mean the same: two names do if their last parts are equal, as
    many as both have, the very last one with or without its suffix. Of several that fit, the one that shares most
    parts is taken.

    Returns:
        Of the names that fit any, the video of the file.
    Raises:
        ValueError: a name fits two videos of the file equally well, or two names fit one.
    """
    by_stem = defaultdict(list)
    for video in in_file:
        for stem in {_parts(video)[-1], _stem(video)}:
            by_stem[stem].append(video)
    matched = {}
    for name in names:
        candidates = {video for stem in (_parts(name)[-1], _stem(name)) for video in by_stem[stem]}
        scores = {video: score for video in candidates if (score := _num_shared(name, video))}
        best = [video for video, score in scores.items() if score == max(scores.values())]
        if len(best) > 1:
            raise ValueError(
                f"{name} may be {' or '.join(sorted(best))} of {place}; write its folder or suffix there."
            )
        if best:
            matched[name] = best[0]
    names_of = defaultdict(list)
    for name, video in matched.items():
        names_of[video].append(name)
    for video, several in names_of.items():
        if len(several) > 1:
            raise ValueError(
                f"{video} of {place} may be {' or '.join(several[:2])}; write its folder or suffix there."
            )
    return matched


def _parts(name: str) -> tuple[str, ...]:
    return PurePosixPath(name.replace("\\", "/")).parts or ("",)


def _stem(name: str) -> str:
    return PurePosixPath(_parts(name)[-1]).stem


def _num_shared(first: str, second: str) -> float:
    """How many last parts two names share, and a half for an equal suffix; 0 where they mean two things."""
    *folders, last = _parts(first)
    *other_folders, other = _parts(second)
    if last != other and other != _stem(first) and last != _stem(second):
        return 0
    num_common = min(len(folders), len(other_folders))
    folders = [part for part in folders[len(folders) - num_common :] if part != "/"]
    other_folders = [part for part in other_folders[len(other_folders) - num_common :] if part != "/"]
    return 1 + num_common + (last == other) / 2 if folders == other_folders else 0


def listed(names: Iterable[str]) -> str:
    """The first few of some names, for an error."""
    names = list(names)
    more = f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def read_landmarks_of(path: str | Path, frames: Collection[Frame]) -> dict[Frame, npt.NDArray[np.float32]]:
    """Read the landmarks of frames whose videos may be called otherwise in the file, see `match_videos`.

    Raises:
        ValueError: as `read_landmarks`; or the file has landmarks of none of the frames.
    """
    in_file = list_videos(path)
    videos = match_videos(dict(frames), in_file)
    wanted = {(videos[video], number): (video, number) for video, number in frames if video in videos}
    found = read_landmarks(path, wanted)
    if frames and not found:
        has = listed(f"{name} (frames {its.first} to {its.last})" for name, its in in_file.items()) or "no row"
        asked = listed(f"{name} frame {number}" for name, number in frames)
        raise ValueError(
            f"The landmark file {path} has landmarks of none of the images. It has {has}; wanted: {asked}."
        )
    return {wanted[key]: points for key, points in found.items()}
