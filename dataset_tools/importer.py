"""`mf2 data import NAME ROOT OUT`: converts an annotated data set on disk to a data set in the MFA schema.

Image files are copied byte by byte; landmarks come from a file, captions from a template.
"""

import argparse
import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image
from tqdm import tqdm

from ..labels_mf2 import AFFECT, AFFECT_UNLABELLED, AU_UNLABELLED, EMOTIONS, NUM_LANDMARKS, unlabelled_aus
from .captions import template_captions
from .index import read_frames
from .landmark_files import Frame, read_matching_landmarks
from .readers.interface import About, Report, emotion_names
from .readers.registry import add_reader_parsers, load_reader
from .readers.video_frames import VideoReader, split_video_path
from .replacements import REPLACED_KEY, read_selection_rounds, strip_counts
from .schema import au_ids_in_columns, has_affect, write_mfa
from .stage_report import Tally
from .stage_settings import STAGES_KEY, collect_settings

LANDMARKS_NAME = "landmarks.csv"
ROWS_AT_ONCE = 1000
SPLIT_RULES = ("official", "random")
RECORDED = ("threshold", "fold", "crop")
"""Settings of a reader that have their own key in the manifest; null if the data set has no such setting."""

COUNTED = {
    "images": "images written",
    "unreadable": "dropped: the image cannot be decoded",
    "no_landmarks": "images without landmarks",
    "no_emotion": "images without an emotion",
    "no_au": "images without any labelled AU",
    "affect": "images with valence and arousal",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `mf2 data import`."""
    for reader_parser in add_reader_parsers(parser):
        _add_shared_arguments(reader_parser)


def _add_shared_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that every data set has."""
    add = parser.add_argument
    add("--landmarks", type=Path, metavar="CSV", help=f"landmark file (default: ROOT/{LANDMARKS_NAME} if it exists)")
    add("--captions", choices=("template", "none"), default="template", help="default: %(default)s")
    add("--split", choices=SPLIT_RULES, help="default: official where the data set has a split, else random")
    add("--eval_fraction", type=float, default=0.1, help="share of the groups, with --split random")
    add("--selection", type=Path, metavar="FRAMES", help="keep these frames and their split (`mf2 data select`)")
    add("--dataset_name", help="name in the card and in the column `dataset` (default: NAME)")
    add("--seed", type=int, default=0, help="of the random split and of the captions")
    add("--overwrite", action="store_true", help="replace the data set OUT")


def import_dataset(name: str, root: str | Path, out: str | Path, **options: Any) -> Path:
    """Run `mf2 data import NAME ROOT OUT` from Python.

    Args:
        name: the reader, such as `disfa`.
        root: folder of the data set on disk.
        out: folder to make.
        options: the options of the command by name (`fold=2`, `overwrite=True`).
    Returns:
        The folder `out`.
    Raises:
        FileNotFoundError, ValueError: as for the command; or an unknown option.
    """
    parser = argparse.ArgumentParser(name)
    add_arguments(parser)
    args = parser.parse_args([name, str(root), str(out)])
    if unknown := options.keys() - vars(args).keys():
        raise ValueError(f"{name} has no option {', '.join(sorted(unknown))}; it has {', '.join(vars(args))}.")
    run(argparse.Namespace(**vars(args) | options))
    return Path(out)


def run(args: argparse.Namespace) -> None:
    """Read the data set, select its frames, write it, and print the counts."""
    reader = load_reader(args.reader)
    frames, report = reader.read(args.root, args)
    print(report.to_markdown())
    rule = args.split or ("random" if frames["split"].null_count == len(frames) else "official")
    frames = _select_frames(frames, args, rule)
    landmarks = read_frame_landmarks(args.landmarks, args.root, frames)
    counts = Tally(COUNTED)
    split_rule = _describe_split(frames, rule, args)
    print(f"Split: {split_rule}.")
    manifest = {
        **_describe_source(reader.ABOUT, report, args),
        "split_rule": split_rule,
        STAGES_KEY: _collect_stage_settings(args),
        **_read_replacements(args.selection),
        "counts": counts.counts,
    }
    with tqdm(total=len(frames), desc="images", unit="image") as bar:
        splits = {
            split: _rows(frames.filter(pc.equal(frames["split"], split)), landmarks, counts, bar, args)
            for split in frames["split"].unique().to_pylist()
        }
        write_mfa(
            args.out,
            splits,
            manifest=manifest,
            au_ids=au_ids_in_columns(frames.column_names),
            emotions=emotion_names(frames),
            affect=has_affect(frames.column_names),
            overwrite=args.overwrite,
        )
    print(counts.to_markdown())


def _describe_source(about: About, report: Report, args: argparse.Namespace) -> dict[str, Any]:
    """The manifest's entries on the source of the data set and on how it was imported."""
    return {
        "pretty_name": args.dataset_name or about.name,
        **asdict(about.license),
        "citation": about.citation,
        "made_by": f"mf2 data import {args.reader}",
        "arguments": {name: getattr(args, name) for name in ("captions", "split", "eval_fraction", "seed")},
        **{name: report.settings.get(name) for name in RECORDED},
        "report": report.to_dict(),
    }


def _collect_stage_settings(args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """The settings of this stage and of those before it."""
    stages = {"index": collect_settings(args, load_reader(args.reader).add_arguments)}
    if args.selection is not None:
        report_file = _selection_folder(args.selection) / "report.json"
        report = json.loads(report_file.read_text("utf-8")) if report_file.is_file() else {}
        stages["select"] = report.get("settings", {})
        if "top_up" in report:
            stages["top_up"] = report["top_up"]
    return {**stages, "import": collect_settings(args, _add_shared_arguments)}


def _read_replacements(selection: Path | None) -> dict[str, Any]:
    """The manifest's entry on frames that were replaced in the selection; empty if there are none."""
    rounds = [] if selection is None else strip_counts(read_selection_rounds(_selection_folder(selection)))
    return {REPLACED_KEY: rounds} if rounds else {}


def _selection_folder(selection: Path) -> Path:
    return selection if selection.is_dir() else selection.parent


def _describe_split(frames: pa.Table, rule: str, args: argparse.Namespace) -> str:
    if args.selection is not None:
        return "that of the selection"
    if rule == "official":
        return "official"
    return f"{args.eval_fraction:g} of {len(frames['group_id'].unique())} groups at random, seed {args.seed}"


# ------------------------------------------------------------------------------------------------------- the frames
def _select_frames(frames: pa.Table, args: argparse.Namespace, rule: str) -> pa.Table:
    """The frames to write, each with its split."""
    if not len(frames):
        raise ValueError(f"No frame of {args.root} was kept; the table above says why.")
    if args.selection is not None:
        frames = apply_selection(frames, read_frames(args.selection))
    elif rule == "random":
        frames = split_at_random(frames, args.eval_fraction, args.seed)
    if not len(frames):
        raise ValueError(f"No frame of {args.root} is left; the table above says why.")
    if unsplit := frames["split"].null_count:
        raise ValueError(f"{unsplit:,} frames have no official split; pass --split random.")
    return frames


def apply_selection(frames: pa.Table, selection: pa.Table) -> pa.Table:
    """Keep the frames of a selection, with the splits of the selection.

    Raises:
        ValueError: the selection has a frame that the data set lacks.
    """
    if absent := selection["path"].filter(pc.invert(pc.is_in(selection["path"], frames["path"]))).to_pylist():
        raise ValueError(f"{len(absent):,} selected frames are not in the data set, the first is {absent[0]}.")
    position = pc.index_in(frames["path"], selection["path"])
    kept = frames.filter(pc.is_valid(position))
    split = selection["split"].take(position.drop_null())
    return kept.set_column(kept.schema.get_field_index("split"), "split", split)


def split_at_random(frames: pa.Table, eval_fraction: float, seed: int) -> pa.Table:
    """Assign `eval_fraction` of the groups, at least one, to `validation` and the others to `train`.

    Raises:
        ValueError: the fraction is not between 0 and 1, or leaves a split without a group.
    """
    if not 0 < eval_fraction < 1:
        raise ValueError(f"eval_fraction is {eval_fraction}; it must lie between 0 and 1.")
    groups = sorted(frames["group_id"].unique().to_pylist())
    num_eval = max(1, round(eval_fraction * len(groups)))
    if num_eval >= len(groups):
        raise ValueError(f"{len(groups)} groups cannot be split; a split needs one group at least on each side.")
    chosen = np.random.default_rng(seed).permutation(groups)[:num_eval]
    in_eval = pc.is_in(frames["group_id"].cast(pa.string()), pa.array(chosen.tolist()))
    split = pc.if_else(in_eval, "validation", "train")
    return frames.set_column(frames.schema.get_field_index("split"), "split", split)


# --------------------------------------------------------------------------------------------------------- the rows
def read_frame_landmarks(file: Path | None, root: Path, frames: pa.Table) -> dict[Frame, npt.NDArray[np.float32]]:
    """Read the (68, 2) landmarks of the frames from a file, or from `ROOT/landmarks.csv`; empty without either."""
    path = file or root / LANDMARKS_NAME
    if file is None and not path.is_file():
        return {}
    names = set(zip(frames["video_id"].to_pylist(), frames["frame"].to_pylist(), strict=True))
    return read_matching_landmarks(path, names)


def _rows(
    frames: pa.Table,
    landmarks: Mapping[Frame, npt.NDArray[np.float32]],
    counts: Tally,
    bar: tqdm,
    args: argparse.Namespace,
) -> Iterator[dict[str, Any]]:
    """Yield the rows of one split in the MFA schema."""
    emotions, videos = emotion_names(frames), VideoReader()
    for batch in frames.drop_columns(["split"]).to_batches(max_chunksize=ROWS_AT_ONCE):
        for row in batch.to_pylist():
            bar.update()
            path = row.pop("path")
            image = _read_image_or_frame(args.root, path, videos)
            if image is None:
                counts.add("unreadable", example=path)
                continue
            row["image"] = image
            row["file_name"] = f"{row['video_id']}/{_image_name(path)}"
            row["dataset"] = args.dataset_name or args.reader
            row["landmarks"] = _choose_landmarks(row, landmarks)
            if args.captions == "template":
                row |= _template_columns(row, emotions, args.seed)
            _count_row(row, counts)
            yield row


def _choose_landmarks(row: Mapping[str, Any], from_file: Mapping[Frame, npt.NDArray[np.float32]]) -> Any:
    """(68, 2) points of the landmark file, or else of the data set, or None."""
    points = row.get("landmarks")
    default = None if points is None else np.reshape(points, (NUM_LANDMARKS, 2))
    return from_file.get((row["video_id"], row["frame"]), default)


def _image_name(path: str) -> str:
    """The name of an image file; for a frame of a video, `00012.jpg` by its number."""
    frame = split_video_path(path)
    return Path(path).name if frame is None else f"{frame[1]:05d}.jpg"


def _read_image_or_frame(root: Path, path: str, videos: VideoReader) -> bytes | None:
    frame = split_video_path(path)
    return read_image(root / path) if frame is None else videos.read(root / frame[0], frame[1])


def read_image(path: Path) -> bytes | None:
    """The bytes of an image file, or None if it cannot be fully read and decoded."""
    try:
        data = path.read_bytes()
        with Image.open(io.BytesIO(data)) as image:
            image.load()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None
    return data


def _labelled_aus(row: Mapping[str, Any]) -> dict[int, int]:
    """AU id -> 1 or 0, for the labelled AUs."""
    return {int(name[2:]): row[name] for name in row if name.startswith("AU") and row[name] != AU_UNLABELLED}


def _template_columns(row: Mapping[str, Any], emotions: Sequence[str], seed: int) -> dict[str, str | None]:
    """The caption columns of the template.

    A caption is null if the labels do not determine it: no emotion or none of the eight, or no AU is active and some
    are unlabelled.
    """
    aus = _labelled_aus(row)
    name = None if row["emotion"] is None else emotions[row["emotion"]]
    emotion = name if name in EMOTIONS else None
    active = [au_id for au_id, label in aus.items() if label]
    captions = template_captions(
        f"{row['dataset']}/{row['file_name']}", active, emotion, seed, unlabelled_aus=unlabelled_aus(aus)
    )
    return {
        "caption_au": captions.au,
        "caption_emotion": captions.emotion,
        "caption_key_au": captions.key_au,
        "caption_source": "template",
    }


def _count_row(row: Mapping[str, Any], counts: Tally) -> None:
    counts.add("images")
    counts.add("no_landmarks", row["landmarks"] is None, example=row["file_name"])
    counts.add("no_emotion", row["emotion"] is None)
    counts.add("no_au", not _labelled_aus(row))
    counts.add("affect", not any(math.isnan(row.get(name, AFFECT_UNLABELLED)) for name in AFFECT))
