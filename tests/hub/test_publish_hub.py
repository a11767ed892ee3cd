"""Published and read back: what `mf2 publish` puts on a Hub is what strangers without the package load.

One process publishes, one visits for each kind; see `publish_visits.py`. Only the first publication of a kind is
loaded in a clean process beforehand, as every one is outside of tests.
"""

import importlib.util
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from finished_runs import FREE, exported_faces, finish_adapter, finish_checkpoint, measured_metrics
from fresh_process import call_fresh
from hub_server import Account, HubServer
from huggingface_hub import DatasetCard, ModelCard, parse_eval_result_entries
from peft import get_peft_model
from safetensors.torch import load_file, save_file

import mf2
from mf2.dataset_tools.schema import dataset_fingerprint
from mf2.peft_dfn import DFNConfig

VISITS = Path(__file__).with_name("publish_visits.py")
TOKEN = "hf_alice"
PERMISSION = "Letter of the owners of Aff-Wild2."


def load_visits() -> Any:
    spec = importlib.util.spec_from_file_location(VISITS.stem, VISITS)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def hub() -> Iterator[HubServer]:
    with HubServer({TOKEN: Account("alice"), "hf_reader": Account("bob", can_write=False)}) as server:
        yield server


# ------------------------------------------------------------------------------------------------------------- folders
@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("work")


@pytest.fixture(scope="module")
def run(checkpoint, work) -> Path:
    return finish_checkpoint(checkpoint, work / "run")


@pytest.fixture(scope="module")
def second_run(run, work) -> Path:
    """The same with other weights and thresholds."""
    folder = work / "second"
    shutil.copytree(run, folder)
    weights = load_file(folder / "model.safetensors")
    save_file({name: weight * 1.1 for name, weight in weights.items()}, folder / "model.safetensors", {"format": "pt"})
    config, metrics = (json.loads((folder / name).read_text()) for name in ("config.json", "metrics.json"))
    config["au_thresholds"] = [0.7] * 12
    metrics |= {"evaluation": measured_metrics(config["au_ids"], config["au_thresholds"])["evaluation"]}
    for name, content in {"config.json": config, "metrics.json": metrics}.items():
        (folder / name).write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="module")
def scored(checkpoint, faces, work) -> Path:
    """A run that was measured on the free faces."""
    return finish_checkpoint(
        checkpoint, work / "scored", FREE | {"fingerprint": dataset_fingerprint(work / "free/raw")}
    )


@pytest.fixture(scope="module")
def bound_run(run, work) -> Path:
    """One whose code needs this package."""
    folder = work / "bound"
    shutil.copytree(run, folder)
    code = (folder / "modeling_mf2.py").read_text()
    (folder / "modeling_mf2.py").write_text(f"import mf2\n{code}")
    return folder


