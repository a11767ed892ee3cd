"""Landmarks that are given in a file, in pixels of the images.

A CSV has the columns `video, frame, x0, y0, ... x67, y67`; an `.npz` the arrays `video` (N,), `frame` (N,) and
`landmarks` (N, 68, 2).
"""

import zipfile
from collections.abc import Container, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv as pacsv

from ..labels_mf2 import NUM_LANDMARKS

_POINT_COLUMNS = tuple(f"{axis}{point}" for point in range(NUM_LANDMARKS) for axis in "xy")
COLUMNS = ("video", "frame", *_POINT_COLUMNS)

Frame = tuple[str, int]  # video id, frame number


def read_landmarks(path: str | Path, wanted: Container[Frame]) -> dict[Frame, npt.NDArray[np.float32]]:
    """Read the landmarks of the `wanted` frames.

    Returns:
        (68, 2) float32 by (video, frame). A frame whose row has an empty or infinite value is left out, as one
        without a row is: its face was not found.
    Raises:
        FileNotFoundError: no such file.
        ValueError: a missing column or array, a value that is no number, or two rows for one frame.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"The landmark file {path} does not exist.")
    found: dict[Frame, npt.NDArray[np.float32]] = {}
    try:
        for videos, frames, points in _read_npz(path) if path.suffix == ".npz" else _read_csv(path):
            for key, xy in zip(zip(videos, frames, strict=True), points, strict=True):
                if key in found:
                    raise ValueError(f"two rows for frame {key[1]} of {key[0]}")
                if key in wanted and np.isfinite(xy).all():
                    found[key] = xy.astype(np.float32)
    except (pa.ArrowInvalid, zipfile.BadZipFile, ValueError) as error:
        raise ValueError(f"The landmark file {path} cannot be read: {error}.") from None
    return found


_Rows = tuple[list[str], list[int], npt.NDArray[np.floating]]  # videos, frames, (N, 68, 2) points


def _read_npz(path: Path) -> Iterator[_Rows]:
    with np.load(path, allow_pickle=False) as file:
        if missing := [name for name in ("video", "frame", "landmarks") if name not in file]:
            raise ValueError(f"it lacks the arrays {', '.join(missing)}")
        videos, frames, points = file["video"], file["frame"], file["landmarks"]
    if points.shape != (len(videos), NUM_LANDMARKS, 2) or frames.shape != videos.shape:
        raise ValueError(f"video, frame and landmarks have the shapes {videos.shape}, {frames.shape}, {points.shape}")
    yield videos.astype(str).tolist(), frames.astype(int).tolist(), points


def _read_csv(path: Path) -> Iterator[_Rows]:
    for batch in _open(path):
        points = np.column_stack([batch[name].to_numpy(zero_copy_only=False) for name in _POINT_COLUMNS])
        yield batch["video"].to_pylist(), batch["frame"].to_pylist(), points.reshape(-1, NUM_LANDMARKS, 2)


def _open(path: Path) -> pacsv.CSVStreamingReader:
    """A streaming reader of the file's rows, after its header was checked."""
    with path.open(encoding="utf-8-sig") as file:
        names = [name.strip() for name in file.readline().split(",")]
    if missing := [name for name in COLUMNS if name not in names]:
        shown = ", ".join(missing[:6]) + (" ..." if len(missing) > 6 else "")
        raise ValueError(f"it lacks the columns {shown}; wanted are video, frame, x0, y0, ... x67, y67")
    types = {"video": pa.string(), "frame": pa.int32(), **dict.fromkeys(_POINT_COLUMNS, pa.float32())}
    return pacsv.open_csv(
        path,
        read_options=pacsv.ReadOptions(column_names=names, skip_rows=1),
        convert_options=pacsv.ConvertOptions(column_types=types, include_columns=list(COLUMNS)),
    )
