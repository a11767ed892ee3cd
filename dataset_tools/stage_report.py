"""Counts of a data stage with examples, as a Markdown table and as JSON."""

from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any

from ..utils.markdown import markdown_table

NUM_EXAMPLES = 5


class Tally:
    """Counts under fixed names, in a fixed order, with the first few examples of each.

    Args:
        descriptions: name -> description in the table.
    """

    def __init__(self, descriptions: Mapping[str, str]) -> None:
        self.descriptions = dict(descriptions)
        self.counts: Counter[str] = Counter(dict.fromkeys(descriptions, 0))
        self.examples: defaultdict[str, list[str]] = defaultdict(list)

    def add(self, name: str, amount: int = 1, example: object = None) -> None:
        """Add `amount` to the count `name`; an amount of 0 adds no example."""
        if name not in self.descriptions:
            raise KeyError(name)
        self.counts[name] += int(amount)
        if amount and example is not None and len(self.examples[name]) < NUM_EXAMPLES:
            self.examples[name].append(str(example))

    def add_example(self, name: str, example: object) -> None:
        """Add an example of something already counted."""
        if len(self.examples[name]) < NUM_EXAMPLES:
            self.examples[name].append(str(example))

    def __getitem__(self, name: str) -> int:
        return self.counts[name]

    def to_dict(self) -> dict[str, Any]:
        """`{"counts": {name: n}, "examples": {name: [...]}}`, for JSON."""
        return {"counts": dict(self.counts), "examples": {name: list(found) for name, found in self.examples.items()}}

    def to_markdown(self) -> str:
        """A table of descriptions, counts and examples."""
        rows = [
            (text, f"{self.counts[name]:,}", ", ".join(self.examples.get(name, ())))
            for name, text in self.descriptions.items()
        ]
        return markdown_table(("what", "count", "for example"), rows)
