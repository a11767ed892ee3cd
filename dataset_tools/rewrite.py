"""A data set folder read row by row and written again with other landmarks or captions."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from datasets import Dataset, Image

from .schema import au_ids_of, load_mfa, read_manifest, write_mfa

_DERIVED_KEYS = frozenset({"format", "format_version", "versions", "splits", "au_ids", "emotions"})

Row = dict[str, Any]


class StoredDataset:
    """The rows of a data set folder by their position, splits one after the other; pixels are never decoded.

    Args:
        folder: made by `write_mfa`; it has images.
    Raises:
        FileNotFoundError, ValueError: as for `load_mfa`.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.manifest = read_manifest(folder)
        self.splits: dict[str, Dataset] = {
            split: load_mfa(folder, split, au_ids=None).cast_column("image", Image(decode=False))
            for split in self.manifest["splits"]
        }
        features = next(iter(self.splits.values())).features
        self.au_ids = au_ids_of(features)
        self.emotions: list[str] = features["emotion"].names

    def __len__(self) -> int:
        return sum(map(len, self.splits.values()))

    def column(self, name: str) -> list[Any]:
        """The values of a column, by position."""
        return [value for dataset in self.splits.values() for value in dataset.with_format("arrow")[name].to_pylist()]

    def row(self, position: int) -> Row:
        """One row, its `image` as encoded bytes."""
        for dataset in self.splits.values():
            if position < len(dataset):
                return _with_bytes(dataset[position])
            position -= len(dataset)
        raise IndexError(position)

    def rewrite(
        self, out_dir: Path, change: Callable[[int, Row], Mapping[str, Any]], manifest: Mapping[str, Any]
    ) -> None:
        """Write the data set with other values; the folder appears when it is whole, in the place of an old one.

        Args:
            change: the columns of a row that change, from its position and the row; rows are asked for in order.
            manifest: what the manifest says about it, beside what it says already.
        """
        kept = {key: value for key, value in self.manifest.items() if key not in _DERIVED_KEYS}
        splits, start = {}, 0
        for split, dataset in self.splits.items():
            splits[split] = self._changed_rows(dataset, start, change)
            start += len(dataset)
        write_mfa(
            out_dir, splits, manifest={**kept, **manifest}, au_ids=self.au_ids, emotions=self.emotions, overwrite=True
        )

    @staticmethod
    def _changed_rows(dataset: Dataset, start: int, change: Callable[[int, Row], Mapping[str, Any]]) -> Iterator[Row]:
        for position, stored in enumerate(dataset, start):
            row = _with_bytes(stored)
            yield {**row, **change(position, row)}


def _with_bytes(row: Row) -> Row:
    image = row["image"]
    encoded = image["bytes"] if image["bytes"] is not None else Path(image["path"]).read_bytes()
    return {**row, "image": encoded}
