"""Which names of checkpoints are folders, that a missing one is said at once, and adapters beside adapters."""

import logging

import pytest
from safetensors.torch import load_file, save_file
from small_adapters import adapted, small_model

from mf2.cli import main
from mf2.hub.sources import DEFAULT_MODEL, check_model_source, load_adapter


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "one").mkdir(parents=True)
    return tmp_path


def test_folders_that_are_there_and_names_of_repositories_pass(folder):
    for name in (folder / "runs" / "one", "runs/one", "runs", "owner/name", "name"):
        check_model_source(name)


@pytest.mark.parametrize("name", ["runs/two", "outputs/two", "./two", "/nowhere/two", "a/b/c", DEFAULT_MODEL])
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


def test_a_further_adapter_is_loaded_without_a_report(adapters, caplog, recwarn):
    logger = logging.getLogger("transformers")
    logger.addHandler(caplog.handler)
    try:
        model = small_model()
        for name in ("first", "second"):
            load_adapter(model, str(adapters / name), name)
        assert "LOAD REPORT" not in caplog.text
        assert not any("peft_config" in str(warning.message) for warning in recwarn)
        model.load_adapter(str(adapters / "second"), adapter_name="third")
        assert "LOAD REPORT" in caplog.text, "other callers keep transformers' report"
    finally:
        logger.removeHandler(caplog.handler)


def test_an_adapter_that_lacks_weights_is_refused(adapters):
    file = adapters / "second" / "adapter_model.safetensors"
    weights = load_file(file)
    weights.pop(next(name for name in weights if name.endswith("au_head.weight")))
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"second lacks 1 weights of its adapter, .*au_head\.weight"):
        load_adapter(small_model(), str(adapters / "second"), "second")
