"""`mf2 analyze`: pictures, folders and videos to a table of faces with action units and emotions."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..caption_meaning_mf2 import RERANKINGS
from ..hub.sources import DEFAULT_MODEL, check_model_source
from ..utils.command_line import illustration
from .face_arguments import FaceSearch, add_face_arguments
from .report.command import REPORT_NAME, write_report

FORMATS = ("parquet", "csv", "jsonl", "openface", "pyfeat", "abaw")
CAPTION_KINDS = ("emotion", "au", "key_au")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `mf2 analyze`."""
    parser.epilog = (
        "Every frame has a row for each face, or one with face -1. A run that was stopped goes on with the same "
        "command; of a folder that grew only what is new is analysed, and comes last. "
        "The exit status is 1 if something could not be read."
    )
    add = parser.add_argument
    add("paths", nargs="+", type=Path, metavar="PATH", help="pictures, videos, and folders to be searched for them")
    add("--model", default=DEFAULT_MODEL, help=f"folder or Hub repository of a checkpoint [{DEFAULT_MODEL}]")
    add("--adapter", action="append", default=[], help="also ask this DFN adapter; any number of times, in one pass")
    add(
        "--output_dir",
        "--output",
        dest="output",
        type=Path,
        default=Path("outputs/analysis"),
        metavar="DIR",
        help="[outputs/analysis]",
    )
    add("--format", type=_listed(FORMATS), default=("parquet",), metavar="F,…", help=f"{', '.join(FORMATS)} [parquet]")
    add("--overlay", action="store_true", help="also write annotated pictures and videos")
    add("--report", action="store_true", help="also write report.html")
    add("--captions", type=_listed(CAPTION_KINDS), default=(), metavar="K,…", help="emotion, au, key_au")
    add_rerank(add)
    add_face_arguments(parser)
    work = parser.add_argument_group("how the work is done")
    work.add_argument("--device", help="cpu, cuda, cuda:1, mps, … [an accelerator if there is one]")
    work.add_argument("--batch_size", type=_positive(int), default=16, metavar="N", help="faces in a pass [16]")
    work.add_argument("--compile", action="store_true", help="torch.compile the image path: slow start, then faster")
    work.add_argument("--fps", type=_positive(float), metavar="F", help="frames a second to take of videos [all]")
    work.add_argument(
        "--shard", type=_shard, default=(1, 1), metavar="I/N", help="only the I-th of N shares of the sources"
    )
    work.add_argument("--num_threads", type=_positive(int), default=4, metavar="N", help="pictures read at once [4]")


def add_rerank(add: Callable[..., Any]) -> None:
    """The option `--rerank` of commands that write captions, through a parser's or a group's `add_argument`."""
    add(
        "--rerank",
        choices=(*RERANKINGS, "none"),
        default="agreement",
        help="of eight captions keep what the recognisers support, or what the matching head prefers; none writes "
        "one, in an eighth of the time [agreement]",
    )


def rerank_of(args: argparse.Namespace) -> str | None:
    """What `generate` takes for `--rerank`."""
    return None if args.rerank == "none" else args.rerank


def run(args: argparse.Namespace) -> int:
    """Analyse, write what was asked for, and say what was seen."""
    for name in (args.model, *args.adapter):
        check_model_source(name)
    from .engine import AnalyzeOptions, analyze, shard_folder

    options = AnalyzeOptions(
        model=args.model,
        adapters=tuple(args.adapter),
        device=args.device,
        batch_size=args.batch_size,
        faces=FaceSearch.from_args(args),
        captions=args.captions,
        rerank=rerank_of(args),
        fps=args.fps,
        shard=args.shard,
        formats=_with_table(args.format, args.overlay),
        num_threads=args.num_threads,
        compile=args.compile,
    )
    summary = analyze(args.paths, args.output, options)
    folder = shard_folder(args.output, args.shard)
    illustrate(folder, args.overlay, args.report)
    for name, reason in summary.failed.items():
        print(f"mf2 analyze: failed: {name}: {reason}", file=sys.stderr)
    has_missed = options.faces.is_file and not summary.faces
    if has_missed:
        print(f"mf2 analyze: failed: no frame has landmarks in {options.faces.landmarks}", file=sys.stderr)
    print(f"{summary.to_line()}; see {folder}")
    return 1 if summary.errors or has_missed else 0


def illustrate(folder: Path, overlay: bool, report: bool) -> None:
    """Draw the overlays and write the report of a finished run, as far as they are wanted."""
    if overlay:
        with illustration(folder / "overlay"):
            from .overlay import write_overlays

            write_overlays(folder)
    if report:
        with illustration(folder / REPORT_NAME):
            print(write_report(folder))


def _with_table(formats: tuple[str, ...], needs_parquet: bool) -> tuple[str, ...]:
    """The formats, and parquet where none is a table of all columns or the overlay is drawn from it."""
    has_table = any(name in ("parquet", "csv", "jsonl") for name in formats)
    is_whole = "parquet" in formats if needs_parquet else has_table
    return formats if is_whole else (*formats, "parquet")


def _listed(choices: tuple[str, ...]):
    """A parser of comma-separated choices."""

    def parse(text: str) -> tuple[str, ...]:
        values = tuple(dict.fromkeys(text.split(",")))
        if unknown := [value for value in values if value not in choices]:
            raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(choices)}")
        return values

    return parse


def _positive(kind: type):
    """A parser of numbers above 0."""

    def parse(text: str):
        try:
            value = kind(text)
        except ValueError:
            value = 0
        if not 0 < value < float("inf"):
            raise argparse.ArgumentTypeError(f"{text!r} is no number above 0")
        return value

    return parse


def _shard(text: str) -> tuple[int, int]:
    number, _, count = text.partition("/")
    if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise argparse.ArgumentTypeError(f"{text!r} is no I/N with I from 1 to N")
    return int(number), int(count)
