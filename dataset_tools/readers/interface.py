"""The interface of a data set's reader, and the frame table that it returns.

A reader is a module with the attributes of `Reader`. It turns a folder into a *frame table*, a pyarrow table with one
row for each labelled image:

    path        string   the image, relative to the root; `clip.avi#12` is frame 12 (from 0) of a video
    video_id, group_id   string   all rows of a group belong to one split
    frame       int32
    emotion     int8     index into `EMOTIONS`, or into the list set by `set_emotion_names`; null = unlabelled
    AU1 ...     int8     1, 0, -1 = unlabelled; one column for each AU that the data set can code
    valence, arousal   float32   -1 to 1, NaN = unlabelled; both or neither, only where the data set has them
    split       string   the official split, `train` or `validation`; null if there is none
    landmarks   136 x float32, if the data set has them: x0, y0, ... in pixels of the image; null = not found
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
    """What a reader counted, including every dropped image, and the settings that it read with."""

    settings: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Everything, for JSON."""

    def to_markdown(self) -> str:
        """The counts as a Markdown table."""


@dataclass(frozen=True)
class License:
    """The terms of a data set, as stated on the card of every data set derived from it.

    `license` is a license identifier of the Hub; `other` means an agreement that forbids redistribution.
    """

    license: str
    license_name: str
    license_link: str


@dataclass(frozen=True)
class About:
    """Facts about a data set, as `mf2 data list` shows them.

    Args:
        au_ids: the coded AUs that have a region rule.
        active: when an AU counts as active.
        emotions: the names in `EMOTIONS` that its labels map to by default.
        affect: whether it is labelled with valence and arousal.
        splits: how the data set is split into training and validation.
    """

    name: str
    license: License
    citation: str
    au_ids: tuple[int, ...] = ()
    active: str = "-"
    emotions: tuple[str, ...] = ()
    affect: bool = False
    splits: str = "none: at random by group"


class Reader(Protocol):
    """The interface of a reader's module."""

    ABOUT: About

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the options that only this data set has."""
        ...

    def read(self, root: Path, args: argparse.Namespace) -> tuple[pa.Table, Report]:
        """Return the frame table of the folder `root`, and the report."""
        ...


def set_emotion_names(frames: pa.Table, emotions: Sequence[str]) -> pa.Table:
    """The frame table with `emotions` recorded as the list that its emotion column indexes."""
    metadata: Mapping[Any, Any] = frames.schema.metadata or {}
    return frames.replace_schema_metadata({**metadata, _EMOTIONS_KEY: json.dumps(list(emotions))})


def emotion_names(frames: pa.Table) -> tuple[str, ...]:
    """The list that the emotion column of a frame table indexes."""
    metadata = frames.schema.metadata or {}
    return tuple(json.loads(metadata[_EMOTIONS_KEY])) if _EMOTIONS_KEY in metadata else EMOTIONS
