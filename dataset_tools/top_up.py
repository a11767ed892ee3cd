"""`mf2 data top_up`: the frames of a selection whose captions failed give way to unused frames.

Refusals and dead letters are not spread evenly over the classes, so that leaving them out would bend the balance. An
unused frame of the same split and emotion takes the place of each: the nearest in time of the same video, else one of
another video. What cannot be replaced is dropped and counted.

SELECTION/frames.parquet, report.*    the selection, edited in place
SELECTION/top_up.json                 what was replaced and dropped, round by round
"""

import argparse
import json
from collections import Counter
from pathlib import Path

from .index import read_frames
from .replacements import COUNTED, describe_round, frame_names, read_selection_rounds, top_up, write_rounds
from .select import usable_frames, write_selection
from .stage_report import Tally
from .stage_settings import settings_of

MAX_ROUNDS = 3


# --------------------------------------------------------------------------------------------------------- command
def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `mf2 data top_up`."""
    add = parser.add_argument
    add("selection", type=Path, help="folder made by `mf2 data select`; it is edited")
    add("index", type=Path, help="the index that was selected from")
    add(
        "letters",
        type=Path,
        metavar="JSONL",
        help="dead letters of `mf2 data caption`; nothing to do without the file",
    )
    add(
        "--max_rounds",
        type=int,
        default=MAX_ROUNDS,
        metavar="N",
        help="replace in that many rounds; later ones only drop (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> None:
    """Replace, report, and write the selection if it changed."""
    selection, pool = read_frames(args.selection), usable_frames(read_frames(args.index))
    rounds = read_selection_rounds(args.selection)
    tally, dropped = Tally(COUNTED), Counter[str]()
    failed, replaces = read_failed(args.letters).intersection(frame_names(pool)), len(rounds) < args.max_rounds
    topped = top_up(selection, pool, failed, tally, dropped, replace=replaces)
    if tally["failed"]:
        summary = json.loads((args.selection / "report.json").read_text("utf-8"))
        summary["top_up"] = settings_of(args, add_arguments)
        write_selection(args.selection, pool, topped, summary)
        done = {**tally.to_dict(), "dropped_by_emotion": dict(dropped), **describe_round(failed, replaces=replaces)}
        write_rounds(args.selection, [*rounds, done])
    print(tally.to_markdown())


def read_failed(letters: Path) -> frozenset[str]:
    """`video_id/name` of the images that have a dead letter.

    Raises:
        ValueError: a line is no dead letter.
    """
    if not letters.is_file():
        return frozenset()
    try:
        lines = letters.read_text("utf-8").splitlines()
        return frozenset(json.loads(line)["image_id"].partition("/")[2] for line in lines)  # dataset/video_id/name
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{letters} does not hold dead letters: {error!r}.") from None
