"""Systems by name, and by the files that are named from outside."""

import os
from pathlib import Path

import pytest

from mf2.baselines.registry import FILES_VARIABLE, add_system, baseline_names, load_system

SYSTEM = """from mf2.baselines.interface import About, BaselineSystem
class System(BaselineSystem):
    about = About("t", "c 2026")
"""


@pytest.fixture(autouse=True)
def no_files(monkeypatch):
    monkeypatch.setenv(FILES_VARIABLE, "")


def test_a_file_is_known_by_its_name_here_and_to_child_processes(tmp_path: Path, monkeypatch):
    (tmp_path / "mine.py").write_text(SYSTEM)
    monkeypatch.chdir(tmp_path)
    assert add_system("mine.py") == "mine" == add_system(str(tmp_path / "mine.py"))
    assert os.environ[FILES_VARIABLE] == str(tmp_path / "mine.py"), "once, wherever a child process is started"
    assert "mine" in baseline_names() and load_system("mine").about.title == "t"
    assert load_system("mine") is load_system("mine"), "the class of a file is one class"


def test_files_are_named_by_the_environment(tmp_path: Path, monkeypatch):
    for name in ("first", "second"):
        (tmp_path / f"{name}.py").write_text(SYSTEM)
    monkeypatch.setenv(FILES_VARIABLE, os.pathsep.join(str(tmp_path / f"{name}.py") for name in ("first", "second")))
    assert {"first", "linear", "second"} <= set(baseline_names())


@pytest.mark.parametrize(
    ("file", "message"),
    [("lost.py", "names .*lost.py, which is no Python file"), ("linear.py", "baseline 'linear', which there is")],
)
def test_a_file_that_cannot_be_is_refused_and_forgotten(tmp_path: Path, file, message):
    if file == "linear.py":
        (tmp_path / file).write_text(SYSTEM)
    with pytest.raises(ValueError, match=message):
        add_system(str(tmp_path / file))
    assert add_system("linear") == "linear"


def test_a_file_without_a_system_says_what_it_must_hold(tmp_path: Path):
    (tmp_path / "empty.py").write_text("class System: pass\n")
    with pytest.raises(ValueError, match=r"empty\.py holds no class `System\(BaselineSystem\)`"):
        load_system(add_system(str(tmp_path / "empty.py")))


def test_an_unknown_name_hints_at_files(tmp_path: Path):
    with pytest.raises(ValueError, match=f"no baseline 'xyzzy'; there are .*linear.*{FILES_VARIABLE}"):
        add_system("xyzzy")
