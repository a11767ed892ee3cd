"""Redistribution: which licences forbid it, and how local paths are kept out of published files."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

RESTRICTED = "other"
"""License id of data whose agreement forbids redistribution, and of everything derived from them."""


def is_restricted(license_id: str | None) -> bool:
    """Whether a licence, by its id on the Hub, forbids redistribution; an unstated licence does."""
    return license_id in (None, "", RESTRICTED)


def restricted_sources(sources: Iterable[Mapping[str, Any]]) -> list[str]:
    """The unique names of the sources (with `name` and `license`) that must not be redistributed."""
    return list(dict.fromkeys(str(source["name"]) for source in sources if is_restricted(source.get("license"))))


_LOCAL_PATH = re.compile(r"(?:/|~|\.\.?/|[A-Za-z]:[\\/]).*", re.S)


def shorten_paths(value: Any) -> Any:
    """Shorten local paths in settings, at any depth, to their last part."""
    if isinstance(value, Mapping):
        return {key: shorten_paths(item) for key, item in value.items()}
    if isinstance(value, list):
        return [shorten_paths(item) for item in value]
    if isinstance(value, str) and _LOCAL_PATH.fullmatch(value):
        return re.split(r"[\\/]", value.rstrip("\\/"))[-1]
    return value
