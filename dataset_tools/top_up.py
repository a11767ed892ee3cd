"""`mf2 data top_up`: replaces the frames of a selection whose captions failed by unused frames.

Failed captions are not distributed evenly over the classes, so that dropping their frames would unbalance the
selection. Each is replaced by an unused frame of the same split and emotion: the nearest in time from the same video,
else one from another video. Frames that cannot be replaced are dropped and counted.

SELECTION/frames.parquet, report.*    the selection, edited in place
SELECTION/top_up.json                 the replaced and dropped frames of every round
"""

import argparse
import json
from collections import Counter
from pathlib import Path

from .index import read_frames
from .replacements import COUNTED, describe_round, frame_names, read_selection_rounds, top_up, write_rounds
from .select import usable_frames, write_selection
from .stage_report import Tally
from .stage_settings import collect_settings

MAX_ROUNDS = 3


# --------------------------------------------------------------------------------------------------------- command
def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `mf2 data top_up`."""
    add = parser.add_argument
    add("selection", type=Path, help="folder made by `mf2 data select`; it is edited")
    add("index", type=Path, help="the index that the selection was made from")
    add(
        "letters",
        type=Path,
        metavar="JSONL",
        help="dead letters of `mf2 data caption`; without this file nothing is replaced",
    )
    add(
        "--max_rounds",
        type=int,
        default=MAX_ROUNDS,
        metavar="N",
        help="rounds that replace frames; later ones only drop them (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> None:
    """Replace failed frames, print the counts, and write the selection if it changed."""
    selection, pool = read_frames(args.selection), usable_frames(read_frames(args.index))
    rounds = read_selection_rounds(args.selection)
    tally, dropped = Tally(COUNTED), Counter[str]()
    failed, replaces = read_failed(args.letters).intersection(frame_names(pool)), len(rounds) < args.max_rounds
    selection = top_up(selection, pool, failed, tally, dropped, replace=replaces)
    if tally["failed"]:
        summary = json.loads((args.selection / "report.json").read_text("utf-8"))
        summary["top_up"] = collect_settings(args, add_arguments)
        write_selection(args.selection, pool, selection, summary)
        counts = {**tally.to_dict(), "dropped_by_emotion": dict(dropped)}
        write_rounds(args.selection, [*rounds, {**counts, **describe_round(failed, replaces=replaces)}])
    print(tally.to_markdown())


def read_failed(letters: Path) -> frozenset[str]:
    """Read `video_id/name` of the images with a dead letter; empty if there is no file.

    Raises:
        ValueError: a line is not a dead letter.
    """
    if not letters.is_file():
        return frozenset()
    try:
        lines = letters.read_text("utf-8").splitlines()
        return frozenset(json.loads(line)["image_id"].partition("/")[2] for line in lines)  # dataset/video_id/name
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{letters} does not hold dead letters: {error!r}.") from None
