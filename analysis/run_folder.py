"""The folder of an analysis: rows are kept in parts as they come, so that a killed run goes on, then in one table."""

import json
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..dataset_tools.landmark_files import listed
from ..utils.face_table import TABLE_NAME
from ..utils.files import replacing, write_json
from .tables import BOX, NO_FACE
from .tracking import FaceTracker, Track

MANIFEST_NAME = "manifest.json"
PARTS_NAME = ".parts"
SETTINGS_NAME = "settings.json"
PART_ROWS = 2000
PART_SECONDS = 20.0
"""A part is closed when it has so many rows or is so old."""

_POSITION = b"position"

Position = tuple[int, int]
"""Place of a source, and the number of one of its frames."""


class RunFolder:
    """The rows of a run, found again after a kill.

    Args:
        folder: of this run alone.
        settings: what the rows depend on, as JSON has it; a run goes on with the same only. Its `sources` may be more
            than before: those that the folder has rows of come first then, in their order. Its `versions` tell by name
            what was in each of them.
        schema: the columns.
    Raises:
        ValueError: the folder holds a run with other settings, or of sources that have changed since; they are named.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], schema: pa.Schema):
        self.folder, self.schema, self.settings = folder, schema, dict(settings)
        self._parts_folder = folder / PARTS_NAME
        self._rows: list[dict[str, Any]] = []
        self._since = time.monotonic()
        known = self._refuse_another()
        self._new = [name for name in self.settings["sources"] if name not in set(known)]
        self.settings["sources"] = [*known, *self._new]

    def claim(self) -> None:
        """Make the folder this run's; nothing is written before."""
        if (self.folder / MANIFEST_NAME).is_file():
            self._reopen()
        write_json(self._parts_folder / SETTINGS_NAME, self.settings)
        (self.folder / MANIFEST_NAME).unlink(missing_ok=True)

    def _reopen(self) -> None:
        """Make the rows of a finished run the first part of this one."""
        table = self.folder / f"{TABLE_NAME}.parquet"
        if not table.is_file():
            raise ValueError(
                f"{self.folder} holds an analysis without {table.name}, to which {listed(self._new)} cannot be added; "
                "choose another --output."
            )
        shutil.rmtree(self._parts_folder, ignore_errors=True)
        first_new = (len(self.settings["sources"]) - len(self._new), -1)
        schema = self.schema.with_metadata({_POSITION: json.dumps(first_new).encode()})
        with (
            replacing(self._parts_folder / "part-000000.parquet") as partial,
            pq.ParquetWriter(partial, schema) as new,
        ):
            for rows in _row_groups(table):
                new.write_table(rows.replace_schema_metadata(schema.metadata))

    def _refuse_another(self) -> list[str]:
        """The sources that the folder's rows are of; raises where it holds a run with other settings."""
        found = self.settings | {"sources": []}
        if (self.folder / MANIFEST_NAME).is_file():
            found = json.loads((self.folder / MANIFEST_NAME).read_text("utf-8"))["settings"]
        elif self.parts:
            found = json.loads((self._parts_folder / SETTINGS_NAME).read_text("utf-8"))
        gone = [name for name in found["sources"] if name not in set(self.settings["sources"])]
        if gone:
            raise ValueError(
                f"{self.folder} holds an analysis of {listed(gone)}, too; name those as well, choose another --output "
                "or remove it."
            )
        versions = self.settings.get("versions", {})
        known = found.get("versions", {})
        if changed := [name for name in known if known[name] != versions.get(name)]:
            raise ValueError(
                f"{listed(changed)} changed since the analysis in {self.folder}; choose another --output or remove it."
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
        """Whether everything was written: the manifest comes last."""
        return (self.folder / MANIFEST_NAME).is_file() and not self._new

    # -------------------------------------------------------------------------------------------------------- parts
    @property
    def parts(self) -> list[Path]:
        """The closed parts, in order."""
        return sorted(self._parts_folder.glob("part-*.parquet"))

    @property
    def position(self) -> Position:
        """The last frame in the parts; (-1, -1) without any."""
        if not (parts := self.parts):
            return (-1, -1)
        source_idx, frame = json.loads(pq.read_schema(parts[-1]).metadata[_POSITION])
        return source_idx, frame

    def resume_tracker(self) -> FaceTracker:
        """A tracker that knows the faces of the last source in the parts, as the run that wrote them did."""
        source_idx, _ = self.position
        tracks: dict[int, Track] = {}
        for part in self.parts:
            if json.loads(pq.read_schema(part).metadata[_POSITION])[0] < source_idx:
                continue
            table = pq.read_table(part, columns=["source", "face", "time_s", *BOX])
            for row in table.to_pylist():
                if row["source"] == self.settings["sources"][source_idx] and row["face"] != NO_FACE:
                    box = tuple(row[name] for name in BOX)
                    tracks[row["face"]] = Track(row["face"], box, row["time_s"])
        return FaceTracker(list(tracks.values()))

    def add(self, rows: Sequence[dict[str, Any]], position: Position) -> None:
        """Keep rows of whole frames; `position` is the last of them."""
        self._rows += rows
        if len(self._rows) >= PART_ROWS or time.monotonic() - self._since >= PART_SECONDS:
            self.close_part(position)

    def close_part(self, position: Position) -> None:
        """Write what was added since the last part."""
        if self._rows:
            schema = self.schema.with_metadata({_POSITION: json.dumps(position).encode()})
            with replacing(self._parts_folder / f"part-{len(self.parts):06d}.parquet") as partial:
                pq.write_table(pa.Table.from_pylist(self._rows, schema=schema), partial)
        self._rows, self._since = [], time.monotonic()

    # ------------------------------------------------------------------------------------------------------- ending
    def tables(self) -> Iterator[pa.Table]:
        """All rows, a table for each part."""
        for part in self.parts:
            yield from _row_groups(part)

    def finish(self, manifest: Mapping[str, Any]) -> None:
        """Write the manifest and drop the parts."""
        write_json(self.folder / MANIFEST_NAME, {"settings": self.settings, **manifest})
        shutil.rmtree(self._parts_folder)


def _row_groups(file: Path) -> Iterator[pa.Table]:
    """The tables that a file was written from."""
    with pq.ParquetFile(file) as opened:
        for number in range(opened.num_row_groups):
            yield opened.read_row_group(number).replace_schema_metadata(None)
