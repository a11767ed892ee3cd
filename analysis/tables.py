"""The rows of an analysis: their columns, and their files as Parquet, CSV and JSON Lines.

A row is a face in a frame, or a frame without a face.

| column | content |
|---|---|
| `source` | path of the picture or video as given |
| `frame`, `time_s` | number of the decoded frame, from 0, and its time in seconds |
| `face` | id of the face, constant within a video; -1 if there is no face |
| `status`, `error` | `ok`, `no_face`, or `error` and its message |
| `x0`, `y0`, `x1`, `y1` | box of the face in pixels, upright |
| `face_score` | the detector's confidence in [0, 1]; 1 for given landmarks, empty for a face crop |
| `landmarks_found` | false if the whole picture was treated as a face crop, with regions of the mean face |
| `AU1`, … | probability that the action unit is active, in [0, 1]; not an intensity |
| `emotion`, `emotion_Neutral`, … | the most probable emotion; probabilities, which sum to 1 |
| `valence`, `arousal` | continuous affect, from -1 to 1, if the model recognises it |
| `caption_emotion`, … | captions, if requested |
| `pose_pitch`, `pose_yaw`, `pose_roll` | head pose in degrees: down, to the right of the picture, clockwise |
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
"""Column -> value, None if missing; landmarks are a list."""


def row_columns(label_spaces: Mapping[str, LabelSpace], captions: Sequence[str] = ()) -> dict[str, str]:
    """The columns of an analysis, in order, with the kind of their values, see `ARROW_TYPES`.

    Args:
        label_spaces: column prefix (`""`, `"<adapter>."`, …) -> label space.
        captions: kinds of caption.
    """
    columns = {"source": "text", "frame": "number", "time_s": "real", "face": "number", "status": "text"}
    columns |= {"error": "text", **dict.fromkeys(BOX, "real"), "face_score": "real", "landmarks_found": "flag"}
    for prefix, space in label_spaces.items():
        columns |= {prefix + code: "probability" for code in space.au_codes}
        if space.emotions:
            columns[f"{prefix}emotion"] = "text"
            columns |= {f"{prefix}emotion_{name}": "probability" for name in space.emotions}
        columns |= {prefix + name: "real" for name in space.affect_names}
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
    """The columns as an Arrow schema."""
    import pyarrow as pa  # imported here, because an analysis to CSV does not need it

    types = {kind: pa.type_for_alias(name) for kind, name in ARROW_TYPES.items()} | {"points": pa.list_(pa.float32())}
    return pa.schema([(name, types[kind]) for name, kind in columns.items()])


def threshold_columns(label_spaces: Mapping[str, LabelSpace]) -> dict[str, float]:
    """Column of an AU -> probability from which it is active."""
    return {
        prefix + code: threshold
        for prefix, space in label_spaces.items()
        for code, threshold in space.thresholds_by_code.items()
    }


def short_names(sources: Iterable[str]) -> dict[str, str]:
    """Shorten each source to its name, with as many parent folders as needed to be unique."""
    names: dict[str, str] = {}
    unnamed, num_parts = set(sources), 0
    while unnamed:
        num_parts += 1
        tails = {source: "/".join(Path(source).parts[-num_parts:]) for source in unnamed}
        tail_counts = Counter(tails.values())
        names |= {
            source: tail
            for source, tail in tails.items()
            if tail_counts[tail] == 1 or num_parts >= len(Path(source).parts)
        }
        unnamed -= names.keys()
    return names


# ----------------------------------------------------------------------------------------------------------- files
def write_parquet(batches: Iterable[Sequence[Row]], columns: Mapping[str, str], folder: Path) -> Path:
    """Write `faces.parquet`, one row group per batch."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema, file = arrow_schema(columns), folder / f"{TABLE_NAME}.parquet"
    with replacing(file) as partial, pq.ParquetWriter(partial, schema) as writer:
        for rows in batches:
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))
    return file


def write_csv(batches: Iterable[Sequence[Row]], columns: Mapping[str, str], folder: Path) -> Path:
    """Write `faces.csv`; missing values are empty cells."""
    names = [name for name in columns if name != LANDMARKS]
    file = folder / f"{TABLE_NAME}.csv"
    with replacing(file) as partial, partial.open("w", encoding="utf-8", newline="") as lines:
        writer = csv.DictWriter(lines, names, extrasaction="ignore")
        writer.writeheader()
        for rows in batches:
            writer.writerows(map(_round_floats, rows))
    return file


def write_jsonl(batches: Iterable[Sequence[Row]], columns: Mapping[str, str], folder: Path) -> Path:
    """Write `faces.jsonl`, one object per line; missing values are null."""
    file = folder / f"{TABLE_NAME}.jsonl"
    with replacing(file) as partial, partial.open("w", encoding="utf-8") as lines:
        for rows in batches:
            for row in rows:
                lines.write(json.dumps(_round_floats(row), ensure_ascii=False) + "\n")
    return file


def _round_floats(row: Mapping[str, Any]) -> dict[str, Any]:
    """Round floats to the precision of float32."""
    return {name: float(f"{value:.7g}") if isinstance(value, float) else value for name, value in row.items()}


WRITERS = {"parquet": write_parquet, "csv": write_csv, "jsonl": write_jsonl}
"""Format -> function that writes it from batches of rows in order."""
