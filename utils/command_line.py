"""How a command ends: its exit status, a user's error as one line, and a failed picture as a warning. No torch."""

import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

logger = logging.getLogger(__name__)

USER_ERRORS = (ValueError, OSError, ImportError, FloatingPointError)
"""What a wrong argument, file, setting or installation raises; anything else is a defect and keeps its traceback."""


def run_command(prog: str, command: Callable[[], int | None]) -> int:
    """Run a command; what its user did wrong, and being interrupted, is a line on stderr.

    Args:
        prog: what the command is called.
        command: returns its exit status; None is 0.
    Returns:
        The exit status: 1 after a user's error, 130 after an interruption.
    """
    try:
        return command() or 0
    except USER_ERRORS as error:
        print(f"{prog}: error: {one_line(error)}", file=sys.stderr)
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


def one_line(error: Exception) -> str:
    """An error's message without line breaks; of one in a data loader's process the message there, its last line."""
    text = str(error).strip()
    if text.startswith("Caught "):
        text = text.splitlines()[-1].partition(": ")[2]
    return " ".join(text.split()) or type(error).__name__


def run_script(main: Callable[[], None]) -> int:
    """Run a script's `main` and show what it logs; see `run_command`."""
    with _messages_on_stderr():
        return run_command(Path(sys.argv[0]).name, main)


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
