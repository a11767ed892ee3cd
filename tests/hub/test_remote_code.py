"""A checkpoint on machines without the package: the same behaviour from the code that it carries.

Each scenario is one fresh process that reports what it found; see `checkpoint_visits.py`.
"""

import importlib.util
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from fresh_process import call_fresh
from hub_server import Account, HubServer
from safetensors import safe_open
from transformers import AutoProcessor

import mf2
from mf2.auto_mf2 import MODEL_CLASSES
from mf2.configuration_mf2 import AUTO_MAP, CODE_VERSION

pytestmark = pytest.mark.dependencies

VISITS = Path(__file__).with_name("checkpoint_visits.py")
MODEL_FILES = {
    "alignment_mf2.py",
    "branch_mf2.py",
    "caption_meaning_mf2.py",
    "caption_phrases_mf2.py",
    "caption_ranking_mf2.py",
    "caption_search_mf2.py",
    "configuration_mf2.py",
    "labels_mf2.py",
    "modeling_mf2.py",
    "peft_dfn.py",
    "qformer_mf2.py",
    "readout_mf2.py",
    "recognition_mf2.py",
    "regions_mf2.py",
    "tower_mf2.py",
    "transformers_mf2.py",
    "versions_mf2.py",
}
HUB_FILES = MODEL_FILES | {
    "face_detectors_mf2.py",
    "face_tiles_mf2.py",
    "image_processing_mf2.py",
    "images_mf2.py",
    "landmarks_mf2.py",
    "pipeline_mf2.py",
    "processing_mf2.py",
    "sampling_mf2.py",
}


def load_visits() -> ModuleType:
    """The module whose functions the fresh processes call, in this process."""
    spec = importlib.util.spec_from_file_location(VISITS.stem, VISITS)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def visit(function: str, home: Path, hide: tuple[str, ...] = (), **arguments: Any) -> Any:
    """Call a function of `checkpoint_visits.py` in a fresh process without a Hub, whose caches lie in `home`."""
    env = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(home), "HF_MODULES_CACHE": str(home / "modules")}
    paths = {name: str(value) if isinstance(value, Path) else value for name, value in arguments.items()}
    return call_fresh(VISITS, function, hide=hide, env={**os.environ, "OMP_NUM_THREADS": "1", **env}, **paths)


