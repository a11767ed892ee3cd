"""The package as it is installed: cheap to import, whole in its wheel, and one version everywhere."""

import json
import re
import resource
import shutil
import subprocess
import sys
import tarfile
import zipfile
from fnmatch import fnmatch
from pathlib import Path

import pytest
import transformers
from peft import get_peft_model
from small_adapters import small_model

import mf2
from mf2.cli import COMMANDS
from mf2.configuration_mf2 import CODE_VERSION

ROOT = Path(mf2.__file__).parent
FOLDERS = {path.parent.name for path in ROOT.glob("*/__init__.py")} | {"model_cards"}
"""What the package is made of beside the files at the root."""


def run_isolated(code: str) -> dict:
    """What a fresh process prints as JSON."""
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def run_command(*args: str) -> tuple[subprocess.CompletedProcess, float]:
    """The `mf2` command, and the CPU seconds that it took."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-m", "mf2.cli", *args], capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return done, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


# ----------------------------------------------------------------------------------------------------------- importing
def test_importing_is_cheap_and_lazy():
    """Labels need neither torch nor transformers; the rest adds little to what transformers itself takes."""
    found = run_isolated("""
import json, sys, time
import mf2
mf2.AU_IDS, mf2.LabelSpace
early = sorted({"torch", "transformers", "numpy"} & set(sys.modules))
import torch, transformers
from transformers import AutoModel, AutoProcessor, Blip2VisionModel, GenerationMixin
for name in [name for name in sys.modules if name.partition(".")[0] == "mf2"]:
    del sys.modules[name]
start = time.process_time()
import mf2
lazy = time.process_time() - start
mf2.MF2Model, mf2.MF2Processor
print(json.dumps({"early": early, "lazy": lazy, "whole": time.process_time() - start}))
""")
    assert found["early"] == []
    assert found["lazy"] < 0.1
    assert found["whole"] < 0.5


def test_every_exported_name_is_there_and_registered():
    assert set(dir(mf2)) == set(mf2.__all__)
    assert all(getattr(mf2, name) is not None for name in mf2.__all__)
    with pytest.raises(AttributeError, match="no attribute 'MF3Model'"):
        mf2.MF3Model  # noqa: B018
    assert transformers.AutoConfig.for_model("mf2").__class__ is mf2.MF2Config
    assert transformers.AutoModel._model_mapping[mf2.MF2Config] is mf2.MF2Model


@pytest.mark.parametrize("first", ["mf2", "peft"])
def test_peft_knows_dfn_whichever_is_imported_first(first, tmp_path):
    """PEFT looks its methods up in a table; the family must stand there by then, and may not cost an import before."""
    small_model().save_pretrained(tmp_path / "base")
    adapter = get_peft_model(mf2.MF2Model.from_pretrained(tmp_path / "base"), mf2.DFNConfig(r=4, emotions=["Fear"]))
    adapter.save_pretrained(tmp_path / "adapter")
    second = {"mf2": "peft", "peft": "mf2"}[first]
    found = run_isolated(f"""
import json, sys
import {first}
early = sorted({{"torch", "transformers"}} & set(sys.modules))
import {second}
from peft import AutoPeftModel, PeftConfig
config = PeftConfig.from_pretrained({str(tmp_path / "adapter")!r})
model = AutoPeftModel.from_pretrained({str(tmp_path / "adapter")!r})
names = [type(config).__name__, type(model.get_base_model()).__name__, *model.config.id2label.values()]
print(json.dumps({{"early": early, "names": names, "same": type(config) is mf2.DFNConfig}}))
""")
    assert found["names"] == ["DFNConfig", "MF2Model", "Fear"] and found["same"]
    assert first == "peft" or found["early"] == []


def test_the_version_is_the_same_everywhere():
    """A checkpoint's code version names the release that reads it."""
    declared = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.M)
    assert declared and declared[1] == mf2.__version__ == CODE_VERSION


# ------------------------------------------------------------------------------------------------------------- command
def test_help_is_quick_and_names_every_command():
    done, seconds = run_command("--help")
    assert done.returncode == 0
    assert all(re.search(rf"^  {name}\s", done.stdout, re.M) for name in COMMANDS)
    assert seconds < 1


@pytest.mark.parametrize("args", [(), ("paint",)])
def test_a_wrong_command_is_one_clear_line(args):
    done, _ = run_command(*args)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert all(name in done.stderr.splitlines()[-1] for name in (*COMMANDS, *args))


def test_the_version_is_printed():
    assert run_command("--version")[0].stdout.strip() == mf2.__version__


# ------------------------------------------------------------------------------------------------------------ building
def test_every_package_is_declared():
    """One that is not would be missing in the wheel."""
    declared = re.search(r"^packages = \[(.*?)\]", (ROOT / "pyproject.toml").read_text(), re.M | re.S)
    found = {path.parent for path in ROOT.rglob("__init__.py") if path.relative_to(ROOT).parts[0] in FOLDERS}
    names = {".".join(("mf2", *folder.relative_to(ROOT).parts)) for folder in found}
    assert declared and set(re.findall(r'"([\w.]+)"', declared[1])) == names | {"mf2"}


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """A folder with the sdist, and the wheel that was built from it."""
    pytest.importorskip("build")
    source, dist = tmp_path_factory.mktemp("build") / "mf2", tmp_path_factory.mktemp("dist")
    skipped = shutil.ignore_patterns(".*", "*.egg-info", "__pycache__", "build", "dist", "runs", "outputs", "venv")
    shutil.copytree(ROOT, source, ignore=skipped)
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(dist), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=dist)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return dist


def source_files() -> set[str]:
    """Everything that the package needs at run time: code and data, but not the README's pictures."""
    files = {path.name for path in ROOT.glob("*.py")}
    for package in FOLDERS:
        for path in (ROOT / package).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                files.add(path.relative_to(ROOT).as_posix())
    return files


def test_the_wheel_holds_the_whole_package_and_nothing_else(built):
    (wheel,) = built.glob("mf2_face-*.whl")
    assert wheel.name.endswith("-py3-none-any.whl")
    names = [name for name in zipfile.ZipFile(wheel).namelist() if not fnmatch(name, "mf2_face-*.dist-info/*")]
    assert {name.removeprefix("mf2/") for name in names} == source_files()


def test_the_sdist_holds_what_the_wheel_is_built_from(built):
    (sdist,) = built.glob("mf2_face-*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert source_files() | {"pyproject.toml", "README.md", "LICENSE"} <= names


def test_the_wheel_works_where_it_is_unpacked(built, tmp_path):
    (wheel,) = built.glob("mf2_face-*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path)
    found = run_isolated(f"""
import json, sys
sys.path.insert(0, {str(tmp_path)!r})
import mf2
from mf2.dataset_tools.captions.prompting import PROMPTS_FOLDER
from mf2.labels_mf2 import ACTION_UNITS
prompts = len(list(PROMPTS_FOLDER.glob("*.txt")))
print(json.dumps({{"file": mf2.__file__, "prompts": prompts, "aus": len(ACTION_UNITS)}}))
""")
    assert Path(found["file"]).is_relative_to(tmp_path)
    assert found["prompts"] > 0 and found["aus"] > 12
