"""A loopback Hub: as much of the Hugging Face Hub's HTTP API as its real clients need to push, list and load.

It serves models, datasets and spaces on 127.0.0.1, in memory: create, preupload, commit with LFS, tree, paths-info,
refs, branches, tags, info, resolve with ranges; private and gated repositories; accounts by token.

    with HubServer({"hf_alice": Account("alice")}) as hub:
        subprocess.run(command, env=hub.client_env(home, token="hf_alice"))
        hub.repos["models", "alice/name"].files()

`hub.faults.append(Fault("POST", "/commit/", "lose"))` lets the next such request go wrong; a client that is itself the
test's says the same by `PUT /faults`.

Clients read their environment at import: run them in processes of their own.
"""

import base64
import hashlib
import json
import os
import re
import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

from hub_repos import Account, HubError, HubFile, Repo, list_entries, read_card

LFS_SUFFIXES = {".arrow", ".bin", ".jpg", ".npy", ".parquet", ".png", ".pt", ".pth", ".safetensors", ".tar", ".zip"}
DATE = "2026-01-01T00:00:00.000Z"


class Answer(NamedTuple):
    """What goes back: bytes, or something that becomes JSON."""

    content: Any
    status: int = 200
    headers: Mapping[str, str] = {}


@dataclass
class Fault:
    """What goes wrong with requests whose method is this and whose path holds `part`.

    Args:
        how: `drop` closes the connection before anything is done, `lose` after it was done and before the answer;
            a number is answered as the status, and nothing is done.
        times: how many requests it meets; every one if None.
    """

    method: str
    part: str
    how: str | int
    times: int | None = 1

    def meets(self, method: str, path: str) -> bool:
        return self.times != 0 and method == self.method and self.part in path


