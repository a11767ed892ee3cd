"""What a loopback Hub keeps: accounts, and repositories of commits, branches and tags, in memory."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

import yaml


class HubError(Exception):
    """An answer other than success; `code` is the `X-Error-Code` by which the client tells what is wrong."""

    def __init__(
        self, status: int, message: str, code: str | None = None, body: dict | None = None, headers: dict | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.headers = status, code, headers or {}
        self.body = {"error": message, **(body or {})}


@dataclass(frozen=True)
class Account:
    """A user: what lies under its own name and its organisations' is its to read, and to write if `can_write`."""

    name: str
    orgs: tuple[str, ...] = ()
    can_write: bool = True


@dataclass(frozen=True)
class HubFile:
    content: bytes
    is_lfs: bool = False

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def blob_id(self) -> str:
        """git's name of the content, for LFS of the pointer to it."""
        content = f"oid sha256:{self.sha256}\n".encode() if self.is_lfs else self.content
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()

    @property
    def etag(self) -> str:
        """What a client compares its own file with: sha256 of LFS files, git's name of others."""
        return self.sha256 if self.is_lfs else self.blob_id

    def describe(self) -> dict[str, Any]:
        """Size and names as `tree` and `paths-info` give them."""
        lfs = {"oid": self.sha256, "size": len(self.content), "pointerSize": 130}
        return {"size": len(self.content), "oid": self.blob_id} | ({"lfs": lfs} if self.is_lfs else {})


@dataclass
class Commit:
    sha: str
    title: str
    files: dict[str, HubFile]


@dataclass
class Repo:
    """A repository: its commits by sha, oldest first, and where branches and tags point."""

    kind: str
    repo_id: str
    private: bool = False
    gated: str | bool = False
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.commit("main", "initial commit", {})

    def commit(self, branch: str, title: str, files: dict[str, HubFile]) -> str:
        """Put these files at the end of the branch; returns the sha."""
        content = [self.repo_id, branch, title, len(self.commits), *sorted((p, f.etag) for p, f in files.items())]
        sha = hashlib.sha1(repr(content).encode()).hexdigest()
        self.commits[sha] = Commit(sha, title, files)
        self.branches[branch] = sha
        return sha

    def at(self, revision: str) -> Commit:
        """The commit that a branch, a tag or a sha names."""
        sha = self.branches.get(revision) or self.tags.get(revision) or revision
        if sha not in self.commits:
            raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return self.commits[sha]

    def files(self, revision: str = "main") -> dict[str, bytes]:
        """Path -> content, for tests to look at."""
        return {path: file.content for path, file in self.at(revision).files.items()}


def list_entries(files: Mapping[str, HubFile]) -> dict[str, dict[str, Any]]:
    """Path -> description of every file and every folder above one."""
    entries = {}
    for path, file in sorted(files.items()):
        for folder in (str(parent) for parent in reversed(PurePosixPath(path).parents[:-1])):
            entries[folder] = {"type": "directory", "path": folder, "oid": hashlib.sha1(folder.encode()).hexdigest()}
        entries[path] = {"type": "file", "path": path, **file.describe()}
    return entries


def read_card(files: Mapping[str, HubFile]) -> dict[str, Any]:
    """The metadata at the top of README.md."""
    readme = files["README.md"].content.decode() if "README.md" in files else ""
    front_matter = re.match(r"---\n(.*?)\n---", readme, re.S)
    return (yaml.safe_load(front_matter[1]) or {}) if front_matter else {}