def assert_same_behaviour(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Equal outputs and captions; nothing missing from the checkpoint and nothing left over."""
    assert found["loading"] == {name: {} for name in found["loading"]}
    assert found["captions"] == expected["captions"]
    for name, values in found["outputs"].items():
        ours, theirs = torch.tensor(values), torch.tensor(expected["outputs"][name])
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}")
    if "pipeline" in found:
        assert [entry["label"] for entry in found["pipeline"]] == [entry["label"] for entry in expected["pipeline"]]
        scores = [entry["score"] for entry in expected["pipeline"]]
        assert [entry["score"] for entry in found["pipeline"]] == pytest.approx(scores, abs=1e-6)
        assert len(found["states"]) == len(expected["states"]) > 0
        for ours, theirs in zip(found["states"], expected["states"], strict=True):
            assert list(ours) == list(theirs)
            for name, value in theirs.items():
                numbers = isinstance(value, dict) and name != "captions"
                assert ours[name] == (pytest.approx(value, abs=1e-6) if numbers else value), name


def provider(found: dict[str, Any], auto_class: str) -> str:
    """The top-level package that an Auto class took its class from."""
    return found["classes"][auto_class][0].partition(".")[0]


# -------------------------------------------------------------------------------------------------------------- visits
@pytest.fixture(scope="module")
def expected(checkpoint, landmarks) -> dict[str, Any]:
    """What the package makes of the checkpoint, in this process."""
    return load_visits().use_checkpoint(str(checkpoint), landmarks)


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def other_version(checkpoint, tmp_path_factory) -> Path:
    """The checkpoint as another version of the code would have left it."""
    folder = tmp_path_factory.mktemp("other") / "mf2-other"
    shutil.copytree(checkpoint, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"code_version": "0.0.1"}))
    return folder


@pytest.fixture(scope="module")
def copy_folder(tmp_path_factory) -> Path:
    """Where `first_visit` saves the checkpoint again."""
    return tmp_path_factory.mktemp("copy") / "mf2-copy"


@pytest.fixture(scope="module")
def first_visit(checkpoint, sharded_checkpoint, other_version, copy_folder, landmarks, home) -> dict[str, Any]:
    """A machine with transformers, torch, peft and torchvision, without the package."""
    return visit(
        "visit_without_package",
        home,
        hide=("mf2",),
        folder=checkpoint,
        landmarks=landmarks,
        sharded=sharded_checkpoint,
        other_version=other_version,
        copy=copy_folder,
    )


# ------------------------------------------------------------------------------------------------- what is in a folder
def test_a_checkpoint_carries_its_code_and_nothing_else(checkpoint):
    names = {path.name for path in checkpoint.iterdir()}
    assert {name for name in names if name.endswith(".py")} == HUB_FILES
    weights = {"config.json", "generation_config.json", "model.safetensors"}
    assert names - HUB_FILES == weights | {"processor_config.json", "tokenizer.json", "tokenizer_config.json"}


def test_the_config_names_every_class_of_the_family(checkpoint):
    auto_map = json.loads((checkpoint / "config.json").read_text())["auto_map"]
    assert auto_map == AUTO_MAP
    models = {auto.__name__: f"modeling_mf2.{found.__name__}" for auto, found in MODEL_CLASSES.items()}
    assert models == {name: found for name, found in auto_map.items() if name != "AutoConfig"}


def test_saved_names_are_the_models_and_tied_weights_are_saved_once(checkpoint):
    with safe_open(checkpoint / "model.safetensors", "pt") as file:
        names = set(file.keys())
    model = mf2.MF2Model.from_pretrained(checkpoint)
    assert names == set(model.state_dict())
    vocabulary = len(mf2.MF2Processor.from_pretrained(checkpoint).tokenizer)
    shapes = {name: tuple(weight.shape) for name, weight in model.state_dict().items()}
    tables = [name for name, shape in shapes.items() if len(shape) == 2 and shape[0] == vocabulary]
    assert tables == [f"{branch}.embeddings.word_embeddings.weight" for branch in ("emo", "au")]


# ------------------------------------------------------------------------------------------------- without the package
def test_same_behaviour_without_the_package(first_visit, expected):
    assert {provider(expected, name) for name in AUTO_MAP} == {"mf2"}
    assert {provider(first_visit["used"], name) for name in AUTO_MAP} == {"transformers_modules"}
    for name in ("AutoProcessor", "AutoImageProcessor", "pipeline"):
        assert provider(first_visit["used"], name) == "transformers_modules"
    assert first_visit["used"]["classes"]["AutoImageProcessor"][1] == "MF2ImageProcessor"
    assert_same_behaviour(first_visit["used"], expected)


def test_sharded_weights_give_the_same(first_visit, expected, sharded_checkpoint):
    assert len(list(sharded_checkpoint.glob("model-*-of-*.safetensors"))) > 1
    assert_same_behaviour(first_visit["sharded"], expected)


def test_importing_the_hub_files_has_no_effect(first_visit):
    """Whoever trusts the code is not surprised: no socket, no program, no file."""
    imported = first_visit["imported"]
    assert {f"{name}.py" for name in imported["modules"]} == HUB_FILES
    assert imported["control"], "the audit hook noticed nothing at all"
    assert imported["effects"] == []


def test_another_code_version_warns_until_it_is_saved_again(first_visit, other_version, tmp_path, caplog):
    assert first_visit["warnings"]["same"] == []
    assert any("0.0.1" in text and CODE_VERSION in text for text in first_visit["warnings"]["other"])
    config = mf2.MF2Config.from_pretrained(other_version)
    assert "mf2-face==0.0.1" in caplog.text
    config.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["code_version"] == CODE_VERSION


def test_a_copy_saved_there_serves_without_peft_and_torchvision(first_visit, checkpoint, copy_folder, landmarks, home):
    """The second generation, on the barest machine; Pillow samples there, as it does here when it is asked to."""
    assert {path.name for path in copy_folder.iterdir()} == {path.name for path in checkpoint.iterdir()}
    assert json.loads((copy_folder / "config.json").read_text())["auto_map"] == AUTO_MAP
    hidden = ("mf2", "peft", "torchvision")
    found = visit("use_checkpoint", home, hide=hidden, source=copy_folder, landmarks=landmarks)
    assert found["classes"]["AutoProcessor.image_processor"][1] == "MF2ImageProcessorPil"
    assert_same_behaviour(found, load_visits().use_checkpoint(str(checkpoint), landmarks, backend="pil"))


def test_no_local_path_is_saved(first_visit, checkpoint, copy_folder):
    for folder in (checkpoint, copy_folder):
        for file in folder.glob("*.json"):
            assert str(folder.parent.parent) not in file.read_text(), file


# ---------------------------------------------------------------------------------------------------- with both copies
def test_package_and_copy_in_one_process(checkpoint, tmp_path, home):
    """A copy that came first neither captures the package's classes nor is broken by them."""
    found = visit("visit_with_both", home, folder=checkpoint, target=tmp_path / "saved")
    providers = {name: module.partition(".")[0] for name, module in found["providers"].items()}
    copies = {"copy": "transformers_modules", "copy again": "transformers_modules"}
    assert providers == copies | {"package": "mf2", "auto": "mf2", "processor": "mf2"}
    for logits in found["logits"].values():
        torch.testing.assert_close(torch.tensor(logits), torch.tensor(found["logits"]["copy"]), rtol=0, atol=1e-6)
    assert set(found["shipped"]) == MODEL_FILES
    assert found["differ"] == []


def test_with_the_package_nothing_has_to_be_trusted(checkpoint):
    for auto_class, found in MODEL_CLASSES.items():
        assert type(auto_class.from_pretrained(checkpoint)) is found
    processor = AutoProcessor.from_pretrained(checkpoint)
    assert type(processor) is mf2.MF2Processor
    assert type(processor.image_processor) is mf2.MF2ImageProcessor


# -------------------------------------------------------------------------------------------------------- over the Hub
@pytest.fixture(scope="module")
def hub() -> Iterator[HubServer]:
    with HubServer({"hf_alice": Account("alice")}) as server:
        yield server


@pytest.fixture(scope="module")
def hub_visit(hub, checkpoint, landmarks, tmp_path_factory) -> dict[str, Any]:
    """A machine without the package and without an account, after `push_to_hub` from one with both."""
    homes = [tmp_path_factory.mktemp("pusher"), tmp_path_factory.mktemp("visitor")]
    ids = {"repo_id": "alice/mf2-tiny", "private_id": "alice/mf2-secret"}
    pushed = call_fresh(VISITS, "push", env=hub.client_env(homes[0], "hf_alice"), folder=str(checkpoint), **ids)
    arguments = {"landmarks": landmarks, "token": "hf_alice", **ids, **pushed}
    return call_fresh(VISITS, "visit_hub", hide=("mf2",), env=hub.client_env(homes[1]), **arguments)


def test_a_pushed_checkpoint_behaves_the_same(hub_visit, hub, checkpoint, expected):
    files = hub.repos["models", "alice/mf2-tiny"].files()
    assert set(files) == {path.name for path in checkpoint.iterdir()} | {"README.md"}
    sha = hub.repos["models", "alice/mf2-tiny"].at("main").sha
    assert all(f".{sha}." in hub_visit["used"]["classes"][name][0] for name in AUTO_MAP)
    assert_same_behaviour(hub_visit["used"], expected)


def test_a_sha_loads_the_weights_of_that_commit(hub_visit):
    logits = {name: torch.tensor(values) for name, values in hub_visit["logits"].items()}
    torch.testing.assert_close(logits["first"], logits["main"] + 1)


def test_a_private_checkpoint_loads_with_its_token_only(hub_visit, hub):
    assert hub.repos["models", "alice/mf2-secret"].private
    assert hub_visit["logits"]["private"] == hub_visit["logits"]["main"]
    for name, text in hub_visit["refusals"].values():
        assert name == "OSError"
        assert "alice/mf2-secret" in text
        assert "private" in text and "token" in text
