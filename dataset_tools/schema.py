"""The MFA schema on disk: its columns, a streaming writer and a validating reader.

A data set is a folder that `datasets.load_dataset` reads without conversion, on disk or on the Hub:

    README.md                               card, whose front matter lists the shards
    data/<split>-00000-of-00003.parquet     parquet shards with the `datasets` features in their metadata
    manifest.json                           counts, SHA-256 of every shard and entries of the caller; written last

Unlabelled is -1 for an AU and null for the emotion (`ClassLabel` rejects -100); landmarks that were not found are
null. A data set has a column for each AU that it codes, and either the eight emotions or its own list. One with
valence and arousal has a column of each, from -1 to 1, NaN where it is unlabelled.
"""

import hashlib
import json
import math
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml
from datasets import Array2D, ClassLabel, Dataset, Features, Image, Value, get_dataset_config_names, load_dataset
from datasets.exceptions import DatasetGenerationError

from .. import __version__
from ..labels_mf2 import (
    AFFECT,
    AFFECT_UNLABELLED,
    AU_IDS,
    AU_UNLABELLED,
    EMOTION_UNLABELLED,
    EMOTIONS,
    NUM_LANDMARKS,
    get_action_unit,
)
from ..utils.files import naming_disk_errors, sha256_of_file

FORMAT = "mfa"
FORMAT_VERSION = 1
SPLITS = ("train", "validation", "test")
MANIFEST_NAME = "manifest.json"
ANNOTATIONS, FULL = "annotations", "full"
"""The configurations of a data set on the Hub: without and with pixels."""
DEFAULT_FOLDER = "outputs"
"""The default output folder; `outputs/…` is therefore never read as a Hub id."""
DATA_FOLDER = "data"
ROWS_PER_SHARD = 5000
ROWS_PER_GROUP = 100  # rows that a viewer or a streaming reader fetches at once
REQUIRED_KEYS = ("file_name", "dataset", "video_id", "group_id", "frame")
_AFFECT_WORDS = "; valence and arousal lie in -1..1, NaN where they are unlabelled"
_AU_COLUMN = re.compile(r"AU(\d{1,2})", re.ASCII)
CAPTION_COLUMNS = ("caption_emotion", "caption_au", "caption_key_au")
PROVENANCE_COLUMNS = ("caption_source", "caption_model", "prompt_sha256")


# --------------------------------------------------------------------------------------------------------- columns
def au_columns(au_ids: Sequence[int] = AU_IDS) -> tuple[str, ...]:
    """`("AU1", "AU2", …)`: the label column of each AU."""
    return tuple(f"AU{au_id}" for au_id in au_ids)


def au_ids_in_columns(columns: Iterable[str]) -> tuple[int, ...]:
    """The AUs that have a column in `columns`, in the order of the columns."""
    return tuple(int(name[2:]) for name in columns if _AU_COLUMN.fullmatch(name))


def has_affect(columns: Iterable[str]) -> bool:
    """Whether valence or arousal has a column among those names."""
    return not set(AFFECT).isdisjoint(columns)


def mfa_features(
    with_images: bool = True,
    au_ids: Sequence[int] = AU_IDS,
    emotions: Sequence[str] = EMOTIONS,
    affect: bool = False,
) -> Features:
    """The columns of a data set, in order.

    `landmarks` are (68, 2) float32, x and y in pixels of the image; the AU columns are 1 active, 0 not active,
    -1 unlabelled; `emotion` indexes `emotions`; with `affect`, `valence` and `arousal` are -1 to 1, NaN unlabelled.

    Raises:
        ValueError: an AU without a region rule.
    """
    for au_id in au_ids:
        get_action_unit(au_id)
    columns: dict[str, Any] = {"image": Image()} if with_images else {}
    columns |= {name: Value("string") for name in REQUIRED_KEYS[:-1]}
    columns["frame"] = Value("int32")
    columns["emotion"] = ClassLabel(names=list(emotions))
    columns |= {name: Value("int8") for name in au_columns(au_ids)}
    columns |= {name: Value("float32") for name in AFFECT if affect}
    columns["landmarks"] = Array2D((NUM_LANDMARKS, 2), "float32")
    columns |= {name: Value("string") for name in (*CAPTION_COLUMNS, *PROVENANCE_COLUMNS)}
    return Features(columns)


