"""What a data stage counted: named tallies with examples, printed as a table and kept as JSON and markdown."""

import json
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NUM_EXAMPLES = 5
_NUMBER = re.compile(r"[-+]?\d|-$")


class Tally:
    """Counts under fixed names, in a fixed order, with the first few examples of each.

    Args:
        descriptions: name -> what is counted, as the table shows it.
    """

    def __init__(self, descriptions: Mapping[str, str]) -> None:
        self.descriptions = dict(descriptions)
        self.counts: Counter[str] = Counter(dict.fromkeys(descriptions, 0))
        self.examples: defaultdict[str, list[str]] = defaultdict(list)

    def add(self, name: str, amount: int = 1, example: object = None) -> None:
        """Count `amount` more of `name`; an amount of 0 leaves no example."""
        if name not in self.descriptions:
            raise KeyError(name)
        self.counts[name] += int(amount)
        if amount and example is not None and len(self.examples[name]) < NUM_EXAMPLES:
            self.examples[name].append(str(example))

    def __getitem__(self, name: str) -> int:
        return self.counts[name]

    def to_dict(self) -> dict[str, Any]:
        """`{"counts": {name: n}, "examples": {name: [...]}}`, for JSON."""
        return {"counts": dict(self.counts), "examples": {name: list(found) for name, found in self.examples.items()}}

    def to_markdown(self) -> str:
        """A table of what, how many, and examples."""
        rows = [
            (text, f"{self.counts[name]:,}", ", ".join(self.examples.get(name, ())))
            for name, text in self.descriptions.items()
        ]
        return markdown_table(("what", "count", "for example"), rows)


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


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` to write to; it takes its name when the block ends well, else vanishes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with replacing(path) as part:
        part.write_text(text, "utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")
