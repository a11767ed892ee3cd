"""Replaces selected frames whose captions failed, and records the replacements so that they can be repeated.

A round is `{"replaces": bool, "failed": [...]}`: whether frames were replaced or only dropped, and the first digits of
the SHA-256 of each failed frame's name, which only reveal the frames to those who have the source data.
"""

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence, Set
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ..labels_mf2 import EMOTIONS
from ..utils.files import sha256_of_file, write_json
from .index import FRAMES_NAME
from .stage_report import Tally

ROUNDS_NAME = "top_up.json"
"""File in the folder of a selection with the replaced and dropped frames of every round."""
REPLACED_KEY = "replaced"
"""Key of the rounds in a manifest."""
COUNTED = {
    "failed": "selected frames whose captions failed",
    "same_video": "replaced by a frame of the same video",
    "other_video": "replaced by a frame of another video of the split",
    "dropped": "dropped: not replaced",
}
_LOCATION_COLUMNS = ["split", "video_id", "frame", "emotion"]
_HASH_LENGTH = 16


# ---------------------------------------------------------------------------------------------------------- rounds
def write_rounds(folder: Path, rounds: Sequence[Mapping[str, Any]]) -> None:
    """Record the rounds that led to the current selection in `folder`."""
    sha256 = sha256_of_file(folder / FRAMES_NAME)
    write_json(folder / ROUNDS_NAME, {"selection_sha256": sha256, "rounds": list(rounds)})


def read_selection_rounds(folder: Path) -> list[dict[str, Any]]:
    """Read the rounds that led to the selection in `folder`; empty if the selection was made again since."""
    if not (folder / ROUNDS_NAME).is_file():
        return []
    report = json.loads((folder / ROUNDS_NAME).read_text("utf-8"))
    is_current = report["selection_sha256"] == sha256_of_file(folder / FRAMES_NAME)
    return report["rounds"] if is_current else []


def describe_round(failed: Iterable[str], *, replaces: bool) -> dict[str, Any]:
    """A round with hashed names; `failed` are names `video_id/name`."""
    return {"replaces": replaces, "failed": sorted(map(_hash_name, failed))}


def strip_counts(rounds: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rounds without their counts, as `replay` needs them."""
    return [{name: each[name] for name in ("replaces", "failed")} for each in rounds]


def read_rounds(path: Path) -> list[dict[str, Any]]:
    """Read rounds from a file.

    Raises:
        ValueError: the file does not hold rounds.
    """
    try:
        return strip_counts(json.loads(path.read_text("utf-8")))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} does not hold the replacements of a selection: {error!r}.") from None


def replay(selection: pa.Table, pool: pa.Table, rounds: Iterable[Mapping[str, Any]]) -> pa.Table:
    """Repeat the replacements of recorded rounds on a selection.

    Raises:
        ValueError: a failed frame is not in the pool.
    """
    names = {_hash_name(name): name for name in frame_names(pool)}
    for each in rounds:
        if num_unknown := sum(hashed not in names for hashed in each["failed"]):
            raise ValueError(
                f"{num_unknown:,} of {len(each['failed']):,} replaced frames are not in the index: it was made with "
                "other options, or from another edition of the source."
            )
        failed = frozenset(names[hashed] for hashed in each["failed"])
        selection = top_up(selection, pool, failed, Tally(COUNTED), Counter(), replace=each["replaces"])
    return selection


def _hash_name(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:_HASH_LENGTH]


# ------------------------------------------------------------------------------------------------------ topping up
def top_up(
    selection: pa.Table, pool: pa.Table, failed: Set[str], tally: Tally, dropped: Counter[str], *, replace: bool = True
) -> pa.Table:
    """Replace the failed frames of a selection by unused frames; returns the selection in the order of the pool.

    Args:
        selection: a frame table with splits.
        pool: the usable frames of the index.
        failed: `video_id/name` of the failed frames, selected or not.
        tally: gets the counts `COUNTED`.
        dropped: gets the number of frames that are not replaced, by emotion.
        replace: False only drops the failed frames.
    """
    is_failed = pa.array([name in failed for name in frame_names(selection)], pa.bool_())
    removed, kept = selection.filter(is_failed), selection.filter(pc.invert(is_failed))
    unused = find_unused_frames(selection, pool, failed) if replace and len(removed) else {}
    rows, splits = [], []
    for row in removed.select(_LOCATION_COLUMNS).to_pylist():
        example = f"{row['video_id']}, frame {row['frame']}"
        tally.add("failed", example=example)
        candidates = unused.get((row["split"], row["emotion"]))
        if not candidates:
            tally.add("dropped", example=example)
            dropped[EMOTIONS[row["emotion"]]] += 1
            continue
        nearest = min(candidates, key=partial(_distance, row))
        candidates.remove(nearest)
        tally.add("same_video" if nearest["video_id"] == row["video_id"] else "other_video")
        rows.append(nearest["row"])
        splits.append(row["split"])
    replacements = _assign_splits(pool.take(pa.array(rows, pa.int64())), splits, kept.schema)
    return _sort_like(pool, pa.concat_tables([kept, replacements]))


def _distance(removed: dict[str, Any], unused: dict[str, Any]) -> tuple[bool, int, int]:
    """Sort key of the replacements of a removed frame: same video first, then nearest in time."""
    return unused["video_id"] != removed["video_id"], abs(unused["frame"] - removed["frame"]), unused["row"]


def find_unused_frames(
    selection: pa.Table, pool: pa.Table, failed: Set[str]
) -> dict[tuple[str, int], list[dict[str, Any]]]:
    """(split, emotion) -> the frames in the groups of the split that are neither selected nor failed.

    A frame is a dictionary with `row` (its index in the pool), `video_id`, `frame`, `group_id` and `emotion`.
    """
    groups, splits = (selection[name].cast(pa.string()).to_pylist() for name in ("group_id", "split"))
    group_splits = dict(zip(groups, splits, strict=True))
    is_used = pc.is_in(pool["path"].cast(pa.string()), selection["path"].cast(pa.string()))
    unused = pool.append_column("row", pa.array(range(len(pool)))).filter(pc.invert(is_used))
    by_class: defaultdict[tuple[str, int], list[dict[str, Any]]] = defaultdict(list)
    frames = unused.select(["row", "video_id", "frame", "group_id", "emotion"]).to_pylist()
    for name, frame in zip(frame_names(unused), frames, strict=True):
        if name not in failed and frame["group_id"] in group_splits:
            by_class[group_splits[frame["group_id"]], frame["emotion"]].append(frame)
    return by_class


def frame_names(frames: pa.Table) -> list[str]:
    """The names `video_id/file name` of frames in a data set."""
    videos, paths = (frames[name].cast(pa.string()).to_pylist() for name in ("video_id", "path"))
    return [f"{video}/{PurePosixPath(path).name}" for video, path in zip(videos, paths, strict=True)]


def _assign_splits(frames: pa.Table, splits: list[str], schema: pa.Schema) -> pa.Table:
    column = frames.schema.get_field_index("split")
    return frames.set_column(column, "split", pa.array(splits, pa.string())).select(schema.names).cast(schema)


def _sort_like(pool: pa.Table, frames: pa.Table) -> pa.Table:
    """Sort frames by their position in the pool."""
    position = pc.index_in(frames["path"].cast(pa.string()), pool["path"].cast(pa.string()))
    return frames.take(pc.array_sort_indices(position.combine_chunks()))
