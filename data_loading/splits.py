"""The splits of a data set in the MFA schema: rows, labels in a label space, and where they come from."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import datasets
import numpy as np
import torch
from numpy.typing import ArrayLike

from mf2.dataset_tools.hub_manifest import describe_origin
from mf2.dataset_tools.schema import au_columns, load_mfa
from mf2.labels_mf2 import AU_UNLABELLED, EMOTION_UNLABELLED, EMOTIONS, LabelSpace
from mf2.processing_mf2 import read_image

KEPT_COLUMNS = (
    *("image", "file_name", "dataset", "video_id", "group_id", "frame", "landmarks"),
    *("caption_emotion", "caption_au", "caption_key_au"),
)
"""What of a row is used beside its labels."""

POS_WEIGHT_BOUNDS = (0.1, 10.0)
"""Active-against-not weights stay inside: a handful of active rows should not rule the AU loss."""


# ------------------------------------------------------------------------------------------------------------ loading
def load_rows(path: str, split: str, max_rows: int | None, au_ids: Sequence[int] | None) -> datasets.Dataset:
    """A split of a data set, checked against the schema; `max_rows` keeps that many, evenly spaced."""
    rows = load_mfa(path, split, au_ids=au_ids)
    rows = rows.cast_column("image", datasets.Image(decode=False))
    if max_rows is not None and max_rows < len(rows):
        rows = rows.select(spaced_rows(len(rows), max_rows))
    return rows


def spaced_rows(num_rows: int, num_chosen: int) -> np.ndarray:
    """At most `num_chosen` of `num_rows` row numbers, evenly spaced."""
    return np.linspace(0, num_rows - 1, min(num_chosen, num_rows)).round().astype(int)


def hold_out_groups(groups: Sequence[str], share: float, seed: int) -> np.ndarray:
    """A random part of the rows, by whole groups: at least one group, and never all.

    Args:
        groups: of each row the group (person, video) that must not be divided.
        share: of the rows, in (0, 1); the part has the first number of groups that reaches it.
    Returns:
        The rows' numbers, ascending.
    Raises:
        ValueError: there is one group only.
    """
    names, group_of_row, counts = np.unique(np.asarray(groups), return_inverse=True, return_counts=True)
    if len(names) < 2:
        raise ValueError(
            f"All {len(groups)} rows are of one group ({names[0]}), so that none can be held out by groups; give rows "
            f"of several persons or videos a group_id each, or train with --holdout_share 0."
        )
    order = np.random.default_rng(seed).permutation(len(names))
    num_held = int(np.searchsorted(np.cumsum(counts[order]), share * len(groups))) + 1
    return np.flatnonzero(np.isin(group_of_row, order[: min(num_held, len(names) - 1)]))


def find_label_space(paths: Sequence[str], split: str, max_rows: int | None = None) -> LabelSpace:
    """What a split of data sets labels together: each AU with a label, and each emotion that occurs."""
    parts = [load_rows(path, split, max_rows, au_ids=None) for path in paths]
    columns = [name for rows in parts for name in rows.column_names if name.removeprefix("AU").isdigit()]
    labelled = {int(name[2:]) for name in columns for rows in parts if _is_labelled(rows, name)}
    emotions: list[str] = []
    for rows in parts:
        present = set(rows["emotion"])
        emotions += [name for index, name in enumerate(rows.features["emotion"].names) if index in present]
    return LabelSpace(tuple(sorted(labelled)), tuple(dict.fromkeys(emotions)))


def _is_labelled(rows: datasets.Dataset, column: str) -> bool:
    return column in rows.column_names and bool((np.asarray(rows[column]) != AU_UNLABELLED).any())


def adopt_label_space(rows: datasets.Dataset, label_space: LabelSpace) -> datasets.Dataset:
    """The rows with the AU columns and the emotion names of a label space; what it does not know is unlabelled."""
    names = rows.features["emotion"].names
    index_of = {i: label_space.emotions.index(name) for i, name in enumerate(names) if name in label_space.emotions}
    emotions = [index_of.get(value) for value in rows["emotion"]]
    labels = {
        column: np.asarray(rows[column], dtype=np.int8)
        if column in rows.column_names
        else np.full(len(rows), AU_UNLABELLED, np.int8)
        for column in au_columns(label_space.au_ids)
    }
    rows = rows.select_columns([name for name in KEPT_COLUMNS if name in rows.column_names])
    feature = datasets.ClassLabel(names=list(label_space.emotions or EMOTIONS))  # it must have names, used or not
    rows = rows.add_column("emotion", emotions, feature=feature)
    for column, values in labels.items():
        rows = rows.add_column(column, values)
    return rows


def describe_rows(path: str, split: str, rows: datasets.Dataset) -> dict[str, Any]:
    """Provenance of a split: `name`, `split`, `license`, `synthetic`, `fingerprint`, `revision`, `rows`, `videos`, and
    of generated data `emotion_ceiling`, the emotion accuracy that its true AUs allow; see `describe_origin`.
    """
    origin = describe_origin(path)
    counted = {"split": split, "rows": len(rows), "videos": len(set(rows["video_id"]))}
    return origin | counted | {"emotion_ceiling": origin["emotion_ceiling"].get(split)}


def _describe_together(described: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One description of several splits; a licence that is not shared is `other`."""
    licenses, fingerprints = ({entry[name] for entry in described} for name in ("license", "fingerprint"))
    return {
        "name": " + ".join(entry["name"] for entry in described),
        "split": described[0]["split"],
        "license": licenses.pop() if len(licenses) == 1 else "other",
        "synthetic": all(entry["synthetic"] for entry in described),
        "fingerprint": None if None in fingerprints else "+".join(sorted(fingerprints)),
        "revision": None,
        "rows": sum(entry["rows"] for entry in described),
        "videos": sum(entry["videos"] for entry in described),
        "emotion_ceiling": None,
        "parts": list(described),
    }


