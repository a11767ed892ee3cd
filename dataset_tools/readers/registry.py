"""The data sets that can be read from disk, by name.

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
import importlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import pyarrow as pa

from ...labels_mf2 import EMOTIONS

READERS: dict[str, tuple[str, str]] = {
    "affwild2": ("affwild2", "Aff-Wild2, in the layouts of the ABAW competitions"),
    "csv": ("csv_file", "images with a CSV file of labels: path, AU1, ..., emotion, group_id"),
    "disfa": ("disfa", "DISFA: AU intensities of 27 people"),
    "bp4d": ("bp4d", "BP4D: AU occurrence of 41 people in 8 tasks"),
    "ckplus": ("ckplus", "CK+: AUs and an emotion of the last frame of posed sequences"),
    "gft": ("gft", "GFT: AU occurrence of people in groups"),
    "rafau": ("rafau", "RAF-AU: AUs of photographs"),
    "emotionet": ("emotionet", "EmotioNet: AUs of photographs from the web"),
    "casme2": ("casme2", "CASME II: AUs and emotions of micro-expressions"),
    "cas_me2": ("cas_me2", "CAS(ME)2: AUs and emotions of macro- and micro-expressions"),
    "affectnet": ("affectnet", "AffectNet: emotions of photographs, from its CSV or its npy files"),
    "rafdb": ("rafdb", "RAF-DB: basic emotions of photographs"),
    "dfew": ("dfew", "DFEW: emotions of film clips"),
    "ferv39k": ("ferv39k", "FERV39k: emotions of clips from many scenes"),
    "sfew": ("sfew", "SFEW 2.0: emotions of film frames"),
    "afew": ("afew", "AFEW: emotions of film clips (videos)"),
}
"""Name -> (module of this package, what it reads)."""

_EMOTIONS_KEY = b"emotions"


class Report(Protocol):
    """What a reader counted, every dropped image among it, and the settings that it read with."""

    settings: dict[str, Any]

    def to_dict(self) -> dict[str, Any]: ...

    def to_markdown(self) -> str: ...


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


def load_reader(name: str) -> Reader:
    """The reader of that name; a `ValueError` that lists the known ones otherwise."""
    if name not in READERS:
        raise ValueError(f"No reader is called {name!r}; there are {', '.join(READERS)}.")
    return cast(Reader, importlib.import_module(f"mf2.dataset_tools.readers.{READERS[name][0]}"))


def add_reader_parsers(parser: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
    """Give a command `NAME ROOT OUT` and each reader's own options; returns the readers' parsers, to add more."""
    subparsers = parser.add_subparsers(dest="reader", metavar="NAME", required=True)
    parsers = []
    for name, (_, text) in READERS.items():
        reader_parser = subparsers.add_parser(name, help=text, description=f"{text}.")
        reader_parser.add_argument("root", type=Path, help="folder of the data set")
        reader_parser.add_argument("out", type=Path, help="folder to make")
        load_reader(name).add_arguments(reader_parser)
        parsers.append(reader_parser)
    return parsers


def with_emotions(frames: pa.Table, emotions: Sequence[str]) -> pa.Table:
    """The frame table, whose emotions from now on index that list."""
    metadata: Mapping[Any, Any] = frames.schema.metadata or {}
    return frames.replace_schema_metadata({**metadata, _EMOTIONS_KEY: json.dumps(list(emotions))})


def emotions_of(frames: pa.Table) -> tuple[str, ...]:
    """What the emotions of a frame table index."""
    metadata = frames.schema.metadata or {}
    return tuple(json.loads(metadata[_EMOTIONS_KEY])) if _EMOTIONS_KEY in metadata else EMOTIONS
