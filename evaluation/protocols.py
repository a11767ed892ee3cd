"""Evaluation protocols: which rows of a data set are scored, and which of their labels count.

- `mfa`: a split of the data set with all its labels, such as MFA's pooled re-split by video.
- `abaw`: the official validation videos of the ABAW competitions, which differ between the tasks: AU labels count in
  the AU task's videos, emotions in the expression task's, valence and arousal in theirs. They are collected from all
  splits of the data set.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import datasets
import numpy as np

from mf2.data_loading.splits import Labels, Split, describe_rows, spaced_rows
from mf2.dataset_tools.hub_manifest import find_manifest
from mf2.dataset_tools.schema import au_columns, load_mfa
from mf2.labels_mf2 import AU_UNLABELLED, EMOTION_UNLABELLED

logger = logging.getLogger(__name__)

ABAW_IMPORT = "mf2 data import affwild2 ROOT OUT --unlabelled mask"


def load_protocol(
    path: str, split: str, protocol: str, au_ids: Sequence[int], max_rows: int | None = None, affect: bool = False
) -> Split:
    """Load the rows that a protocol scores; labels that do not count are set to unlabelled.

    Args:
        path: a data set folder, or the id of one on the Hub.
        split: used by `mfa` only; `abaw` has fixed videos.
        protocol: one of `arguments.PROTOCOLS`.
        au_ids: the AUs to score; one that the data set does not code is unlabelled.
        max_rows: maximum number of rows, evenly spaced.
        affect: whether valence and arousal are scored, too; without a column they are unlabelled.
    Raises:
        FileNotFoundError, ValueError: see `load_mfa`; the data set does not record ABAW's split.
    """
    if protocol == "mfa":
        loaded = load_labelled_split(path, split, au_ids, affect)
    else:
        loaded = load_abaw_validation(path, au_ids, affect)
    return subsample(loaded, max_rows)


def load_labelled_split(path: str, split: str, au_ids: Sequence[int], affect: bool = False) -> Split:
    """Load a split with its own emotion classes, and unlabelled columns for AUs that it does not code."""
    rows = load_mfa(path, split, au_ids=None).cast_column("image", datasets.Image(decode=False))
    unlabelled = np.full(len(rows), AU_UNLABELLED, np.int8)
    for name in au_columns(au_ids):
        if name not in rows.features:
            rows = rows.add_column(name, unlabelled, feature=datasets.Value("int8"))
    return Split(rows, Labels.from_rows(rows, au_ids, affect), describe_rows(path, split, rows))


def subsample(split: Split, max_rows: int | None) -> Split:
    """Return at most `max_rows` evenly spaced rows of a split."""
    if max_rows is None or max_rows >= len(split.rows):
        return split
    return select_rows(split, spaced_rows(len(split.rows), max_rows))


def select_rows(split: Split, index: np.ndarray) -> Split:
    """Return the rows at `index`, with updated counts in the description."""
    rows = split.rows.select(index)
    labels = split.labels.take(index)
    counted = {"rows": len(rows), "videos": len(set(rows["video_id"]))}
    return Split(rows, labels, split.description | counted)


# --------------------------------------------------------------------------------------------------------------- abaw
def load_abaw_validation(path: str, au_ids: Sequence[int], affect: bool = False) -> Split:
    """Load the official validation videos of the ABAW tasks from all splits of an imported Aff-Wild2.

    Raises:
        ValueError: the data set does not record the official splits, or has none of their videos.
    """
    manifest = find_manifest(path)
    official = read_official_splits(manifest, path)
    parts = [load_labelled_split(path, name, au_ids, affect) for name in manifest["splits"]]
    rows = datasets.concatenate_datasets([part.rows for part in parts])
    names = ("aus", "emotion", "affect") if affect else ("aus", "emotion")
    arrays = {name: np.concatenate([getattr(part.labels, name) for part in parts]) for name in names}
    videos = np.asarray(rows["video_id"])
    tasks = ("au", "expr", "va") if affect else ("au", "expr")
    counts_for = {task: np.isin(videos, official[task]) for task in tasks}
    if not any(counts.any() for counts in counts_for.values()):
        raise ValueError(f"{path} holds none of ABAW's validation videos; import all of Aff-Wild2: {ABAW_IMPORT}.")
    labels = Labels(
        np.where(counts_for["au"][:, None], arrays["aus"], AU_UNLABELLED),
        np.where(counts_for["expr"], arrays["emotion"], EMOTION_UNLABELLED),
        np.where(counts_for["va"][:, None], arrays["affect"], np.float32(np.nan)) if affect else None,
    )
    for task, counts in counts_for.items():
        absent = sorted(set(official[task]) - set(videos[counts].tolist()))
        if absent:
            logger.warning(f"{len(absent)} of {len(official[task])} {task} validation videos are not in {path}.")
    whole = Split(rows, labels, parts[0].description | {"split": "abaw validation", "emotion_ceiling": None})
    return select_rows(whole, np.flatnonzero(np.any(list(counts_for.values()), axis=0)))


def read_official_splits(manifest: Mapping[str, Any], path: str) -> dict[str, list[str]]:
    """Return task (`au`, `expr`, `va`) -> official validation videos, as recorded by the import of Aff-Wild2.

    Args:
        manifest: the data set's manifest.
        path: name of the data set in errors.
    Raises:
        ValueError: not an import of Aff-Wild2, or one that dropped frames labelled for one task only.
    """
    report: dict[str, Any] = manifest.get("report", {})
    if "official_splits" not in report:
        raise ValueError(f"{path} does not keep ABAW's official splits; make the data set by `{ABAW_IMPORT}`.")
    if report.get("settings", {}).get("unlabelled") != "mask":
        raise ValueError(f"{path} has only frames that both tasks label; make the data set by `{ABAW_IMPORT}`.")
    return {task: report["official_splits"].get(task, {}).get("validation", []) for task in ("au", "expr", "va")}
