"""Loads data sets that are given as a CSV file of labels next to its images."""

import hashlib
from pathlib import Path

from mf2.dataset_tools.importer import import_dataset


def data_folders(paths: str, output_dir: str | Path) -> list[str]:
    """Split comma-separated data sets; CSV files are imported below the output folder first."""
    return [data_folder(path.strip(), output_dir) for path in paths.split(",")]


def data_folder(path: str, output_dir: str | Path) -> str:
    """The data set `path`, or the folder to which the CSV file `path` was imported."""
    return import_csv(Path(path), output_dir) if path.endswith(".csv") else path


def import_csv(file: Path, output_dir: str | Path) -> str:
    """Import a CSV file below the output folder, unless its current version was imported before; returns the folder.

    Raises:
        FileNotFoundError, ValueError: it cannot be imported; if an option of `mf2 data import` helps, that is named.
    """
    version = hashlib.sha256(str(file.resolve()).encode() + file.read_bytes()).hexdigest()[:8]
    folder = Path(output_dir, "data", f"{file.stem}-{version}")
    if not folder.exists():
        try:
            import_dataset("csv", file.parent, folder, labels=file)
        except ValueError as error:
            names_option = " --" in str(error)  # an option of the import, not of the calling command
            remedy = f" Those are options of `mf2 data import csv {file.parent} OUT --labels {file}`; then give OUT."
            raise ValueError(f"{error}{remedy if names_option else ''}") from error
    return str(folder)
