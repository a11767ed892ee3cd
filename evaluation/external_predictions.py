"""The predictions of another system, from its CSV: scored by the same evaluator on the same frames."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from mf2.data_loading.splits import Split
from mf2.dataset_tools.au_columns import find_au_columns
from mf2.evaluation.predictions import Predictions
from mf2.labels_mf2 import ACTION_UNITS, EMOTIONS, LabelSpace
from mf2.utils.text_tables import decimal_point, find_delimiter

logger = logging.getLogger(__name__)

KEY_COLUMNS = ("video", "frame")
NUM_EXAMPLES = 3


@dataclass(frozen=True)
class ExternalPredictions:
    """The CSV of another system: a row a frame with `video`, `frame`, `AU…` (probability or 0/1) and `emotion`.

    Args:
        frames: the rows by (video, frame), checked.
        label_space: the AUs that have a column; the eight emotions if `emotion` is there.
    """

    name: str
    frames: pd.DataFrame
    label_space: LabelSpace

    @classmethod
    def read(cls, file: str | Path) -> "ExternalPredictions":
        """Read and check the file.

        Raises:
            FileNotFoundError: there is none.
            ValueError: a column is missing or unknown, or a cell is out of range; the line is named.
        """
        if not Path(file).is_file():
            raise FileNotFoundError(f"There is no predictions file {file}.")
        try:
            delimiter, point = _table_form(Path(file))
            table = pd.read_csv(file, sep=delimiter, decimal=point, dtype={"video": str}, skipinitialspace=True)
        except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
            raise ValueError(f"{file} is no CSV: {error}") from None
        aus = find_au_columns(table.columns)
        if aus.intensities or aus.unused:
            logger.warning(
                "%s: %s", file, " ".join(filter(None, (_intensity_note(aus.intensities), _unused_note(aus.unused))))
            )
        table = table.drop(columns=list(aus.unused)).rename(
            columns={column: ACTION_UNITS[au_id].code for au_id, column in aus.names.items()}
        )
        codes = [ACTION_UNITS[au_id].code for au_id in aus.names]
        known = {*KEY_COLUMNS, *codes, "emotion"}
        if absent := [name for name in KEY_COLUMNS if name not in table.columns]:
            raise ValueError(f"{file} lacks the columns {', '.join(absent)}; it has {', '.join(table.columns)}.")
        if unknown := [name for name in table.columns if name not in known]:
            raise ValueError(f"{file} has unknown columns {', '.join(unknown)}; known are video, frame, AU…, emotion.")
        if not codes and "emotion" not in table.columns:
            raise ValueError(f"{file} has neither AU columns nor an emotion column, so there is nothing to score.")
        _check_cells(table, codes, str(file))
        emotions = EMOTIONS if "emotion" in table.columns else ()
        label_space = LabelSpace(tuple(aus.names), emotions)
        return cls(Path(file).stem, table.set_index(list(KEY_COLUMNS)), label_space)

    def match(self, split: Split) -> Predictions:
        """The system's predictions for the rows of a split; its other frames are left out.

        Raises:
            ValueError: a row of the split has no prediction; leaving hard frames out would flatter a system.
        """
        keys = pd.MultiIndex.from_arrays([split.rows["video_id"], split.rows["frame"]], names=KEY_COLUMNS)
        positions = self.frames.index.get_indexer(keys)
        if num_absent := int(np.sum(positions < 0)):
            examples = ", ".join(f"{video} frame {frame}" for video, frame in keys[positions < 0][:NUM_EXAMPLES])
            raise ValueError(
                f"{self.name} has no prediction for {num_absent:,} of {len(keys):,} frames, for example {examples}; "
                f"every frame of the split needs one."
            )
        found = self.frames.iloc[positions]
        au_probs = found[list(self.label_space.au_codes)].to_numpy(float).reshape(len(keys), -1)
        emotion_probs = np.zeros((len(keys), len(self.label_space.emotions)))
        if self.label_space.emotions:
            emotion_probs = np.eye(len(EMOTIONS))[[EMOTIONS.index(name) for name in found["emotion"]]]
        return Predictions.from_split(split, self.label_space.emotions, au_probs, emotion_probs)


def _table_form(file: Path) -> tuple[str, str]:
    """What separates the cells, and the decimal point."""
    with file.open(encoding="utf-8-sig") as lines:
        delimiter = find_delimiter(lines.readline())
        return delimiter, decimal_point(delimiter, lines.readline())


def _intensity_note(columns: Sequence[str]) -> str:
    return f"{', '.join(columns)} are intensities by their names and are read as probabilities." if columns else ""


def _unused_note(columns: Sequence[str]) -> str:
    return f"{', '.join(columns)} are not used: nothing here is labelled so." if columns else ""


def _check_cells(table: pd.DataFrame, codes: Sequence[str], file: str) -> None:
    """Raise for the first cell that is out of range, and for frames that are there twice."""
    checks = {code: pd.to_numeric(table[code], errors="coerce").between(0, 1) for code in codes}
    wanted = dict.fromkeys(codes, "0 to 1")
    checks["frame"], wanted["frame"] = pd.to_numeric(table["frame"], errors="coerce").ge(0), "a number"
    checks["video"], wanted["video"] = table["video"].notna(), "a name"
    if "emotion" in table.columns:
        checks["emotion"], wanted["emotion"] = table["emotion"].isin(EMOTIONS), f"one of {', '.join(EMOTIONS)}"
    for name, is_good in checks.items():
        if not is_good.all():
            row = int(np.argmin(is_good))
            raise ValueError(f"{file} line {row + 2}: {name} is {table[name].iloc[row]!r}; it must be {wanted[name]}.")
    if (twice := table.duplicated(list(KEY_COLUMNS))).any():
        row = int(np.argmax(twice))
        raise ValueError(
            f"{file} line {row + 2}: {' frame '.join(map(str, table.loc[row, list(KEY_COLUMNS)]))} again."
        )
