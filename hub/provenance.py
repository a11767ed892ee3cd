"""Records the training videos of a checkpoint as hashes, and checks evaluation data against them.

    training_videos.json    {"hash": "…", "videos": ["0f3a…", …]}

A *video* here is a group of the data set (`group_id`), which splits never divide: for example the two people of one
recording, or all recordings of one person. File names of data sets under agreement must not be published, so that only
hashes are stored.
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
"""Hexadecimal digits per hash; 400,000 training and 4,000 evaluation videos collide with probability 1e-5."""
HASH_RULE = f"first {HASH_DIGITS} hex digits of sha256('dataset/group_id')"
NUM_EXAMPLES = 3


# ------------------------------------------------------------------------------------------------------------- hashes
def hash_video(dataset: str, group_id: str) -> str:
    """The recorded hash of a video."""
    return hashlib.sha256(f"{dataset}/{group_id}".encode()).hexdigest()[:HASH_DIGITS]


def hash_videos(rows: datasets.Dataset) -> dict[str, str]:
    """Hash -> group of every video of a split, in order of appearance."""
    pairs = dict.fromkeys(zip(rows["dataset"], rows["group_id"], strict=True))
    return {hash_video(dataset, group_id): group_id for dataset, group_id in pairs}


# -------------------------------------------------------------------------------------------------------------- files
def read_training_videos(name_or_path: str | Path, **hub_options: Any) -> set[str] | None:
    """Read the hashes that a checkpoint or adapter records; None if it has no record.

    Args:
        name_or_path: a folder, or a repository on the Hub.
        hub_options: options of `cached_file`, such as `revision` and `token`.
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
    """Add the videos of a training or tuning split to the record in a checkpoint or adapter folder.

    Args:
        folder: the checkpoint or adapter; its existing record is kept.
        rows: the training split.
        starts: checkpoints that training started from, whose videos are included; None is skipped.
        hub_options: see `read_training_videos`.
    """
    hashes = set(hash_videos(rows))
    for start in (folder, *starts):
        hashes |= (read_training_videos(start, **hub_options) if start else None) or set()
    write_json(Path(folder, TRAINING_VIDEOS_NAME), {"hash": HASH_RULE, "videos": sorted(hashes)})


# -------------------------------------------------------------------------------------------------------------- check
@dataclass(frozen=True)
class Overlap:
    """Training videos among the videos of an evaluation.

    Args:
        num_videos: number of videos in the evaluation.
        seen: those that the model was trained or tuned on; None if none was found but the record is incomplete.
    """

    num_videos: int
    seen: list[str] | None

    def to_dict(self) -> dict[str, Any]:
        """`{"videos", "seen_videos"}` for `metrics.json`; `seen_videos` is None if it is unknown."""
        return {"videos": self.num_videos, "seen_videos": None if self.seen is None else len(self.seen)}


def find_overlap(rows: datasets.Dataset, sources: Iterable[str | Path]) -> Overlap:
    """Find the videos of `rows` that the checkpoint and adapters in `sources` were trained or tuned on."""
    videos = hash_videos(rows)
    recorded = [read_training_videos(source) for source in sources]
    hashes = set().union(*(known or set() for known in recorded))
    seen = [group_id for hashed, group_id in videos.items() if hashed in hashes]
    is_known = bool(recorded) and None not in recorded
    return Overlap(len(videos), seen if seen or is_known else None)


def refuse_overlap(overlap: Overlap, sources: Sequence[str | Path]) -> None:
    """Raise a `ValueError` with the count and examples if there are training videos in an evaluation."""
    if not overlap.seen:
        return
    names = " or ".join(Path(source).name for source in sources)
    raise ValueError(
        f"{len(overlap.seen)} of {overlap.num_videos} videos were seen in training or tuning by {names}, for example "
        f"{', '.join(overlap.seen[:NUM_EXAMPLES])}; evaluate on others, or look anyway with --allow_seen."
    )
