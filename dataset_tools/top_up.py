"""`mf2 data top_up`: the frames of a selection whose captions failed give way to unused frames.

Refusals and dead letters are not spread evenly over the classes, so that leaving them out would bend the balance. An
unused frame of the same split and emotion takes the place of each: the nearest in time of the same video, else one of
another video. What cannot be replaced is dropped and counted.

SELECTION/frames.parquet, report.*    the selection, edited in place
SELECTION/top_up.json                 what was replaced and dropped, round by round
"""

import argparse
import json
from collections import Counter, defaultdict
from collections.abc import Set
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ..labels_mf2 import EMOTIONS
from ..utils.files import sha256_of_file, write_json
from .index import FRAMES_NAME, read_frames
from .select import usable_frames, write_selection
from .stage_report import Tally

REPORT_NAME = "top_up.json"
MAX_ROUNDS = 3
COUNTED = {
    "failed": "selected frames whose captions failed",
    "same_video": "replaced by a frame of the same video",
    "other_video": "replaced by a frame of another video of the split",
    "dropped": "dropped: not replaced",
}
_PLACE = ["split", "video_id", "frame", "emotion"]


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
    rounds = _earlier_rounds(args.selection)
    tally, dropped = Tally(COUNTED), Counter[str]()
    failed, replace = read_failed(args.letters), len(rounds) < args.max_rounds
    topped = top_up(selection, pool, failed, tally, dropped, replace=replace)
    if tally["failed"]:
        summary = json.loads((args.selection / "report.json").read_text("utf-8"))
        write_selection(args.selection, pool, topped, summary)
        rounds.append({**tally.to_dict(), "dropped_by_emotion": dict(dropped)})
        sha256 = sha256_of_file(args.selection / FRAMES_NAME)
        write_json(args.selection / REPORT_NAME, {"selection_sha256": sha256, "rounds": rounds})
    print(tally.to_markdown())


def _earlier_rounds(folder: Path) -> list[dict[str, Any]]:
    """The rounds that led to this selection; none after it was made anew."""
    if not (folder / REPORT_NAME).is_file():
        return []
    report = json.loads((folder / REPORT_NAME).read_text("utf-8"))
    is_current = report["selection_sha256"] == sha256_of_file(folder / FRAMES_NAME)
    return report["rounds"] if is_current else []


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


# -------------------------------------------------------------------------------------------------------- topping up
def top_up(
    selection: pa.Table, pool: pa.Table, failed: Set[str], tally: Tally, dropped: Counter[str], *, replace: bool = True
) -> pa.Table:
    """A selection without its failed frames and with what replaces them, in the order of the pool.

    Args:
        selection: a frame table with its splits.
        pool: the usable frames of the index.
        failed: `video_id/name` of the failed frames, selected or not.
        tally: counts under `COUNTED`.
        dropped: counts what is not replaced, by emotion.
        replace: False only drops.
    """
    is_failed = pa.array([name in failed for name in frame_names(selection)], pa.bool_())
    lost, kept = selection.filter(is_failed), selection.filter(pc.invert(is_failed))
    spare = find_spare(selection, pool, failed) if replace and len(lost) else {}
    rows, splits = [], []
    for row in lost.select(_PLACE).to_pylist():
        example = f"{row['video_id']}, frame {row['frame']}"
        tally.add("failed", example=example)
        candidates = spare.get((row["split"], row["emotion"]))
        if not candidates:
            tally.add("dropped", example=example)
            dropped[EMOTIONS[row["emotion"]]] += 1
            continue
        best = min(candidates, key=partial(_distance, row))
        candidates.remove(best)
        tally.add("same_video" if best["video_id"] == row["video_id"] else "other_video")
        rows.append(best["row"])
        splits.append(row["split"])
    return _in_order_of(
        pool, pa.concat_tables([kept, _with_split(pool.take(pa.array(rows, pa.int64())), splits, kept.schema)])
    )


def _distance(lost: dict[str, Any], spare: dict[str, Any]) -> tuple[bool, int, int]:
    """What the replacement of a lost frame has least of."""
    return spare["video_id"] != lost["video_id"], abs(spare["frame"] - lost["frame"]), spare["row"]


def find_spare(selection: pa.Table, pool: pa.Table, failed: Set[str]) -> dict[tuple[str, int], list[dict[str, Any]]]:
    """(split, emotion) -> the frames of the split's groups that are neither selected nor failed.

    Each has its `row` in the pool, `video_id` and `frame`.
    """
    groups, splits = (selection[name].cast(pa.string()).to_pylist() for name in ("group_id", "split"))
    split_of = dict(zip(groups, splits, strict=True))
    is_used = pc.is_in(pool["path"].cast(pa.string()), selection["path"].cast(pa.string()))
    unused = pool.append_column("row", pa.array(range(len(pool)))).filter(pc.invert(is_used))
    spare: defaultdict[tuple[str, int], list[dict[str, Any]]] = defaultdict(list)
    columns = unused.select(["row", "video_id", "frame", "group_id", "emotion"]).to_pylist()
    for name, frame in zip(frame_names(unused), columns, strict=True):
        if name not in failed and frame["group_id"] in split_of:
            spare[split_of[frame["group_id"]], frame["emotion"]].append(frame)
    return spare


def frame_names(frames: pa.Table) -> list[str]:
    """`video_id/name of the image`, as a data set calls the frames."""
    videos, paths = (frames[name].cast(pa.string()).to_pylist() for name in ("video_id", "path"))
    return [f"{video}/{PurePosixPath(path).name}" for video, path in zip(videos, paths, strict=True)]


def _with_split(frames: pa.Table, splits: list[str], schema: pa.Schema) -> pa.Table:
    column = frames.schema.get_field_index("split")
    return frames.set_column(column, "split", pa.array(splits, pa.string())).select(schema.names).cast(schema)


def _in_order_of(pool: pa.Table, frames: pa.Table) -> pa.Table:
    position = pc.index_in(frames["path"].cast(pa.string()), pool["path"].cast(pa.string()))
    return frames.take(pc.array_sort_indices(position.combine_chunks()))
