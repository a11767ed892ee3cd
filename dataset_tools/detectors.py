"""Loads the landmark detector that a command line names, or an installed one."""

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
    """Load a registered detector, or call `module:factory` as `factory(device)` or `factory(device, model_file=…)`.

    Args:
        name: name of a registered detector, or `module:factory`.
        device: device of the detector; None uses a GPU if there is one.
        model_file: model file of the detector.
        instead: the remedy if a registered detector cannot be loaded, at the end of the error message.
    Raises:
        ValueError: there is no such detector, module or factory, or the detector takes no model file.
        ImportError, OSError: the package or the weights of a registered detector are missing.
    """
    from ..landmarks_mf2 import load_detector

    if ":" not in name:
        return load_detector(name, device, model_file, instead)
    module_name, _, factory_name = name.partition(":")
    try:
        factory = getattr(importlib.import_module(module_name), factory_name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"The detector {name} cannot be loaded as module:factory ({error}).") from error
    detector = factory(device, model_file=model_file) if model_file else factory(device)
    try:
        return load_detector(detector)
    except TypeError as error:
        raise ValueError(f"{name} did not return a detector: {error}") from error


def choose_backend(preferred: str, name: str | None = None, model_file: str | Path | None = None) -> str:
    """The name of the backend to use: `name` if it is `module:factory`, else the choice of `choose_detector`."""
    from ..landmarks_mf2 import choose_detector

    return name if name and ":" in name else choose_detector(preferred, name, model_file)


def describe_backend(name: str, model_file: str | Path | None = None) -> dict[str, Any]:
    """The name of a backend, the version of its package and the SHA-256 of its model files, as far as known."""
    from ..landmarks_mf2 import describe_detector

    if ":" not in name:
        return describe_detector(name, model_file)
    hashes = {Path(model_file).name: sha256_of_file(Path(model_file))} if model_file else {}
    return {"name": name, "version": None, "model_sha256": hashes}
