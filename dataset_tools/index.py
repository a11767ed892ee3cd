"""`mf2 data index`: joins the annotations and the images of a data set, and reports what is missing or invalid.

OUT/frames.parquet    the frame table (see `readers.interface`)
OUT/report.json, OUT/report.md
"""

import argparse
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ..utils.files import replacing, write_json, write_text
from .readers.registry import add_reader_parsers, load_reader

FRAMES_NAME = "frames.parquet"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `mf2 data index`."""
    add_reader_parsers(parser)


def run(args: argparse.Namespace) -> None:
    """Read the data set, and write the report and the frames.

    Raises:
        ValueError: no frame was kept; the report is written before that.
    """
    frames, report = load_reader(args.reader).read(args.root, args)
    write_json(args.out / "report.json", report.to_dict())
    write_text(args.out / "report.md", report.to_markdown())
    write_frames(args.out, frames)
    print(report.to_markdown())
    if not len(frames):
        raise ValueError(f"No frame of {args.root} was kept; the table above says why.")
    print(f"{len(frames):,} frames in {args.out / FRAMES_NAME}")


def write_frames(folder: Path, frames: pa.Table) -> None:
    """Write a frame table into a folder, atomically."""
    with replacing(folder / FRAMES_NAME) as part:
        pq.write_table(frames, part)


def read_frames(path: Path) -> pa.Table:
    """Read a frame table from its file or its folder.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not a frame table; the missing columns are named.
    """
    file = path / FRAMES_NAME if path.is_dir() else path
    if not file.is_file():
        raise FileNotFoundError(f"{file} does not exist; `mf2 data index` makes it.")
    try:
        frames = pq.read_table(file)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{file} cannot be read: {error}") from None
    required = ("path", "video_id", "group_id", "frame", "emotion", "split")
    if missing := [name for name in required if name not in frames.column_names]:
        raise ValueError(f"{file} is no frame table: it lacks the columns {', '.join(missing)}.")
    return frames
