"""`mf2 analyze`: turns pictures, folders and videos into a table of faces with action units and emotions."""

import argparse
import importlib.util
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..caption_meaning_mf2 import RERANKINGS
from ..hub.sources import DEFAULT_MODEL, check_model_source
from ..utils.command_line import illustration
from ..utils.devices import PRECISIONS, TF32
from .face_arguments import FaceSearch, add_face_arguments
from .report.command import REPORT_NAME, write_report
from .runtimes import ONNX, RUNTIMES, choose_runtime

FORMATS = ("parquet", "csv", "jsonl", "openface", "pyfeat", "abaw")
CAPTION_KINDS = ("emotion", "au", "key_au")
PACKAGES = {
    "--format parquet": ("pyarrow",),
    "--overlay": ("pyarrow", "matplotlib"),
    "--report": ("pandas", "pyarrow", "jinja2", "markdown_it"),
}
"""Option -> packages it needs that small installations lack."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `mf2 analyze`."""
    parser.epilog = (
        "Every frame has one row per face, or a single row with face -1. An interrupted run continues with the same "
        "command; if a folder has new files, only those are analysed and appended. "
        "The exit status is 1 if something could not be read."
    )
    add = parser.add_argument
    add("paths", nargs="+", type=Path, metavar="PATH", help="pictures, videos, or folders of them")
    add(
        "--model",
        default=DEFAULT_MODEL,
        help=f"folder or Hub repository of a checkpoint, or a file of `mf2 export --onnx` [{DEFAULT_MODEL}]",
    )
    add("--adapter", action="append", default=[], help="also run this DFN adapter in the same pass; repeatable")
    add(
        "--output_dir",
        "--output",
        dest="output",
        type=Path,
        default=Path("outputs/analysis"),
        metavar="DIR",
        help="[outputs/analysis]",
    )
    default = "parquet" if _is_installed("pyarrow") else "csv"
    add(
        "--format",
        type=_parse_choices(FORMATS),
        default=(default,),
        metavar="F,…",
        help=f"{', '.join(FORMATS)} [{default}]",
    )
    add("--overlay", action="store_true", help="also write annotated pictures and videos")
    add("--report", action="store_true", help="also write report.html")
    add("--captions", type=_parse_choices(CAPTION_KINDS), default=(), metavar="K,…", help="emotion, au, key_au")
    add_rerank(add)
    add_face_arguments(parser)
    work = parser.add_argument_group("performance")
    work.add_argument(
        "--runtime",
        choices=RUNTIMES,
        help="onnx: run an exported file without torch, given as --model or in that folder [chosen by --model]",
    )
    work.add_argument("--device", help="cpu, cuda, cuda:1, mps, … [an accelerator if there is one]")
    work.add_argument(
        "--batch_size", type=_parse_positive(int), default=16, metavar="N", help="faces per forward pass [16]"
    )
    work.add_argument("--compile", action="store_true", help="torch.compile the image path: slower start, then faster")
    work.add_argument(
        "--precision",
        choices=PRECISIONS,
        default=TF32,
        help="how a GPU multiplies float32: tf32 is faster, and probabilities differ by up to 0.001 [%(default)s]",
    )
    work.add_argument(
        "--fps", type=_parse_positive(float), metavar="F", help="frames per second to analyse of videos [all]"
    )
    work.add_argument(
        "--shard",
        type=_parse_shard,
        default=(1, 1),
        metavar="I/N",
        help="analyse only the I-th of N parts of the sources",
    )
    work.add_argument(
        "--num_threads", type=_parse_positive(int), default=4, metavar="N", help="threads that read pictures [4]"
    )


def add_rerank(add: Callable[..., Any]) -> None:
    """Add `--rerank`, the option of commands that generate captions; `add` is a parser's `add_argument`."""
    add(
        "--rerank",
        choices=(*RERANKINGS, "none"),
        default="agreement",
        help="choose the best of eight captions by the recognisers or by the matching head; none generates one, in "
        "an eighth of the time [agreement]",
    )


def parse_rerank(args: argparse.Namespace) -> str | None:
    """The `rerank` argument of `generate` for `--rerank`."""
    return None if args.rerank == "none" else args.rerank


