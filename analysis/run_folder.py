"""The folder of an analysis: rows are saved in parts while it runs, so that it can resume, and then in one table.

A part is a file of JSON lines: the position of its last frame, then the rows without empty values; landmarks are
float32 in base64.
"""

import base64
import json
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from ..dataset_tools.landmark_files import shorten
from ..utils.face_table import TABLE_NAME
from ..utils.files import replacing, write_json
from .tables import BOX, LANDMARKS, NO_FACE, Row
from .tracking import FaceTracker, Track

MANIFEST_NAME = "manifest.json"
PARTS_NAME = ".parts"
SETTINGS_NAME = "settings.json"
PART_ROWS = 2000
PART_SECONDS = 20.0
"""A part is closed when it has this many rows or is this old."""

Position = tuple[int, int]
"""Index of a source, and the number of one of its frames."""


class RunFolder:
    """The rows of a run, which resumes after an interruption.

    Args:
        folder: the run's folder.
        settings: JSON values that the rows depend on; a run only resumes with the same settings. `sources` may have
            been extended: the sources already analysed then come first, in their old order. `versions` identifies the
            content of each source by name.
        columns: see `row_columns`.
    Raises:
        ValueError: the folder has a run with other settings, or its sources have changed since.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], columns: Mapping[str, str]):
        self.folder, self.columns, self.settings = folder, columns, dict(settings)
        self._parts_folder = folder / PARTS_NAME
        self._rows: list[dict[str, Any]] = []
        self._part_started = time.monotonic()
        analysed = self._check_settings()
        self._new = [name for name in self.settings["sources"] if name not in set(analysed)]
        self.settings["sources"] = [*analysed, *self._new]

    def claim(self) -> None:
        """Write the settings into the folder; nothing is written before."""
        if (self.folder / MANIFEST_NAME).is_file():
            self._import_finished_rows()
        write_json(self._parts_folder / SETTINGS_NAME, self.settings)
        (self.folder / MANIFEST_NAME).unlink(missing_ok=True)

    def _import_finished_rows(self) -> None:
        """Use the rows of a finished run as the first part of this one."""
        table = self.folder / f"{TABLE_NAME}.parquet"
        if not table.is_file():
            raise ValueError(
                f"{self.folder} holds an analysis without {table.name}, to which {shorten(self._new)} cannot be "
                "added; choose another --output."
            )
        shutil.rmtree(self._parts_folder, ignore_errors=True)
        first_new = (len(self.settings["sources"]) - len(self._new), -1)
        import pyarrow.parquet as pq  # imported here, because an analysis to CSV does not need it

        with pq.ParquetFile(table) as opened, self._new_part(first_new) as lines:
            for batch in opened.iter_batches(PART_ROWS):
                _write_rows(batch.to_pylist(), lines)

    def _check_settings(self) -> list[str]:
        """Return the sources already analysed; raise if the folder has a run with other settings."""
        found = self.settings | {"sources": []}
        if (self.folder / MANIFEST_NAME).is_file():
            found = json.loads((self.folder / MANIFEST_NAME).read_text("utf-8"))["settings"]
        elif self.parts:
            found = json.loads((self._parts_folder / SETTINGS_NAME).read_text("utf-8"))
        removed = [name for name in found["sources"] if name not in set(self.settings["sources"])]
        if removed:
            raise ValueError(
                f"{self.folder} holds an analysis of {shorten(removed)}, too; name those as well, choose another "
                "--output or remove it."
            )
        versions = self.settings.get("versions", {})
        known = found.get("versions", {})
        if changed := [name for name in known if known[name] != versions.get(name)]:
            raise ValueError(
                f"{shorten(changed)} changed since the analysis in {self.folder}; choose another --output or remove "
                "it."
            )
        others = [name for name in self.settings if name not in ("sources", "versions")]
        if differ := sorted(name for name in others if found.get(name) != self.settings[name]):
            raise ValueError(
                f"{self.folder} holds an analysis with another {', '.join(differ)}; choose another --output or "
                "remove it."
            )
        return found["sources"]

    @property
    def is_finished(self) -> bool:
        """Whether everything was written; the manifest is written last."""
        return (self.folder / MANIFEST_NAME).is_file() and not self._new

    # -------------------------------------------------------------------------------------------------------- parts
    @property
    def parts(self) -> list[Path]:
        """The closed parts, in order."""
        return sorted(self._parts_folder.glob("part-*.jsonl"))

    @property
    def position(self) -> Position:
        """The last frame in the parts; (-1, -1) if there are none."""
        if not (parts := self.parts):
            return (-1, -1)
        return _read_position(parts[-1])

    def resume_tracker(self) -> FaceTracker:
        """Restore the tracker's state from the last source in the parts."""
        source_idx, _ = self.position
        tracks: dict[int, Track] = {}
        for part in self.parts:
            if _read_position(part)[0] < source_idx:
                continue
            for row in self._read_rows(part):
                if row["source"] == self.settings["sources"][source_idx] and row["face"] != NO_FACE:
                    box = tuple(row[name] for name in BOX)
                    tracks[row["face"]] = Track(row["face"], box, row["time_s"])
        return FaceTracker(list(tracks.values()))

    def add(self, rows: Sequence[dict[str, Any]], position: Position) -> None:
        """Add rows of complete frames; `position` is the last frame."""
        self._rows += rows
        if len(self._rows) >= PART_ROWS or time.monotonic() - self._part_started >= PART_SECONDS:
            self.close_part(position)

    def close_part(self, position: Position) -> None:
        """Write the rows added since the last part."""
        if self._rows:
            with self._new_part(position) as lines:
                _write_rows(self._rows, lines)
        self._rows, self._part_started = [], time.monotonic()

    @contextmanager
    def _new_part(self, position: Position) -> Iterator[TextIO]:
        """Open the file of the next part; it is put in place when the block ends without an error."""
        file = self._parts_folder / f"part-{len(self.parts):06d}.jsonl"
        with replacing(file) as partial, partial.open("w", encoding="utf-8") as lines:
            lines.write(json.dumps(position) + "\n")
            yield lines

    def _read_rows(self, part: Path) -> Iterator[Row]:
        with part.open(encoding="utf-8") as lines:
            next(lines)
            for line in lines:
                yield dict.fromkeys(self.columns) | _unpack(json.loads(line))

    # ------------------------------------------------------------------------------------------------------- ending
    def batches(self) -> Iterator[Sequence[Row]]:
        """All rows, in batches of up to `PART_ROWS`."""
        for part in self.parts:
            rows = self._read_rows(part)
            while batch := list(islice(rows, PART_ROWS)):
                yield batch

    def finish(self, manifest: Mapping[str, Any]) -> None:
        """Write the manifest and delete the parts."""
        write_json(self.folder / MANIFEST_NAME, {"settings": self.settings, **manifest})
        shutil.rmtree(self._parts_folder)


def _read_position(part: Path) -> Position:
    with part.open(encoding="utf-8") as lines:
        source_idx, frame = json.loads(next(lines))
    return source_idx, frame


def _write_rows(rows: Iterable[Row], lines: TextIO) -> None:
    for row in rows:
        known = {name: value for name, value in row.items() if value is not None}
        if LANDMARKS in known:
            points = np.asarray(known[LANDMARKS], dtype="<f4")
            known[LANDMARKS] = base64.b64encode(points.tobytes()).decode()
        lines.write(json.dumps(known, default=_to_python_number) + "\n")


def _to_python_number(value: Any) -> Any:
    """Convert a NumPy or torch scalar, which custom detectors may return."""
    return value.item()


def _unpack(row: Row) -> Row:
    if LANDMARKS in row:
        row[LANDMARKS] = np.frombuffer(base64.b64decode(row[LANDMARKS]), dtype="<f4").tolist()
    return row
