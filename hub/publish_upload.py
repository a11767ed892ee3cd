"""Uploads a publication to the Hub in one commit, in an order that is safe to interrupt.

A new repository is private until the commit is complete; a repository that becomes private does so before the commit.
Repeating a finished publication changes nothing.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import HfHubHTTPError, HTTPError, LocalTokenNotFoundError, RepositoryNotFoundError

from mf2.hub.publish_contents import Contents

MAIN = "main"
GATE: Literal["manual"] = "manual"


@dataclass(frozen=True)
class Target:
    """The target of a publication.

    Args:
        repo_id: `owner/name`.
        repo_type: `model`, `dataset` or `space`.
        branch: created from `main` if it does not exist.
        private: visibility; None keeps that of an existing repository and makes a new one private.
    """

    repo_id: str
    repo_type: str
    branch: str = MAIN
    private: bool | None = None


@dataclass(frozen=True)
class State:
    """Current state of the repository: whether it exists, is private, and is gated."""

    exists: bool
    private: bool = True
    gated: bool = False


@contextmanager
def explaining_hub_errors(repo_id: str) -> Iterator[None]:
    """Convert errors of the Hub client to one-line errors with a remedy, without the token."""
    retry = "Nothing is half published; run the same command again."
    try:
        yield
    except LocalTokenNotFoundError:
        raise PermissionError("There is no token for the Hub; run `hf auth login` or set HF_TOKEN.") from None
    except RepositoryNotFoundError:
        raise PermissionError(f"{repo_id} or what it refers to is not there, or the token may not see it.") from None
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status in (401, 403):
            raise PermissionError(f"The Hub refuses ({status}): the token may not write to {repo_id}.") from None
        raise ConnectionError(f"The Hub answered {status} for {repo_id}. {retry}") from None
    except HTTPError as error:
        raise ConnectionError(f"The connection to the Hub broke ({type(error).__name__}). {retry}") from None
    except RuntimeError as error:
        if not str(error).startswith("Error while uploading"):
            raise
        raise ConnectionError(f"{error} {retry}") from None


def find_state(api: HfApi, target: Target) -> State:
    """Query the state of the repository."""
    try:
        info = api.repo_info(target.repo_id, repo_type=target.repo_type)
    except RepositoryNotFoundError:
        return State(exists=False)
    return State(True, bool(info.private), bool(info.gated))


def upload(api: HfApi, contents: Contents, target: Target, state: State) -> CommitInfo:
    """Create what is missing, commit, and make the repository public last.

    Args:
        api: Hub client.
        contents: contents to publish.
        target: repository, branch and visibility.
        state: current state, from `find_state`.
    Returns:
        The commit with exactly these files; an earlier one if nothing changed.
    """
    repo: dict[str, Any] = {"repo_id": target.repo_id, "repo_type": target.repo_type}
    gate = bool(contents.restricted) and target.repo_type == "dataset"
    if not state.exists:
        sdk = "gradio" if target.repo_type == "space" else None
        api.create_repo(**repo, private=True, exist_ok=True, space_sdk=sdk)
    api.auth_check(**repo, write=True)  # `exist_ok` does not check the right to write
    if not state.private and target.private:
        api.update_repo_settings(**repo, private=True)
    elif not state.private and gate and not state.gated:
        api.update_repo_settings(**repo, gated=GATE)
    if target.branch != MAIN:
        api.create_branch(**repo, branch=target.branch, exist_ok=True)
    commit = _commit(api, contents, target)
    if state.private and target.private is False:
        api.update_repo_settings(**repo, private=False, gated=GATE if gate else None)
    return commit


def _commit(api: HfApi, contents: Contents, target: Target) -> CommitInfo:
    """Commit; if the response was lost, commit again, which does nothing if the first commit succeeded."""
    try:
        return _commit_once(api, contents, target)
    except HfHubHTTPError as error:
        if error.response.status_code < 500:
            raise
    except HTTPError:  # no response; the class is re-exported, as the client's HTTP library differs between versions
        pass
    return _commit_once(api, contents, target)


def _commit_once(api: HfApi, contents: Contents, target: Target) -> CommitInfo:
    repo: dict[str, Any] = {"repo_id": target.repo_id, "repo_type": target.repo_type}
    head = api.repo_info(**repo, revision=target.branch).sha
    present = api.list_repo_files(**repo, revision=head)
    stale = [path for path in present if contents.owns(path) and path not in contents.files]
    additions = [CommitOperationAdd(path, _payload(content)) for path, content in contents.files.items()]
    return api.create_commit(
        target.repo_id,
        repo_type=target.repo_type,
        operations=[*additions, *(CommitOperationDelete(path, is_folder=False) for path in stale)],
        commit_message=f"Publish {contents.kind} {target.repo_id.split('/')[-1]}",
        revision=target.branch,
        parent_commit=head,
    )


def _payload(content: Path | str) -> str | bytes:
    return content.encode() if isinstance(content, str) else str(content)
