"""Splits of a data set in the MFA schema: rows, labels in a label space, and provenance."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import datasets
import numpy as np
import torch
from numpy.typing import ArrayLike

from mf2.dataset_tools.hub_manifest import describe_origin
from mf2.dataset_tools.schema import au_columns, load_mfa
from mf2.labels_mf2 import AFFECT, AU_UNLABELLED, EMOTION_UNLABELLED, EMOTIONS, LabelSpace
from mf2.processing_mf2 import read_image

KEPT_COLUMNS = (
    *("image", "file_name", "dataset", "video_id", "group_id", "frame", "landmarks"),
    *("caption_emotion", "caption_au", "caption_key_au"),
)
"""The columns of a row that are used besides its labels."""

POS_WEIGHT_BOUNDS = (0.1, 10.0)
"""Bounds of the positive weights, so that a few active rows do not dominate the AU loss."""


# ------------------------------------------------------------------------------------------------------------ loading
def load_rows(
    path: str, split: str, max_rows: int | None, au_ids: Sequence[int] | None, affect: bool = False
) -> datasets.Dataset:
    """Load a split of a data set and check it against the schema; `max_rows` keeps that many rows, evenly spaced."""
    rows = load_mfa(path, split, au_ids=au_ids, affect=affect)
    rows = rows.cast_column("image", datasets.Image(decode=False))
    if max_rows is not None and max_rows < len(rows):
        rows = rows.select(spaced_rows(len(rows), max_rows))
    return rows


def spaced_rows(num_rows: int, num_chosen: int) -> np.ndarray:
    """At most `num_chosen` of `num_rows` row numbers, evenly spaced."""
    return np.linspace(0, num_rows - 1, min(num_chosen, num_rows)).round().astype(int)


def hold_out_groups(groups: Sequence[str], share: float, seed: int) -> np.ndarray:
    """Choose random groups as a held-out part: at least one group, and never all.

    Args:
        groups: (N,) the group (person or video) of each row.
        share: fraction of the rows in (0, 1); the part is the smallest number of groups that reaches it.
        seed: seed of the choice.
    Returns:
        The row numbers of the part, ascending.
    Raises:
        ValueError: there is only one group.
    """
    names, group_idx, counts = np.unique(np.asarray(groups), return_inverse=True, return_counts=True)
    if len(names) < 2:
        raise ValueError(
            f"All {len(groups)} rows are of one group ({names[0]}), so that none can be held out by groups; give rows "
            f"of several persons or videos a group_id each, or train with --holdout_share 0."
        )
    order = np.random.default_rng(seed).permutation(len(names))
    num_groups = int(np.searchsorted(np.cumsum(counts[order]), share * len(groups))) + 1
    return np.flatnonzero(np.isin(group_idx, order[: min(num_groups, len(names) - 1)]))


def find_label_space(paths: Sequence[str], split: str, max_rows: int | None = None) -> LabelSpace:
    """The label space of a split of several data sets: all AUs with a label, and all emotions that occur."""
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


def read_affect(rows: datasets.Dataset) -> np.ndarray:
    """(N, 2) float32 valence and arousal of rows, NaN unlabelled, also if they have no such columns."""
    unlabelled = np.full(len(rows), np.nan, np.float32)
    columns = [np.asarray(rows[name], np.float32) if name in rows.column_names else unlabelled for name in AFFECT]
    return np.stack(columns, axis=1)


def adopt_label_space(rows: datasets.Dataset, label_space: LabelSpace) -> datasets.Dataset:
    """Convert rows to the AU columns and emotion names of a label space; other labels become unlabelled."""
    names = rows.features["emotion"].names
    new_index = {i: label_space.emotions.index(name) for i, name in enumerate(names) if name in label_space.emotions}
    emotions = [new_index.get(value) for value in rows["emotion"]]
    labels = {
        column: np.asarray(rows[column], dtype=np.int8)
        if column in rows.column_names
        else np.full(len(rows), AU_UNLABELLED, np.int8)
        for column in au_columns(label_space.au_ids)
    }
    affect = dict(zip(AFFECT, read_affect(rows).T, strict=True)) if label_space.affect else {}
    rows = rows.select_columns([name for name in KEPT_COLUMNS if name in rows.column_names])
    feature = datasets.ClassLabel(names=list(label_space.emotions or EMOTIONS))  # it must have names, used or not
    rows = rows.add_column("emotion", emotions, feature=feature)
    for column, values in labels.items():
        rows = rows.add_column(column, values)
    for name, values in affect.items():
        rows = rows.add_column(name, values)
    return rows


def describe_rows(path: str, split: str, rows: datasets.Dataset) -> dict[str, Any]:
    """The provenance of a split.

    Returns:
        `name`, `split`, `license`, `synthetic`, `fingerprint`, `revision`, `rows`, `videos` and, for generated data,
        `emotion_ceiling`, the emotion accuracy that the true AUs allow, and `affect_ceiling`, if it is known; see
        `describe_origin`.
    """
    origin = describe_origin(path)
    counts = {"split": split, "rows": len(rows), "videos": len(set(rows["video_id"]))}
    ceilings = {name: origin.pop(name).get(split) for name in ("emotion_ceiling", "affect_ceiling")}
    return origin | counts | {name: value for name, value in ceilings.items() if value or name == "emotion_ceiling"}


def _merge_descriptions(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Merge the descriptions of several splits; the licence is `other` if they differ."""
    licenses, fingerprints = ({part[name] for part in parts} for name in ("license", "fingerprint"))
    return {
        "name": " + ".join(part["name"] for part in parts),
        "split": parts[0]["split"],
        "license": licenses.pop() if len(licenses) == 1 else "other",
        "synthetic": all(part["synthetic"] for part in parts),
        "fingerprint": None if None in fingerprints else "+".join(sorted(fingerprints)),
        "revision": None,
        "rows": sum(part["rows"] for part in parts),
        "videos": sum(part["videos"] for part in parts),
        "emotion_ceiling": None,
        "parts": list(parts),
    }