def run(args: argparse.Namespace) -> int:
    """Analyse, write the requested outputs, and print a summary; 1 if something could not be read."""
    runtime = choose_runtime(args.model, args.runtime)
    formats = _add_table_format(args.format, args.overlay)
    requested = {"--format parquet": "parquet" in formats, "--overlay": args.overlay, "--report": args.report}
    check_packages([name for name, is_requested in requested.items() if is_requested])
    model, *adapters = _find_models([args.model, *args.adapter], runtime)
    from .engine import AnalyzeOptions, analyze, shard_folder

    options = AnalyzeOptions(
        model=model,
        adapters=tuple(adapters),
        runtime=runtime,
        device=args.device,
        batch_size=args.batch_size,
        faces=FaceSearch.from_args(args),
        captions=args.captions,
        rerank=parse_rerank(args),
        fps=args.fps,
        shard=args.shard,
        formats=formats,
        num_threads=args.num_threads,
        compile=args.compile,
        precision=args.precision,
    )
    summary = analyze(args.paths, args.output, options)
    folder = shard_folder(args.output, args.shard)
    illustrate(folder, args.overlay, args.report)
    for name, reason in summary.failed.items():
        print(f"mf2 analyze: failed: {name}: {reason}", file=sys.stderr)
    has_no_landmarks = options.faces.is_file and not summary.faces
    if has_no_landmarks:
        print(f"mf2 analyze: failed: no frame has landmarks in {options.faces.landmarks}", file=sys.stderr)
    print(f"{summary.to_line()}; see {folder}")
    return 1 if summary.errors or has_no_landmarks else 0


def illustrate(folder: Path, overlay: bool, report: bool) -> None:
    """Draw the overlays and write the report of a finished run, if requested."""
    if overlay:
        with illustration(folder / "overlay"):
            from .overlay import write_overlays

            write_overlays(folder)
    if report:
        with illustration(folder / REPORT_NAME):
            print(write_report(folder))


def check_packages(options: Sequence[str]) -> None:
    """Raise an `ImportError` before any work if a package that an output needs is missing.

    Args:
        options: keys of `PACKAGES`.
    """
    for name in options:
        if missing := [package for package in PACKAGES[name] if not _is_installed(package)]:
            raise ImportError(f"{name} needs {', '.join(missing)}: pip install mf2-face, or leave it out.")


def _is_installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def _find_models(names: Sequence[str], runtime: str) -> list[str]:
    """Check that the checkpoint and its adapters exist, and return them in the form that the runtime loads."""
    if runtime == ONNX:
        from ..onnx_runtime.recognizer import find_model

        return [str(find_model(name)) for name in names]
    for name in names:
        check_model_source(name)
    return list(names)


def _add_table_format(formats: tuple[str, ...], needs_parquet: bool) -> tuple[str, ...]:
    """The formats, with a table of all columns added if there is none; parquet if the overlay needs it."""
    has_table = any(name in ("parquet", "csv", "jsonl") for name in formats)
    is_complete = "parquet" in formats if needs_parquet else has_table
    table = "parquet" if needs_parquet or _is_installed("pyarrow") else "csv"
    return formats if is_complete else (*formats, table)


def _parse_choices(choices: tuple[str, ...]):
    """Return an argparse type for comma-separated choices."""

    def parse(text: str) -> tuple[str, ...]:
        values = tuple(dict.fromkeys(text.split(",")))
        if unknown := [value for value in values if value not in choices]:
            raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(choices)}")
        return values

    return parse


def _parse_positive(kind: type):
    """Return an argparse type for numbers above 0."""

    def parse(text: str):
        try:
            value = kind(text)
        except ValueError:
            value = 0
        if not 0 < value < float("inf"):
            raise argparse.ArgumentTypeError(f"{text!r} is no number above 0")
        return value

    return parse


def _parse_shard(text: str) -> tuple[int, int]:
    number, _, count = text.partition("/")
    if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise argparse.ArgumentTypeError(f"{text!r} is no I/N with I from 1 to N")
    return int(number), int(count)
