"""The loopback Hub answers the real client as the Hub does: what the other tests over the Hub rely on."""

import urllib.request
from pathlib import Path

import pytest
from fresh_process import call_fresh
from hub_repos import HubFile, Repo
from hub_server import Account, HubServer

pytestmark = pytest.mark.dependencies

CLIENTS = Path(__file__).with_name("hub_clients.py")


@pytest.fixture
def hub():
    accounts = {"hf_alice": Account("alice", orgs=("lab",)), "hf_reader": Account("bob", can_write=False)}
    with HubServer(accounts) as server:
        yield server


def test_a_client_pushes_lists_and_loads(hub, tmp_path):
    env = hub.client_env(tmp_path, token="hf_alice")
    found = call_fresh(CLIENTS, "use_repository", env=env, home=str(tmp_path))
    assert found["user"] == "alice"
    assert len(set(found["shas"])) == 1, "uploading the same again makes no commit"
    assert found["tags"] == ["faces"]
    files = ["README.md", "data/deep/part.parquet", "data/index.csv"]
    assert found["files"] == {"main": ["README.md"], "v1": files, "try/this": sorted([*files, "new.txt"])}
    assert found["top"] == ["README.md", "data"]
    assert found["paths"] == ["data"]
    assert found["refs"] == ["main", "try/this"]
    assert found["same"] == dict.fromkeys(files, True)
    assert set(hub.repos["datasets", "alice/faces"].files()) == {"README.md"}
    assert sum(line.startswith("PUT /lfs/") for line in hub.requests) == 1


def test_refusals_are_those_of_the_hub(hub, tmp_path):
    for name, fields in {"secret": {"private": True}, "asked": {"gated": "auto"}, "open": {}}.items():
        repo = Repo("models", f"alice/{name}", **fields)
        repo.commit("main", "config", {"config.json": HubFile(b"{}")})
        hub.repos["models", repo.repo_id] = repo
    ids = {"private_id": "alice/secret", "gated_id": "alice/asked", "foreign_id": "alice/open"}
    env = hub.client_env(tmp_path, token="hf_reader")
    assert call_fresh(CLIENTS, "be_refused", env=env, missing_id="alice/none", **ids) == {
        "private": "RepositoryNotFoundError 404",
        "gated": "GatedRepoError 403",
        "foreign": "HfHubHTTPError 403",
        "missing": "RepositoryNotFoundError 404",
        "file": "RemoteEntryNotFoundError 404",
        "revision": "RevisionNotFoundError 404",
        "token": "HfHubHTTPError 401",
    }


def test_files_are_served_in_ranges(hub):
    repo = hub.repos["models", "alice/open"] = Repo("models", "alice/open")
    repo.commit("main", "file", {"a b.bin": HubFile(b"0123456789", is_lfs=True)})
    url = f"{hub.endpoint}/alice/open/resolve/main/a%20b.bin"
    for span, content in {"bytes=3-": b"3456789", "bytes=2-4": b"234", "": b"0123456789"}.items():
        request = urllib.request.Request(url, headers={"Range": span} if span else {})
        with urllib.request.urlopen(request) as answer:
            assert answer.read() == content
            assert answer.headers["X-Linked-Size"] == "10"
