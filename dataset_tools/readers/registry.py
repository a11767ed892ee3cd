"""The data sets that can be read from disk, by name."""

import argparse
import importlib
from pathlib import Path
from typing import cast

from .interface import Reader

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
"""Name -> (module of this package, description)."""


def load_reader(name: str) -> Reader:
    """Import the reader called `name`.

    Raises:
        ValueError: there is no such reader; the known names are listed.
    """
    if name not in READERS:
        raise ValueError(f"No reader is called {name!r}; there are {', '.join(READERS)}.")
    return cast(Reader, importlib.import_module(f"mf2.dataset_tools.readers.{READERS[name][0]}"))


def add_reader_parsers(parser: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
    """Add a sub-command `NAME ROOT OUT` with its options for each reader; returns the sub-commands' parsers."""
    subparsers = parser.add_subparsers(dest="reader", metavar="NAME", required=True)
    parsers = []
    for name, (_, description) in READERS.items():
        reader_parser = subparsers.add_parser(name, help=description, description=f"{description}.")
        reader_parser.add_argument("root", type=Path, help="folder of the data set")
        reader_parser.add_argument("out", type=Path, help="folder to make")
        load_reader(name).add_arguments(reader_parser)
        parsers.append(reader_parser)
    return parsers
