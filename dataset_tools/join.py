"""`mf2 data join`: joins annotations without images, from a folder or the Hub, with the image files on your disk.

The image of a row is ROOT/<file_name>. The result is a data set folder, which all other commands read.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datasets import Dataset, get_dataset_split_names

from .hub_manifest import find_manifest
from .schema import ANNOTATIONS, au_ids_in_columns, has_affect, load_mfa, read_manifest, write_mfa

MAX_SHOWN = 3
"""Number of missing images that an error names."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `mf2 data join`."""
    parser.add_argument("source", help="annotations: a folder, or a data set of the Hub (org/name)")
    parser.add_argument("out", type=Path, help="folder to make")
    parser.add_argument("--images", type=Path, required=True, metavar="ROOT", help="folder with the file_name of rows")
    parser.add_argument("--overwrite", action="store_true", help="replace the data set OUT")


def run(args: argparse.Namespace) -> None:
    """Join, and print the folder and the sizes of the data set."""
    folder = join_images(args.source, args.images, args.out, overwrite=args.overwrite)
    sizes = ", ".join(f"{info['num_rows']:,} {split}" for split, info in read_manifest(folder)["splits"].items())
    print(f"{folder}: {sizes}")


def join_images(source: str, root: Path, out_dir: Path, *, overwrite: bool = False) -> Path:
    """Write a data set from the annotations of `source` and the images below `root`.

    Raises:
        FileNotFoundError: there are no such annotations, or images are missing; the first ones are named.
        ValueError: a file name leads out of `root`, or the annotations do not follow the schema.
    """
    is_local = Path(source).is_dir()
    manifest = find_manifest(source) if is_local else {"pretty_name": source, **find_manifest(source)}
    names = list(manifest["splits"]) if is_local else get_dataset_split_names(source, ANNOTATIONS)
    splits = {name: load_mfa(source, name, config=ANNOTATIONS, with_images=False, au_ids=None) for name in names}
    files = [file for rows in splits.values() for file in rows["file_name"]]
    paths = {file: _resolve_file(root, file) for file in files}
    if missing := [file for file, path in paths.items() if not path.is_file()]:
        shown = ", ".join(missing[:MAX_SHOWN])
        raise FileNotFoundError(f"{root} lacks {len(missing):,} of {len(paths):,} images, {shown} for example.")
    first = next(iter(splits.values()))
    inherited: dict[str, Any] = {
        key: manifest[key] for key in ("pretty_name", "license", "license_name", "license_link") if key in manifest
    }
    return write_mfa(
        out_dir,
        {name: _rows_with_images(rows, paths) for name, rows in splits.items()},
        manifest={**inherited, "joined_from": Path(source).name if is_local else source},
        au_ids=au_ids_in_columns(first.features),
        emotions=first.features["emotion"].names,
        affect=has_affect(first.features),
        overwrite=overwrite,
    )


def _resolve_file(root: Path, file: str) -> Path:
    path = (root / file).resolve()
    if not path.is_relative_to(root.resolve()):
        raise ValueError(f"The file name {file!r} leads out of {root}.")
    return path


def _rows_with_images(rows: Dataset, paths: dict[str, Path]) -> Iterator[dict[str, Any]]:
    for row in rows:
        yield row | {"image": paths[row["file_name"]].read_bytes()}