# --------------------------------------------------------------------------------------------------------- writing
def write_mfa(
    out_dir: str | Path,
    splits: Mapping[str, Iterable[dict[str, Any]]],
    *,
    manifest: Mapping[str, Any],
    with_images: bool = True,
    au_ids: Sequence[int] = AU_IDS,
    emotions: Sequence[str] = EMOTIONS,
    affect: bool = False,
    rows_per_shard: int = ROWS_PER_SHARD,
    overwrite: bool = False,
) -> Path:
    """Write a data set folder row by row; the folder gets its final name when it is complete.

    The same rows give the same bytes. Rows are dictionaries by column: `file_name`, `dataset`, `video_id`, `group_id`,
    `frame` and, with images, `image` (the encoded file as bytes, stored unchanged) are required; a missing label or
    text is unlabelled or null. `emotion` is an index into `emotions`, None or -100.

    Args:
        out_dir: the folder to make.
        splits: rows of each of `train`, `validation`, `test`; each is consumed once as a stream.
        manifest: entries that the caller adds to `manifest.json`, read after all rows are written; `license` and
            `pretty_name` also go to the card.
        with_images: False leaves the pixels out.
        au_ids: the AUs that get a column.
        emotions: the list that emotion indices refer to.
        affect: whether valence and arousal get a column.
        rows_per_shard: rows of one parquet file.
        overwrite: replace an existing data set.
    Returns:
        The folder.
    Raises:
        FileExistsError: `out_dir` is not empty, and `overwrite` is False or it is not a data set.
        ValueError: an invalid row (its file name is shown), an AU without a region rule, an unknown split or a split
            without rows.
    """
    out_dir = Path(out_dir)
    check_target(out_dir, overwrite)
    if unknown := [name for name in splits if name not in SPLITS]:
        raise ValueError(f"Unknown splits {unknown}; a split is one of {', '.join(SPLITS)}.")
    features = mfa_features(with_images, au_ids, emotions, affect)
    with replacing_folder(out_dir) as folder:
        shards = {
            name: _write_split(folder / DATA_FOLDER, name, rows, features, rows_per_shard)
            for name, rows in splits.items()
        }
        if not shards:
            raise ValueError("There is no split to write.")
        contents = _build_manifest(manifest, features, shards)
        (folder / "README.md").write_text(_front_matter(contents) + _card(contents), "utf-8")
        (folder / MANIFEST_NAME).write_text(json.dumps(contents, indent=2, ensure_ascii=False) + "\n", "utf-8")
    return out_dir


def check_target(out_dir: Path, overwrite: bool) -> None:
    """Raise `FileExistsError` if `out_dir` is not empty and may not be replaced by a data set."""
    if not out_dir.exists() or (out_dir.is_dir() and not any(out_dir.iterdir())):
        return
    if not overwrite:
        raise FileExistsError(f"{out_dir} already exists; choose another folder or pass --overwrite.")
    if not (out_dir / MANIFEST_NAME).is_file():
        raise FileExistsError(f"{out_dir} is not a data set (it has no {MANIFEST_NAME}), so it is not overwritten.")


@contextmanager
def replacing_folder(out_dir: Path) -> Iterator[Path]:
    """Provide a temporary sibling folder that replaces `out_dir` if the block succeeds, and is deleted otherwise."""
    out_dir.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out_dir.name}.", dir=out_dir.parent) as scratch:
        folder = Path(scratch, "new")
        folder.mkdir()
        with naming_disk_errors(out_dir):
            yield folder
            if out_dir.exists():
                out_dir.rename(Path(scratch, "old"))
            folder.rename(out_dir)


def _write_split(
    data_dir: Path, split: str, rows: Iterable[dict[str, Any]], features: Features, rows_per_shard: int
) -> list[dict[str, Any]]:
    """Write the shards of one split; returns the description of each, in order."""
    data_dir.mkdir(exist_ok=True)
    rows = iter(rows)
    partial: list[Path] = []
    while _write_shard(path := data_dir / f"{split}-{len(partial)}.part", rows, features, rows_per_shard):
        partial.append(path)
    path.unlink()
    if not partial:
        raise ValueError(f"Split {split!r} has no rows; leave it out or give it some.")
    total = len(partial)
    files = [path.rename(data_dir / f"{split}-{i:05d}-of-{total:05d}.parquet") for i, path in enumerate(partial)]
    return [describe_shard(file) for file in files]


def describe_shard(file: Path) -> dict[str, Any]:
    """The manifest's entry of a shard: `{"file", "num_rows", "num_bytes", "sha256"}`."""
    return {
        "file": f"{file.parent.name}/{file.name}",
        "num_rows": pq.read_metadata(file).num_rows,
        "num_bytes": file.stat().st_size,
        "sha256": sha256_of_file(file),
    }


