"""The configuration of a system: MF²'s, for tower, labels and texts to mean the same, and the system's own."""

import difflib
from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict

from ..configuration_mf2 import MF2Config
from .registry import MODEL_TYPE, load_system


@strict
class BaselineConfig(MF2Config):
    """Configuration of [`BaselineModel`].

    Args:
        baseline: Name of the system.
        baseline_options: Its options that differ from its defaults.
    """

    model_type = MODEL_TYPE
    _auto_class: ClassVar[str | None] = None  # its code is that of the package and does not travel with the weights

    baseline: str = "linear"
    baseline_options: dict | None = None

    def check(self) -> None:
        """As usual, and the options against those that the system has."""
        super().check()
        self.options  # noqa: B018 - building them checks them

    @property
    def options(self) -> dict[str, Any]:
        """The system's options, all of them.

        Raises:
            ValueError: an option that the system lacks, or of a wrong type.
        """
        defaults = dict(load_system(self.baseline).defaults)
        given = self.baseline_options or {}
        for name, value in given.items():
            if name not in defaults:
                close = difflib.get_close_matches(name, defaults, n=1)
                hint = f"did you mean {close[0]!r}?" if close else f"it has {', '.join(defaults) or 'none'}."
                raise ValueError(f"{self.baseline} has no option {name!r}; {hint}")
            kind = type(defaults[name])
            if kind is not type(None) and type(value) is not kind and not (kind is float and type(value) is int):
                raise ValueError(f"{self.baseline}'s option {name} is {value!r}; it must be {kind.__name__}.")
        return defaults | given
