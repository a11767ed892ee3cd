"""Landmarks that are given in a file: a CSV with the columns `video, frame, x0, y0, ... x67, y67`, in pixels."""

from collections.abc import Container
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
        ValueError: a missing column, a value that is no number, or two rows for one frame.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"The landmark file {path} does not exist.")
    found: dict[Frame, npt.NDArray[np.float32]] = {}
    try:
        for batch in _open(path):
            keys = list(zip(batch["video"].to_pylist(), batch["frame"].to_pylist(), strict=True))
            points = np.column_stack([batch[name].to_numpy(zero_copy_only=False) for name in _POINT_COLUMNS])
            usable = np.isfinite(points).all(axis=1)
            for key, xy, complete in zip(keys, points, usable, strict=True):
                if key in found:
                    raise ValueError(f"two rows for frame {key[1]} of {key[0]}")
                if complete and key in wanted:
                    found[key] = xy.reshape(NUM_LANDMARKS, 2).astype(np.float32)
    except (pa.ArrowInvalid, ValueError) as error:
        raise ValueError(f"The landmark file {path} cannot be read: {error}.") from None
    return found


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
