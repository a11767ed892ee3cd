"""The systems by name: the files of `systems/`. Importing this loads no torch."""

import difflib
import importlib
from pathlib import Path
from typing import Any

MODEL_TYPE = "mf2_baseline"
"""What the configuration of a trained system says it is."""


def baseline_names() -> tuple[str, ...]:
    """Every system, in the order of the alphabet."""
    return tuple(sorted(file.stem for file in Path(__file__).with_name("systems").glob("[!_]*.py")))


def load_system(name: str) -> Any:
    """The class of a system, a subclass of `interface.BaselineSystem`.

    Raises:
        ValueError: there is no such system; those that there are are named.
    """
    names = baseline_names()
    if name not in names:
        close = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(names)}."
        raise ValueError(f"There is no baseline {name!r}; {hint}")
    return importlib.import_module(f"{__package__}.systems.{name}").System
