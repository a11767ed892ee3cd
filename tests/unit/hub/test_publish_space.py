"""What goes into a Space: pinned requirements, the code that the page imports, and the commits that it shows."""

import json
import re
import tomllib
from pathlib import Path

import pytest
import torch
from finished_runs import exported_faces, finish_checkpoint
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from safetensors.torch import save_file

import mf2
from mf2.cli import main
from mf2.hub import publish_checks
from mf2.hub.cards import PinnedRepo
from mf2.hub.publish_space import PACKAGES, list_code, list_requirements, make_app

ROOT = Path(mf2.__file__).parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A finished checkpoint; loading it in a clean process is the Hub tests' business."""
    monkeypatch.setattr(publish_checks, "find_loading_problems", lambda contents: iter(()))
    folder = tmp_path / "saved"
    folder.mkdir()
    labels = {"au_ids": [1, 12], "emotions": ["Calm"], "au_thresholds": [0.4, 0.6]}
    (folder / "config.json").write_text(json.dumps({"model_type": "mf2"} | labels))
    (folder / "processor_config.json").write_text("{}")
    save_file({"weight": torch.zeros(2)}, folder / "model.safetensors")
    return finish_checkpoint(folder, tmp_path / "run")


def test_the_requirements_are_those_of_the_package_as_they_were_tested():
    texts = [*PROJECT["dependencies"]]
    texts += [text for extra in ("app", "mediapipe", "video") for text in PROJECT["optional-dependencies"][extra]]
    lines = (ROOT / "constraints" / "app.txt").read_text("utf-8").splitlines()
    tested = dict(line.split("==") for line in lines if not line.startswith("#"))
    names = sorted(canonicalize_name(Requirement(text).name) for text in texts)
    assert list_requirements(with_landmarker=True) == [f"{name}=={tested[name]}" for name in names]
    assert {"mediapipe"} == {
        line.split("==")[0] for line in set(list_requirements(True)) - set(list_requirements(False))
    }


def test_the_code_is_all_that_the_page_may_import():
    table = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    allowed = {
        name: set(re.findall(r"`(\w+)`", cell))
        for name, cell in re.findall(r"^\| `(\w+)` \|.*\|(.*)\|$", table, re.M)[:13]
    }
    needed, waiting = set(), {"app"}
    while waiting:
        name = waiting.pop()
        needed.add(name)
        waiting |= allowed[name] - needed
    assert needed - {"mf2"} <= set(PACKAGES)
    code = list_code()
    assert {
        "mf2/__init__.py",
        "mf2/app/space.py",
        "mf2/app/static/page.css",
        "mf2/model_cards/space.md",
    } <= code.keys()
    assert not [path for path in code if path.startswith(("mf2/tests", "mf2/training", "mf2/docs")) or ".pyc" in path]


def test_an_adapter_is_shown_on_the_commit_of_its_base():
    text = make_app(PinnedRepo("org/base", "b" * 40), [PinnedRepo("org/dfn", "a" * 40)])
    assert f'model=["org/base", "{"b" * 40}"]' in text and f'adapters=[["org/dfn", "{"a" * 40}"]]' in text
    compile(text, "app.py", "exec")


def test_a_dry_run_lists_model_and_space(run, tmp_path, capsys):
    landmarker = tmp_path / "any.task"
    landmarker.write_bytes(b"\0\0PK rest")
    words = ["--repo", "org/name", "--space", "org/page", "--dry_run", "--space_landmarker", str(landmarker)]
    assert main(["publish", str(run), *words]) == 0
    out = capsys.readouterr().out
    assert "space, private, " in out and "  face_landmarker.task\n" in out and "mf2/ (" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--space", "page"], "--space is 'page'"),
        (["--space", "org/page", "--space_landmarker", "none.task"], "none.task is no file"),
    ],
)
def test_what_cannot_become_a_space_is_told(run, words, message, capsys):
    assert main(["publish", str(run), "--repo", "org/name", "--dry_run", *words]) == 1
    assert message in capsys.readouterr().err


def test_data_have_no_space(tmp_path, private_cache, capsys):
    faces = exported_faces(tmp_path, license="mit", pretty_name="Made faces")
    assert main(["publish", str(faces), "--repo", "org/faces", "--space", "org/page", "--dry_run"]) == 1
    assert "--space shows a checkpoint or an adapter" in capsys.readouterr().err
