"""Writes the rows in the formats of other tools; columns that MF² does not compute are empty."""

import csv
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from itertools import groupby
from operator import itemgetter
from pathlib import Path

from ..labels_mf2 import AFFECT, EMOTIONS, LabelSpace
from ..utils.face_table import STATUS_ERROR, STATUS_OK, free_name
from ..utils.files import replacing
from ..utils.suffixes import VIDEO_SUFFIXES
from .tables import BOX, LANDMARKS, Row

POINT_COLUMNS = [f"{axis}_{point}" for axis in "xy" for point in range(68)]
PYFEAT_AUS = (1, 2, 4, 5, 6, 7, 9, 10, 11, 12, 14, 15, 17, 20, 23, 24, 25, 26, 28, 43)
PYFEAT_EMOTIONS = ("anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral")
PYFEAT_BOX = ("FaceRectX", "FaceRectY", "FaceRectWidth", "FaceRectHeight", "FaceScore")


# -------------------------------------------------------------------------------------------------------- OpenFace
def write_openface(batches: Iterable[Sequence[Row]], label_space: LabelSpace, folder: Path) -> Path:
    """Write `openface/<source>.csv`, as OpenFace 2 does with `-2Dfp -aus`.

    Each AU has a column `AU01_c`, 1 if its probability reaches the threshold. There is no `AU01_r`, as a probability
    is not an intensity. Frames of videos count from 1; a frame without a face has `success` 0 and zeros. OpenFace has
    no valence and arousal; of models that recognise them, they are the last columns, which its readers pass over.
    """
    aus = {f"AU{au_id:02d}_c": (f"AU{au_id}", limit) for au_id, limit in _sorted_thresholds(label_space)}
    target = folder / "openface"
    taken: set[str] = set()
    for source, rows in groupby(_readable_rows(batches), key=itemgetter("source")):
        stem = free_name(source, taken)
        is_video = Path(source).suffix.lower() in VIDEO_SUFFIXES
        first = ["frame", "face_id", "timestamp", "confidence", "success"] if is_video else ["face", "confidence"]
        affect = label_space.affect_names
        lines = (_openface_line(row, aus, is_video) | _affect_columns(row, affect, 0.0) for row in rows)
        _write_lines(target / f"{stem}.csv", [*first, *POINT_COLUMNS, *aus, *affect], lines)
    return target


def _openface_line(row: Row, aus: dict[str, tuple[str, float]], is_video: bool) -> Row:
    is_found = row["status"] == STATUS_OK
    confidence = (1.0 if row["face_score"] is None else row["face_score"]) if is_found else 0.0
    line = {"face": max(row["face"], 0), "confidence": round(confidence, 3)}
    if is_video:
        line = {
            "frame": row["frame"] + 1,
            "face_id": max(row["face"], 0),
            "timestamp": round(row["time_s"], 3),
            "confidence": round(confidence, 2),
            "success": int(is_found),
        }
    line |= dict.fromkeys(POINT_COLUMNS, 0.0) | {
        name: round(value, 1) for name, value in _landmark_columns(row).items()
    }
    return line | {name: int(is_found and row[code] >= limit) for name, (code, limit) in aus.items()}


# --------------------------------------------------------------------------------------------------------- py-feat
def write_pyfeat(batches: Iterable[Sequence[Row]], label_space: LabelSpace, folder: Path) -> Path:
    """Write `pyfeat.csv` with the columns of a py-feat `Fex`, which `feat.utils.io.read_feat` reads.

    AUs and emotions are probabilities. Pose is empty because its axes differ; AUs that MF² does not recognise are
    empty, too. `valence` and `arousal`, as in py-feat's second detector, are there if the model recognises them.
    """
    pose, time_columns = ("Pitch", "Roll", "Yaw"), ("input", "frame", "approx_time", "Identity")
    aus = [f"AU{au_id:02d}" for au_id in PYFEAT_AUS]
    affect = label_space.affect_names
    columns = [*PYFEAT_BOX, *POINT_COLUMNS, *pose, *aus, *PYFEAT_EMOTIONS, *affect, *time_columns]
    file = folder / "pyfeat.csv"
    lines = (_pyfeat_line(row) | _affect_columns(row, affect, None) for row in _readable_rows(batches))
    _write_lines(file, columns, lines)
    return file


def _pyfeat_line(row: Row) -> Row:
    line: Row = {"input": row["source"], "frame": row["frame"]}
    line["approx_time"] = time.strftime("%H:%M:%S", time.gmtime(row["time_s"]))
    if row["status"] != STATUS_OK:
        return line
    x0, y0, x1, y1 = (row[name] for name in BOX)
    line |= dict(zip(PYFEAT_BOX, (x0, y0, x1 - x0, y1 - y0, row["face_score"]), strict=True)) | _landmark_columns(row)
    line |= {f"AU{au_id:02d}": row.get(f"AU{au_id}") for au_id in PYFEAT_AUS}
    line |= {name: row.get(f"emotion_{name.capitalize()}") for name in PYFEAT_EMOTIONS}
    return line | {"Identity": f"Person_{row['face']}"}


