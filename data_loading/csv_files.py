"""Data sets that are given as a CSV file of labels beside its pictures."""

import hashlib
from pathlib import Path

from mf2.dataset_tools.importer import import_dataset


def data_folders(paths: str, output_dir: str | Path) -> list[str]:
    """Data sets, separated by commas, as they can be loaded: a CSV file is imported below the output folder first."""
    return [data_folder(path.strip(), output_dir) for path in paths.split(",")]


def data_folder(path: str, output_dir: str | Path) -> str:
    """One of them."""
    return import_csv(Path(path), output_dir) if path.endswith(".csv") else path


def import_csv(file: Path, output_dir: str | Path) -> str:
    """Where the data set of a CSV file is; made now where the file, as it is, has none below the output folder.

    Raises:
        FileNotFoundError, ValueError: it cannot be imported as it is; what helps is an option of `mf2 data import`.
    """
    version = hashlib.sha256(str(file.resolve()).encode() + file.read_bytes()).hexdigest()[:8]
    folder = Path(output_dir, "data", f"{file.stem}-{version}")
    if not folder.exists():
        try:
            import_dataset("csv", file.parent, folder, labels=file)
        except ValueError as error:
            advises_option = " --" in str(error)  # of the import, not of the command that is given the file
            by_hand = f" Those are options of `mf2 data import csv {file.parent} OUT --labels {file}`; then give OUT."
            raise ValueError(f"{error}{by_hand if advises_option else ''}") from error
    return str(folder)
