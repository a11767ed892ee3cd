"""Finds the repositories that a publication refers to: the base model and the evaluation data."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi

from mf2.dataset_tools.schema import MANIFEST_NAME, dataset_fingerprint, read_manifest
from mf2.hub.cards import HUB_ID, PinnedRepo, Placement
from mf2.hub.file_names import CONFIG_NAME, METRICS_NAME, RESOLVED_NAME
from mf2.hub.publish_contents import ADAPTER, Contents
from mf2.utils.files import read_json, sha256_of_file
from mf2.utils.yaml_files import load_yaml


def find_placement(
    api: HfApi,
    contents: Contents,
    repo_id: str,
    *,
    base_repo: str | None = None,
    eval_repo: str | None = None,
    permission: str | None = None,
) -> Placement:
    """Resolve names to repositories and commits.

    Args:
        contents: contents of the folder.
        repo_id: repository to publish to.
        base_repo: repository of the base model, if training used a local folder.
        eval_repo: repository of the data set that the scores were measured on.
        permission: statement that allows restricted data to be public.
    Raises:
        ValueError: the base is not on the Hub or has other weights there, or the evaluation data differ.
    """
    if contents.repo_type == "dataset":
        return Placement(repo_id, permission=permission)
    base = find_base(api, contents, base_repo)
    # a checkpoint lists what its base was trained on, an adapter does not
    inherited = _load_training_data(api, base) if base and contents.kind == ADAPTER else ()
    return Placement(repo_id, base, inherited, find_evaluation(api, contents, eval_repo), permission)


# ---------------------------------------------------------------------------------------------------------------- base
def find_base(api: HfApi, contents: Contents, base_repo: str | None) -> PinnedRepo | None:
    """Find the repository and commit of the base; None for a checkpoint without a base on the Hub."""
    named, revision = _named_base(contents)
    if named is None:
        return None
    is_on_hub = bool(HUB_ID.fullmatch(named)) and not Path(named).exists()
    if not (is_on_hub or base_repo):
        if contents.kind != ADAPTER:
            return None
        raise ValueError(
            f"{contents.source} was trained on the folder {Path(named).name}, which others do not have; publish that "
            "first and name its repository with --base_repo org/name."
        )
    repo_id = base_repo or named
    base = PinnedRepo(repo_id, api.model_info(repo_id, revision=revision if repo_id == named else None).sha)
    if Path(named).is_dir():
        _refuse_other_weights(api, Path(named), base)
    return base


def _named_base(contents: Contents) -> tuple[str | None, str | None]:
    """Name and commit of the base in training, from an adapter's configuration or a checkpoint's training settings."""
    if contents.kind == ADAPTER:
        return contents.config["base_model_name_or_path"], contents.config.get("revision")
    settings = load_yaml(contents.source / RESOLVED_NAME) if RESOLVED_NAME in contents.files else {}
    names = [settings.get(name) for name in ("model", "model_name_or_path")]
    return next((name for name in names if isinstance(name, str)), None), None


def _refuse_other_weights(api: HfApi, folder: Path, base: PinnedRepo) -> None:
    """Raise if the Hub's weights differ from the local base; an adapter would silently give wrong results."""
    ours = {file.name: sha256_of_file(file) for file in folder.glob("model*.safetensors")}
    found = api.get_paths_info(base.repo_id, list(ours), revision=base.sha)
    theirs = {entry.path: lfs.sha256 for entry in found if (lfs := getattr(entry, "lfs", None))}
    if ours != theirs:
        raise ValueError(
            f"{base.repo_id} at {base.sha} has other weights than {folder.name}, which the adapter was trained on; "
            "publish that folder first."
        )


def _load_training_data(api: HfApi, base: PinnedRepo) -> tuple[Mapping[str, Any], ...]:
    config = read_json(api.hf_hub_download(base.repo_id, CONFIG_NAME, revision=base.sha))
    unknown = {"name": base.repo_id, "license": None, "rows": None, "videos": None, "fingerprint": None}
    return tuple(config.get("training_data") or [unknown])


# ---------------------------------------------------------------------------------------------------------- evaluation
def find_evaluation(api: HfApi, contents: Contents, eval_repo: str | None) -> PinnedRepo | None:
    """Find the evaluation data on the Hub: `eval_repo`, if the data are the same, or the data set used in training."""
    data = contents.read_json(METRICS_NAME)["evaluation"]["data"]
    if eval_repo is None:
        return PinnedRepo(data["name"], data.get("revision")) if HUB_ID.fullmatch(data["name"]) else None
    sha = api.dataset_info(eval_repo).sha
    folder = Path(api.hf_hub_download(eval_repo, MANIFEST_NAME, revision=sha, repo_type="dataset")).parent
    if data["fingerprint"] not in (dataset_fingerprint(folder), read_manifest(folder).get("exported_from")):
        raise ValueError(f"{eval_repo} holds other data than {data['name']}, on which the scores were measured.")
    return PinnedRepo(eval_repo, sha)
