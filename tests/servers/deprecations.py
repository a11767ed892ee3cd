"""What a library calls deprecated when our code uses it: noticed, wherever it happens, and written to a file.

Warnings and log lines alike, in the tests' own process and in those that it starts (`sitecustomize.py`). A library's
use of another library, or of itself, is its own affair.
"""

import logging
import os
import re
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

NOTES = "MF2_TEST_DEPRECATIONS"
"""The environment variable that names the file."""
ROOT = Path(__file__).parents[2]
LIBRARIES = ("accelerate", "datasets", "huggingface_hub", "peft", "timm", "torch", "transformers")
"""Whose log is read."""
CATEGORIES = (DeprecationWarning, FutureWarning)
SAYS_SO = re.compile(r"deprecat|(will|to)\s+be\s+(removed|dropped)|no\s+longer\s+be", re.IGNORECASE)
VALIDATED = "huggingface_hub.dataclasses"
PASSED_THROUGH = {"torch", VALIDATED} | sys.stdlib_module_names
"""What calls other code on behalf of its caller: modules, decorators, validated dataclasses."""


def owner(frame: FrameType) -> str:
    """The package that a frame's code is of; `"mf2"` is all of this repository, its copies in checkpoints included."""
    module = frame.f_globals.get("__name__", "")
    package = VALIDATED if module == VALIDATED else module.partition(".")[0]
    path = Path(frame.f_code.co_filename)
    is_ours = path.is_relative_to(ROOT) and not {"site-packages", "dist-packages"} & set(path.parts)
    return "mf2" if is_ours or package in ("mf2", "transformers_modules") else package


def owners(frame: FrameType | None) -> Iterator[str]:
    """Of a frame and those that called it, outwards."""
    while frame is not None:
        yield owner(frame)
        frame = frame.f_back


def speaker_and_user(callers: Iterator[str]) -> tuple[str | None, str | None]:
    """Which package a warning is of, and which called that one; one and the same for what our code says itself."""
    speaker = None
    for name in callers:
        if speaker is None:
            # The standard library's warnings and logging speak for others.
            speaker = None if name in sys.stdlib_module_names else name
        elif name != speaker and name not in PASSED_THROUGH:
            return speaker, name
        if name == "mf2":
            return speaker, name
    return speaker, None


def note(text: str, is_certain: bool) -> None:
    """Write it down if it is about what our code does.

    Args:
        is_certain: It is meant as a deprecation; else it only reads so, which our own words may, too.
    """
    frame = sys._getframe(1)
    while frame is not None and frame.f_globals.get("__name__") == __name__:
        frame = frame.f_back
    speaker, user = speaker_and_user(owners(frame))
    if user == "mf2" and (is_certain or speaker != "mf2"):
        with open(os.environ[NOTES], "a", encoding="utf-8") as file:
            file.write(" ".join(text.split()) + "\n")


class LogReader(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if record.levelno >= logging.WARNING and SAYS_SO.search(text):
            note(f"{record.name}: {text}", is_certain=False)


def watch_log() -> None:
    """From now on, in this process."""
    for name in LIBRARIES:
        logging.getLogger(name).addHandler(LogReader())


def watch_warnings(hidden: tuple[type[Warning], ...] = ()) -> None:
    """From now on, until `warnings.catch_warnings` ends; they are shown as before, but for the hidden ones."""

    def note_and_show(message: Warning, category: type[Warning], filename: str, lineno: int, *rest: Any) -> None:
        is_certain = issubclass(category, CATEGORIES)
        if is_certain or SAYS_SO.search(str(message)):
            note(f"{category.__name__} at {filename}:{lineno}: {message}", is_certain)
        if not issubclass(category, hidden):
            warnings._showwarnmsg_impl(warnings.WarningMessage(message, category, filename, lineno, *rest))

    warnings.showwarning = note_and_show


def watch_process() -> None:
    """All of a process that tests start; it writes what it would write anyway."""
    if NOTES in os.environ:
        warnings.simplefilter("default", DeprecationWarning)  # Python's own choice is to ignore them
        watch_log()
        watch_warnings(hidden=(DeprecationWarning,))