@dataclass(frozen=True)
class Labels:
    """The labels of a split: `aus` (N, A) 1 / 0 / -1 and `emotion` (N,), -100 unlabelled; both int64.

    `affect` (N, 2) float32 is valence and arousal, NaN unlabelled; None if they are not used.
    """

    aus: np.ndarray
    emotion: np.ndarray
    affect: np.ndarray | None = None

    @classmethod
    def from_rows(cls, rows: datasets.Dataset, au_ids: Sequence[int], affect: bool = False) -> "Labels":
        """Read the labels of rows, for the given AUs in their order, and with `affect` valence and arousal."""
        emotion = [EMOTION_UNLABELLED if value is None else value for value in rows["emotion"]]
        columns = [np.asarray(rows[column], dtype=np.int64) for column in au_columns(au_ids)]
        aus = np.stack(columns, axis=1) if columns else np.zeros((len(rows), 0), dtype=np.int64)
        return cls(aus, np.asarray(emotion, dtype=np.int64), read_affect(rows) if affect else None)

    def take(self, rows: np.ndarray) -> "Labels":
        """The labels of the given rows."""
        return Labels(self.aus[rows], self.emotion[rows], None if self.affect is None else self.affect[rows])

    def batch(self, rows: np.ndarray) -> dict[str, torch.Tensor]:
        """The labels of the given rows as inputs of a model, by name."""
        arrays = {"emotion_labels": self.emotion, "au_labels": self.aus, "affect_labels": self.affect}
        return {name: torch.from_numpy(labels[rows]) for name, labels in arrays.items() if labels is not None}

    @property
    def has_affect(self) -> bool:
        """Whether any row has a label of valence or arousal."""
        return self.affect is not None and not np.isnan(self.affect).all()

    def au_pos_weight(self) -> list[float]:
        """(A,) inactive / active counts of each AU, clipped to `POS_WEIGHT_BOUNDS`; 1 for an AU without labels."""
        active, inactive = (self.aus == 1).sum(0), (self.aus == 0).sum(0)
        weights = np.clip(inactive / np.maximum(active, 1), *POS_WEIGHT_BOUNDS)
        return np.where(active + inactive > 0, weights, 1.0).tolist()

    def emotion_logit_shift(self, num_emotions: int, strength: float) -> list[float]:
        """`strength` times the log of the frequency of each emotion; the count of an absent emotion is set to 1."""
        counts = np.bincount(self.emotion[self.emotion >= 0], minlength=num_emotions).clip(min=1)
        return (strength * np.log(counts / counts.sum())).tolist()

    def unlabelled_aus(self) -> list[int]:
        """Positions of the AUs without a label in any row."""
        return np.flatnonzero((self.aus == AU_UNLABELLED).all(0)).tolist()


