"""What the releases of transformers call differently; the installed one is known by its signatures, not its number."""

import inspect
from typing import Any

from transformers.cache_utils import Cache
from transformers.generation import GenerationMixin

CACHE_NAMES = ("cache", "past_key_values")
"""What `generate` calls the keys and values that it hands from word to word, in model outputs, too; newest first."""


def cache_name(generation_mixin: type) -> str:
    """The one of `CACHE_NAMES` that a `GenerationMixin` takes."""
    accepted = inspect.signature(generation_mixin.prepare_inputs_for_generation).parameters
    name = next((name for name in CACHE_NAMES if name in accepted), None)
    if name is None:
        raise ImportError(
            f"transformers' generation takes none of {', '.join(CACHE_NAMES)}, but {', '.join(accepted)}; "
            "install a release that this code was tested with."
        )
    return name


CACHE_NAME = cache_name(GenerationMixin)


def cache_of(kwargs: dict[str, Any]) -> Cache | None:
    """The cache among a forward pass's keyword arguments, under any of its names."""
    return next((kwargs[name] for name in CACHE_NAMES if kwargs.get(name) is not None), None)