def _write_shard(path: Path, rows: Iterator[dict[str, Any]], features: Features, max_rows: int) -> int:
    """Write up to `max_rows` rows into one parquet file, one row group at a time; returns the number of rows."""
    num_rows = 0
    with pq.ParquetWriter(path, features.arrow_schema) as writer:
        while batch := list(islice(rows, min(ROWS_PER_GROUP, max_rows - num_rows))):
            writer.write_table(_to_table(batch, features))
            num_rows += len(batch)
    return num_rows


def _to_table(rows: list[dict[str, Any]], features: Features) -> pa.Table:
    schema = features.arrow_schema
    valid_rows = [_validate_row(row, features) for row in rows]
    columns = []
    for field in schema:
        values = [row[field.name] for row in valid_rows]
        if isinstance(field.type, pa.ExtensionType):
            columns.append(pa.ExtensionArray.from_storage(field.type, pa.array(values, field.type.storage_type)))
        else:
            columns.append(pa.array(values, field.type))
    return pa.Table.from_arrays(columns, schema=schema)


def _validate_row(row: dict[str, Any], features: Features) -> dict[str, Any]:
    """Check a row and complete it to all columns of `features`; errors name the file of the row."""
    where = f"Row {row.get('file_name', row)!r}"
    required = (*(("image",) if "image" in features else ()), *REQUIRED_KEYS)
    if missing := [name for name in required if row.get(name) is None]:
        raise ValueError(f"{where} lacks {', '.join(missing)}.")
    if unknown := sorted(row.keys() - features.keys()):
        raise ValueError(f"{where} has unknown columns {', '.join(unknown)}; known are {', '.join(features)}.")
    valid = dict.fromkeys(features) | row
    if "image" in features:
        valid["image"] = {"bytes": _check_image(row["image"], where), "path": Path(row["file_name"]).name}
    valid["emotion"] = _check_emotion(row.get("emotion"), features["emotion"].num_classes, where)
    valid["landmarks"] = _check_landmarks(row.get("landmarks"), where)
    for name in au_columns(au_ids_in_columns(features)):
        label = row.get(name, AU_UNLABELLED)
        if label not in (0, 1, AU_UNLABELLED):
            raise ValueError(f"{where}: {name} is {label!r}; it must be 1, 0 or {AU_UNLABELLED} (unlabelled).")
        valid[name] = int(label)
    valid |= {name: _check_affect(row.get(name), name, where) for name in AFFECT if name in features}
    return valid


def _check_image(image: Any, where: str) -> bytes:
    if not isinstance(image, bytes) or not image:
        raise ValueError(f"{where}: image must be the encoded file as bytes, not {type(image).__name__} or empty.")
    return image


def _check_emotion(emotion: Any, num_emotions: int, where: str) -> int | None:
    if emotion is None or emotion == EMOTION_UNLABELLED:
        return None
    if isinstance(emotion, str) or not 0 <= emotion < num_emotions:
        raise ValueError(f"{where}: emotion is {emotion!r}; it must be 0..{num_emotions - 1}, or None for unlabelled.")
    return int(emotion)


def _check_affect(value: Any, name: str, where: str) -> float:
    if value is None:
        return AFFECT_UNLABELLED
    if isinstance(value, str) or not (math.isnan(value) or -1 <= value <= 1):
        raise ValueError(f"{where}: {name} is {value!r}; it must lie in -1..1, or be NaN or None for unlabelled.")
    return float(value)


def _check_landmarks(landmarks: Any, where: str) -> list[list[float]] | None:
    if landmarks is None:
        return None
    points = np.asarray(landmarks, dtype=np.float32)
    if points.shape != (NUM_LANDMARKS, 2) or not np.isfinite(points).all():
        raise ValueError(
            f"{where}: landmarks have shape {points.shape}; they must be ({NUM_LANDMARKS}, 2) finite pixels, or None."
        )
    return points.tolist()


def _build_manifest(
    entries: Mapping[str, Any], features: Features, shards: Mapping[str, list[dict[str, Any]]]
) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        **entries,
        "au_ids": list(au_ids_in_columns(features)),
        "emotions": features["emotion"].names,
        **({"affect": list(AFFECT)} if has_affect(features) else {}),
        "versions": {"mf2": __version__, "datasets": datasets.__version__, "pyarrow": pa.__version__},
        "splits": describe_splits(shards),
    }


