"""`mf2 analyze`: pictures, folders and videos to a table of faces with action units and emotions."""

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
from .runtimes import ONNX, RUNTIMES, runtime_of

FORMATS = ("parquet", "csv", "jsonl", "openface", "pyfeat", "abaw")
CAPTION_KINDS = ("emotion", "au", "key_au")
PACKAGES = {
    "--format parquet": ("pyarrow",),
    "--overlay": ("pyarrow", "matplotlib"),
    "--report": ("pandas", "pyarrow", "jinja2", "markdown_it"),
}
"""Packages that small installations lack, by what needs them."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `mf2 analyze`."""
    parser.epilog = (
        "Every frame has a row for each face, or one with face -1. A run that was stopped goes on with the same "
        "command; of a folder that grew only what is new is analysed, and comes last. "
        "The exit status is 1 if something could not be read."
    )
    add = parser.add_argument
    add("paths", nargs="+", type=Path, metavar="PATH", help="pictures, videos, and folders to be searched for them")
    add(
        "--model",
        default=DEFAULT_MODEL,
        help=f"folder or Hub repository of a checkpoint, or a file of `mf2 export --onnx` [{DEFAULT_MODEL}]",
    )
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
    default = "parquet" if _is_installed("pyarrow") else "csv"
    add("--format", type=_listed(FORMATS), default=(default,), metavar="F,…", help=f"{', '.join(FORMATS)} [{default}]")
    add("--overlay", action="store_true", help="also write annotated pictures and videos")
    add("--report", action="store_true", help="also write report.html")
    add("--captions", type=_listed(CAPTION_KINDS), default=(), metavar="K,…", help="emotion, au, key_au")
    add_rerank(add)
    add_face_arguments(parser)
    work = parser.add_argument_group("how the work is done")
    work.add_argument(
        "--runtime",
        choices=RUNTIMES,
        help="onnx: compute an exported file, without torch, also that in the folder --model [that of --model]",
    )
    work.add_argument("--device", help="cpu, cuda, cuda:1, mps, … [an accelerator if there is one]")
    work.add_argument("--batch_size", type=_positive(int), default=16, metavar="N", help="faces in a pass [16]")
    work.add_argument("--compile", action="store_true", help="torch.compile the image path: slow start, then faster")
    work.add_argument(
        "--precision",
        choices=PRECISIONS,
        default=TF32,
        help="how a GPU multiplies float32: tf32 is faster, and probabilities differ by up to 0.001 [%(default)s]",
    )
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
    runtime = runtime_of(args.model, args.runtime)
    formats = _with_table(args.format, args.overlay)
    wanted = {"--format parquet": "parquet" in formats, "--overlay": args.overlay, "--report": args.report}
    check_packages([name for name, is_wanted in wanted.items() if is_wanted])
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
        rerank=rerank_of(args),
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


def check_packages(wanted: Sequence[str]) -> None:
    """Raise an `ImportError` before the work begins where a package that its outputs need is missing.

    Args:
        wanted: keys of `PACKAGES`.
    """
    for name in wanted:
        if missing := [package for package in PACKAGES[name] if not _is_installed(package)]:
            raise ImportError(f"{name} needs {', '.join(missing)}: pip install mf2-face, or leave it out.")


def _is_installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def _find_models(names: Sequence[str], runtime: str) -> list[str]:
    """The checkpoint and its adapters as the runtime takes them, after a look at whether they are there."""
    if runtime == ONNX:
        from ..onnx_runtime.recognizer import find_model

        return [str(find_model(name)) for name in names]
    for name in names:
        check_model_source(name)
    return list(names)


def _with_table(formats: tuple[str, ...], needs_parquet: bool) -> tuple[str, ...]:
    """The formats, and a table of all columns where none is one, which is parquet where the overlay needs it."""
    has_table = any(name in ("parquet", "csv", "jsonl") for name in formats)
    is_whole = "parquet" in formats if needs_parquet else has_table
    table = "parquet" if needs_parquet or _is_installed("pyarrow") else "csv"
    return formats if is_whole else (*formats, table)


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
