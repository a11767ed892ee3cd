"""What may be passed on: data under an agreement that forbids redistribution, and all that derives from it."""

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
