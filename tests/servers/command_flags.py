"""Values as flags of a command."""

from typing import Any


def flags(**values: Any) -> list[str]:
    """`["--name", "value", …]`."""
    return [part for name, value in values.items() for part in (f"--{name}", str(value))]
