"""The releases that this code was tested with. A checkpoint records them; pyproject.toml declares the same ranges."""

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version

from packaging.specifiers import SpecifierSet
from transformers.utils import logging

logger = logging.get_logger("transformers.mf2")
"""One for all copies of this file that a process loads, so that it says things once."""

TESTED_WITH = {
    "huggingface_hub": ">=1.31,<3",
    "numpy": ">=2.0.2,<3",
    "packaging": ">=23.1",
    "peft": ">=0.21,<0.22",
    "pillow": ">=11.3,<14",
    "torch": ">=2.10,<3",
    "torchvision": ">=0.25,<1",
    "transformers": ">=5.23,<5.25",
}
"""Ranges by distribution, of what a checkpoint's own code imports."""


def untested_versions(ranges: Mapping[str, str]) -> list[str]:
    """What is installed outside of its range, such as `"torch 2.5.1 (tested: >=2.10,<3)"`; the rest is left out.

    Raises:
        packaging.specifiers.InvalidSpecifier: a range is none.
    """
    found = []
    for name, specifiers in sorted(ranges.items()):
        try:
            installed = version(name)
        except PackageNotFoundError:
            continue
        if not SpecifierSet(specifiers).contains(installed, prereleases=True):
            found.append(f"{name} {installed} (tested: {specifiers})")
    return found


def warn_of_untested_versions(ranges: Mapping[str, str]) -> None:
    """One line, once in a process, where something installed lies outside of its range."""
    if found := untested_versions(ranges):
        logger.warning_once(
            f"MF² was not tested with {', '.join(found)}; it may fail or give other results. Install releases of the "
            "tested ranges where they must match."
        )
