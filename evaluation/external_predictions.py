"""Predictions read from a file (of another system or of `mf2 analyze`), matched to the frames of a split."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from mf2.data_loading.splits import Split
from mf2.dataset_tools.au_columns import find_au_columns
from mf2.evaluation.frame_matching import match_paths
from mf2.evaluation.prediction_files import EMOTION_PREFIX, PredictionFile, infer_label_space, read_prediction_file
from mf2.evaluation.predictions import Predictions
from mf2.labels_mf2 import ACTION_UNITS, AFFECT, LabelSpace

logger = logging.getLogger(__name__)

KEY_COLUMNS = ("video", "frame")
NUM_EXAMPLES = 3


@dataclass(frozen=True)
class ExternalPredictions:
    """A table with one row per frame: `video`, `frame`, `AU…` (probability or 0/1), `emotion`, `emotion_…`, `valence`
    and `arousal`.

    Args:
        name: of the system; the file's name without its extension.
        frames: the checked rows.
        label_space: the AUs and emotions that have a column; all eight emotions if there is only `emotion`.
        are_paths: whether `video` is the path of a picture or video (see `frame_matching`) and not a `video_id`.
    """

    name: str
    frames: pd.DataFrame
    label_space: LabelSpace
    are_paths: bool = False

    @classmethod
    def read(cls, file: str | Path) -> "ExternalPredictions":
        """Read and check a CSV, or the output of `mf2 analyze` or `mf2 evaluate`; see `prediction_files`.

        Raises:
            FileNotFoundError: the file does not exist.
            ValueError: a column is missing or unknown, or a cell is out of range; the line is named.
        """
        found = read_prediction_file(file)
        table = found.table if found.is_ours else _take_columns(found, str(file))
        label_space = infer_label_space(table, found.thresholds)
        if not (label_space.au_ids or label_space.emotions or label_space.affect):
            raise ValueError(
                f"{file} has neither AU columns nor an emotion column, nor valence and arousal, so there is nothing "
                "to score."
            )
        _check_cells(table, label_space, str(file))
        return cls(Path(file).stem, table.reset_index(drop=True), label_space, found.are_paths)

    def match(self, split: Split) -> Predictions:
        """Return the predictions for the rows of a split; predictions of other frames are ignored.

        Raises:
            ValueError: a row of the split has no prediction; skipping hard frames would inflate the scores.
        """
        keys = pd.MultiIndex.from_arrays([split.rows["video_id"], split.rows["frame"]], names=KEY_COLUMNS)
        if self.are_paths:
            positions = match_paths(self.frames, split.rows)
        else:
            positions = pd.MultiIndex.from_frame(self.frames[list(KEY_COLUMNS)]).get_indexer(keys)
        if num_absent := int(np.sum(positions < 0)):
            examples = ", ".join(f"{video} frame {frame}" for video, frame in keys[positions < 0][:NUM_EXAMPLES])
            raise ValueError(
                f"{self.name} has no prediction for {num_absent:,} of {len(keys):,} frames, for example {examples}; "
                f"every frame of the split needs one."
            )
        found = self.frames.iloc[positions]
        au_probs = found[list(self.label_space.au_codes)].to_numpy(float).reshape(len(keys), -1)
        affect = found[list(AFFECT)].to_numpy(float) if self.label_space.affect else None
        return Predictions.from_split(split, self.label_space.emotions, au_probs, self._emotion_probs(found), affect)

    def _emotion_probs(self, found: pd.DataFrame) -> np.ndarray:
        """`(N, E)` probabilities that sum to 1; one-hot where the file only names the emotion."""
        emotions = self.label_space.emotions
        columns = [EMOTION_PREFIX + name for name in emotions]
        if not emotions or set(columns) <= set(found.columns):
            probs = found[columns].to_numpy(float).reshape(len(found), -1)
            return probs / np.maximum(probs.sum(1, keepdims=True), np.finfo(float).tiny)
        return np.eye(len(emotions))[[emotions.index(name) for name in found["emotion"]]]


def _take_columns(found: PredictionFile, file: str) -> pd.DataFrame:
    """Rename the AU columns of another system's CSV to their codes; unknown columns are an error."""
    table = found.table
    aus = find_au_columns(table.columns)
    if aus.intensities or aus.unused:
        logger.warning(
            "%s: %s", file, " ".join(filter(None, (_intensity_note(aus.intensities), _unused_note(aus.unused))))
        )
    table = table.drop(columns=list(aus.unused)).rename(
        columns={column: ACTION_UNITS[au_id].code for au_id, column in aus.names.items()}
    )
    known = {*KEY_COLUMNS, *(ACTION_UNITS[au_id].code for au_id in aus.names), "emotion", *AFFECT}
    if absent := [name for name in KEY_COLUMNS if name not in table.columns]:
        raise ValueError(f"{file} lacks the columns {', '.join(absent)}; it has {', '.join(table.columns)}.")
    if unknown := [name for name in table.columns if name not in known]:
        raise ValueError(
            f"{file} has unknown columns {', '.join(unknown)}; known are video, frame, AU…, emotion, valence, arousal."
        )
    if len(given := [name for name in AFFECT if name in table.columns]) == 1:
        raise ValueError(f"{file} has the column {given[0]} alone; give both, {' and '.join(AFFECT)}.")
    return table


def _intensity_note(columns: Sequence[str]) -> str:
    return f"{', '.join(columns)} are intensities by their names and are read as probabilities." if columns else ""


def _unused_note(columns: Sequence[str]) -> str:
    return f"{', '.join(columns)} are not used: nothing here is labelled so." if columns else ""


def _check_cells(table: pd.DataFrame, label_space: LabelSpace, file: str) -> None:
    """Raise for the first cell that is out of range, and for duplicate frames."""
    codes = label_space.au_codes
    probs = [*codes, *(name for name in table.columns if name.startswith(EMOTION_PREFIX))]
    checks = {name: pd.to_numeric(table[name], errors="coerce").between(0, 1) for name in probs}
    expected = dict.fromkeys(probs, "0 to 1")
    checks["frame"], expected["frame"] = pd.to_numeric(table["frame"], errors="coerce").ge(0), "a number"
    checks["video"], expected["video"] = table["video"].notna(), "a name"
    if "emotion" in table.columns:
        emotions = label_space.emotions
        checks["emotion"], expected["emotion"] = table["emotion"].isin(emotions), f"one of {', '.join(emotions)}"
    for name in label_space.affect_names:
        checks[name], expected[name] = pd.to_numeric(table[name], errors="coerce").between(-1, 1), "-1 to 1"
    for name, is_good in checks.items():
        if not is_good.all():
            row = int(np.argmin(is_good))
            value = table[[name]].astype(object).iloc[row, 0]
            value = value.item() if isinstance(value, np.generic) else value
            raise ValueError(f"{file} line {row + 2}: {name} is {value!r}; it must be {expected[name]}.")
    if (duplicated := table.duplicated(list(KEY_COLUMNS))).any():
        row = int(np.argmax(duplicated))
        raise ValueError(
            f"{file} line {row + 2}: {' frame '.join(map(str, table[list(KEY_COLUMNS)].iloc[row]))} again."
        )
