"""Which names of checkpoints are folders, and that a missing one is said at once."""

import pytest

from mf2.cli import main
from mf2.model_source import DEFAULT_MODEL, check_model_source


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "one").mkdir(parents=True)
    return tmp_path


def test_folders_that_are_there_and_names_of_repositories_pass(folder):
    for name in (folder / "runs" / "one", "runs/one", "runs", "owner/name", "name"):
        check_model_source(name)


@pytest.mark.parametrize("name", ["runs/two", "./two", "/nowhere/two", "a/b/c", DEFAULT_MODEL])
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
