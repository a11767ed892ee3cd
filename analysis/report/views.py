"""What the report shows of an analysis: a view for each face of a video, and one of all single pictures.

A view is plain numbers: its probabilities over time in at most `MAX_POINTS` steps, a summary of each action unit and
emotion, and the rows at which each is strongest.
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

from ...labels_mf2 import ACTION_UNITS
from ..caption_check import CAPTION_PREFIX, CaptionCheck, check_captions
from ..run_folder import MANIFEST_NAME
from ..tables import LANDMARKS, short_names

MAX_POINTS = 1200
"""Points of a timeline; longer ones are binned."""
MAX_VIDEO_VIEWS = 40
"""Faces of videos that get a view of their own, those seen longest."""
MAX_PICTURES = 150
"""Pictures that are listed one by one."""
DEFAULT_THRESHOLD = 0.5

_AU_COLUMN = re.compile(r"(?:(?P<adapter>.+)\.)?AU(?P<au_id>\d{1,2})")
_EMOTION_COLUMN = re.compile(r"(?:(?P<adapter>.+)\.)?emotion_(?P<name>.+)")


@dataclass(frozen=True)
class Signal:
    """One action unit or emotion: its column of probabilities, what it is called, and when it counts as present."""

    column: str
    code: str
    name: str
    threshold: float | None = None


@dataclass(frozen=True)
class Reading:
    """The columns of one label space: the checkpoint's (`adapter` is empty) or an adapter's."""

    adapter: str
    aus: tuple[Signal, ...]
    emotions: tuple[Signal, ...]

    @property
    def thresholds(self) -> dict[str, float]:
        """The probability from which an AU is active, by code."""
        return {signal.code: signal.threshold for signal in self.aus if signal.threshold is not None}

    @property
    def signals(self) -> tuple[Signal, ...]:
        """Action units, then emotions."""
        return self.aus + self.emotions


@dataclass(frozen=True)
class Summary:
    """A signal over a view: `share` is that of rows where an AU reaches its threshold or an emotion is the likeliest.

    `peak_row` is the index of the strongest row in the analysed table.
    """

    signal: Signal
    mean: float
    share: float
    peak: float
    peak_row: int


@dataclass(frozen=True)
class View:
    """One thing to look at: a face of a video over time, or the faces of all pictures.

    `rows` are those with a face, in order; `timeline` is None for pictures, else see `make_timeline`.
    """

    title: str
    reading: Reading
    rows: pd.DataFrame
    aus: tuple[Summary, ...]
    emotions: tuple[Summary, ...]
    timeline: dict[str, Any] | None = None


@dataclass
class Findings:
    """Everything that a run's table says, in the order in which the page shows it."""

    views: list[View]
    sources: list[dict[str, Any]]
    problems: list[dict[str, Any]]
    counts: dict[str, int]
    num_hidden_faces: int = 0
    likeliest: dict[str, float] = field(default_factory=dict)
    captions: dict[str, CaptionCheck] = field(default_factory=dict)


def _read_parquet(file: Path) -> pd.DataFrame:
    """Without the landmarks, which would be most of it."""
    return pd.read_parquet(file, columns=[name for name in pq.read_schema(file).names if name != LANDMARKS])


READERS: dict[str, Callable[[Path], pd.DataFrame]] = {
    "faces.parquet": _read_parquet,
    "faces.csv": pd.read_csv,
    "faces.jsonl": partial(pd.read_json, lines=True),
}
"""Tables that an analysis may leave, the preferred one first."""


