"""What a reader of a data set is, and the frame table that it gives.

A reader is a module with the attributes of `Reader`. It turns a folder into a *frame table*, a pyarrow table with one
row for each image that has a label:

    path        string   the image below the root; `clip.avi#12` is frame 12 (from 0) of a video
    video_id, group_id   string   no split divides a group
    frame       int32
    emotion     int8     index into `EMOTIONS`, or the list that `with_emotions` gave; null = unlabelled
    AU1 ...     int8     1, 0, -1 = unlabelled; one column for each AU that the data set can code
    split       string   `train` or `validation` as the data set's authors have it, null where they have none
    landmarks   136 x float32, only where the data set has them: x0, y0, ... in pixels of the image; null = not found
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from ...labels_mf2 import EMOTIONS

_EMOTIONS_KEY = b"emotions"


class Report(Protocol):
    """What a reader counted, every dropped image among it, and the settings that it read with."""

    settings: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""

    def to_markdown(self) -> str:
        """For a reader: a table of what was counted."""


@dataclass(frozen=True)
class License:
    """The terms of a data set, as the card of whatever derives from it names them.

    `license` is an identifier of the Hub; `other` means an agreement that forbids redistribution.
    """

    license: str
    license_name: str
    license_link: str


@dataclass(frozen=True)
class About:
    """What a data set gives.

    au_ids: the AUs that it codes and that have a region rule.
    active: when an AU counts as active.
    emotions: those of ours that its labels become by default.
    splits: what its split is.
    """

    name: str
    license: License
    citation: str
    au_ids: tuple[int, ...] = ()
    active: str = "-"
    emotions: tuple[str, ...] = ()
    splits: str = "none: at random by group"


class Reader(Protocol):
    """The interface of a reader's module."""

    ABOUT: About

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the options that only this data set has."""
        ...

    def read(self, root: Path, args: argparse.Namespace) -> tuple[pa.Table, Report]:
        """The frame table of the folder `root` and the report."""
        ...


def with_emotions(frames: pa.Table, emotions: Sequence[str]) -> pa.Table:
    """The frame table, whose emotions from now on index that list."""
    metadata: Mapping[Any, Any] = frames.schema.metadata or {}
    return frames.replace_schema_metadata({**metadata, _EMOTIONS_KEY: json.dumps(list(emotions))})


def emotions_of(frames: pa.Table) -> tuple[str, ...]:
    """What the emotions of a frame table index."""
    metadata = frames.schema.metadata or {}
    return tuple(json.loads(metadata[_EMOTIONS_KEY])) if _EMOTIONS_KEY in metadata else EMOTIONS
