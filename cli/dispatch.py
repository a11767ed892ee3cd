"""The `mf2` command: finds the module of a command, and nothing else.

A module's `add_arguments(parser)` and `run(args)` are its command; one with a `main(argv)` has commands of its own. It
is imported only when the command is used, so that `mf2 --help` answers at once.
"""

import argparse
import importlib
import sys
from collections.abc import Sequence
from functools import partial
from types import ModuleType

from ..utils.command_line import run_command

COMMANDS: dict[str, tuple[str, str]] = {
    "data": ("dataset_tools.stages", "make a data set, stage by stage: generate, import, select, caption, check"),
    "analyze": ("analysis.analyze", "name the action units and emotions of pictures, folders and videos"),
    "search": (
        "analysis.search.command",
        "find the faces of a folder that fit a description, or the words that fit a face",
    ),
    "report": ("analysis.report.command", "make one web page of what `mf2 analyze` found"),
    "explain": ("analysis.explain", "show where in a face each action unit is seen, and check the sentences"),
    "export": ("analysis.export", "write a checkpoint's image path as ONNX and check it against PyTorch"),
    "demo": ("analysis.demo", "show everything on generated faces: analysis, pictures and a report"),
    "calibrate": ("evaluation.calibrate", "choose the AU thresholds of a checkpoint on labelled faces"),
    "publish": ("hub.publish", "check a checkpoint, an adapter or a data set and push it to the Hub"),
}
"""Command -> (module of this package, what it does)."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run `mf2 COMMAND …`; returns the exit status."""
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser("mf2", description="MF²: facial action units, emotions and captions.")
    parser.add_argument("--version", action="store_true", help="print the version and leave")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND")
    for name, (_, text) in COMMANDS.items():
        subparsers.add_parser(name, help=text, add_help=False)
    args = parser.parse_known_args(argv[:1])[0]
    if args.version:
        print(importlib.import_module("mf2").__version__)
        return 0
    if args.command is None:
        parser.error(f"name a command: {', '.join(COMMANDS)}")
    return run_command(f"mf2 {args.command}", partial(_run, args.command, argv[1:]))


def make_parser(command: str) -> tuple[ModuleType, argparse.ArgumentParser]:
    """The module of a command and the parser of its arguments."""
    module_name, text = COMMANDS[command]
    module = importlib.import_module(f"mf2.{module_name}")
    parser = argparse.ArgumentParser(f"mf2 {command}", description=text[0].upper() + text[1:] + ".")
    if hasattr(module, "add_arguments"):
        module.add_arguments(parser)
    return module, parser


def _run(command: str, argv: Sequence[str]) -> int | None:
    module, parser = make_parser(command)
    return module.main(argv) if hasattr(module, "main") else module.run(parser.parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
