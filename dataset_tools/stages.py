"""`mf2 data …`: finds the module of a data stage, and nothing else.

A module's `add_arguments(parser)` and `run(args)` are its command; it is imported only when the command is used.
Options are spelt with underscores, as the keys of a YAML file are; hyphens do as well.
"""

import argparse
import importlib
import sys
from collections.abc import Sequence
from functools import partial
from types import ModuleType

from ..utils.command_line import run_command

COMMANDS: dict[str, tuple[str, str]] = {
    "synth": ("synthetic.synth", "draw a synthetic sample: faces with exact landmarks, AUs, emotions and captions"),
    "list": ("listing", "show the data sets that can be read and what each gives"),
    "import": ("importer", "read an annotated data set from disk into the MFA schema"),
    "index": ("index", "bring annotations and images of a data set together and report every oddity"),
    "select": ("select", "choose a balanced sample of an index, split by video"),
    "landmarks": ("landmarks", "find the 68 landmarks of every image, or take given ones"),
    "caption": ("captions.command", "write the three captions of every image"),
    "top_up": ("top_up", "replace the selected frames whose captions failed by unused ones"),
    "validate": ("captions.validate_command", "check captions against the labels and report violations"),
    "join": ("join", "join annotations without images, of a folder or of the Hub, with the pictures"),
    "export": ("export", "make a Hub repository of a data set: card, annotations, and the images on request"),
    "build": ("build", "run the stages of a configuration file, each skipped while its inputs are unchanged"),
}
"""Command -> (module of this package, what it does)."""


class OptionParser(argparse.ArgumentParser):
    """Takes `--max-usd` for `--max_usd`, as its subparsers do."""

    def parse_known_args(self, args=None, namespace=None):  # type: ignore[no-untyped-def, override]
        """See `argparse`."""
        words = sys.argv[1:] if args is None else args
        return super().parse_known_args([_with_underscores(word) for word in words], namespace)


def _with_underscores(word: str) -> str:
    """`--max-usd=1-2` -> `--max_usd=1-2`; other words stay as they are."""
    name, equals, value = word.partition("=")
    if not name.startswith("--"):
        return word
    return f"--{name[2:].replace('-', '_')}{equals}{value}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run `mf2 data COMMAND …`; returns the exit status."""
    argv = list(sys.argv[1:] if argv is None else argv)
    top = argparse.ArgumentParser("mf2 data", description="Make a data set, stage by stage.")
    subparsers = top.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, (_, text) in COMMANDS.items():
        subparsers.add_parser(name, help=text, add_help=False)
    command = top.parse_known_args(argv[:1])[0].command
    return run_command(f"mf2 data {command}", partial(_run, command, argv[1:]))


def make_parser(command: str) -> tuple[ModuleType, argparse.ArgumentParser]:
    """The module of a command and the parser of its arguments."""
    module_name, text = COMMANDS[command]
    module = importlib.import_module(f".{module_name}", __package__)
    parser = OptionParser(f"mf2 data {command}", description=text[0].upper() + text[1:] + ".")
    module.add_arguments(parser)
    return module, parser


def _run(command: str, argv: Sequence[str]) -> int | None:
    module, parser = make_parser(command)
    return module.run(parser.parse_args(argv))
