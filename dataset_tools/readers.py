"""The data sets that can be read from disk, by name.

A reader is a module with the attributes of `Reader`. It turns a folder into a *frame table*, a pyarrow table with one
row for each image that has a label:

    path        string   the image below the root
    video_id, group_id   string   no split divides a group
    frame       int32
    emotion     int8     index into `EMOTIONS`, null = unlabelled
    AU1 ...     int8     1, 0, -1 = unlabelled; one column for each AU that the data set can code
    split       string   `train` or `validation` as the data set's authors have it, null where they have none
"""

import argparse
import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import pyarrow as pa

READERS: dict[str, str] = {"affwild2": "Aff-Wild2, in the layouts of the ABAW competitions"}
"""Name of a reader, and of its module -> what it reads."""


class Report(Protocol):
    """What a reader counted, every dropped image among it."""

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


class Reader(Protocol):
    """The interface of a reader's module."""

    PRETTY_NAME: str
    LICENSE: License

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
    return cast(Reader, importlib.import_module(f"mf2.dataset_tools.{name}"))


def add_reader_parsers(parser: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
    """Give a command `NAME ROOT OUT` and each reader's own options; returns the readers' parsers, to add more."""
    subparsers = parser.add_subparsers(dest="reader", metavar="NAME", required=True)
    parsers = []
    for name, text in READERS.items():
        reader_parser = subparsers.add_parser(name, help=text, description=f"{text}.")
        reader_parser.add_argument("root", type=Path, help="folder of the data set")
        reader_parser.add_argument("out", type=Path, help="folder to make")
        load_reader(name).add_arguments(reader_parser)
        parsers.append(reader_parser)
    return parsers
