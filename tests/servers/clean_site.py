"""A folder of installed packages that holds what a list of requirements needs, and nothing else.

Its entries are links to the packages of this environment: as a fresh virtual environment after `pip install`, in a
second and without an index.
"""

from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def link_requirements(requirements: list[str], folder: Path) -> list[str]:
    """Link the distributions that the requirements need, and theirs, into a folder.

    Returns:
        Those that are not installed here, by name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    missing: list[str] = []
    seen: set[tuple[str, str]] = set()
    waiting = [
        (requirement, extra) for requirement in map(Requirement, requirements) for extra in extras_of(requirement)
    ]
    while waiting:
        requirement, extra = waiting.pop()
        key = (canonicalize_name(requirement.name), extra)
        if key in seen:
            continue
        seen.add(key)
        try:
            found = distribution(requirement.name)
        except PackageNotFoundError:
            missing.append(requirement.name)
            continue
        link_files(found, folder)
        for further in map(Requirement, found.requires or []):
            if further.marker is None or further.marker.evaluate({"extra": extra}):
                waiting += [(further, each) for each in extras_of(further)]
    return missing


def extras_of(requirement: Requirement) -> list[str]:
    return ["", *requirement.extras]


def link_files(found: Distribution, folder: Path) -> None:
    """Link the packages, modules and metadata of a distribution; folders that distributions share are real ones."""
    root = Path(str(found.locate_file("")))
    linked: set[Path] = set()
    for file in map(Path, found.files or []):
        if file.parts[0] in ("..", "__pycache__") or file.suffix == ".pth" or not linked.isdisjoint(file.parents):
            continue
        owned = [parent for parent in file.parents if is_of_one_distribution(root / parent)]
        entry = owned[-1] if owned else file
        linked.add(entry)
        place = folder / entry
        if (root / entry).exists() and not place.exists():
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to((root / entry).resolve())


def is_of_one_distribution(entry: Path) -> bool:
    return entry.suffix in (".dist-info", ".libs") or (entry / "__init__.py").is_file()
