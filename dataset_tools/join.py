"""`mf2 data join`: annotations without pixels, of a folder or of the Hub, and the pictures on your disk to a data set.

A row's picture is ROOT/<file_name>. What is written is a data set folder, which everything else reads.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datasets import Dataset, get_dataset_split_names

from .hub_manifest import find_manifest
from .schema import ANNOTATIONS, au_ids_of, load_mfa, read_manifest, write_mfa

SHOWN = 3
"""Pictures that an error names."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `mf2 data join`."""
    parser.add_argument("source", help="annotations: a folder, or a data set of the Hub (org/name)")
    parser.add_argument("out", type=Path, help="folder to make")
    parser.add_argument("--images", type=Path, required=True, metavar="ROOT", help="where a row's file_name lies")
    parser.add_argument("--overwrite", action="store_true", help="replace the data set OUT")


def run(args: argparse.Namespace) -> None:
    """Join, and say where the data set is."""
    folder = join_images(args.source, args.images, args.out, overwrite=args.overwrite)
    sizes = ", ".join(f"{info['num_rows']:,} {split}" for split, info in read_manifest(folder)["splits"].items())
    print(f"{folder}: {sizes}")


def join_images(source: str, root: Path, out_dir: Path, *, overwrite: bool = False) -> Path:
    """Write a data set of the annotations of `source` and the pictures below `root`.

    Raises:
        FileNotFoundError: there are no such annotations, or pictures are missing; the first are named.
        ValueError: a file name leads out of `root`, or the annotations do not follow the schema.
    """
    local = Path(source).is_dir()
    manifest = find_manifest(source) if local else {"pretty_name": source, **find_manifest(source)}
    names = list(manifest["splits"]) if local else get_dataset_split_names(source, ANNOTATIONS)
    splits = {name: load_mfa(source, name, config=ANNOTATIONS, with_images=False, au_ids=None) for name in names}
    files = [file for rows in splits.values() for file in rows["file_name"]]
    places = {file: _place(root, file) for file in files}
    if missing := [file for file, place in places.items() if not place.is_file()]:
        shown = ", ".join(missing[:SHOWN])
        raise FileNotFoundError(f"{root} lacks {len(missing):,} of {len(places):,} pictures, {shown} for example.")
    first = next(iter(splits.values()))
    kept: dict[str, Any] = {
        key: manifest[key] for key in ("pretty_name", "license", "license_name", "license_link") if key in manifest
    }
    return write_mfa(
        out_dir,
        {name: _rows(rows, places) for name, rows in splits.items()},
        manifest={**kept, "joined_from": source if not local else Path(source).name},
        au_ids=au_ids_of(first.features),
        emotions=first.features["emotion"].names,
        overwrite=overwrite,
    )


def _place(root: Path, file: str) -> Path:
    place = (root / file).resolve()
    if not place.is_relative_to(root.resolve()):
        raise ValueError(f"The file name {file!r} leads out of {root}.")
    return place


def _rows(rows: Dataset, places: dict[str, Path]) -> Iterator[dict[str, Any]]:
    for row in rows:
        yield row | {"image": places[row["file_name"]].read_bytes()}
