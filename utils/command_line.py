"""How a command ends: with its exit status, and a user's error as one line instead of a traceback. No torch."""

import sys
from collections.abc import Callable

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


def one_line(error: Exception) -> str:
    """An error's message without line breaks; of one in a data loader's process the message there, its last line."""
    text = str(error).strip()
    if text.startswith("Caught "):
        text = text.splitlines()[-1].partition(": ")[2]
    return " ".join(text.split()) or type(error).__name__
