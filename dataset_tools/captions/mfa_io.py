"""Connects data sets and the caption engine: rows become jobs, and captions are written to the caption columns."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ...labels_mf2 import unlabelled_aus
from ..rewrite import Row, StoredDataset
from ..schema import CAPTION_COLUMNS, PROVENANCE_COLUMNS, au_columns
from ..stage_settings import add_stage_settings
from .prompting import CaptionJob
from .results import ImageCaptions


class MfaImages:
    """The images of a data set folder in order, as jobs; image bytes are read on demand and not decoded.

    Raises:
        FileNotFoundError, ValueError: as for `load_mfa`.
    """

    def __init__(self, folder: str | Path) -> None:
        self.stored = StoredDataset(folder)
        self._labels = _read_labels(self.stored)

    def __len__(self) -> int:
        return len(self._labels)

    def count(self, limit: int | None = None) -> int:
        """The number of jobs within a limit."""
        return len(_spread_evenly(len(self), limit))

    def jobs(self, limit: int | None = None, sample: int | None = None) -> Iterator[CaptionJob]:
        """Yield all jobs, or `limit` of them spread evenly over the data set, or `sample` of these."""
        positions = _spread_evenly(len(self), limit)
        for index in _spread_evenly(len(positions), sample):
            yield self._job(positions[index])

    def write(
        self,
        out_dir: Path,
        captions_of: Callable[[CaptionJob], ImageCaptions],
        manifest: dict[str, Any],
        settings: dict[str, Any],
        limit: int | None = None,
    ) -> None:
        """Write the data set with new captions; the folder replaces an existing one when it is complete.

        Args:
            out_dir: folder to write.
            captions_of: returns the captions of a job.
            manifest: the manifest's entry on the captions.
            settings: the settings of the command, for the recipe.
            limit: number of images, as in `jobs`; other rows keep their captions.
        """
        selected = set(_spread_evenly(len(self), limit))

        def change(position: int, row: Row) -> Row:
            if position not in selected:
                return {}
            return dict.fromkeys((*CAPTION_COLUMNS, *PROVENANCE_COLUMNS)) | captions_of(self._job(position)).columns()

        self.stored.rewrite(
            out_dir, change, {"captions": manifest, **add_stage_settings(self.stored.manifest, "caption", settings)}
        )

    def _job(self, position: int) -> CaptionJob:
        image_id, active_aus, emotion, unlabelled = self._labels[position]
        return CaptionJob(image_id, lambda: self.stored.row(position)["image"], active_aus, emotion, unlabelled)


def _read_labels(stored: StoredDataset) -> list[tuple[str, tuple[int, ...], str | None, tuple[int, ...]]]:
    """Read (image id, active AUs, emotion, unlabelled AUs) of every row, column by column."""
    names = ("dataset", "file_name", "emotion", *au_columns(stored.au_ids))
    labels = []
    for dataset, file_name, emotion_idx, *au_labels in zip(*map(stored.column, names), strict=True):
        aus = dict(zip(stored.au_ids, au_labels, strict=True))
        active_aus = tuple(au_id for au_id, label in aus.items() if label == 1)
        emotion = None if emotion_idx is None else stored.emotions[emotion_idx]
        labels.append((f"{dataset}/{file_name}", active_aus, emotion, unlabelled_aus(aus)))
    return labels


def _spread_evenly(count: int, limit: int | None) -> Sequence[int]:
    """`limit` evenly spaced positions below `count`, or all of them."""
    if limit is None or limit >= count:
        return range(count)
    return [position * count // limit for position in range(limit)]
