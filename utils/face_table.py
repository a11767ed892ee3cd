"""The names in an analysis' table of faces, for those that write it and those that read it."""

from pathlib import Path

TABLE_NAME = "faces"
STATUS_OK, STATUS_NO_FACE, STATUS_ERROR = "ok", "no_face", "error"


def free_name(source: str, taken: set[str]) -> str:
    """A source's name for its files: without suffix; where another has it already, after its folders' or numbered."""
    *folders, stem = Path(source).with_suffix("").relative_to(Path(source).anchor).parts
    while stem in taken and folders:
        stem = f"{folders.pop()}-{stem}"
    name, number = stem, 1
    while name in taken:
        number += 1
        name = f"{stem}-{number}"
    taken.add(name)
    return name
