"""Command-line handling: dispatch to commands, help texts, and exit statuses. Does not import torch.

A command ends with an exit status. A user error is shown as one line instead of a traceback, and a failed illustration
is a warning.
"""

import argparse
import importlib
import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType

logger = logging.getLogger(__name__)

USER_ERRORS = (ValueError, OSError, ImportError, FloatingPointError)
"""Errors raised by wrong arguments, files, settings or installations; others are bugs and keep their traceback."""


# ------------------------------------------------------------------------------------------------------------ dispatch
@dataclass(frozen=True)
class Command:
    """A command of `mf2`.

    Args:
        module: module of this package with `add_arguments(parser)` and `run(args)`, or with `main(argv)` if it has
            sub-commands. It is imported when the command is used.
        text: description of the command.
        example: an example command line.
        arguments: `module:function` that adds the arguments, if `module` imports torch.
    """

    module: str
    text: str
    example: str = ""
    arguments: str = ""

    def load(self) -> ModuleType:
        """Import the module."""
        return importlib.import_module(f"mf2.{self.module}")

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the command's arguments to a parser."""
        module, _, function = self.arguments.partition(":")
        source = importlib.import_module(f"mf2.{module}") if module else self.load()
        getattr(source, function or "add_arguments")(parser)


class HelpFormatter(argparse.HelpFormatter):
    """argparse's formatter, without wrapping the lines of examples."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        fill = super()._fill_text
        return "\n\n".join(part if "\n  " in part else fill(part, width, indent) for part in text.split("\n\n"))


def make_parser(
    prog: str, command: Command, parser_class: type[argparse.ArgumentParser] = argparse.ArgumentParser
) -> argparse.ArgumentParser:
    """Make the argument parser of a command; its help ends with the example."""
    description = command.text[0].upper() + command.text[1:] + "."
    parser = parser_class(prog, description=description, formatter_class=HelpFormatter, allow_abbrev=False)
    command.add_arguments(parser)
    example = "\n".join(("example:", *(f"  {line}" for line in command.example.splitlines())))
    parser.epilog = "\n\n".join(filter(None, (parser.epilog, example)))
    return parser


def run_one_of(
    prog: str,
    commands: Mapping[str, Command],
    argv: Sequence[str] | None,
    description: str,
    parser_class: type[argparse.ArgumentParser] = argparse.ArgumentParser,
) -> int:
    """Run the command named by the first argument; returns its exit status.

    Args:
        prog: the program name in messages, without the command.
        commands: name -> command.
        argv: the arguments; those of this process by default.
        description: description in the help.
        parser_class: class of the commands' parsers.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(prog, description=description)
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, command in commands.items():
        subparsers.add_parser(name, help=command.text, add_help=False)
    name = parser.parse_known_args(argv[:1])[0].command
    return run_named(f"{prog} {name}", commands[name], argv[1:], parser_class)


def run_named(
    prog: str,
    command: Command,
    argv: Sequence[str],
    parser_class: type[argparse.ArgumentParser] = argparse.ArgumentParser,
) -> int:
    """Run a command with its arguments; returns its exit status."""
    return run_command(prog, partial(_run, prog, command, argv, parser_class))


def _run(prog: str, command: Command, argv: Sequence[str], parser_class: type[argparse.ArgumentParser]) -> int | None:
    if not command.arguments and hasattr(command.load(), "main"):
        return command.load().main(argv)
    args = make_parser(prog, command, parser_class).parse_args(argv)
    return command.load().run(args)


# --------------------------------------------------------------------------------------------------------- exit status
def run_command(prog: str, command: Callable[[], int | None]) -> int:
    """Run a command and show its log messages; a user error or an interruption is reported as one line on stderr.

    Args:
        prog: name of the command in messages.
        command: returns its exit status, or None for 0.
    Returns:
        The exit status: 1 after a user error, 130 after an interruption.
    """
    try:
        with _messages_on_stderr():
            return command() or 0
    except USER_ERRORS as error:
        remedy = ": pip install mf2-face" if isinstance(error, ModuleNotFoundError) and error.name else ""
        print(f"{prog}: error: {one_line(error)}{remedy}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{prog}: interrupted; run the same command to continue.", file=sys.stderr)
        return 130


@contextmanager
def illustration(file: str | Path) -> Iterator[None]:
    """A block that makes an illustration of a result, after the result itself was written.

    Any exception in the block becomes a warning of one line (the traceback is logged at debug level), and the command
    continues and keeps its exit status. A keyboard interrupt is not caught.

    Args:
        file: the illustration; running the command again must make it if it is missing.
    """
    try:
        yield
    except Exception as error:
        reason = f"{type(error).__name__}: {one_line(error)}"
        logger.warning(f"{file} could not be made ({reason}). Nothing else is lost; the same command makes it again.")
        logger.debug(f"Traceback of {file}:", exc_info=True)


def run_script(main: Callable[[], None]) -> int:
    """Run a script's `main`; see `run_command`."""
    return run_command(Path(sys.argv[0]).name, main)


def one_line(error: Exception) -> str:
    """The message of an error in one line; for an error in a data loader's process, its original message."""
    text = str(error).strip()
    if text.startswith("Caught "):
        text = text.splitlines()[-1].partition(": ")[2]
    return " ".join(text.split()) or type(error).__name__


@contextmanager
def _messages_on_stderr() -> Iterator[None]:
    """Show the package's log messages above any progress bar; processes of other ranks only show errors."""
    from tqdm.contrib.logging import logging_redirect_tqdm  # imported here because it would slow --help

    package_logger, handler = logging.getLogger("mf2"), logging.StreamHandler()
    package_logger.setLevel(logging.ERROR if int(os.environ.get("RANK", 0)) else logging.INFO)
    package_logger.addHandler(handler)
    try:
        with logging_redirect_tqdm([package_logger]):
            yield
    finally:
        package_logger.removeHandler(handler)
