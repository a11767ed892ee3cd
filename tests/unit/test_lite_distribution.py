"""mf2-face-lite: the files and ranges of mf2-face with few dependencies, and what it does where nothing else is."""

import csv
import os
import subprocess
import sys
import tomllib
import venv
from itertools import chain
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from tiny_mf2 import make_tiny, write_pictures

import mf2
from mf2.analysis.onnx_export import export_onnx

ROOT = Path(mf2.__file__).parent
WHOLE, LITE = (tomllib.loads((ROOT / folder / "pyproject.toml").read_text("utf-8")) for folder in (".", "lite"))


def ranges(project: dict) -> dict[str, str]:
    """The range of every requirement, of the extras', too."""
    texts = [*project["dependencies"], *chain(*project["optional-dependencies"].values())]
    return {item.name: str(item.specifier) for item in map(Requirement, texts)}


def test_both_are_made_of_the_same_files_and_releases():
    whole, lite = WHOLE["project"], LITE["project"]
    assert all(lite[name] == whole[name] for name in ("version", "requires-python", "license", "scripts", "authors"))
    assert ranges(lite).items() <= ranges(whole).items()
    assert {Requirement(text).name for text in lite["dependencies"]} == {"numpy", "onnxruntime", "pillow", "tqdm"}
    settings = [project["tool"]["setuptools"] for project in (WHOLE, LITE)]
    assert [each.pop("package-dir") for each in settings] == [{"mf2": "."}, {"mf2": ".."}]
    assert settings[0] == settings[1]
    assert (ROOT / "lite" / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()


@pytest.mark.slow
@pytest.mark.network
def test_it_analyses_where_nothing_else_is_installed(tmp_path):
    """Fetches NumPy, Pillow, onnxruntime and tqdm from PyPI into an environment of its own."""
    export_onnx(*make_tiny(), tmp_path / "tiny.onnx")
    (picture,) = write_pictures(tmp_path, 1)
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    for command in (
        [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(tmp_path), str(ROOT / "lite")],
        [python, "-m", "pip", "install", "-q", "mf2-face-lite", "--find-links", str(tmp_path)],
    ):
        subprocess.run(command, check=True)
    code = "import importlib.util, sys; sys.exit(any(map(importlib.util.find_spec, sys.argv[1:])))"
    subprocess.run([python, "-c", code, "torch", "transformers", "pyarrow", "scipy"], check=True)
    command = [python.with_name("mf2"), "analyze", picture, "--model", tmp_path / "tiny.onnx"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run(
        [*command, "--landmarks", "mean_face", "--output", tmp_path / "out"], check=True, cwd=tmp_path, env=environment
    )
    (row,) = csv.DictReader((tmp_path / "out" / "faces.csv").open())
    assert row["status"] == "ok" and 0 < float(row["AU12"]) < 1
