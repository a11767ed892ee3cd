"""Computes the content of a report: one view per face of a video, and one view for all pictures.

A view consists of numbers only: probabilities over time in at most `MAX_POINTS` steps, a summary of each action unit
and emotion, and the rows where each of them peaks.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from ...labels_mf2 import ACTION_UNITS, AFFECT
from ..caption_check import CAPTION_PREFIX, CaptionCheck, check_captions
from ..run_folder import MANIFEST_NAME
from ..tables import LANDMARKS, short_names

MAX_POINTS = 1200
"""Maximum number of points of a timeline; longer ones are binned."""
MAX_VIDEO_VIEWS = 40
"""Maximum number of views of faces in videos; those visible longest are shown."""
MAX_PICTURES = 150
"""Maximum number of listed pictures."""
DEFAULT_THRESHOLD = 0.5

_AU_COLUMN = re.compile(r"(?:(?P<adapter>.+)\.)?AU(?P<au_id>\d{1,2})")
_AFFECT_COLUMN = re.compile(rf"(?:(?P<adapter>.+)\.)?(?P<name>{'|'.join(AFFECT)})")
_EMOTION_COLUMN = re.compile(r"(?:(?P<adapter>.+)\.)?emotion_(?P<name>.+)")


@dataclass(frozen=True)
class Signal:
    """An action unit or emotion: its column of probabilities, code, name, and threshold (AUs only)."""

    column: str
    code: str
    name: str
    threshold: float | None = None


@dataclass(frozen=True)
class Reading:
    """The columns of one label space: the checkpoint's (`adapter` is empty) or an adapter's.

    `affect` are valence and arousal, from -1 to 1, or nothing.
    """

    adapter: str
    aus: tuple[Signal, ...]
    emotions: tuple[Signal, ...]
    affect: tuple[Signal, ...] = ()

    @property
    def thresholds(self) -> dict[str, float]:
        """AU code -> probability from which the AU is active."""
        return {signal.code: signal.threshold for signal in self.aus if signal.threshold is not None}

    @property
    def signals(self) -> tuple[Signal, ...]:
        """Action units, then emotions."""
        return self.aus + self.emotions


@dataclass(frozen=True)
class Summary:
    """Summary of a signal in a view.

    `share` is the share of rows where the AU is active or the emotion is the most probable one; `peak_row` is the
    index of the row with the highest probability in the analysed table.
    """

    signal: Signal
    mean: float
    share: float
    peak: float
    peak_row: int


@dataclass(frozen=True)
class Range:
    """Summary of valence or arousal in a view: mean, lowest and highest value."""

    signal: Signal
    mean: float
    lowest: float
    highest: float


@dataclass(frozen=True)
class View:
    """A face of a video over time, or the faces of all pictures.

    `rows` are its rows in order; `affect` are valence and arousal, if they are recognised; `timeline` is None for
    pictures, else see `make_timeline`.
    """

    title: str
    reading: Reading
    rows: pd.DataFrame
    aus: tuple[Summary, ...]
    emotions: tuple[Summary, ...]
    timeline: dict[str, Any] | None = None
    affect: tuple[Range, ...] = ()


@dataclass
class Findings:
    """The content of a report, in the order of the page."""

    views: list[View]
    sources: list[dict[str, Any]]
    problems: list[dict[str, Any]]
    counts: dict[str, int]
    num_hidden_faces: int = 0
    likeliest: dict[str, float] = field(default_factory=dict)
    captions: dict[str, CaptionCheck] = field(default_factory=dict)


def _read_parquet(file: Path) -> pd.DataFrame:
    """Read the table without landmarks, which are most of the file."""
    return pd.read_parquet(file, columns=[name for name in pq.read_schema(file).names if name != LANDMARKS])


READERS: dict[str, Callable[[Path], pd.DataFrame]] = {
    "faces.parquet": _read_parquet,
    "faces.csv": pd.read_csv,
    "faces.jsonl": partial(pd.read_json, lines=True),
}
"""Table of an analysis -> its reader, in order of preference."""


def read_run(run_folder: str | Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Read the table of an analysis, with rows numbered from 0, and its manifest.

    Raises:
        FileNotFoundError: the folder has no finished analysis.
    """
    run_folder = Path(run_folder)
    manifest = run_folder / MANIFEST_NAME
    for name, read in READERS.items():
        if manifest.is_file() and (run_folder / name).is_file():
            return read(run_folder / name).reset_index(drop=True), json.loads(manifest.read_text("utf-8"))
    raise FileNotFoundError(
        f"{run_folder} holds no analysis: {MANIFEST_NAME} and one of {', '.join(READERS)} are expected. Make one with "
        f"`mf2 analyze PATH --output {run_folder}`."
    )