@dataclass(frozen=True)
class Split:
    """A split of a data set: its rows, their labels, and their provenance (see `describe_rows`)."""

    rows: datasets.Dataset
    labels: Labels
    description: dict[str, Any]

    @classmethod
    def load(cls, path: str, split: str, max_rows: int | None, au_ids: Sequence[int], affect: bool = False) -> "Split":
        """Load and check a split; raises the errors of `load_mfa`."""
        rows = load_rows(path, split, max_rows, au_ids, affect)
        return cls(rows, Labels.from_rows(rows, au_ids, affect), describe_rows(path, split, rows))

    @classmethod
    def join(cls, paths: Sequence[str], split: str, max_rows: int | None, label_space: LabelSpace) -> "Split":
        """Load a split of several data sets as one, in a common label space; labels that a data set lacks are masked.

        Args:
            paths: the data sets.
            split: `train`, `validation` or `test`.
            max_rows: maximal number of rows of each data set.
            label_space: the common label space.
        Raises:
            ValueError: no row has a label in the label space; or as `load_mfa`.
        """
        parts = [load_rows(path, split, max_rows, au_ids=None) for path in paths]
        descriptions = [describe_rows(path, split, rows) for path, rows in zip(paths, parts, strict=True)]
        rows = datasets.concatenate_datasets([adopt_label_space(part, label_space) for part in parts])
        labels = Labels.from_rows(rows, label_space.au_ids, label_space.affect)
        has_classes = (labels.aus != AU_UNLABELLED).any() or (labels.emotion != EMOTION_UNLABELLED).any()
        if not (has_classes or labels.has_affect):
            outputs = (*label_space.au_codes, *label_space.emotions, *label_space.affect_names)
            names = ", ".join(outputs) or "any AU or emotion"
            raise ValueError(f"{', '.join(paths)} ({split}): no row labels {names}.")
        return cls(rows, labels, descriptions[0] if len(descriptions) == 1 else _merge_descriptions(descriptions))

    def with_affect(self) -> "Split":
        """The split with its labels of valence and arousal, NaN where there are none."""
        return replace(self, labels=replace(self.labels, affect=read_affect(self.rows)))

    def with_shuffled_captions(self, seed: int) -> "Split":
        """The split in random order, whose captions do not belong to the images of the original order (a control)."""
        order = np.random.default_rng(seed).permutation(len(self.rows))
        return replace(self, rows=self.rows.select(order), labels=self.labels.take(order))

    @property
    def groups(self) -> np.ndarray:
        """`(N,)` strings: the group (person or video) of each row."""
        return np.asarray([str(group) for group in self.rows["group_id"]])

    @property
    def faces(self) -> "FaceDataset":
        """The images, for a data loader."""
        return FaceDataset(self.rows, self.labels, f"{self.description['name']} ({self.description['split']})")


class RowSubset(torch.utils.data.Dataset):
    """A subset of the rows of a data set, numbered from 0; keys are row numbers or (epoch, row)."""

    def __init__(self, data: torch.utils.data.Dataset, rows: np.ndarray):
        self.data, self.rows = data, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: int | tuple[int, int]) -> Any:
        return self.__getitems__([key])[0]

    def __getitems__(self, keys: Sequence[int | tuple[int, int]]) -> list[Any]:
        """The examples of a batch, read at once if the data set supports it."""
        data_keys = [
            (key[0], int(self.rows[key[1]])) if isinstance(key, tuple) else int(self.rows[key]) for key in keys
        ]
        read_all = getattr(self.data, "__getitems__", None)
        return read_all(data_keys) if read_all else [self.data[key] for key in data_keys]


# -------------------------------------------------------------------------------------------------------------- images
@dataclass(frozen=True)
class FaceExample:
    """One row: its number, the epoch (None for evaluation), the RGB image, landmarks in pixels, and labels."""

    row: int
    epoch: int | None
    image: np.ndarray
    landmarks_px: np.ndarray | None
    aus: np.ndarray
    emotion: int
    affect: np.ndarray | None = None


class FaceDataset(torch.utils.data.Dataset):
    """The rows of a split. A key is a row number for evaluation, or (epoch, row) for training."""

    def __init__(self, rows: datasets.Dataset, labels: Labels, name: str):
        self.rows = rows.select_columns(["image", "landmarks", "file_name"])
        self.labels = labels
        self.name = name

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: int | tuple[int, int]) -> FaceExample:
        return self.__getitems__([key])[0]

    def __getitems__(self, keys: Sequence[int | tuple[int, int]]) -> list[FaceExample]:
        """The examples of a batch, read at once, as a DataLoader requests them."""
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
            affect=None if self.labels.affect is None else self.labels.affect[row],
        )
