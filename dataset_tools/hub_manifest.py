"""What a data set says of itself, in a folder or on the Hub: licence, source, counts, and which version it is."""

from pathlib import Path
from typing import Any

from huggingface_hub import DatasetCard, hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, OfflineModeIsEnabled

from .schema import MANIFEST_NAME, fingerprint_of, parse_hub_id, read_manifest

CARD_NAME = "README.md"


def find_manifest(path: str | Path) -> dict[str, Any]:
    """The manifest of a data set: a folder, `org/name` or `org/name:configuration`.

    Of a repository without one, `license` alone, as its card states it; empty where neither can be had.

    Raises:
        ValueError: it is not one of this format.
    """
    return _find(path)[0]


def describe_origin(path: str | Path) -> dict[str, Any]:
    """What records of a data set say of where it comes from.

    Returns:
        `name` (of a folder never its path), `license`, `synthetic`, `fingerprint`, the `revision` (commit) on the Hub,
        and `emotion_ceiling` by split; None, False or empty where the data set does not tell.
    """
    manifest, revision = _find(path)
    is_local = Path(path).is_dir()
    return {
        "name": manifest.get("pretty_name") or Path(path).name if is_local else parse_hub_id(str(path))[0],
        "license": manifest.get("license"),
        "synthetic": manifest.get("source") == "synthetic",
        "fingerprint": fingerprint_of(manifest) if "splits" in manifest else None,
        "revision": revision,
        "emotion_ceiling": manifest.get("emotion_ceiling") or {},
    }


def _find(path: str | Path) -> tuple[dict[str, Any], str | None]:
    """The manifest, as `find_manifest` says, and the commit that it came from, None of a folder.

    A commit is the name of the folder in which the Hub's cache keeps its files.
    """
    if Path(path).is_dir():
        return read_manifest(path), None
    if file := _download(str(path), MANIFEST_NAME):
        return read_manifest(file.parent), file.parent.name
    card = _download(str(path), CARD_NAME)
    if card is None:
        return {}, None
    stated = DatasetCard(card.read_text("utf-8"), ignore_metadata_errors=True).data.get("license")
    return {"license": stated} if isinstance(stated, str) else {}, card.parent.name


def _download(hub_id: str, name: str) -> Path | None:
    """A file of the repository, from the cache where the Hub cannot be asked; None where it has none."""
    try:
        return Path(hf_hub_download(parse_hub_id(hub_id)[0], name, repo_type="dataset"))
    except (EntryNotFoundError, HfHubHTTPError, OfflineModeIsEnabled):
        return None
