"""The landmark detector that a command line names, or the one that is there."""

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..utils.files import sha256_of_file

if TYPE_CHECKING:
    from ..landmarks_mf2 import LandmarkDetector


def load_backend(
    name: str,
    device: str | None = None,
    model_file: str | Path | None = None,
    instead: str = "Or give points with --landmarks FILE, or another --backend.",
) -> "LandmarkDetector":
    """A registered detector, or what `module:factory` builds as `factory(device)` or `factory(device, model_file=…)`.

    Args:
        instead: what to do where a registered one cannot be set up; ends the error.
    Raises:
        ValueError: no detector of that name, no such module or factory, or a model file for one that takes none.
        ImportError, OSError: a registered one lacks its package or its weights.
    """
    from ..landmarks_mf2 import load_detector

    if ":" not in name:
        return load_detector(name, device, model_file, instead)
    module_name, _, factory_name = name.partition(":")
    try:
        factory = getattr(importlib.import_module(module_name), factory_name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"The detector {name} cannot be loaded as module:factory ({error}).") from error
    made = factory(device, model_file=model_file) if model_file else factory(device)
    try:
        return load_detector(made)
    except TypeError as error:
        raise ValueError(f"{name} made something else: {error}") from error


def choose_backend(preferred: str, name: str | None = None, model_file: str | Path | None = None) -> str:
    """The backend to run: what is named, a `module:factory` too, else as `choose_detector` says."""
    from ..landmarks_mf2 import choose_detector

    return name if name and ":" in name else choose_detector(preferred, name, model_file)


def describe_backend(name: str, model_file: str | Path | None = None) -> dict[str, Any]:
    """A backend's name, its package's version and the SHA-256 of its model files, as far as they are known."""
    from ..landmarks_mf2 import describe_detector

    if ":" not in name:
        return describe_detector(name, model_file)
    hashes = {Path(model_file).name: sha256_of_file(Path(model_file))} if model_file else {}
    return {"name": name, "version": None, "model_sha256": hashes}
