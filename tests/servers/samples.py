"""Small data sets that tests are made of."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mf2.dataset_tools.schema import write_mfa
from mf2.labels_mf2 import AU_IDS, EMOTIONS


def picture(value: int, size: int = 16) -> bytes:
    """A PNG of one colour, its red being `value`."""
    file = io.BytesIO()
    Image.new("RGB", (size, size), (value, 0, 0)).save(file, "PNG")
    return file.getvalue()


def write_picture(path: Path, value: int, size: int = 16) -> None:
    """The same as a file, with its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(picture(value, size))


def write_affwild2_labels(
    root: Path, video: str, au_rows: Sequence[Sequence[int]], emotions: Sequence[int], split: str = "Train_Set"
) -> None:
    """The annotation files of a video, one row a frame."""
    tasks = {
        "AU": [[f"AU{au_id}" for au_id in AU_IDS], *au_rows],
        "EXPR": [EMOTIONS, *([emotion] for emotion in emotions)],
    }
    for task, rows in tasks.items():
        path = root / "annotations" / f"{task}_Some_Challenge" / split / f"{video}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(",".join(map(str, row)) for row in rows) + "\n")


def mfa_row(index: int, **columns: Any) -> dict[str, Any]:
    """A row of the schema: red is `index`, video `v<index % 4>`, AU1 on odd frames; `columns` replace some."""
    return {
        "image": picture(index % 256),
        "file_name": f"v{index % 4}/{index:05d}.jpg",
        "dataset": "made",
        "video_id": f"v{index % 4}",
        "group_id": f"v{index % 4}",
        "frame": index,
        "emotion": index % len(EMOTIONS),
        **{f"AU{au_id}": 0 for au_id in AU_IDS},
        "AU1": index % 2,
        "landmarks": np.full((68, 2), index, np.float32),
        **columns,
    }


def write_mfa_folder(folder: Path, num_train: int = 8, num_eval: int = 4, **columns: Any) -> Path:
    """A data set of `mfa_row`s."""
    splits = {
        "train": (mfa_row(index, **columns) for index in range(num_train)),
        "validation": (mfa_row(index, **columns) for index in range(num_train, num_train + num_eval)),
    }
    return write_mfa(folder, splits, manifest={"license": "other", "pretty_name": "Made"})
