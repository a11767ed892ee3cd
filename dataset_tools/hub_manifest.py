"""Finds the manifest of a data set in a folder or on the Hub: its licence, source, counts and version."""

from pathlib import Path
from typing import Any

from huggingface_hub import DatasetCard, hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, OfflineModeIsEnabled

from .schema import MANIFEST_NAME, fingerprint_manifest, parse_hub_id, read_manifest

CARD_NAME = "README.md"


def find_manifest(path: str | Path) -> dict[str, Any]:
    """Find the manifest of a data set: a folder, `org/name` or `org/name:configuration`.

    For a repository without a manifest, only `license` from its card; empty if neither can be read.

    Raises:
        ValueError: the file is not a manifest of this format.
    """
    return _find(path)[0]


def describe_origin(path: str | Path) -> dict[str, Any]:
    """Describe the origin of a data set for the records of a run.

    Returns:
        `name` (for a folder its name, not its path), `license`, `synthetic`, `fingerprint`, the `revision` (commit) on
        the Hub, `emotion_ceiling` and `affect_ceiling` by split; None, False or empty if unknown.
    """
    manifest, revision = _find(path)
    is_local = Path(path).is_dir()
    return {
        "name": manifest.get("pretty_name") or Path(path).name if is_local else parse_hub_id(str(path))[0],
        "license": manifest.get("license"),
        "synthetic": manifest.get("source") == "synthetic",
        "fingerprint": fingerprint_manifest(manifest) if "splits" in manifest else None,
        "revision": revision,
        "emotion_ceiling": manifest.get("emotion_ceiling") or {},
        "affect_ceiling": manifest.get("affect_ceiling") or {},
    }


def _find(path: str | Path) -> tuple[dict[str, Any], str | None]:
    """The manifest, as in `find_manifest`, and its commit, which is None for a folder.

    The Hub's cache stores files in a folder named after their commit.
    """
    if Path(path).is_dir():
        return read_manifest(path), None
    if file := _download(str(path), MANIFEST_NAME):
        return read_manifest(file.parent), file.parent.name
    card = _download(str(path), CARD_NAME)
    if card is None:
        return {}, None
    license_id = DatasetCard(card.read_text("utf-8"), ignore_metadata_errors=True).data.get("license")
    return {"license": license_id} if isinstance(license_id, str) else {}, card.parent.name


def _download(hub_id: str, name: str) -> Path | None:
    """Download a file of the repository, or use the cached one if the Hub is not reachable; None if there is none."""
    try:
        return Path(hf_hub_download(parse_hub_id(hub_id)[0], name, repo_type="dataset"))
    except (EntryNotFoundError, HfHubHTTPError, OfflineModeIsEnabled):
        return None