@dataclass(frozen=True)
class Labels:
    """The labels of a split: `aus` (N, A) 1 / 0 / -1 and `emotion` (N,), -100 unlabelled; both int64."""

    aus: np.ndarray
    emotion: np.ndarray

    @classmethod
    def from_rows(cls, rows: datasets.Dataset, au_ids: Sequence[int]) -> "Labels":
        """The labels of a data set's rows, of these AUs, in this order."""
        emotion = [EMOTION_UNLABELLED if value is None else value for value in rows["emotion"]]
        columns = [np.asarray(rows[column], dtype=np.int64) for column in au_columns(au_ids)]
        aus = np.stack(columns, axis=1) if columns else np.zeros((len(rows), 0), dtype=np.int64)
        return cls(aus, np.asarray(emotion, dtype=np.int64))

    def au_pos_weight(self) -> list[float]:
        """Not-active over active counts of each AU, within `POS_WEIGHT_BOUNDS`; 1 for an AU without a label."""
        active, inactive = (self.aus == 1).sum(0), (self.aus == 0).sum(0)
        weights = np.clip(inactive / np.maximum(active, 1), *POS_WEIGHT_BOUNDS)
        return np.where(active + inactive > 0, weights, 1.0).tolist()

    def emotion_logit_shift(self, num_emotions: int, strength: float) -> list[float]:
        """`strength` times the log of each emotion's share of the labelled rows; one that no row has counts as one."""
        counts = np.bincount(self.emotion[self.emotion >= 0], minlength=num_emotions).clip(min=1)
        return (strength * np.log(counts / counts.sum())).tolist()

    def unlabelled_aus(self) -> list[int]:
        """Positions of the AUs that no row labels."""
        return np.flatnonzero((self.aus == AU_UNLABELLED).all(0)).tolist()


