"""Reads a data set folder row by row, and writes it again with other landmarks or captions."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from datasets import Dataset, Image

from .schema import au_ids_in_columns, has_affect, load_mfa, read_manifest, write_mfa

_DERIVED_KEYS = frozenset({"format", "format_version", "versions", "splits", "au_ids", "emotions", "affect"})

Row = dict[str, Any]


class StoredDataset:
    """A data set folder with its rows by position, counted through all splits; images are not decoded.

    Args:
        folder: folder made by `write_mfa`, with images.
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
        self.au_ids = au_ids_in_columns(features)
        self.emotions: list[str] = features["emotion"].names
        self.has_affect = has_affect(features)

    def __len__(self) -> int:
        return sum(map(len, self.splits.values()))

    def column(self, name: str) -> list[Any]:
        """The values of a column, by position."""
        return [value for dataset in self.splits.values() for value in dataset.with_format("arrow")[name].to_pylist()]

    def row(self, position: int) -> Row:
        """One row, with its `image` as encoded bytes."""
        for dataset in self.splits.values():
            if position < len(dataset):
                return _with_bytes(dataset[position])
            position -= len(dataset)
        raise IndexError(position)

    def rewrite(
        self, out_dir: Path, change: Callable[[int, Row], Mapping[str, Any]], manifest: Mapping[str, Any]
    ) -> None:
        """Write the data set with changed values; the folder replaces an existing one when it is complete.

        Args:
            out_dir: folder to write.
            change: returns the changed columns of a row from its position and the row; it is called in order.
            manifest: entries to add to the manifest or to replace in it.
        """
        kept_entries = {key: value for key, value in self.manifest.items() if key not in _DERIVED_KEYS}
        splits, start = {}, 0
        for split, dataset in self.splits.items():
            splits[split] = self._changed_rows(dataset, start, change)
            start += len(dataset)
        write_mfa(
            out_dir,
            splits,
            manifest={**kept_entries, **manifest},
            au_ids=self.au_ids,
            emotions=self.emotions,
            affect=self.has_affect,
            overwrite=True,
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
