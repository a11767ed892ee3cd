"""`mf2 data export`: writes a data set as a Hub repository with a card and two configurations, or only its recipe.

OUT/annotations/<split>-*.parquet    config `annotations`, the default: labels, landmarks, captions; no pixels
OUT/data/<split>-*.parquet           config `full`, with --full: the same rows with their images
OUT/README.md, OUT/manifest.json
"""

import argparse
import json
import shutil
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Features
from tqdm import tqdm

from .dataset_card import Config, build_card, count_rows, front_matter
from .privacy import is_restricted
from .recipe import RECIPE_FORMAT, export_recipe
from .schema import (
    ANNOTATIONS,
    CAPTION_COLUMNS,
    DATA_FOLDER,
    FULL,
    MANIFEST_NAME,
    check_target,
    dataset_fingerprint,
    describe_shard,
    describe_splits,
    read_manifest,
    replacing_folder,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `mf2 data export`."""
    parser.add_argument("source", type=Path, help="folder of a data set")
    parser.add_argument("out", type=Path, help="folder to make")
    parser.add_argument(
        "--full", action="store_true", help="with the images; for your own disk if they are restricted"
    )
    parser.add_argument(
        "--recipe_only", action="store_true", help="no annotations: settings, prompts, models and counts"
    )
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="configuration of `mf2 data build`, for the recipe"
    )
    parser.add_argument("--prompts", type=Path, metavar="DIR", help="prompts of the captions (default: the shipped)")
    parser.add_argument("--overwrite", action="store_true", help="replace the data set OUT")


def run(args: argparse.Namespace) -> None:
    """Export the data set, and print its card, how to load it, and whether it may be public."""
    if args.recipe_only:
        if args.full:
            raise ValueError("A recipe holds no images: leave out --full or --recipe_only.")
        manifest, counts = read_manifest(args.source), count_splits(args.source)
        options = {"config": args.config, "prompts": args.prompts, "overwrite": args.overwrite}
        export_recipe(manifest, counts, args.out, **options)
    elif args.config or args.prompts:
        raise ValueError("--config and --prompts belong to a recipe: add --recipe_only or leave them out.")
    else:
        export(args.source, args.out, full=args.full, overwrite=args.overwrite)
    print((args.out / "README.md").read_text("utf-8").split("---\n", 2)[2].strip())
    if not args.recipe_only:
        print(f"\n{loading_line(str(args.out), args.full)}")
    rule = required_privacy(json.loads((args.out / MANIFEST_NAME).read_text("utf-8")))
    print(f"\n{args.out}: on the Hub {'private' if rule.private else 'public if you like'}; {rule.reason}.")


def loading_line(source: str, has_images: bool, revision: str | None = None) -> str:
    """Python code that loads the rows of a repository, with their images if it has any."""
    arguments = [
        f'"{source}"',
        *([f'"{FULL}"'] if has_images else []),
        *([f'revision="{revision}"'] if revision else []),
    ]
    return f"data = load_dataset({', '.join(arguments)})"


@dataclass(frozen=True)
class PrivacyRule:
    """Whether a repository has to be private, and why."""

    private: bool
    reason: str


def required_privacy(manifest: Mapping[str, Any]) -> PrivacyRule:
    """Whether a data set or a recipe must be private on the Hub, by the licence in its manifest.

    A valid AU caption is equivalent to the AU labels, so that captions fall under the licence of the annotations.
    """
    if manifest.get("format") == RECIPE_FORMAT:
        return PrivacyRule(False, "a recipe holds no annotations")
    if not is_restricted(manifest.get("license")):
        return PrivacyRule(False, f"its license is {manifest['license']}")
    terms = manifest.get("license_name", "unstated terms")
    return PrivacyRule(True, f"it derives from data under {terms}; public only with a recorded permission")


def count_splits(source: Path) -> dict[str, dict[str, Any]]:
    """Split -> the counts on its card, from the rows without their pixels."""
    counts = {}
    for split, info in read_manifest(source)["splits"].items():
        files = [source / shard["file"] for shard in info["shards"]]
        columns = [name for name in pq.read_schema(files[0]).names if name != "image"]
        counts[split] = count_rows(pq.read_table(files, columns=columns))
    return counts


def export(source: Path, out_dir: Path, *, full: bool = False, overwrite: bool = False) -> Path:
    """Write a data set as the folder of a Hub repository.

    Args:
        source: folder made by `write_mfa`.
        out_dir: folder to make.
        full: add the configuration with pixels.
        overwrite: replace an existing data set.
    Returns:
        `out_dir`.
    Raises:
        FileNotFoundError, ValueError: `source` is not a data set, or `full` is set and it has no images.
        FileExistsError: `out_dir` is not empty, and `overwrite` is False or it is not a data set.
    """
    source_manifest = read_manifest(source)
    check_target(out_dir, overwrite)
    shards = {
        split: [source / shard["file"] for shard in info["shards"]]
        for split, info in source_manifest["splits"].items()
    }
    features = Features.from_arrow_schema(pq.read_schema(next(iter(shards.values()))[0]))
    labels = Features({name: feature for name, feature in features.items() if name != "image"})
    if full and labels == features:
        raise ValueError(f"{source} has no images; leave out --full.")
    with replacing_folder(out_dir) as folder:
        configs = [Config(ANNOTATIONS, ANNOTATIONS, labels, _write_annotations(shards, folder / ANNOTATIONS, labels))]
        if full:
            configs.append(Config(FULL, DATA_FOLDER, features, _copy_shards(shards, folder / DATA_FOLDER)))
        manifest = {
            **source_manifest,
            "exported_from": dataset_fingerprint(source),
            "configs": [config.name for config in configs],
            "splits": configs[-1].splits,
        }
        tables = {split: _read_shards(files, folder / ANNOTATIONS) for split, files in shards.items()}
        counts = {split: count_rows(table) for split, table in tables.items()}
        text = build_card(manifest, counts, _count_shared_groups(tables), _choose_example(tables))
        (folder / "README.md").write_text(front_matter(manifest, configs) + text, "utf-8")
        (folder / MANIFEST_NAME).write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n", "utf-8")
    return out_dir


def _write_annotations(shards: dict[str, list[Path]], folder: Path, features: Features) -> dict[str, Any]:
    """Write the rows of the shards without the image column, batch by batch; returns the splits' description."""
    folder.mkdir()
    for file in tqdm(chain(*shards.values()), total=_count_files(shards), desc=ANNOTATIONS, unit="shard"):
        with pq.ParquetFile(file) as source, pq.ParquetWriter(folder / file.name, features.arrow_schema) as writer:
            for batch in source.iter_batches(columns=list(features)):
                writer.write_table(pa.Table.from_batches([batch]).cast(features.arrow_schema))
    return _describe_shards(shards, folder)


def _copy_shards(shards: dict[str, list[Path]], folder: Path) -> dict[str, Any]:
    """Copy the shards; returns the splits' description."""
    folder.mkdir()
    for file in tqdm(chain(*shards.values()), total=_count_files(shards), desc=FULL, unit="shard"):
        shutil.copyfile(file, folder / file.name)
    return _describe_shards(shards, folder)


def _count_files(shards: dict[str, list[Path]]) -> int:
    return sum(map(len, shards.values()))


def _describe_shards(shards: dict[str, list[Path]], folder: Path) -> dict[str, Any]:
    return describe_splits({split: [describe_shard(folder / file.name) for file in shards[split]] for split in shards})


def _read_shards(files: list[Path], folder: Path) -> pa.Table:
    return pq.read_table([folder / file.name for file in files])


def _count_shared_groups(tables: dict[str, pa.Table]) -> int:
    """The number of groups that are in more than one split."""
    groups = Counter(group for table in tables.values() for group in table["group_id"].unique().to_pylist())
    return sum(number > 1 for number in groups.values())


def _choose_example(tables: dict[str, pa.Table]) -> dict[str, Any]:
    """The captions of the first row with all three captions, or else of the first row."""
    for table in tables.values():
        captions = table.select(CAPTION_COLUMNS)
        if complete := captions.drop_null().slice(0, 1).to_pylist():
            return complete[0]
    return next(iter(tables.values())).select(CAPTION_COLUMNS).slice(0, 1).to_pylist()[0]
