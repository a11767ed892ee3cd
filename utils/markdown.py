"""Markdown that also reads well in a terminal."""

import re
from collections.abc import Iterable, Sequence

_NUMBER = re.compile(r"[-+]?\d|-$")


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A markdown table whose columns line up in a terminal too; columns of numbers are flush right."""
    cells = [[str(cell) for cell in row] for row in (header, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    numeric = [len(cells) > 1 and all(_NUMBER.match(row[i]) for row in cells[1:]) for i in range(len(widths))]

    def line(row: Sequence[str]) -> str:
        aligned = (
            cell.rjust(w) if right else cell.ljust(w) for cell, w, right in zip(row, widths, numeric, strict=True)
        )
        return f"| {' | '.join(aligned)} |"

    rule = "|".join("-" * (w + 1) + (":" if right else "-") for w, right in zip(widths, numeric, strict=True))
    return "\n".join([line(cells[0]), f"|{rule}|", *map(line, cells[1:])]) + "\n"