def find_views(table: pd.DataFrame, thresholds: Mapping[str, float]) -> Findings:
    """Compute the content of a report.

    Args:
        table: one row per face or frame, with the columns that `mf2 analyze` writes.
        thresholds: column of an AU (`"AU12"`, `"adapter.AU12"`) -> probability from which it is active.
    """
    table = table.assign(name=table["source"].map(short_names(table["source"])))
    faces = table[(table["status"] == "ok") & (table["face"] >= 0)]
    frames = table.groupby("source")["frame"].nunique()
    is_video = faces["source"].map(frames) > 1
    readings = list(find_readings(table.columns, thresholds))
    tracks = [track for _, track in faces[is_video].groupby(["source", "face"], sort=False)]
    tracks.sort(key=len, reverse=True)
    shown = sorted(tracks[:MAX_VIDEO_VIEWS], key=lambda rows: rows.index[0])
    views = [_video_view(rows, reading) for rows in shown for reading in readings]
    if not faces[~is_video].empty:
        views += [_picture_view(faces[~is_video], reading) for reading in readings]
    return Findings(
        views=views,
        sources=list(_describe_sources(table)),
        problems=table.loc[table["status"] == "error", ["name", "frame", "error"]].to_dict("records"),
        counts=_count_statuses(table, faces),
        num_hidden_faces=max(len(tracks) - MAX_VIDEO_VIEWS, 0),
        captions=_check_captions(faces, readings),
        likeliest=faces["emotion"].value_counts(normalize=True).to_dict() if "emotion" in faces else {},
    )


def find_readings(columns: Sequence[str], thresholds: Mapping[str, float]) -> Iterator[Reading]:
    """Yield the label spaces with columns in a table, the checkpoint's first."""
    aus: dict[str, list[Signal]] = {}
    emotions: dict[str, list[Signal]] = {}
    affect: dict[str, list[Signal]] = {}
    for column in columns:
        if match := _AU_COLUMN.fullmatch(column):
            action_unit = ACTION_UNITS[int(match["au_id"])]
            signal = Signal(
                column, action_unit.code, action_unit.name, float(thresholds.get(column, DEFAULT_THRESHOLD))
            )
            aus.setdefault(match["adapter"] or "", []).append(signal)
        elif match := _EMOTION_COLUMN.fullmatch(column):
            emotions.setdefault(match["adapter"] or "", []).append(Signal(column, match["name"], match["name"]))
        elif match := _AFFECT_COLUMN.fullmatch(column):
            affect.setdefault(match["adapter"] or "", []).append(Signal(column, match["name"], match["name"]))
    for adapter in sorted({*aus, *emotions, *affect}):
        yield Reading(adapter, *(tuple(found.get(adapter, ())) for found in (aus, emotions, affect)))


# -------------------------------------------------------------------------------------------------------------- views
def _video_view(rows: pd.DataFrame, reading: Reading) -> View:
    rows = rows.sort_values("frame")
    title = f"{rows['name'].iloc[0]} · face {rows['face'].iloc[0]}"
    summaries, timeline = summarize(rows, reading), make_timeline(rows, reading)
    return View(_full_title(title, reading), reading, rows, *summaries, timeline, find_ranges(rows, reading))


def _picture_view(rows: pd.DataFrame, reading: Reading) -> View:
    title = f"{len(rows):,} face{'s' * (len(rows) != 1)} in pictures"
    summaries = summarize(rows, reading)
    return View(_full_title(title, reading), reading, rows, *summaries, affect=find_ranges(rows, reading))


def _full_title(title: str, reading: Reading) -> str:
    return f"{title} · {reading.adapter}" if reading.adapter else title


def summarize(rows: pd.DataFrame, reading: Reading) -> tuple[tuple[Summary, ...], tuple[Summary, ...]]:
    """Summarise each AU and each emotion over the rows of a view."""
    aus = [_summary(rows, signal, rows[signal.column] >= signal.threshold) for signal in reading.aus]
    likeliest = rows[[signal.column for signal in reading.emotions]].idxmax(axis=1) if reading.emotions else None
    emotions = [_summary(rows, signal, likeliest == signal.column) for signal in reading.emotions]
    return tuple(aus), tuple(emotions)


