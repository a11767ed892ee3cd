"""Which frames take the place of those whose captions failed, and how that is told so that it can be done again.

A round is `{"replaces": bool, "failed": [...]}`: whether it replaced or only dropped, and the failed frames, each the
beginning of a SHA-256. Whoever holds the source finds the frames by it; nobody else learns anything.
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
"""In the folder of a selection: what was replaced and dropped, round by round."""
REPLACED_KEY = "replaced"
"""Where a manifest keeps the rounds."""
COUNTED = {
    "failed": "selected frames whose captions failed",
    "same_video": "replaced by a frame of the same video",
    "other_video": "replaced by a frame of another video of the split",
    "dropped": "dropped: not replaced",
}
_PLACE = ["split", "video_id", "frame", "emotion"]
_HASH_LENGTH = 16


# ---------------------------------------------------------------------------------------------------------- rounds
def write_rounds(folder: Path, rounds: Sequence[Mapping[str, Any]]) -> None:
    """Note the rounds that led to the selection in `folder` as it is."""
    sha256 = sha256_of_file(folder / FRAMES_NAME)
    write_json(folder / ROUNDS_NAME, {"selection_sha256": sha256, "rounds": list(rounds)})


def read_selection_rounds(folder: Path) -> list[dict[str, Any]]:
    """The rounds that led to the selection in `folder`; none after it was made anew."""
    if not (folder / ROUNDS_NAME).is_file():
        return []
    report = json.loads((folder / ROUNDS_NAME).read_text("utf-8"))
    is_current = report["selection_sha256"] == sha256_of_file(folder / FRAMES_NAME)
    return report["rounds"] if is_current else []


def describe_round(failed: Iterable[str], *, replaces: bool) -> dict[str, Any]:
    """A round as it is kept; `failed` are `video_id/name`."""
    return {"replaces": replaces, "failed": sorted(map(_hashed, failed))}


def strip_counts(rounds: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rounds without their counts: what `replay` needs."""
    return [{name: each[name] for name in ("replaces", "failed")} for each in rounds]


def read_rounds(path: Path) -> list[dict[str, Any]]:
    """The rounds of a file.

    Raises:
        ValueError: the file does not hold any.
    """
    try:
        return strip_counts(json.loads(path.read_text("utf-8")))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} does not hold the replacements of a selection: {error!r}.") from None


def replay(selection: pa.Table, pool: pa.Table, rounds: Iterable[Mapping[str, Any]]) -> pa.Table:
    """A selection after the same frames failed again, round by round.

    Raises:
        ValueError: a frame that failed is not in the pool.
    """
    name_of = {_hashed(name): name for name in frame_names(pool)}
    for each in rounds:
        if num_unknown := sum(hashed not in name_of for hashed in each["failed"]):
            raise ValueError(
                f"{num_unknown:,} of {len(each['failed']):,} replaced frames are not in the index: it was made with "
                "other options, or of another edition of the source."
            )
        failed = frozenset(name_of[hashed] for hashed in each["failed"])
        selection = top_up(selection, pool, failed, Tally(COUNTED), Counter(), replace=each["replaces"])
    return selection


def _hashed(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:_HASH_LENGTH]


# ------------------------------------------------------------------------------------------------------ topping up
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
