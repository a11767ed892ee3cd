"""Columns of action units in files that people bring: `AU1`, `AU01`, `au_1`, OpenFace's `AU01_c` and `AU01_r`."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from ..labels_mf2 import ACTION_UNITS

_LOOKS_LIKE_AU = re.compile(r"['\"]?AU[ _-]?\d", re.ASCII | re.IGNORECASE)
_AU_COLUMN = re.compile(r"['\"]?AU[ _-]?0*(?P<au_id>\d{1,2})(?:[ _-](?P<kind>[cr]))?['\"]?", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True)
class AUColumns:
    """Which columns of a table are of which AU.

    Args:
        names: AU number -> its column.
        intensities: those of the columns that are intensities by their name (`AU01_r`, 0 to 5).
        unused: columns of AUs that are not known here, and intensities of AUs that have a column of presence, too.
    """

    names: dict[int, str]
    intensities: tuple[str, ...]
    unused: tuple[str, ...]


def find_au_columns(columns: Iterable[str]) -> AUColumns:
    """The AUs that columns are named after.

    Raises:
        ValueError: a column begins like an AU's and is not understood, or two are of one AU; they are named.
    """
    presence: dict[int, list[str]] = {}
    intensity: dict[int, list[str]] = {}
    unused = []
    for column in columns:
        match = _AU_COLUMN.fullmatch(column.strip())
        if match is None:
            if _LOOKS_LIKE_AU.match(column.strip()):
                raise ValueError(
                    f"The column {column!r} begins like an action unit's and is not understood; write AU1, AU01, "
                    "au_1, AU01_c (presence) or AU01_r (intensity), or rename it if it is something else."
                )
        elif (au_id := int(match["au_id"])) not in ACTION_UNITS:
            unused.append(column)
        else:
            kinds = intensity if (match["kind"] or "c").lower() == "r" else presence
            kinds.setdefault(au_id, []).append(column)
    for au_id, found in (*presence.items(), *intensity.items()):
        if len(found) > 1:
            raise ValueError(f"The columns {' and '.join(found)} are both of AU{au_id}; keep one.")
    for au_id in presence.keys() & intensity.keys():
        unused += intensity.pop(au_id)
    names = {au_id: found[0] for au_id, found in sorted({**intensity, **presence}.items())}
    return AUColumns(names, tuple(found[0] for _, found in sorted(intensity.items())), tuple(unused))