def find_ranges(rows: pd.DataFrame, reading: Reading) -> tuple[Range, ...]:
    """Summarise valence and arousal over the rows of a view."""
    columns = [(signal, rows[signal.column]) for signal in reading.affect]
    return tuple(Range(signal, float(of.mean()), float(of.min()), float(of.max())) for signal, of in columns)


def _summary(rows: pd.DataFrame, signal: Signal, is_present: pd.Series) -> Summary:
    probs = rows[signal.column]
    peak_row = probs.idxmax()
    return Summary(signal, float(probs.mean()), float(is_present.mean()), float(probs[peak_row]), int(peak_row))


def make_timeline(rows: pd.DataFrame, reading: Reading) -> dict[str, Any]:
    """Compute probabilities over time, in equal steps of one or more frames; steps without the face are gaps.

    Args:
        rows: at least one row of one face, sorted by frame.
        reading: columns to use.
    Returns:
        `times` in seconds; `aus` and `emotions`, a list of probabilities (None in gaps) per signal, and `affect`, of
        valence and arousal; and `frames_per_point`. A step of several frames has the maximum of each AU, so that short
        movements remain visible, and the mean of each emotion, so that emotions still sum to 1, and of valence and
        arousal.
    """
    frames = rows["frame"].to_numpy()
    span = int(frames[-1] - frames[0]) + 1
    usual_step = np.quantile(np.diff(frames), 0.9) if len(frames) > 1 else 1
    width = max(int(np.ceil(usual_step)), -(-span // MAX_POINTS), 1)
    rules = {"time_s": "mean"}
    rules |= {signal.column: "max" for signal in reading.aus}
    rules |= {signal.column: "mean" for signal in (*reading.emotions, *reading.affect)}
    points = rows.groupby((frames - frames[0]) // width).agg(rules)
    points = points.reindex(range(int(points.index[-1]) + 1))
    return {
        "times": points["time_s"].interpolate().round(3).tolist(),
        "aus": [_with_gaps(points[signal.column]) for signal in reading.aus],
        "emotions": [_with_gaps(points[signal.column]) for signal in reading.emotions],
        "affect": [_with_gaps(points[signal.column]) for signal in reading.affect],
        "frames_per_point": width,
    }


def _with_gaps(values: pd.Series) -> list[float | None]:
    return [None if np.isnan(value) else round(value, 4) for value in values.tolist()]


# ------------------------------------------------------------------------------------------------------------- counts
def _describe_sources(table: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """Counts of each source, in the order of the run."""
    flags = table.assign(
        face=table["face"].where(table["face"] >= 0),
        no_face=table["status"] == "no_face",
        errors=table["status"] == "error",
    )
    rules = {"name": "first", "frame": "nunique", "face": "nunique", "no_face": "sum", "errors": "sum"}
    for source, row in flags.groupby("source", sort=False).agg(rules).iterrows():
        numbers = {"frames": row["frame"], "faces": row["face"], "no_face": row["no_face"], "errors": row["errors"]}
        yield {"name": row["name"], "path": str(source)} | {name: int(value) for name, value in numbers.items()}


def _check_captions(faces: pd.DataFrame, readings: Sequence[Reading]) -> dict[str, CaptionCheck]:
    """Check the captions of all faces against the checkpoint's AUs and emotion; kind of caption -> result."""
    kinds = [name.removeprefix(CAPTION_PREFIX) for name in faces.columns if name.startswith(CAPTION_PREFIX)]
    base = next((reading for reading in readings if not reading.adapter), None)
    if base is None or not kinds:
        return {}
    thresholds = base.thresholds
    emotion = [name for name in ("emotion",) if name in faces.columns]
    columns = [*thresholds, *emotion, *(CAPTION_PREFIX + kind for kind in kinds)]
    return check_captions(faces[columns].to_dict("records"), thresholds, kinds)


def _count_statuses(table: pd.DataFrame, faces: pd.DataFrame) -> dict[str, int]:
    return {
        "sources": table["source"].nunique(),
        "frames": len(table[["source", "frame"]].drop_duplicates()),
        "faces": len(faces),
        "no_face": int((table["status"] == "no_face").sum()),
        "errors": int((table["status"] == "error").sum()),
    }
