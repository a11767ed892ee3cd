"""The releases that this code was tested with. A checkpoint records them; pyproject.toml declares the same ranges."""

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version

from packaging.specifiers import SpecifierSet
from transformers.utils import logging

logger = logging.get_logger("transformers.mf2")
"""Shared by all copies of this file in a process, so that a warning is shown once."""

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
"""Distribution -> range of releases, for the packages that the code of a checkpoint imports."""


def untested_versions(ranges: Mapping[str, str]) -> list[str]:
    """The installed packages outside of their ranges, such as `"torch 2.5.1 (tested: >=2.10,<3)"`.

    Raises:
        packaging.specifiers.InvalidSpecifier: a range is invalid.
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
    """Log one warning per process if an installed package is outside of its range."""
    if found := untested_versions(ranges):
        logger.warning_once(
            f"MF² was not tested with {', '.join(found)}; it may fail or give other results. Install releases of the "
            "tested ranges where they must match."
        )