def read_run(run_folder: str | Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The table of an analysis, with rows numbered from 0, and its manifest.

    Raises:
        FileNotFoundError: the folder holds no finished analysis.
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
    """Split an analysed table into what is shown.

    Args:
        table: a row a face or frame, with the columns that `mf2 analyze` writes.
        thresholds: probability from which an AU is active, by column (`"AU12"`, `"adapter.AU12"`).
    """
    table = table.assign(name=table["source"].map(short_names(table["source"])))
    seen = table[(table["status"] == "ok") & (table["face"] >= 0)]
    frames = table.groupby("source")["frame"].nunique()
    is_video = seen["source"].map(frames) > 1
    readings = list(find_readings(table.columns, thresholds))
    tracks = [track for _, track in seen[is_video].groupby(["source", "face"], sort=False)]
    tracks.sort(key=len, reverse=True)
    shown = sorted(tracks[:MAX_VIDEO_VIEWS], key=lambda rows: rows.index[0])
    views = [_video_view(rows, reading) for rows in shown for reading in readings]
    if not seen[~is_video].empty:
        views += [_picture_view(seen[~is_video], reading) for reading in readings]
    return Findings(
        views=views,
        sources=list(_describe_sources(table)),
        problems=table.loc[table["status"] == "error", ["name", "frame", "error"]].to_dict("records"),
        counts=_count(table, seen),
        num_hidden_faces=max(len(tracks) - MAX_VIDEO_VIEWS, 0),
        captions=_check_captions(seen, readings),
        likeliest=seen["emotion"].value_counts(normalize=True).to_dict() if "emotion" in seen else {},
    )


def find_readings(columns: Sequence[str], thresholds: Mapping[str, float]) -> Iterator[Reading]:
    """The label spaces whose probabilities a table holds, the checkpoint's first."""
    aus: dict[str, list[Signal]] = {}
    emotions: dict[str, list[Signal]] = {}
    for column in columns:
        if match := _AU_COLUMN.fullmatch(column):
            action_unit = ACTION_UNITS[int(match["au_id"])]
            signal = Signal(
                column, action_unit.code, action_unit.name, float(thresholds.get(column, DEFAULT_THRESHOLD))
            )
            aus.setdefault(match["adapter"] or "", []).append(signal)
        elif match := _EMOTION_COLUMN.fullmatch(column):
            emotions.setdefault(match["adapter"] or "", []).append(Signal(column, match["name"], match["name"]))
    for adapter in sorted({*aus, *emotions}):
        yield Reading(adapter, tuple(aus.get(adapter, ())), tuple(emotions.get(adapter, ())))


# -------------------------------------------------------------------------------------------------------------- views
def _video_view(rows: pd.DataFrame, reading: Reading) -> View:
    rows = rows.sort_values("frame")
    title = f"{rows['name'].iloc[0]} · face {rows['face'].iloc[0]}"
    return View(_titled(title, reading), reading, rows, *summarize(rows, reading), make_timeline(rows, reading))


def _picture_view(rows: pd.DataFrame, reading: Reading) -> View:
    title = f"{len(rows):,} face{'s' * (len(rows) != 1)} in pictures"
    return View(_titled(title, reading), reading, rows, *summarize(rows, reading))


def _titled(title: str, reading: Reading) -> str:
    return f"{title} · {reading.adapter}" if reading.adapter else title


def summarize(rows: pd.DataFrame, reading: Reading) -> tuple[tuple[Summary, ...], tuple[Summary, ...]]:
    """Mean, share and peak of each AU and of each emotion, over rows that have a face."""
    aus = [_summary(rows, signal, rows[signal.column] >= signal.threshold) for signal in reading.aus]
    likeliest = rows[[signal.column for signal in reading.emotions]].idxmax(axis=1) if reading.emotions else None
    emotions = [_summary(rows, signal, likeliest == signal.column) for signal in reading.emotions]
    return tuple(aus), tuple(emotions)


def _summary(rows: pd.DataFrame, signal: Signal, is_present: pd.Series) -> Summary:
    probs = rows[signal.column]
    peak_row = probs.idxmax()
    return Summary(signal, float(probs.mean()), float(is_present.mean()), float(probs[peak_row]), int(peak_row))


def make_timeline(rows: pd.DataFrame, reading: Reading) -> dict[str, Any]:
    """Probabilities over time, in equal steps of one or more frames; a step without the face is a gap.

    Args:
        rows: one face, sorted by frame, at least one row.
    Returns:
        `times` in seconds, `aus` and `emotions`, a list of probabilities (None in a gap) for each signal of the
        reading, and `frames_per_point`. A step of several frames shows the highest probability of an AU, so that
        short movements stay visible, and the mean of an emotion, so that they still sum to 1.
    """
    frames = rows["frame"].to_numpy()
    span = int(frames[-1] - frames[0]) + 1
    usual_step = np.quantile(np.diff(frames), 0.9) if len(frames) > 1 else 1
    width = max(int(np.ceil(usual_step)), -(-span // MAX_POINTS), 1)
    rules = {"time_s": "mean"}
    rules |= {signal.column: "max" for signal in reading.aus} | {signal.column: "mean" for signal in reading.emotions}
    points = rows.groupby((frames - frames[0]) // width).agg(rules)
    points = points.reindex(range(int(points.index[-1]) + 1))
    return {
        "times": points["time_s"].interpolate().round(3).tolist(),
        "aus": [_with_gaps(points[signal.column]) for signal in reading.aus],
        "emotions": [_with_gaps(points[signal.column]) for signal in reading.emotions],
        "frames_per_point": width,
    }


def _with_gaps(values: pd.Series) -> list[float | None]:
    return [None if np.isnan(value) else round(value, 4) for value in values.tolist()]


# ------------------------------------------------------------------------------------------------------------- counts
def _describe_sources(table: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """What was found in each source, in the order of the run."""
    counted = table.assign(
        face=table["face"].where(table["face"] >= 0),
        no_face=table["status"] == "no_face",
        errors=table["status"] == "error",
    )
    rules = {"name": "first", "frame": "nunique", "face": "nunique", "no_face": "sum", "errors": "sum"}
    for source, row in counted.groupby("source", sort=False).agg(rules).iterrows():
        numbers = {"frames": row["frame"], "faces": row["face"], "no_face": row["no_face"], "errors": row["errors"]}
        yield {"name": row["name"], "path": str(source)} | {name: int(value) for name, value in numbers.items()}


def _check_captions(seen: pd.DataFrame, readings: Sequence[Reading]) -> dict[str, CaptionCheck]:
    """The captions of all faces against the checkpoint's AUs and its emotion, by kind."""
    kinds = [name.removeprefix(CAPTION_PREFIX) for name in seen.columns if name.startswith(CAPTION_PREFIX)]
    base = next((reading for reading in readings if not reading.adapter), None)
    if base is None or not kinds:
        return {}
    thresholds = base.thresholds
    emotion = [name for name in ("emotion",) if name in seen.columns]
    columns = [*thresholds, *emotion, *(CAPTION_PREFIX + kind for kind in kinds)]
    return check_captions(seen[columns].to_dict("records"), thresholds, kinds)


def _count(table: pd.DataFrame, seen: pd.DataFrame) -> dict[str, int]:
    return {
        "sources": table["source"].nunique(),
        "frames": len(table[["source", "frame"]].drop_duplicates()),
        "faces": len(seen),
        "no_face": int((table["status"] == "no_face").sum()),
        "errors": int((table["status"] == "error").sum()),
    }
