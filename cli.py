"""The `mf2` command: finds the module of a command, and nothing else."""

import argparse
import importlib
import sys
from collections.abc import Sequence

COMMANDS: dict[str, tuple[str, str]] = {
    "data": ("dataset_tools.cli", "make a data set, stage by stage: generate, import, select, caption, check"),
}
"""Command -> (module of this package with a `main(argv)`, what it does)."""


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
        print(importlib.import_module(__package__).__version__)
        return 0
    if args.command is None:
        parser.error(f"name a command: {', '.join(COMMANDS)}")
    return importlib.import_module(f".{COMMANDS[args.command][0]}", __package__).main(argv[1:])


if __name__ == "__main__":
    sys.exit(main())
