"""`mf2 data list`: lists the supported data sets and their labels."""

import argparse
import json
from dataclasses import asdict

from ..labels_mf2 import EMOTIONS
from ..utils.markdown import markdown_table
from .readers.interface import About
from .readers.registry import READERS, load_reader

_HEADER = ("name", "data set", "AUs", "emotions", "affect", "split")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `mf2 data list`."""
    parser.add_argument("names", nargs="*", metavar="NAME", help="show details of these; by default, a table of all")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> None:
    """Print the table, or the details of the named data sets."""
    abouts = {name: load_reader(name).ABOUT for name in args.names or READERS}
    if args.json:
        print(json.dumps({name: asdict(about) for name, about in abouts.items()}, indent=2, ensure_ascii=False))
    elif args.names:
        print("\n".join(_describe(name, about) for name, about in abouts.items()))
    else:
        print(markdown_table(_HEADER, [_row(name, about) for name, about in abouts.items()]))
        print("`mf2 data list NAME` shows details; `mf2 data import NAME --help` shows the options of each.")


def _row(name: str, about: About) -> tuple[str, ...]:
    emotions = "all 8" if set(about.emotions) == set(EMOTIONS) else str(len(about.emotions) or "-")
    aus = " ".join(map(str, about.au_ids)) or "-"
    return name, about.name, aus, emotions, "yes" if about.affect else "-", about.splits


def _describe(name: str, about: About) -> str:
    lines = {
        "reads": READERS[name][1],
        "AUs": ", ".join(f"AU{au_id}" for au_id in about.au_ids) or "none",
        "active": about.active,
        "emotions": ", ".join(about.emotions) or "none",
        "affect": "valence, arousal" if about.affect else "none",
        "split": about.splits,
        "licence": f"{about.license.license_name} {about.license.license_link}".strip(),
        "cite": about.citation,
    }
    return "\n".join([f"{name} ({about.name})", *(f"  {key:9}{text}" for key, text in lines.items()), ""])
