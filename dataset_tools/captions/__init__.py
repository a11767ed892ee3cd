"""Captions of facial expressions: AU, emotion and key-AU, from a template or a hosted model, with their rules.

The names below load their module when first used, so that reading or checking captions never imports a client.
"""

from importlib import import_module
from typing import Any

_MODULE_OF = {
    "CAPTION_KINDS": "rules",
    "Captions": "template",
    "find_au_entries": "text",
    "inactive_au_sentence": "text",
    "parse_au_caption": "text",
    "template_captions": "template",
    "validate_caption": "rules",
}

__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return __all__