# ------------------------------------------------------------------------------------------------------------ ABAW
def check_peer_formats(formats: Sequence[str], label_space: LabelSpace) -> None:
    """Refuse formats that cannot represent a label space, before anything is analysed.

    Raises:
        ValueError: `abaw` is requested, and the label space has other emotions or no AUs.
    """
    if "abaw" not in formats:
        return
    if tuple(label_space.emotions) != EMOTIONS:
        emotions = ", ".join(label_space.emotions) or "none"
        raise ValueError(
            f"--format abaw needs the expressions {', '.join(EMOTIONS)}; this model's are {emotions}. "
            "Choose another format."
        )
    if not label_space.au_ids:
        raise ValueError("--format abaw needs action units; this model has none. Choose another format.")


def write_abaw(batches: Iterable[Sequence[Row]], label_space: LabelSpace, folder: Path) -> Path:
    """Write `abaw/au.txt`, `abaw/expr.txt` and, if they are recognised, valence and arousal as `abaw/va.txt`.

    These are the formats of the ABAW competitions' submissions.
    AUs are 0 or 1 by the thresholds, in the order of the label space, which for MFA is that of the competitions; the
    expression is its number. A frame has one line, for its first face; frames without a face have none. The frames of
    a video are `<video>/00001.jpg`, counted from 1.

    Raises:
        ValueError: see `check_peer_formats`.
    """
    check_peer_formats(["abaw"], label_space)
    target = folder / "abaw"
    limits = label_space.thresholds_by_code
    headers = {"au": list(limits), "expr": list(EMOTIONS)} | ({"va": list(AFFECT)} if label_space.affect else {})
    with ExitStack() as stack:
        partials = [stack.enter_context(replacing(target / f"{task}.txt")) for task in headers]
        files = {
            task: stack.enter_context(partial.open("w", encoding="utf-8"))
            for task, partial in zip(headers, partials, strict=True)
        }
        for task, header in headers.items():
            files[task].write(",".join(["image_location", *header]) + "\n")
        for location, row in _first_faces(batches):
            values: dict[str, list[object]] = {
                "au": [int(row[code] >= limit) for code, limit in limits.items()],
                "expr": [EMOTIONS.index(row["emotion"])],
                "va": [f"{row[name]:.4f}" for name in label_space.affect_names],
            }
            for task, file in files.items():
                file.write(",".join([location, *map(str, values[task])]) + "\n")
    return target


def _first_faces(batches: Iterable[Sequence[Row]]) -> Iterator[tuple[str, Row]]:
    """Yield ABAW's name of each frame, and its row with the lowest face id."""
    for (source, frame), rows in groupby(_readable_rows(batches), key=itemgetter("source", "frame")):
        row, path = next(rows), Path(source)
        if row["status"] == STATUS_OK:
            is_video = path.suffix.lower() in VIDEO_SUFFIXES
            yield f"{path.stem}/{frame + 1:05d}.jpg" if is_video else f"{path.parent.name}/{path.name}", row


# ----------------------------------------------------------------------------------------------------------- parts
def _readable_rows(batches: Iterable[Sequence[Row]]) -> Iterator[Row]:
    """All rows of readable frames."""
    for rows in batches:
        yield from (row for row in rows if row["status"] != STATUS_ERROR)


def _landmark_columns(row: Row) -> dict[str, float]:
    if row[LANDMARKS] is None:
        return {}
    return dict(zip(POINT_COLUMNS, [*row[LANDMARKS][0::2], *row[LANDMARKS][1::2]], strict=True))


def _affect_columns(row: Row, names: Sequence[str], missing: float | None) -> Row:
    return {name: round(row[name], 4) if row["status"] == STATUS_OK else missing for name in names}


def _sorted_thresholds(label_space: LabelSpace) -> list[tuple[int, float]]:
    return sorted(zip(label_space.au_ids, label_space.thresholds, strict=True))


def _write_lines(file: Path, columns: Sequence[str], lines: Iterable[Row]) -> None:
    with replacing(file) as partial, partial.open("w", encoding="utf-8", newline="") as opened:
        writer = csv.DictWriter(opened, columns, restval="")
        writer.writeheader()
        writer.writerows(lines)


PEER_WRITERS: dict[str, Callable[[Iterable[Sequence[Row]], LabelSpace, Path], Path]] = {
    "openface": write_openface,
    "pyfeat": write_pyfeat,
    "abaw": write_abaw,
}
"""Format -> function that writes it from batches of rows in order."""
