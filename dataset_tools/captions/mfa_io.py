"""Between a data set on disk and the caption engine: rows to jobs, captions back into the caption columns."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset, Image

from ...labels_mf2 import EMOTIONS
from ..schema import CAPTION_COLUMNS, PROVENANCE_COLUMNS, au_columns, load_mfa, read_manifest, write_mfa
from .prompting import CaptionJob
from .results import ImageCaptions

_DERIVED_KEYS = frozenset({"format", "format_version", "versions", "splits"})


class MfaImages:
    """The images of a data set folder in order, as jobs; pixels are read when they are needed, and never decoded.

    Raises:
        FileNotFoundError, ValueError: as for `load_mfa`.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.manifest = read_manifest(folder)
        self._splits: dict[str, Dataset] = {}
        self._labels: list[tuple[str, int, str, tuple[int, ...], str | None]] = []
        for split in self.manifest["splits"]:
            dataset = load_mfa(folder, split, au_ids=()).cast_column("image", Image(decode=False))
            self._splits[split] = dataset
            self._labels += _read_labels(split, dataset)

    def __len__(self) -> int:
        return len(self._labels)

    def count(self, limit: int | None = None) -> int:
        """How many jobs there are within a limit."""
        return len(_spread(len(self), limit))

    def jobs(self, limit: int | None = None, sample: int | None = None) -> Iterator[CaptionJob]:
        """All jobs, or `limit` of them spread evenly over the data set, or `sample` of those."""
        positions = _spread(len(self), limit)
        for position in (positions[index] for index in _spread(len(positions), sample)):
            split, index, image_id, active_aus, emotion = self._labels[position]
            yield CaptionJob(image_id, _loader(self._splits[split], index), active_aus, emotion)

    def write(
        self,
        out_dir: Path,
        captions_of: Callable[[CaptionJob], ImageCaptions],
        manifest: dict[str, Any],
        limit: int | None = None,
    ) -> None:
        """Write the data set with new captions; the folder appears when it is whole, in the place of an old one.

        Args:
            captions_of: the captions of a job; rows beyond `limit` keep theirs.
            manifest: what the manifest says about the captions.
        """
        chosen = set(_spread(len(self), limit))
        start = 0
        splits = {}
        for name, dataset in self._splits.items():
            positions = range(start, start + len(dataset))
            splits[name] = self._rows(name, positions, chosen, captions_of)
            start += len(dataset)
        kept = {key: value for key, value in self.manifest.items() if key not in _DERIVED_KEYS}
        au_ids = self.au_ids
        write_mfa(out_dir, splits, manifest={**kept, "captions": manifest}, au_ids=au_ids, overwrite=True)

    @property
    def au_ids(self) -> tuple[int, ...]:
        """The AUs that have a column."""
        dataset = next(iter(self._splits.values()))
        return _au_ids(dataset)

    def _rows(
        self,
        split: str,
        positions: Sequence[int],
        chosen: set[int],
        captions_of: Callable[[CaptionJob], ImageCaptions],
    ) -> Iterator[dict[str, Any]]:
        dataset = self._splits[split]
        for row, position in zip(dataset, positions, strict=True):
            row["image"] = _encoded(row)
            if position in chosen:
                _, index, image_id, active_aus, emotion = self._labels[position]
                job = CaptionJob(image_id, _loader(dataset, index), active_aus, emotion)
                row |= dict.fromkeys((*CAPTION_COLUMNS, *PROVENANCE_COLUMNS)) | captions_of(job).columns()
            yield row


def _read_labels(split: str, dataset: Dataset) -> list[tuple[str, int, str, tuple[int, ...], str | None]]:
    """(split, row, image id, active AUs, emotion) of every row, read column by column."""
    au_ids = _au_ids(dataset)
    columns = dataset.select_columns(["dataset", "file_name", "emotion", *au_columns(au_ids)]).to_dict()
    labels = []
    for index in range(len(dataset)):
        emotion_idx = columns["emotion"][index]
        active_aus = tuple(au_id for au_id in au_ids if columns[f"AU{au_id}"][index] == 1)
        image_id = f"{columns['dataset'][index]}/{columns['file_name'][index]}"
        labels.append((split, index, image_id, active_aus, None if emotion_idx is None else EMOTIONS[emotion_idx]))
    return labels


def _au_ids(dataset: Dataset) -> tuple[int, ...]:
    return tuple(int(name[2:]) for name in dataset.features if name.startswith("AU") and name[2:].isdigit())


def _loader(dataset: Dataset, index: int) -> Callable[[], bytes]:
    return lambda: _encoded(dataset[index])


def _encoded(row: dict[str, Any]) -> bytes:
    image = row["image"]
    return image["bytes"] if image["bytes"] is not None else Path(image["path"]).read_bytes()


def _spread(count: int, limit: int | None) -> Sequence[int]:
    """`limit` positions of `count`, evenly spaced; all of them without a limit."""
    if limit is None or limit >= count:
        return range(count)
    return [position * count // limit for position in range(limit)]
