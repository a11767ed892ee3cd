"""Names in the table of faces of an analysis."""

from pathlib import Path

TABLE_NAME = "faces"
STATUS_OK, STATUS_NO_FACE, STATUS_ERROR = "ok", "no_face", "error"


def free_name(source: str, taken: set[str]) -> str:
    """A unique name for the files of a source: its stem, with its folders or a number if that is taken."""
    *folders, stem = Path(source).with_suffix("").relative_to(Path(source).anchor).parts
    while stem in taken and folders:
        stem = f"{folders.pop()}-{stem}"
    name, number = stem, 1
    while name in taken:
        number += 1
        name = f"{stem}-{number}"
    taken.add(name)
    return name
