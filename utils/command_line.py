"""Commands: how one is found, what its help shows, and how it ends. No torch.

A command ends with its exit status; a user's error is one line instead of a traceback, and a failed picture a warning.
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
"""What a wrong argument, file, setting or installation raises; anything else is a defect and keeps its traceback."""


# ------------------------------------------------------------------------------------------------------------- finding
@dataclass(frozen=True)
class Command:
    """A command of `mf2`.

    Args:
        module: of this package, with `add_arguments(parser)` and `run(args)`; one with a `main(argv)` has commands of
            its own. It is imported only when the command is used.
        text: what the command does.
        example: how it is typed.
        arguments: `module:function` that adds the arguments, where the module itself imports torch.
    """

    module: str
    text: str
    example: str = ""
    arguments: str = ""

    def load(self) -> ModuleType:
        """The module."""
        return importlib.import_module(f"mf2.{self.module}")

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the command's arguments to a parser."""
        module, _, function = self.arguments.partition(":")
        source = importlib.import_module(f"mf2.{module}") if module else self.load()
        getattr(source, function or "add_arguments")(parser)


class HelpFormatter(argparse.HelpFormatter):
    """argparse's, which leaves the lines of an example as they are."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        fill = super()._fill_text
        return "\n\n".join(part if "\n  " in part else fill(part, width, indent) for part in text.split("\n\n"))


def make_parser(
    prog: str, command: Command, parser_class: type[argparse.ArgumentParser] = argparse.ArgumentParser
) -> argparse.ArgumentParser:
    """The parser of a command's arguments, whose help ends with the example."""
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
    """Run the command that the first word of a command line names; returns its exit status.

    Args:
        prog: what stands before that word.
        argv: the words; those of this process by default.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    chooser = argparse.ArgumentParser(prog, description=description)
    subparsers = chooser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, command in commands.items():
        subparsers.add_parser(name, help=command.text, add_help=False)
    name = chooser.parse_known_args(argv[:1])[0].command
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


# -------------------------------------------------------------------------------------------------------------- ending
def run_command(prog: str, command: Callable[[], int | None]) -> int:
    """Run a command and show what it logs; what its user did wrong, and being interrupted, is a line on stderr.

    Args:
        prog: what the command is called.
        command: returns its exit status; None is 0.
    Returns:
        The exit status: 1 after a user's error, 130 after an interruption.
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
    """The block in which a command makes what only illustrates its product, once the product itself is on disk.

    Whatever fails in there is a warning of one line, defects of what draws included (their traceback is logged for
    debugging): the command goes on, and ends as it would have. Being interrupted passes.

    Args:
        file: what the block makes; a command that is run again must make it where it is missing.
    """
    try:
        yield
    except Exception as error:
        reason = f"{type(error).__name__}: {one_line(error)}"
        logger.warning(f"{file} could not be made ({reason}). Nothing else is lost; the same command makes it again.")
        logger.debug(f"What {file} failed with:", exc_info=True)


def run_script(main: Callable[[], None]) -> int:
    """Run a script's `main`; see `run_command`."""
    return run_command(Path(sys.argv[0]).name, main)


def one_line(error: Exception) -> str:
    """An error's message without line breaks; of one in a data loader's process the message there, its last line."""
    text = str(error).strip()
    if text.startswith("Caught "):
        text = text.splitlines()[-1].partition(": ")[2]
    return " ".join(text.split()) or type(error).__name__


@contextmanager
def _messages_on_stderr() -> Iterator[None]:
    """Show what the package logs, above any progress bar; of the other processes only their errors."""
    from tqdm.contrib.logging import logging_redirect_tqdm  # not above: it would slow --help

    package_logger, handler = logging.getLogger("mf2"), logging.StreamHandler()
    package_logger.setLevel(logging.ERROR if int(os.environ.get("RANK", 0)) else logging.INFO)
    package_logger.addHandler(handler)
    try:
        with logging_redirect_tqdm([package_logger]):
            yield
    finally:
        package_logger.removeHandler(handler)