class HubServer(ThreadingHTTPServer):
    """See the module. `requests` collects what was asked for, `METHOD path -> status`.

    Args:
        accounts: token -> account.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, accounts: Mapping[str, Account]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.accounts = dict(accounts)
        self.repos: dict[tuple[str, str], Repo] = {}
        self.lfs: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.faults: list[Fault] = []
        self.lock = threading.Lock()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def take_fault(self, method: str, path: str) -> str | int | None:
        """How this request goes wrong, if it does; the fault is used up by one."""
        with self.lock:
            for fault in self.faults:
                if fault.meets(method, path):
                    fault.times = None if fault.times is None else fault.times - 1
                    return fault.how
        return None

    def client_env(self, home: Path, token: str | None = None) -> dict[str, str]:
        """The environment of a process whose Hub this is; `home` takes its caches."""
        unset = {"HF_HUB_OFFLINE", "HF_TOKEN", "HF_HUB_CACHE", "HF_MODULES_CACHE", "HF_DATASETS_CACHE"}
        env = {name: value for name, value in os.environ.items() if name not in unset}
        env |= {"HF_ENDPOINT": self.endpoint, "HF_HOME": str(home), "NO_PROXY": "127.0.0.1,localhost"}
        env |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_UPDATE_DOWNLOAD_COUNTS": "0"}
        env |= {"DISABLE_SAFETENSORS_CONVERSION": "1"}
        return env | ({"HF_TOKEN": token} if token else {})

    def __enter__(self) -> "HubServer":
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()


_REPO = r"/api/(?P<kind>models|datasets|spaces)/(?P<repo_id>[^/]+/[^/]+)"
_PAGE = r"/(?:(?P<kind>datasets|spaces)/)?(?P<repo_id>[^/]+/[^/]+?)"
_ROUTES: list[tuple[str, re.Pattern[str], str]] = []


def route(methods: str, pattern: str) -> Callable[[Callable], Callable]:
    """Let a method of the handler answer paths of that form; named groups are its arguments."""

    def add(function: Callable) -> Callable:
        _ROUTES.extend((method, re.compile(pattern), function.__name__) for method in methods.split())
        return function

    return add


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: HubServer

    # ------------------------------------------------------------------------------------------------ one request
    def _answer(self) -> None:
        url = urlsplit(self.path)
        self.query = {name: values[0] for name, values in parse_qs(url.query).items()}
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        fault = self.server.take_fault(self.command, url.path)
        if fault == "drop":
            return self._hang_up(f"{self.command} {url.path} -> dropped")
        try:
            if isinstance(fault, int):
                raise HubError(fault, "A fault was asked for")
            self.account = self._authenticate()
            with self.server.lock:
                found = self._dispatch(url.path)
            answer = found if isinstance(found, Answer) else Answer(found)
        except HubError as error:
            headers = {"X-Error-Message": str(error), **({"X-Error-Code": error.code} if error.code else {})}
            answer = Answer(error.body, error.status, headers | error.headers)
        if fault == "lose":
            return self._hang_up(f"{self.command} {url.path} -> {answer.status}, lost")
        self.server.requests.append(f"{self.command} {url.path} -> {answer.status}")
        self._send(answer)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _answer  # noqa: N815

    def _hang_up(self, what: str) -> None:
        """Close the connection without an answer."""
        self.server.requests.append(what)
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def _dispatch(self, path: str) -> Any:
        for method, pattern, name in _ROUTES:
            match = pattern.fullmatch(path)
            if match and method == self.command:
                return getattr(self, name)(**{k: unquote(v) for k, v in match.groupdict().items() if v is not None})
        raise HubError(404, f"No such endpoint: {self.command} {path}")

    def _send(self, answer: Answer) -> None:
        is_raw = isinstance(answer.content, bytes)
        content = answer.content if is_raw else json.dumps(answer.content).encode()
        self.send_response(answer.status)
        for name, value in {"Content-Length": str(len(content)), **answer.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass

    # ------------------------------------------------------------------------------------------------------ access
    def _authenticate(self) -> Account | None:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token and token not in self.server.accounts:
            raise HubError(401, "Invalid credentials in Authorization header")
        return self.server.accounts.get(token)

    def _owns(self, repo_id: str) -> bool:
        return self.account is not None and repo_id.split("/")[0] in (self.account.name, *self.account.orgs)

    def _repo(self, kind: str, repo_id: str, write: bool = False) -> Repo:
        repo = self.server.repos.get((kind, repo_id))
        if repo is None or (repo.private and not self._owns(repo_id)):
            raise HubError(404 if self.account else 401, "Repository not found", "RepoNotFound")
        if write:
            self._check_write(repo_id)
        return repo

    def _check_write(self, repo_id: str) -> None:
        if self.account is None:
            raise HubError(401, "Please log in")
        if not (self._owns(repo_id) and self.account.can_write):
            raise HubError(403, f"You don't have the rights to write to {repo_id}")

    # ----------------------------------------------------------------------------------------- account, repositories
    @route("GET", "/api/whoami-v2")
    def whoami(self) -> dict:
        if self.account is None:
            raise HubError(401, "Invalid username or password.")
        role = "write" if self.account.can_write else "read"
        orgs = [{"name": name, "type": "org"} for name in self.account.orgs]
        token = {"accessToken": {"displayName": "test", "role": role}}
        return {"type": "user", "name": self.account.name, "orgs": orgs, "auth": {"type": "access_token"} | token}

    @route("POST", "/api/validate-yaml")
    def validate_yaml(self) -> dict:
        return {"errors": [], "warnings": []}

    @route("POST", "/api/repos/create")
    def create_repo(self) -> dict:
        fields = json.loads(self.body)
        owner = fields.get("organization") or (self.account.name if self.account else "")
        kind, repo_id = f"{fields.get('type') or 'model'}s", f"{owner}/{fields['name']}"
        self._check_write(repo_id)
        url = f"{self.server.endpoint}/{'' if kind == 'models' else f'{kind}/'}{repo_id}"
        if (kind, repo_id) in self.server.repos:
            raise HubError(409, "You already created this repo", body={"url": url})
        self.server.repos[kind, repo_id] = Repo(kind, repo_id, private=fields.get("visibility") == "private")
        return {"url": url, "name": repo_id}

    @route("PUT", f"{_REPO}/settings")
    def update_settings(self, kind: str, repo_id: str) -> dict:
        repo, settings = self._repo(kind, repo_id, write=True), json.loads(self.body)
        repo.gated = settings.get("gated", repo.gated)
        repo.private = settings.get("visibility", "private" if repo.private else "public") == "private"
        return settings

    @route("GET", f"{_REPO}/auth-check(?P<write>/write)?")
    def check_access(self, kind: str, repo_id: str, write: str = "") -> dict:
        self._repo(kind, repo_id, write=bool(write))
        return {}

    @route("GET", f"{_REPO}(?:/revision/(?P<revision>[^/]+))?")
    def describe_repo(self, kind: str, repo_id: str, revision: str = "main") -> dict:
        repo = self._repo(kind, repo_id)
        commit = repo.at(revision)
        card = read_card(commit.files)
        info = {"_id": repo_id, "id": repo_id, "author": repo_id.split("/")[0], "sha": commit.sha, "disabled": False}
        info |= {"private": repo.private, "gated": repo.gated, "downloads": 0, "likes": 0, "cardData": card}
        info |= {"lastModified": DATE, "createdAt": DATE, "tags": card.get("tags", [])}
        info |= {name: card[name] for name in ("pipeline_tag", "library_name") if name in card}
        return info | {"siblings": [{"rfilename": path} for path in sorted(commit.files)]}

    # ------------------------------------------------------------------------------------------------------- faults
    @route("PUT", "/faults")
    def set_faults(self) -> dict:
        """Let these faults, as lists of `Fault`'s arguments, take the place of those before, and forget uploads that
        no commit holds yet. Answers with what there is: `{repository: {"private", "files", "commits"}}`."""
        self.server.faults = [Fault(*fields) for fields in json.loads(self.body)]
        self.server.lfs.clear()
        return {
            repo.repo_id: {"private": repo.private, "files": len(repo.files()), "commits": len(repo.commits)}
            for repo in self.server.repos.values()
        }

    # ---------------------------------------------------------------------------------------------------- revisions
    @route("GET", f"{_REPO}/refs")
    def list_refs(self, kind: str, repo_id: str) -> dict:
        repo = self._repo(kind, repo_id)
        named = {"branches": ("heads", repo.branches), "tags": ("tags", repo.tags)}
        refs = {
            name: [{"name": n, "ref": f"refs/{folder}/{n}", "targetCommit": sha} for n, sha in shas.items()]
            for name, (folder, shas) in named.items()
        }
        return {**refs, "converts": []}

    @route("POST", f"{_REPO}/(?P<place>branch|tag)/(?P<name>[^/]+)")
    def create_ref(self, kind: str, repo_id: str, place: str, name: str) -> dict:
        repo, fields = self._repo(kind, repo_id, write=True), json.loads(self.body or b"{}")
        if place == "tag":  # the path names what is tagged
            refs, name, target = repo.tags, fields["tag"], name
        else:
            refs, target = repo.branches, fields.get("startingPoint", "main")
        if name in refs:
            raise HubError(409, f"Reference {name} exists already")
        refs[name] = repo.at(target).sha
        return {}

    # -------------------------------------------------------------------------------------------------------- files
    @route("GET", rf"{_REPO}/tree/(?P<revision>[^/]+)(?:/(?P<folder>.+))?")
    def list_tree(self, kind: str, repo_id: str, revision: str, folder: str = "") -> list[dict]:
        entries = list_entries(self._repo(kind, repo_id).at(revision).files)
        if folder and entries.get(folder, {}).get("type") != "directory":
            raise HubError(404, f"{folder} does not exist on {revision}", "EntryNotFound")
        prefix = f"{folder}/" if folder else ""
        below = [entry for path, entry in entries.items() if path.startswith(prefix)]
        is_recursive = self.query.get("recursive", "").lower() in ("1", "true")
        return [entry for entry in below if is_recursive or "/" not in entry["path"][len(prefix) :]]

    @route("POST", f"{_REPO}/paths-info/(?P<revision>[^/]+)")
    def describe_paths(self, kind: str, repo_id: str, revision: str) -> list[dict]:
        entries = list_entries(self._repo(kind, repo_id).at(revision).files)
        return [entries[path] for path in parse_qs(self.body.decode()).get("paths", []) if path in entries]

    @route("GET HEAD", rf"{_PAGE}/resolve/(?P<revision>[^/]+)/(?P<path>.+)")
    def resolve(self, repo_id: str, revision: str, path: str, kind: str = "models") -> Answer:
        repo = self._repo(kind, repo_id)
        if repo.gated and not self._owns(repo_id):
            raise HubError(403, f"Access to {repo_id} is restricted", "GatedRepo")
        commit = repo.at(revision)
        headers = {"X-Repo-Commit": commit.sha}
        if path not in commit.files:
            raise HubError(404, f"{path} does not exist", "EntryNotFound", headers=headers)
        file = commit.files[path]
        headers |= {"ETag": f'"{file.etag}"', "X-Linked-Size": str(len(file.content)), "Accept-Ranges": "bytes"}
        span = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if span is None:
            return Answer(file.content, 200, headers)
        first, last = int(span[1]), min(int(span[2] or len(file.content)), len(file.content) - 1)
        headers["Content-Range"] = f"bytes {first}-{last}/{len(file.content)}"
        return Answer(file.content[first : last + 1], 206, headers)

    @route("POST", f"{_REPO}/preupload/(?P<revision>[^/]+)")
    def preupload(self, kind: str, repo_id: str, revision: str) -> dict:
        present = self._repo(kind, repo_id, write=True).at(revision).files
        return {
            "files": [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if PurePosixPath(file["path"]).suffix in LFS_SUFFIXES else "regular",
                    "shouldIgnore": False,
                    "oid": present[file["path"]].etag if file["path"] in present else None,
                }
                for file in json.loads(self.body)["files"]
            ]
        }

    @route("POST", rf"{_PAGE}\.git/info/lfs/objects/batch")
    def offer_lfs_uploads(self, repo_id: str, kind: str = "models") -> dict:
        self._repo(kind, repo_id, write=True)
        objects = [{"oid": each["oid"], "size": each["size"]} for each in json.loads(self.body)["objects"]]
        for each in objects:
            if each["oid"] not in self.server.lfs:
                href = f"{self.server.endpoint}/lfs/{each['oid']}"
                each["actions"] = {"upload": {"href": href}, "verify": {"href": f"{href}/verify"}}
        return {"transfer": "basic", "objects": objects}

    @route("PUT", "/lfs/(?P<oid>[0-9a-f]{64})")
    def take_lfs(self, oid: str) -> dict:
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise HubError(400, f"The content is not {oid}")
        self.server.lfs[oid] = self.body
        return {}

    @route("POST", "/lfs/(?P<oid>[0-9a-f]{64})/verify")
    def verify_lfs(self, oid: str) -> dict:
        if oid not in self.server.lfs:
            raise HubError(404, f"There is no {oid}")
        return {}

    @route("POST", f"{_REPO}/commit/(?P<revision>[^/]+)")
    def create_commit(self, kind: str, repo_id: str, revision: str) -> dict:
        repo = self._repo(kind, repo_id, write=True)
        lines = [json.loads(line) for line in self.body.splitlines()]
        header = next(line["value"] for line in lines if line["key"] == "header")
        if header.get("parentCommit", repo.at(revision).sha) != repo.at(revision).sha:
            raise HubError(412, "A commit has happened since. Please refresh and try again.")
        files = dict(repo.at(revision).files)
        for line in lines:
            self._apply(line["key"], line["value"], files)
        sha = repo.commit(revision, header["summary"], files)
        return {"commitOid": sha, "commitUrl": f"{self.server.endpoint}/{repo_id}/commit/{sha}", "hookOutput": ""}

    def _apply(self, key: str, value: dict[str, Any], files: dict[str, HubFile]) -> None:
        """One line of a commit."""
        path = value.get("path", "")
        if key == "file":
            files[path] = HubFile(base64.b64decode(value["content"]))
        elif key == "lfsFile":
            if value["oid"] not in self.server.lfs:
                raise HubError(400, f"{path} was committed before it was uploaded")
            files[path] = HubFile(self.server.lfs[value["oid"]], is_lfs=True)
        elif key in ("deletedFile", "deletedFolder"):
            for name in [name for name in files if name == path or name.startswith(f"{path.rstrip('/')}/")]:
                del files[name]
