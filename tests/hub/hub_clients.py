"""What clients do with the loopback Hub in processes of their own, with `huggingface_hub` alone."""

from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import HfHubHTTPError


def use_repository(home: str) -> dict[str, Any]:
    """Create, upload, list, tag, branch, change and download a data set repository; what was seen on the way."""
    api = HfApi()
    kwargs = {"repo_id": "alice/faces", "repo_type": "dataset"}
    folder = Path(home, "upload")
    Path(folder, "data", "deep").mkdir(parents=True)
    Path(folder, "README.md").write_text("---\ntags: [faces]\n---\nText.\n")
    Path(folder, "data", "deep", "part.parquet").write_bytes(bytes(range(256)) * 1000)
    Path(folder, "data", "index.csv").write_text("a,b\n")

    for _ in range(2):
        api.create_repo(**kwargs, exist_ok=True)
    first = api.upload_folder(**kwargs, folder_path=folder).oid
    again = api.upload_folder(**kwargs, folder_path=folder).oid
    api.create_tag(**kwargs, tag="v1")
    api.create_branch(**kwargs, branch="try/this")
    api.upload_file(**kwargs, path_or_fileobj=b"new", path_in_repo="new.txt", revision="try/this")
    api.delete_folder(**kwargs, path_in_repo="data")
    snapshot = Path(snapshot_download(**kwargs, revision="v1"))
    return {
        "user": api.whoami()["name"],
        "shas": [first, again, api.dataset_info("alice/faces", revision="v1").sha],
        "tags": api.dataset_info("alice/faces").tags,
        "files": {name: api.list_repo_files(**kwargs, revision=name) for name in ("main", "v1", "try/this")},
        "top": [entry.path for entry in api.list_repo_tree(**kwargs, revision="v1")],
        "paths": [entry.path for entry in api.get_paths_info(**kwargs, paths=["data", "none"], revision="v1")],
        "refs": [ref.name for ref in api.list_repo_refs(**kwargs).branches],
        "same": {
            str(path.relative_to(folder)): Path(snapshot, path.relative_to(folder)).read_bytes() == path.read_bytes()
            for path in folder.rglob("*")
            if path.is_file()
        },
    }


def be_refused(private_id: str, gated_id: str, foreign_id: str, missing_id: str) -> dict[str, str]:
    """The errors of an account without the right to what it asks for."""
    api = HfApi()
    attempts = {
        "private": lambda: api.model_info(private_id),
        "gated": lambda: api.hf_hub_download(gated_id, "config.json"),
        "foreign": lambda: api.upload_file(path_or_fileobj=b"", path_in_repo="x", repo_id=foreign_id),
        "missing": lambda: api.model_info(missing_id),
        "file": lambda: api.hf_hub_download(foreign_id, "none.txt"),
        "revision": lambda: api.model_info(foreign_id, revision="none"),
        "token": lambda: HfApi(token="hf_wrong").model_info(foreign_id),
    }
    return {name: _error_of(attempt) for name, attempt in attempts.items()}


def _error_of(attempt: Any) -> str:
    try:
        attempt()
    except HfHubHTTPError as error:
        return f"{type(error).__name__} {error.response.status_code}"
    return "none"
