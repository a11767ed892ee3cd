"""Finds AU columns in users' files: `AU1`, `AU01`, `au_1`, OpenFace's `AU01_c` and `AU01_r`."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from ..labels_mf2 import ACTION_UNITS

_LOOKS_LIKE_AU = re.compile(r"['\"]?AU[ _-]?\d", re.ASCII | re.IGNORECASE)
_AU_COLUMN = re.compile(r"['\"]?AU[ _-]?0*(?P<au_id>\d{1,2})(?:[ _-](?P<kind>[cr]))?['\"]?", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True)
class AUColumns:
    """The AU columns of a table.

    Args:
        names: AU number -> column name.
        intensities: the columns among them that hold intensities from 0 to 5, by their name (`AU01_r`).
        unused: columns of unknown AUs, and intensity columns of AUs that also have a presence column.
    """

    names: dict[int, str]
    intensities: tuple[str, ...]
    unused: tuple[str, ...]


def find_au_columns(columns: Iterable[str]) -> AUColumns:
    """Find the AU columns by their names.

    Raises:
        ValueError: a name starts like that of an AU column but is invalid, or an AU has two columns; they are named.
    """
    presence: dict[int, list[str]] = {}
    intensity: dict[int, list[str]] = {}
    unused = []
    for column in columns:
        match = _AU_COLUMN.fullmatch(column.strip())
        if match is None:
            if _LOOKS_LIKE_AU.match(column.strip()):
                raise ValueError(
                    f"The column {column!r} starts like an action unit but is not valid; write AU1, AU01, au_1, "
                    "AU01_c (presence) or AU01_r (intensity), or rename it if it is something else."
                )
        elif (au_id := int(match["au_id"])) not in ACTION_UNITS:
            unused.append(column)
        else:
            kinds = intensity if (match["kind"] or "c").lower() == "r" else presence
            kinds.setdefault(au_id, []).append(column)
    for au_id, same_au in (*presence.items(), *intensity.items()):
        if len(same_au) > 1:
            raise ValueError(f"The columns {' and '.join(same_au)} are both of AU{au_id}; keep one.")
    for au_id in presence.keys() & intensity.keys():
        unused += intensity.pop(au_id)
    names = {au_id: column for au_id, (column,) in sorted({**intensity, **presence}.items())}
    return AUColumns(names, tuple(column for _, (column,) in sorted(intensity.items())), tuple(unused))