@dataclass(frozen=True)
class Split:
    """A split of a data set: its rows, their labels, and where they come from (see `describe_rows`)."""

    rows: datasets.Dataset
    labels: Labels
    description: dict[str, Any]

    @classmethod
    def load(cls, path: str, split: str, max_rows: int | None, au_ids: Sequence[int]) -> "Split":
        """Load and check a split; the errors are those of `load_mfa`."""
        rows = load_rows(path, split, max_rows, au_ids)
        return cls(rows, Labels.from_rows(rows, au_ids), describe_rows(path, split, rows))

    @classmethod
    def join(cls, paths: Sequence[str], split: str, max_rows: int | None, label_space: LabelSpace) -> "Split":
        """The split of several data sets as one, in a label space of its own: what one does not label is masked.

        Args:
            max_rows: of each data set.
        Raises:
            ValueError: no row labels anything of the label space; else the errors of `load_mfa`.
        """
        parts = [load_rows(path, split, max_rows, au_ids=None) for path in paths]
        described = [describe_rows(path, split, rows) for path, rows in zip(paths, parts, strict=True)]
        rows = datasets.concatenate_datasets([adopt_label_space(part, label_space) for part in parts])
        labels = Labels.from_rows(rows, label_space.au_ids)
        if (labels.aus == AU_UNLABELLED).all() and (labels.emotion == EMOTION_UNLABELLED).all():
            wanted = ", ".join((*label_space.au_codes, *label_space.emotions)) or "any AU or emotion"
            raise ValueError(f"{', '.join(paths)} ({split}): no row labels {wanted}.")
        return cls(rows, labels, described[0] if len(described) == 1 else _describe_together(described))

    def with_shuffled_captions(self, seed: int) -> "Split":
        """The rows with each other's captions, and the labels that these were written for: nothing to learn from."""
        order = np.random.default_rng(seed).permutation(len(self.rows))
        return replace(
            self, rows=self.rows.select(order), labels=Labels(self.labels.aus[order], self.labels.emotion[order])
        )

    @property
    def groups(self) -> np.ndarray:
        """`(N,)` strings: the group, a person or video, of each row."""
        return np.asarray([str(group) for group in self.rows["group_id"]])

    @property
    def faces(self) -> "FaceDataset":
        """The images, for a data loader."""
        return FaceDataset(self.rows, self.labels, f"{self.description['name']} ({self.description['split']})")


class RowSubset(torch.utils.data.Dataset):
    """Some rows of a data set whose keys are row numbers or (epoch, row); here they count from 0."""

    def __init__(self, data: torch.utils.data.Dataset, rows: np.ndarray):
        self.data, self.rows = data, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: int | tuple[int, int]) -> Any:
        return self.__getitems__([key])[0]

    def __getitems__(self, keys: Sequence[int | tuple[int, int]]) -> list[Any]:
        """The examples of a batch, in one go where the data set can."""
        own = [(key[0], int(self.rows[key[1]])) if isinstance(key, tuple) else int(self.rows[key]) for key in keys]
        read_all = getattr(self.data, "__getitems__", None)
        return read_all(own) if read_all else [self.data[key] for key in own]


# -------------------------------------------------------------------------------------------------------------- images
@dataclass(frozen=True)
class FaceExample:
    """One row: its number, the epoch that asks (None: evaluation), the RGB image, landmarks in pixels, and labels."""

    row: int
    epoch: int | None
    image: np.ndarray
    landmarks_px: np.ndarray | None
    aus: np.ndarray
    emotion: int


class FaceDataset(torch.utils.data.Dataset):
    """Rows of a split. A key is a row number, for evaluation, or (epoch, row), for training."""

    def __init__(self, rows: datasets.Dataset, labels: Labels, name: str):
        self.rows = rows.select_columns(["image", "landmarks", "file_name"])
        self.labels = labels
        self.name = name

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: int | tuple[int, int]) -> FaceExample:
        return self.__getitems__([key])[0]

    def __getitems__(self, keys: Sequence[int | tuple[int, int]]) -> list[FaceExample]:
        """The examples of a batch, read in one go, as a DataLoader asks for them."""
        pairs = [key if isinstance(key, tuple) else (None, key) for key in keys]
        contents = self.rows[[int(row) for _, row in pairs]]
        columns = (contents[name] for name in ("image", "landmarks", "file_name"))
        return [self._example(*pair, *values) for pair, *values in zip(pairs, *columns, strict=True)]

    def _example(
        self, epoch: int | None, row: int, image: dict[str, Any], landmarks: ArrayLike | None, file_name: str
    ) -> FaceExample:
        return FaceExample(
            row=int(row),
            epoch=epoch,
            image=read_image(image["bytes"], f"Row {row} of {self.name} ({file_name})"),
            landmarks_px=None if landmarks is None else np.asarray(landmarks, dtype=np.float32),
            aus=self.labels.aus[row],
            emotion=int(self.labels.emotion[row]),
        )
