"""The landmark detector that a command line names."""

import importlib
from pathlib import Path
from typing import TYPE_CHECKING

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
    return load_detector(factory(device, model_file=model_file) if model_file else factory(device))
