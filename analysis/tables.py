"""The rows of an analysis: their columns, and their files as parquet, CSV and JSON lines.

A row is a face of a frame, or a frame without one.

| column | is |
|---|---|
| `source` | the picture's or video's path as it was given |
| `frame`, `time_s` | number of the frame as it is decoded, from 0, and seconds since the beginning |
| `face` | id of the face, the same through a video; -1 where there is none |
| `status`, `error` | `ok`, `no_face`, or `error` and why |
| `x0`, `y0`, `x1`, `y1` | box of the face in pixels, upright |
| `face_score` | the detector's confidence in [0, 1]; 1 for given landmarks, empty for a face crop |
| `landmarks_found` | false where the whole picture was taken as a face, with regions of the mean face |
| `AU1`, … | probability that the action unit is active, in [0, 1]; not an intensity |
| `emotion`, `emotion_Neutral`, … | the likeliest emotion; probabilities that sum to 1 |
| `caption_emotion`, … | sentences, where asked for |
| `pose_pitch`, `pose_yaw`, `pose_roll` | degrees: down, to the right of the picture, clockwise |
| `landmarks` | x0, y0, … x67, y67 in pixels; not in CSV |

An adapter's columns are `<adapter>.AU1` and so on.
"""

import csv
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..labels_mf2 import LabelSpace
from ..utils.face_table import TABLE_NAME
from ..utils.files import replacing

if TYPE_CHECKING:
    import pyarrow as pa

NO_FACE = -1
BOX = ("x0", "y0", "x1", "y1")
POSE = ("pose_pitch", "pose_yaw", "pose_roll")
LANDMARKS = "landmarks"

Row = dict[str, Any]
"""A value for each column, None where there is none; landmarks are a list."""


def row_columns(label_spaces: Mapping[str, LabelSpace], captions: Sequence[str] = ()) -> dict[str, str]:
    """The columns of an analysis, in order, each with the kind of its values, see `ARROW_TYPES`.

    Args:
        label_spaces: by column prefix: `""`, `"<adapter>."`, ….
        captions: kinds of captions.
    """
    columns = {"source": "text", "frame": "number", "time_s": "real", "face": "number", "status": "text"}
    columns |= {"error": "text", **dict.fromkeys(BOX, "real"), "face_score": "real", "landmarks_found": "flag"}
    for prefix, space in label_spaces.items():
        columns |= {prefix + code: "probability" for code in space.au_codes}
        if space.emotions:
            columns[f"{prefix}emotion"] = "text"
            columns |= {f"{prefix}emotion_{name}": "probability" for name in space.emotions}
    columns |= {f"caption_{kind}": "text" for kind in captions}
    return columns | dict.fromkeys(POSE, "real") | {LANDMARKS: "points"}


ARROW_TYPES = {
    "text": "string",
    "number": "int64",
    "real": "float64",
    "flag": "bool",
    "probability": "float32",
}
"""Kind of a column -> its type in Parquet; `points` are lists of float32."""


def arrow_schema(columns: Mapping[str, str]) -> "pa.Schema":
    """The columns as Arrow has them."""
    import pyarrow as pa  # not above: an analysis to CSV does without it

    types = {kind: pa.type_for_alias(name) for kind, name in ARROW_TYPES.items()} | {"points": pa.list_(pa.float32())}
    return pa.schema([(name, types[kind]) for name, kind in columns.items()])


def threshold_columns(label_spaces: Mapping[str, LabelSpace]) -> dict[str, float]:
    """From which probability an AU is active, by column."""
    return {
        prefix + code: threshold
        for prefix, space in label_spaces.items()
        for code, threshold in zip(space.au_codes, space.thresholds, strict=True)
    }


def short_names(sources: Iterable[str]) -> dict[str, str]:
    """Each source's name, after as many of its folders as tell it from the others."""
    names: dict[str, str] = {}
    unnamed, num_parts = set(sources), 0
    while unnamed:
        num_parts += 1
        tails = {source: "/".join(Path(source).parts[-num_parts:]) for source in unnamed}
        shared = Counter(tails.values())
        names |= {
            source: tail for source, tail in tails.items() if shared[tail] == 1 or num_parts >= len(Path(source).parts)
        }
        unnamed -= names.keys()
    return names


# ----------------------------------------------------------------------------------------------------------- files
def write_parquet(batches: Iterable[Sequence[Row]], columns: Mapping[str, str], folder: Path) -> Path:
    """Write `faces.parquet`, a row group for each batch."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema, file = arrow_schema(columns), folder / f"{TABLE_NAME}.parquet"
    with replacing(file) as partial, pq.ParquetWriter(partial, schema) as writer:
        for rows in batches:
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))
    return file


def write_csv(batches: Iterable[Sequence[Row]], columns: Mapping[str, str], folder: Path) -> Path:
    """Write `faces.csv`; an empty cell is no value."""
    names = [name for name in columns if name != LANDMARKS]
    file = folder / f"{TABLE_NAME}.csv"
    with replacing(file) as partial, partial.open("w", encoding="utf-8", newline="") as lines:
        writer = csv.DictWriter(lines, names, extrasaction="ignore")
        writer.writeheader()
        for rows in batches:
            writer.writerows(map(_shorten, rows))
    return file


def write_jsonl(batches: Iterable[Sequence[Row]], columns: Mapping[str, str], folder: Path) -> Path:
    """Write `faces.jsonl`, an object a line; null is no value."""
    file = folder / f"{TABLE_NAME}.jsonl"
    with replacing(file) as partial, partial.open("w", encoding="utf-8") as lines:
        for rows in batches:
            for row in rows:
                lines.write(json.dumps(_shorten(row), ensure_ascii=False) + "\n")
    return file


def _shorten(row: Mapping[str, Any]) -> dict[str, Any]:
    """Numbers with the digits that a 32-bit value has."""
    return {name: float(f"{value:.7g}") if isinstance(value, float) else value for name, value in row.items()}


WRITERS = {"parquet": write_parquet, "csv": write_csv, "jsonl": write_jsonl}
"""Format -> function that writes it from batches of rows in order."""
