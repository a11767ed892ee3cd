"""The systems by name: the files in `systems/`, and files of your own. Does not import torch."""

import difflib
import functools
import importlib
import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

MODEL_TYPE = "mf2_baseline"
"""`model_type` in the configuration of a trained system."""
FILES_VARIABLE = "MF2_BASELINES"
"""Environment variable with the files of further systems, separated as in PATH."""
SYSTEM_ATTRIBUTES = ("about", "defaults", "fields", "losses")
"""Some attributes of every `interface.BaselineSystem`."""


def baseline_names() -> tuple[str, ...]:
    """All systems, in alphabetical order."""
    return tuple(sorted({*_shipped_names(), *further_files()}))


def _shipped_names() -> set[str]:
    return {file.stem for file in Path(__file__).with_name("systems").glob("[!_]*.py")}


def further_files() -> dict[str, Path]:
    """Name -> file of the systems that `MF2_BASELINES` adds.

    Raises:
        ValueError: a file does not exist, or its name is taken.
    """
    files: dict[str, Path] = {}
    for text in filter(None, os.environ.get(FILES_VARIABLE, "").split(os.pathsep)):
        file = Path(text).resolve()
        if file.suffix != ".py" or not file.is_file():
            raise ValueError(f"{FILES_VARIABLE} names {text}, which is no Python file that is there.")
        if file.stem in _shipped_names() or files.get(file.stem, file) != file:
            raise ValueError(f"{text} would be the baseline {file.stem!r}, which there is already; rename the file.")
        files[file.stem] = file
    return files


def add_system(name: str) -> str:
    """Return the name of a system; a file `DIR/NAME.py` is registered for this process and its child processes.

    Raises:
        ValueError: there is no such system or file, or its name is taken.
    """
    if name.endswith(".py"):
        known = os.environ.get(FILES_VARIABLE, "").split(os.pathsep)
        if (file := str(Path(name).resolve())) not in known:
            os.environ[FILES_VARIABLE] = os.pathsep.join(filter(None, [*known, file]))
            try:
                further_files()
            except ValueError:
                os.environ[FILES_VARIABLE] = os.pathsep.join(known)
                raise
        return Path(name).stem
    _check(name)
    return name


def load_system(name: str) -> Any:
    """Load the class of a system, a subclass of `interface.BaselineSystem`.

    Raises:
        ValueError: there is no such system; the message suggests others.
    """
    _check(name)
    file = further_files().get(name)
    return importlib.import_module(f"{__package__}.systems.{name}").System if file is None else _load_file(file)


def _check(name: str) -> None:
    names = baseline_names()
    if name not in names:
        close = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(names)}."
        raise ValueError(f"There is no baseline {name!r}; {hint} A file of your own is named in {FILES_VARIABLE}.")


@functools.cache
def _load_file(file: Path) -> Any:
    spec = importlib.util.spec_from_file_location(f"mf2_baseline_{file.stem}", file)
    assert spec is not None and spec.loader is not None  # it ends with .py
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    system = getattr(module, "System", None)
    if not isinstance(system, type) or not all(hasattr(system, name) for name in SYSTEM_ATTRIBUTES):
        raise ValueError(f"{file} holds no class `System(BaselineSystem)` with an `about`; docs/baselines.md has one.")
    return system
