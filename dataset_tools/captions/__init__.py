"""Captions of facial expressions: AU, emotion and key-AU captions, from a template or a model, and their rules.

The names below are imported when first used, so that reading or checking captions does not import an API client.
"""

from importlib import import_module
from typing import Any

_MODULES = {
    "CAPTION_KINDS": "rules",
    "Captions": "template",
    "find_au_entries": "text",
    "inactive_au_sentence": "text",
    "parse_au_caption": "text",
    "template_captions": "template",
    "validate_caption": "rules",
}

__all__ = sorted(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
