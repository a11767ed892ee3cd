"""A data set on the Hub is read by its id as its folder is: whole, without pixels, and in a stream."""

from pathlib import Path

import pytest
from fresh_process import call_fresh
from hub_repos import HubFile, Repo
from hub_server import Account, HubServer
from samples import write_mfa_folder, write_picture

from mf2.dataset_tools.export import export
from mf2.dataset_tools.schema import dataset_fingerprint, load_mfa, read_manifest

CLIENTS = Path(__file__).with_name("mfa_clients.py")


@pytest.mark.usefixtures("private_cache")
def test_a_data_set_is_read_by_its_id(tmp_path):
    source = write_mfa_folder(tmp_path / "source", 8, 4, caption_emotion="A calm face.")
    folder = export(source, tmp_path / "export", full=True)
    repo = Repo("datasets", "alice/faces")
    files = [path for path in folder.rglob("*") if path.is_file()]
    content = {path.relative_to(folder).as_posix(): HubFile(path.read_bytes()) for path in files}
    repo.commit("main", "data", content)
    pictures = tmp_path / "pictures"
    for row in (row for split in ("train", "validation") for row in load_mfa(source, split)):
        write_picture(pictures / row["file_name"], 100 + row["frame"])
    with HubServer({"hf_alice": Account("alice")}) as hub:
        hub.repos["datasets", "alice/faces"] = repo
        bare_repo = hub.repos["datasets", "alice/bare"] = Repo("datasets", "alice/bare")
        bare_repo.commit("main", "card", {"README.md": HubFile(b"---\nlicense: cc-by-4.0\n---\n\n# Faces\n")})
        env = hub.client_env(tmp_path / "client", token="hf_alice")
        found = call_fresh(
            CLIENTS,
            "read_data_set",
            env=env,
            repo_id="alice/faces",
            bare_id="alice/bare",
            pictures=str(pictures),
            out=str(tmp_path / "joined"),
        )
    assert found["red"] == list(range(8)) and found["landmarks"] == [[n, n] for n in range(8)]
    assert found["captions"] == ["A calm face."] * 4 and "image" not in found["columns"]
    assert found["streamed"] == [[n, [16, 16]] for n in range(3)]
    refusals = found["refusals"]
    assert refusals["pixels"].startswith("ValueError: alice/faces:annotations (train) has annotations alone")
    assert "mf2 data join" in refusals["pixels"]
    assert found["trained_on"] == [12, 12]
    assert found["joined"] == [100 + n for n in range(8)]
    assert "test" in refusals["split"] and refusals["split"].startswith("ValueError")
    assert refusals["repository"].startswith("DatasetNotFoundError: ") and "alice/nothing" in refusals["repository"]
    whole, bare = found["origins"]["whole"], found["origins"]["bare"]
    assert (whole["name"], whole["revision"]) == ("alice/faces", repo.branches["main"])
    assert whole["license"] == read_manifest(source)["license"] == found["origins"]["joined"]
    assert whole["fingerprint"] == dataset_fingerprint(folder)
    assert (bare["name"], bare["license"], bare["fingerprint"]) == ("alice/bare", "cc-by-4.0", None)
    assert bare["revision"] == bare_repo.branches["main"]