def describe_splits(shards: Mapping[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """The manifest's entry of the splits: split -> `{"num_rows", "shards"}`."""
    return {
        name: {"num_rows": sum(shard["num_rows"] for shard in files), "shards": files}
        for name, files in shards.items()
    }


def _front_matter(manifest: Mapping[str, Any]) -> str:
    fields: dict[str, Any] = {name: manifest[name] for name in ("license", "pretty_name") if name in manifest}
    files = [{"split": split, "path": f"{DATA_FOLDER}/{split}-*.parquet"} for split in manifest["splits"]]
    fields["configs"] = [{"config_name": "default", "data_files": files}]
    return f"---\n{yaml.safe_dump(fields, sort_keys=False, allow_unicode=True)}---\n\n"


def _card(manifest: Mapping[str, Any]) -> str:
    counts = "\n".join(f"| {split} | {info['num_rows']:,} |" for split, info in manifest["splits"].items())
    return (
        f"# {manifest.get('pretty_name', 'MFA data set')}\n\n"
        "Face images with action units, an emotion, 68 landmarks and three captions each, in the MFA schema: "
        "AU columns are 1 active, 0 not active, -1 unlabelled; a null emotion is unlabelled; null landmarks were not "
        f"found{_AFFECT_WORDS if 'affect' in manifest else ''}.\n\n| split | images |\n|---|---|\n{counts}\n"
    )


# --------------------------------------------------------------------------------------------------------- reading
def load_mfa(
    path: str | Path,
    split: str,
    *,
    config: str | None = None,
    with_images: bool = True,
    au_ids: Sequence[int] | None = AU_IDS,
    fill_aus: bool = False,
    affect: bool = False,
) -> Dataset:
    """Load one split of a data set and check that it follows the schema.

    Args:
        path: a folder made by `write_mfa`, or the id of a data set on the Hub, `org/name` or `org/name:configuration`.
        split: `train`, `validation` or `test`.
        config: configuration of a Hub data set that has several; with images the default is `full`.
        with_images: whether the pixels are required.
        au_ids: the AUs whose columns are required, together with the eight emotions; None accepts the AUs and the
            emotions (`features["emotion"].names`) of the data set.
        fill_aus: add a column of -1 (unlabelled) for a required AU without a column, instead of an error.
        affect: whether the columns of valence and arousal are required.
    Raises:
        FileNotFoundError: there is no such folder, or no such split in it.
        ValueError: no rows, missing columns, wrong types or labels out of range; the file and the columns are named.
    """
    if Path(path).is_dir():
        files = _shard_files(Path(path), split)
        try:
            if not any(pq.read_metadata(file).num_rows for file in files):
                raise ValueError(f"{path} ({split}) has no rows.")
            dataset = load_dataset("parquet", data_files={split: files}, split=split)
        except (DatasetGenerationError, pa.ArrowException) as error:
            raise ValueError(f"{path} ({split}) cannot be read: {error.__cause__ or error}") from error
    else:
        dataset = _load_from_hub(str(path), split, config, with_images)
    if fill_aus and au_ids is not None:
        dataset = _with_unlabelled_aus(dataset, au_ids)
    check_mfa(dataset, f"{path} ({split})", with_images=with_images, au_ids=au_ids, affect=affect)
    return dataset


def parse_hub_id(path: str) -> tuple[str, str | None]:
    """Split `org/name` or `org/name:configuration` into the repository and the configuration.

    Raises:
        FileNotFoundError: `path` is written like a folder, or its first part is an existing folder.
    """
    repo_id, _, config = path.partition(":")
    owner, _, name = repo_id.partition("/")
    is_folder = Path(path).is_absolute() or path.startswith((".", "~")) or "/" in name or not name
    if is_folder or Path(owner).is_dir() or owner == DEFAULT_FOLDER:
        raise FileNotFoundError(f"{path} is neither a data set folder nor a Hub id such as `org/name`.")
    return repo_id, config or None


def _load_from_hub(path: str, split: str, config: str | None, with_images: bool) -> Dataset:
    """Load a split of `org/name` or `org/name:configuration`; a missing local folder is not searched on the Hub."""
    repo_id, config_in_path = parse_hub_id(path)
    config = config or config_in_path
    if config is None and with_images and FULL in get_dataset_config_names(repo_id):
        config = FULL
    return load_dataset(repo_id, config, split=split)


def _with_unlabelled_aus(dataset: Dataset, au_ids: Sequence[int]) -> Dataset:
    """Add a column of -1 for each AU that the data set does not code."""
    unlabelled = np.full(len(dataset), AU_UNLABELLED, np.int8)
    for name in au_columns(au_ids):
        if name not in dataset.features:
            dataset = dataset.add_column(name, unlabelled, feature=Value("int8"))
    return dataset


def _shard_files(folder: Path, split: str) -> list[str]:
    splits = read_manifest(folder)["splits"]
    if split not in splits:
        raise FileNotFoundError(f"{folder} has no split {split!r}; it has {', '.join(splits)}.")
    files = [folder / shard["file"] for shard in splits[split]["shards"]]
    if absent := [str(file) for file in files if not file.is_file()]:
        raise FileNotFoundError(f"{folder} lacks {', '.join(absent)}, which its {MANIFEST_NAME} lists; copy it again.")
    return [str(file) for file in files]


def check_mfa(
    dataset: Dataset,
    source: str,
    *,
    with_images: bool = True,
    au_ids: Sequence[int] | None = AU_IDS,
    affect: bool = False,
) -> None:
    """Check that a data set follows the schema; `with_images`, `au_ids` and `affect` are those of `load_mfa`.

    Raises:
        ValueError: it does not; `source` and the columns are named.
    """
    features = dataset.features
    emotions: Sequence[str] = EMOTIONS
    if au_ids is None:
        au_ids = au_ids_in_columns(features)
        emotions = features["emotion"].names if isinstance(features.get("emotion"), ClassLabel) else EMOTIONS
    expected = mfa_features(with_images, au_ids, emotions, affect or has_affect(features))
    if missing := [name for name in expected if name not in features and name not in PROVENANCE_COLUMNS]:
        if missing == ["image"]:
            raise ValueError(
                f"{source} has annotations alone, without the column image; join them with the pictures: "
                "mf2 data join SOURCE OUT --images ROOT"
            )
        raise ValueError(f"{source} lacks the columns {', '.join(missing)}; it has {', '.join(features)}.")
    type_errors = [
        f"{name} is {features[name]} instead of {feature}"
        for name, feature in expected.items()
        if name in features and features[name] != feature and name != "image"
    ]
    if with_images and not isinstance(features["image"], Image):
        type_errors.append(f"image is {features['image']} instead of Image()")
    if type_errors:
        raise ValueError(f"{source} has columns of a wrong type: {'; '.join(type_errors)}.")
    if len(dataset) == 0:
        raise ValueError(f"{source} has no rows.")
    _check_labels(dataset, source, au_columns(au_ids))


def _check_labels(dataset: Dataset, source: str, columns: Sequence[str]) -> None:
    last_emotion = dataset.features["emotion"].num_classes - 1
    affect = [(name, -1, 1) for name in AFFECT if name in dataset.features]
    for name, low, high in (("emotion", 0, last_emotion), *((name, AU_UNLABELLED, 1) for name in columns), *affect):
        values = dataset.data.column(name)
        known = values.filter(pc.invert(pc.is_nan(values))) if name in AFFECT else values
        bounds = pc.min_max(known).as_py()
        out_of_range = bounds["min"] is not None and not low <= bounds["min"] <= bounds["max"] <= high
        if out_of_range or (name != "emotion" and values.null_count):
            unlabelled = " or be null." if name == "emotion" else " or be NaN." if name in AFFECT else "."
            raise ValueError(
                f"{source}: {name} runs from {bounds['min']} to {bounds['max']} with {values.null_count} nulls; "
                f"it must lie in {low}..{high}{unlabelled}"
            )


def read_manifest(path: str | Path) -> dict[str, Any]:
    """Read the `manifest.json` of a data set folder.

    Raises:
        FileNotFoundError: the folder has none.
        ValueError: it is not a manifest of this format.
    """
    file = Path(path) / MANIFEST_NAME
    if not file.is_file():
        raise FileNotFoundError(f"{path} is not a data set folder: it has no {MANIFEST_NAME}.")
    try:
        manifest = json.loads(file.read_text("utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{file} is not valid JSON ({error}).") from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT or "splits" not in manifest:
        raise ValueError(f"{file} does not describe a data set in the {FORMAT!r} format.")
    if manifest.get("format_version") != FORMAT_VERSION:
        raise ValueError(
            f"{file} has format_version {manifest.get('format_version')}; this code reads {FORMAT_VERSION}."
        )
    return manifest


def dataset_fingerprint(path: str | Path) -> str:
    """SHA-256 over the names and SHA-256 values of all shards in the manifest of a data set folder."""
    return fingerprint_manifest(read_manifest(path))


def fingerprint_manifest(manifest: Mapping[str, Any]) -> str:
    """`dataset_fingerprint` from a manifest."""
    splits = manifest["splits"]
    lines = sorted(f"{shard['sha256']}  {shard['file']}\n" for info in splits.values() for shard in info["shards"])
    return hashlib.sha256("".join(lines).encode()).hexdigest()
