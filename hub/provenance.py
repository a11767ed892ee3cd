"""Which videos a checkpoint has seen: kept beside it as hashes, and held against what it is evaluated on.

    training_videos.json    {"hash": "…", "videos": ["0f3a…", …]}

A *video* here is a group of the data set (`group_id`), which no split may divide: the two people of one recording, or
all recordings of one person, are one. Names of data sets under agreement stand in no checkpoint, so they are hashed.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
from transformers.utils import cached_file

from mf2.utils.files import read_json, write_json

TRAINING_VIDEOS_NAME = "training_videos.json"
HASH_DIGITS = 12
"""Hexadecimal digits that are kept: 400,000 training and 4,000 evaluation videos collide once in 100,000 times."""
HASH_RULE = f"first {HASH_DIGITS} hex digits of sha256('dataset/group_id')"
NUM_EXAMPLES = 3


# ------------------------------------------------------------------------------------------------------------- hashes
def hash_video(dataset: str, group_id: str) -> str:
    """The hash under which a video is recorded."""
    return hashlib.sha256(f"{dataset}/{group_id}".encode()).hexdigest()[:HASH_DIGITS]


def hash_videos(rows: datasets.Dataset) -> dict[str, str]:
    """Hash -> group of every video of a split, in order of appearance."""
    pairs = dict.fromkeys(zip(rows["dataset"], rows["group_id"], strict=True))
    return {hash_video(dataset, group_id): group_id for dataset, group_id in pairs}


# -------------------------------------------------------------------------------------------------------------- files
def read_training_videos(name_or_path: str | Path, **hub_options: Any) -> set[str] | None:
    """The hashes that a checkpoint or adapter records; None where it records none.

    Args:
        name_or_path: a folder, or a repository on the Hub.
        hub_options: `revision`, `token` and the like.
    Raises:
        ValueError: the file is damaged.
    """
    quiet = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}
    file = cached_file(str(name_or_path), TRAINING_VIDEOS_NAME, **quiet, **hub_options)
    if file is None:
        return None
    try:
        return set(read_json(file)["videos"])
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{TRAINING_VIDEOS_NAME} of {name_or_path} is damaged; copy or train it again.") from None


def record_training_videos(
    folder: str | Path, rows: datasets.Dataset, *starts: str | Path | None, **hub_options: Any
) -> None:
    """Write the hashes of the videos that a training (or a tuning) sees, into the folder that it leaves.

    Args:
        folder: of the checkpoint or adapter; what it records already is kept.
        rows: of the training split.
        starts: checkpoints that the training starts from, whose videos count as seen too; None is skipped.
    """
    seen = set(hash_videos(rows))
    for start in (folder, *starts):
        seen |= (read_training_videos(start, **hub_options) if start else None) or set()
    write_json(Path(folder, TRAINING_VIDEOS_NAME), {"hash": HASH_RULE, "videos": sorted(seen)})


# -------------------------------------------------------------------------------------------------------------- check
@dataclass(frozen=True)
class Overlap:
    """Videos of an evaluation that a model has seen.

    Args:
        num_videos: how many videos the evaluation has.
        seen: those that the model was trained or tuned on; None where none is found but not all is recorded.
    """

    num_videos: int
    seen: list[str] | None

    def to_dict(self) -> dict[str, Any]:
        """`{"videos", "seen_videos"}` for `metrics.json`; `seen_videos` is None where it is not known."""
        return {"videos": self.num_videos, "seen_videos": None if self.seen is None else len(self.seen)}


def find_overlap(rows: datasets.Dataset, sources: Iterable[str | Path]) -> Overlap:
    """Which videos of `rows` the checkpoint and the adapters in `sources` have seen."""
    videos = hash_videos(rows)
    recorded = [read_training_videos(source) for source in sources]
    hashes = set().union(*(known or set() for known in recorded))
    seen = [group_id for hashed, group_id in videos.items() if hashed in hashes]
    is_known = bool(recorded) and None not in recorded
    return Overlap(len(videos), seen if seen or is_known else None)


def refuse_overlap(overlap: Overlap, sources: Sequence[str | Path]) -> None:
    """Raise one `ValueError` with the count and examples when an evaluation holds videos that the model has seen."""
    if not overlap.seen:
        return
    names = " or ".join(Path(source).name for source in sources)
    raise ValueError(
        f"{len(overlap.seen)} of {overlap.num_videos} videos were seen in training or tuning by {names}, for example "
        f"{', '.join(overlap.seen[:NUM_EXAMPLES])}; evaluate on others, or look anyway with --allow_seen."
    )
