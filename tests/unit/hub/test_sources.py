"""Which names of checkpoints are folders, that a missing one is said at once, and adapters beside adapters."""

import json
import logging
from contextlib import nullcontext

import pytest
from peft import get_peft_model
from safetensors.torch import load_file, save_file
from small_adapters import adapted, small_model

from mf2.cli import main
from mf2.hub.sources import DEFAULT_MODEL, check_model_source
from mf2.modeling_mf2 import MF2Model
from mf2.peft_dfn import DFNConfig


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "one").mkdir(parents=True)
    return tmp_path


def test_folders_that_are_there_and_names_of_repositories_pass(folder):
    for name in (folder / "runs" / "one", "runs/one", "runs", "owner/name"):
        check_model_source(name)


@pytest.mark.parametrize("name", ["runs/two", "name", "outputs/two", "./two", "/nowhere/two", "a/b/c", DEFAULT_MODEL])
def test_a_folder_that_is_missing_is_named(name):
    with pytest.raises(FileNotFoundError, match=f"no checkpoint or adapter at {name};"):
        check_model_source(name)


@pytest.mark.parametrize(
    "arguments",
    [
        ["analyze", "face.jpg"],
        ["search", "happy", "photos"],
        ["explain", "face.jpg"],
        ["export", "--model", "runs/two", "--onnx", "mf2.onnx"],
    ],
)
def test_commands_say_so_in_one_line(arguments, capsys):
    assert main(arguments) == 1
    error = capsys.readouterr().err.strip()
    assert "There is no checkpoint or adapter at" in error and "\n" not in error


@pytest.fixture
def adapters(tmp_path):
    for name in ("first", "second"):
        adapted(au_ids=[1, 2], emotions=[]).save_pretrained(tmp_path / name)
    return tmp_path


def test_an_adapter_records_its_base_absolutely_and_it_must_be_there(folder):
    """Read from elsewhere, a relative path is the name of somebody's repository, whose code would run."""
    small_model().save_pretrained(folder / "runs" / "base")
    adapter = get_peft_model(MF2Model.from_pretrained("runs/base"), DFNConfig(r=2))
    adapter.save_pretrained("runs/adapter")
    config = json.loads((folder / "runs" / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(folder / "runs" / "base")
    check_model_source("runs/adapter")
    (folder / "runs" / "base").rename(folder / "moved")
    with pytest.raises(FileNotFoundError, match=r"runs/adapter was trained on .*runs/base, which is not there"):
        check_model_source("runs/adapter")
    for recorded, is_refused in (("outputs/demo", True), ("org/mf2", False)):
        (folder / "runs" / "adapter" / "adapter_config.json").write_text(
            json.dumps(config | {"base_model_name_or_path": recorded})
        )
        with pytest.raises(FileNotFoundError) if is_refused else nullcontext():
            check_model_source("runs/adapter")


def test_a_further_adapter_is_loaded_without_a_report(adapters, caplog, recwarn):
    logger = logging.getLogger("transformers")
    logger.addHandler(caplog.handler)
    try:
        model = small_model()
        for name in ("first", "second"):
            model.load_adapter(str(adapters / name), adapter_name=name)
        assert "LOAD REPORT" not in caplog.text
        assert not any("peft_config" in str(warning.message) for warning in recwarn)
    finally:
        logger.removeHandler(caplog.handler)


def test_an_adapter_that_lacks_weights_is_refused(adapters):
    file = adapters / "second" / "adapter_model.safetensors"
    weights = load_file(file)
    weights.pop(next(name for name in weights if name.endswith("au_head.weight")))
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"second lacks 1 weights of its adapter, .*au_head\.weight"):
        small_model().load_adapter(str(adapters / "second"))