@pytest.fixture(scope="module")
def adapter(run, work) -> Path:
    """A DFN adapter of the run with AUs of its own, whose heads answer something."""
    torch.manual_seed(1)
    model = mf2.MF2Model.from_pretrained(run)
    config = DFNConfig(au_ids=[1, 9, 12], emotions=[], au_thresholds=[0.4, 0.5, 0.6], r=4, num_kept_states=2)
    config.training_data = [{"name": "More faces", "license": "mit", "rows": 5, "videos": 1, "fingerprint": None}]
    model = get_peft_model(model, config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(work / "adapter")
    processor = mf2.MF2Processor.from_pretrained(run).for_label_spaces(config.label_space)
    processor.save_pretrained(work / "adapter")
    return finish_adapter(work / "adapter")


@pytest.fixture(scope="module")
def faces(work) -> dict[str, Path]:
    terms = {"license_name": "an-agreement", "license_link": "https://example.org/terms"}
    return {
        "free": exported_faces(work / "free", license="mit", pretty_name="Made faces"),
        "restricted": exported_faces(work / "restricted", license="other", pretty_name="Aff-Wild2", **terms),
    }


# -------------------------------------------------------------------------------------------------------- publications
@pytest.fixture(scope="module")
def publications(hub, run, second_run, bound_run, scored, adapter, faces, work) -> dict[str, dict[str, Any]]:
    """Name -> what `mf2 publish` left and said, in this order."""
    commands = {
        "checkpoint": [run, "--repo", "alice/mf2-tiny", "--public"],
        "local base": [adapter, "--repo", "alice/mf2-dfn", "--public"],
        "adapter": [adapter, "--repo", "alice/mf2-dfn", "--public", "--base_repo", "alice/mf2-tiny"],
        "still base": [run, "--repo", "alice/mf2-still", "--public", "--unchecked"],
        "on still": [
            adapter,
            "--repo",
            "alice/dfn-still",
            "--public",
            "--base_repo",
            "alice/mf2-still",
            "--unchecked",
        ],
        "second": [second_run, "--repo", "alice/mf2-tiny", "--unchecked"],
        "other base": [adapter, "--repo", "alice/mf2-dfn", "--base_repo", "alice/nothing", "--unchecked"],
        "branch": [second_run, "--repo", "alice/mf2-tiny", "--revision", "try", "--unchecked"],
        "again": [second_run, "--repo", "alice/mf2-tiny", "--unchecked"],
        "reader": [second_run, "--repo", "alice/mf2-secret", "--unchecked", "--as=hf_reader"],
        "stranger": [second_run, "--repo", "alice/mf2-secret", "--unchecked", "--as="],
        "private": [run, "--repo", "alice/mf2-secret", "--unchecked"],
        "data": [faces["free"], "--repo", "alice/faces", "--public"],
        "scored": [scored, "--repo", "alice/scored", "--eval_repo", "alice/faces", "--unchecked"],
        "other scores": [run, "--repo", "alice/scored", "--eval_repo", "alice/faces", "--unchecked"],
        "bound": [bound_run, "--repo", "alice/bound"],
        "opened": [faces["free"], "--repo", "alice/closed", "--public"],
        "closed": [faces["free"], "--repo", "alice/closed", "--private"],
        "private data": [faces["free"], "--repo", "alice/faces-secret"],
        "restricted": [faces["restricted"], "--repo", "alice/wild"],
        "no permission": [faces["restricted"], "--repo", "alice/wild", "--public"],
        "permission": [faces["restricted"], "--repo", "alice/wild", "--public", "--permission", PERMISSION],
    }
    words = [[str(word) for word in command] for command in commands.values()]
    reports = call_fresh(VISITS, "publish", env=hub.client_env(work / "publisher", TOKEN), commands=words)
    return dict(zip(commands, reports, strict=True))


def pinned_lines(report: dict[str, Any]) -> str:
    """The Python that a publication printed."""
    assert report["status"] == 0, report["err"]
    return report["out"][report["out"].index("from ") :]


def sha_of(report: dict[str, Any]) -> str:
    """The commit whose address a publication printed."""
    return next(line.rpartition("/")[2] for line in report["out"].splitlines() if "/commit/" in line)


def test_one_commit_a_publication_and_none_when_nothing_differs(publications, hub):
    repo = hub.repos["models", "alice/mf2-tiny"]
    first, second, branch = (sha_of(publications[name]) for name in ("checkpoint", "second", "branch"))
    assert list(repo.commits)[1:] == [first, second], "the branch starts at main, where all of it is already"
    assert repo.branches == {"main": second, "try": second} and branch == second
    assert sha_of(publications["again"]) == second
    assert not repo.private and hub.repos["models", "alice/mf2-secret"].private
    assert all(TOKEN not in report["out"] + report["err"] for report in publications.values())


def test_code_that_needs_the_package_is_refused(publications, hub):
    report = publications["bound"]
    assert report["status"] == 1 and "does not load without this package" in report["err"] and "mf2" in report["err"]
    assert ("models", "alice/bound") not in hub.repos


def test_scores_name_the_data_set_that_they_were_measured_on(publications, hub):
    files = hub.repos["models", "alice/scored"].files()
    entries = parse_eval_result_entries(yaml.safe_load(files[".eval_results/faces.yaml"]))
    sha = sha_of(publications["data"])
    assert len(entries) == 3 and {(each.dataset_id, each.dataset_revision) for each in entries} == {
        ("alice/faces", sha)
    }
    results = ModelCard(files["README.md"].decode()).data.eval_results
    assert {(each.dataset_type, each.dataset_revision) for each in results} == {("alice/faces", sha)}
    assert publications["other scores"]["status"] == 1 and "holds other data" in publications["other scores"]["err"]


@pytest.mark.parametrize("who", ["reader", "stranger"])
def test_readers_and_strangers_cannot_publish(publications, hub, who):
    report = publications[who]
    assert report["status"] == 1 and "token" in report["err"] and report["err"].count("\n") == 1
    assert len(hub.repos["models", "alice/mf2-secret"].commits) == 2, "the first, and that of its owner"


def test_only_what_belongs_is_there_and_names_its_repository(publications, hub, run):
    files = hub.repos["models", "alice/mf2-tiny"].files()
    assert set(files) == {file.name for file in run.iterdir() if file.is_file()}
    assert not any(str(run.parent).encode() in content for content in files.values())
    card = ModelCard(files["README.md"].decode())
    assert card.data.pipeline_tag == "image-classification" and 'from_pretrained("alice/mf2-tiny"' in card.text


def test_an_adapter_names_its_base_and_the_commit(publications, hub):
    refused = publications["local base"]
    assert refused["status"] == 1 and "--base_repo" in refused["err"] and refused["err"].count("\n") == 1
    config = json.loads(hub.repos["models", "alice/mf2-dfn"].files()["adapter_config.json"])
    base_sha = sha_of(publications["checkpoint"])
    assert (config["base_model_name_or_path"], config["revision"]) == ("alice/mf2-tiny", base_sha)
    card = ModelCard(hub.repos["models", "alice/mf2-dfn"].files()["README.md"].decode())
    assert (card.data.base_model, card.data.base_model_relation) == ("alice/mf2-tiny", "adapter")
    assert base_sha in card.text and "| Faces | 96 " in card.text and "| More faces | 5 " in card.text
    missing = publications["other base"]
    assert missing["status"] == 1 and "is not there" in missing["err"]


# ----------------------------------------------------------------------------------------------------------- read back
def visit(function: str, hub: HubServer, home: Path, **arguments: Any) -> dict[str, Any]:
    """A fresh process without the package and without an account."""
    return call_fresh(VISITS, function, hide=("mf2",), env=hub.client_env(home), **arguments)


def assert_same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found["label_space"] == expected["label_space"]
    for name, logits in expected["logits"].items():
        torch.testing.assert_close(torch.tensor(found["logits"][name]), torch.tensor(logits), rtol=0, atol=1e-6)


def test_a_checkpoint_reads_back_by_sha_branch_and_tag(publications, hub, run, second_run, tmp_path):
    first, second = (sha_of(publications[name]) for name in ("checkpoint", "second"))
    hub.repos["models", "alice/mf2-tiny"].tags["v1"] = first
    found = visit(
        "visit_checkpoint",
        hub,
        tmp_path,
        pinned=pinned_lines(publications["checkpoint"]),
        repo_id="alice/mf2-tiny",
        revisions=["main", "try", "v1", first, second],
        private_id="alice/mf2-secret",
        token=TOKEN,
    )
    ours = {folder: load_visits().folder_answers(str(folder)) for folder in (run, second_run)}
    assert ours[run]["label_space"] != ours[second_run]["label_space"]
    for name, folder in {"v1": run, first: run, "main": second_run, "try": second_run, second: second_run}.items():
        assert_same(found["revisions"][name], ours[folder])
    assert_same(found["pinned"], ours[run])
    assert_same(found["private"], ours[run])
    assert "alice/mf2-secret" in found["refusal"]


def test_an_adapter_reads_back_every_way(publications, hub, adapter, run, tmp_path):
    """The pinned one although its base has moved on since."""
    pinned = pinned_lines(publications["adapter"])
    assert sha_of(publications["adapter"]) in pinned and sha_of(publications["checkpoint"]) in pinned
    found = visit("visit_adapter", hub, tmp_path, pinned=pinned, repo_id="alice/dfn-still", base_id="alice/mf2-still")
    ours = load_visits().folder_answers(str(adapter))
    assert ours["label_space"]["au_ids"] == [1, 9, 12]
    for name in ("pinned", "one line", "loaded"):
        assert_same(found[name], ours)
    torch.testing.assert_close(torch.tensor(found["peft"]), torch.tensor(ours["logits"]["aus"]), rtol=0, atol=1e-6)
    assert found["base"]["label_space"]["au_ids"] != [1, 9, 12]


def test_a_data_set_reads_back_and_streams(publications, hub, tmp_path):
    sha = sha_of(publications["data"])
    hub.repos["datasets", "alice/faces"].tags["v1"] = sha
    found = visit(
        "visit_dataset",
        hub,
        tmp_path,
        pinned=pinned_lines(publications["data"]),
        repo_id="alice/faces",
        revisions=["main", "v1", sha],
        private_id="alice/faces-secret",
        token=TOKEN,
    )
    assert found["frames"] == {"train": list(range(6)), "validation": [6, 7]}
    assert found["streamed"] == list(range(6)) and found["private"] == 6
    assert found["revisions"] == {"main": 6, "v1": 6, sha: 6}
    assert "image" not in found["columns"]["train"] and found["refusal"] == "DatasetNotFoundError"


def test_restricted_data_are_private_then_gated_with_a_permission(publications, hub):
    assert publications["restricted"]["status"] == 0
    refused = publications["no permission"]
    assert refused["status"] == 1 and "Aff-Wild2" in refused["err"] and "--permission" in refused["err"]
    assert publications["permission"]["status"] == 0
    repo = hub.repos["datasets", "alice/wild"]
    assert not repo.private and repo.gated == "manual"
    settings = [line for line in hub.requests if line.startswith("PUT /api/datasets/alice/wild/settings")]
    assert len(settings) == 1, "opened and gated at once, after the commit"
    assert hub.repos["datasets", "alice/closed"].private and publications["closed"]["status"] == 0
    card = DatasetCard(repo.files()["README.md"].decode())
    assert card.data.license == "other" and card.data.extra_gated_prompt and PERMISSION in card.text


# -------------------------------------------------------------------------------------------------------------- faults
FAULTS = {
    "create": ["POST", "/repos/create", "drop", 1],
    "preupload": ["POST", "/preupload/", "drop", None],
    "batch": ["POST", "/info/lfs/objects/batch", 500, None],
    "put": ["PUT", "/lfs/", "drop", None],
    "verify": ["POST", "/verify", 500, None],
    "hangup": ["POST", "/commit/", "drop", None],
    "busy": ["POST", "/commit/", 503, None],
    "lost": ["POST", "/commit/", "lose", 1],
    "open": ["PUT", "/settings", "drop", 1],
}
"""Name of the repository -> how its second publication breaks, until it is mended or once."""

FIRST = {"create", "open"}
"""Those that break where there is no repository yet."""


@pytest.fixture(scope="module")
def broken(run, second_run, tmp_path_factory) -> dict[str, Any]:
    """Name -> what publishing among that fault left; see `publish_among_faults`. The server is under `server`."""
    with HubServer({TOKEN: Account("alice")}) as server:
        env = server.client_env(tmp_path_factory.mktemp("home"), TOKEN)
        arguments = {"paths": [str(run), str(second_run)], "faults": FAULTS, "first": sorted(FIRST)}
        found = call_fresh(VISITS, "publish_among_faults", env=env, endpoint=server.endpoint, **arguments)
        return found | {"server": server}


@pytest.mark.parametrize("name", FAULTS)
def test_a_broken_upload_changes_nothing_and_is_repeated(broken, name, run, second_run):
    """A lost answer is noticed and no fault at all; anything else is one line that says to run it again."""
    report = broken[name]
    first_commits = 1 if name in FIRST else 2
    if name == "lost":
        assert report["broken"]["status"] == 0 and report["between"]["commits"] == 3
    else:
        assert report["broken"]["status"] == 1
        assert report["broken"]["err"].splitlines()[-1].endswith("run the same command again.")
        assert "Traceback" not in report["broken"]["err"] and TOKEN not in report["broken"]["err"]
    if name == "open":
        assert report["between"] == report["after"] | {"private": True}, "all there, not yet for everyone"
    elif name == "create":
        assert report["between"] is None
    elif name != "lost":
        assert report["between"]["commits"] == first_commits, "nothing half-published"
    assert [each["status"] for each in report["again"]] == [0, 0], report["again"]
    assert report["after"]["commits"] == first_commits + 1 and not report["after"]["private"]

    repo = broken["server"].repos["models", f"alice/{name}"]
    source = run if name in FIRST else second_run
    assert repo.files()["model.safetensors"] == (source / "model.safetensors").read_bytes()
    if name not in FIRST:
        earlier = list(repo.commits)[1]
        assert repo.files(earlier)["model.safetensors"] == (run / "model.safetensors").read_bytes(), "nothing lost"
