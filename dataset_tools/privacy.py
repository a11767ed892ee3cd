"""What may be passed on: data under an agreement that forbids redistribution, and all that derives from it."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

RESTRICTED = "other"
"""The license of what derives from data whose agreement forbids redistribution."""


def is_restricted(license_id: str | None) -> bool:
    """Whether a licence, by its id on the Hub, forbids passing on; one that nobody stated does."""
    return license_id in (None, "", RESTRICTED)


def restricted_sources(sources: Iterable[Mapping[str, Any]]) -> list[str]:
    """Names of the data sets, of those with `name` and `license`, that may not be passed on; each once."""
    return list(dict.fromkeys(str(source["name"]) for source in sources if is_restricted(source.get("license"))))


_LOCAL_PATH = re.compile(r"(?:/|~|\.\.?/|[A-Za-z]:[\\/]).*", re.S)


def shorten_paths(value: Any) -> Any:
    """Settings whose paths on this machine, at any depth, are cut to their last name."""
    if isinstance(value, Mapping):
        return {key: shorten_paths(each) for key, each in value.items()}
    if isinstance(value, list):
        return [shorten_paths(each) for each in value]
    if isinstance(value, str) and _LOCAL_PATH.fullmatch(value):
        return re.split(r"[\\/]", value.rstrip("\\/"))[-1]
    return value
