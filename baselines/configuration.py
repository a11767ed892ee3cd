"""The configuration of a baseline: that of MF² (same tower, labels and texts), and the baseline's options."""

import difflib
from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict

from ..configuration_mf2 import MF2Config
from .registry import MODEL_TYPE, load_system


@strict
class BaselineConfig(MF2Config):
    """Configuration of `BaselineModel`.

    Args:
        baseline: name of the system.
        baseline_options: options that differ from the system's defaults.
    """

    model_type = MODEL_TYPE
    _auto_class: ClassVar[str | None] = None  # its code is not saved with the weights

    baseline: str = "linear"
    baseline_options: dict | None = None

    def check(self) -> None:
        """Check the fields, and the options against those of the system."""
        super().check()
        if self.affect:
            raise ValueError(
                "affect is True, but baselines recognise AUs and emotions only, as they were published; leave it out."
            )
        self.options  # noqa: B018 - building them checks them

    @property
    def options(self) -> dict[str, Any]:
        """All options of the system, defaults included.

        Raises:
            ValueError: an option is unknown or has a wrong type.
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
