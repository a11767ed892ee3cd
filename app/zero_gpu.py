"""Spaces on ZeroGPU, where a graphics card is there only while a function marked for it runs, in a process of its own.

Elsewhere nothing is marked. The package `spaces` is there on every Space.
"""

import importlib
import os
from collections.abc import Callable
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])

SECONDS = 60
"""How long the card is lent for a call."""


def is_zero_gpu() -> bool:
    """Whether this runs on ZeroGPU."""
    return os.environ.get("SPACES_ZERO_GPU", "").lower() in ("1", "true")


if is_zero_gpu():
    importlib.import_module("spaces")  # replaces parts of torch, which must not have looked for a card before


def on_gpu(function: Function) -> Function:
    """Mark a function whose calls compute with the model; on ZeroGPU alone."""
    if not is_zero_gpu():
        return function
    spaces: Any = importlib.import_module("spaces")
    return spaces.GPU(duration=SECONDS)(function)
