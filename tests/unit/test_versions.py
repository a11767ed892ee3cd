"""The tested releases: one range everywhere, pins that lie in it, and a line where something installed does not."""

import ast
import json
import logging
import re
import sys
import tomllib
from importlib.metadata import packages_distributions, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version
from transformers.utils import logging as transformers_logging

import mf2
from mf2 import versions_mf2
from mf2.configuration_mf2 import CODE_VERSION, MF2Config
from mf2.versions_mf2 import TESTED_WITH, untested_versions

ROOT = Path(mf2.__file__).parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
TOOLS = {"dev", "docs"}
"""Extras of tools, whose oldest releases are not tested."""
CONSTRAINED_INSTALL = re.compile(r"pip install -c constraints/(tested\.txt -e|app\.txt -e '\.\[app)")
ONLY_WITH_THE_APP = {"gradio", "pillow"}
"""What `constraints/app.txt` pins and `constraints/tested.txt` does not, or otherwise."""


def declared(without: set[str] = frozenset()) -> dict[str, SpecifierSet]:
    """The range of every requirement, of the extras', too."""
    texts = [*PROJECT["dependencies"]]
    texts += [
        text for extra, items in PROJECT["optional-dependencies"].items() if extra not in without for text in items
    ]
    found = [Requirement(text) for text in texts]
    return {canonicalize_name(item.name): item.specifier for item in found if item.name != PROJECT["name"]}


def pins(name: str) -> dict[str, str]:
    """The releases that a constraints file pins."""
    lines = (ROOT / "constraints" / name).read_text("utf-8").splitlines()
    found = [line.split("==") for line in lines if not line.startswith("#")]
    return {canonicalize_name(package): release for package, release in found}


def pinned() -> dict[str, str]:
    """The pinned release of every requirement; of what only the extra `app` brings, that of its own file."""
    return pins("app.txt") | pins("tested.txt")


def lower_bound(specifiers: SpecifierSet) -> Version:
    (bound,) = [item.version for item in specifiers if item.operator == ">="]
    return Version(bound)


# ----------------------------------------------------------------------------------------------------------- one range
def test_the_oldest_releases_are_the_lower_bounds():
    ranges = declared(without=TOOLS)
    assert {name: Version(release) for name, release in pins("minimum.txt").items()} == {
        name: lower_bound(specifiers) for name, specifiers in ranges.items()
    }


def test_the_pinned_releases_lie_in_the_declared_ranges():
    for releases in (pinned(), pins("app.txt")):
        assert not [name for name, specifiers in declared().items() if releases.get(name) not in specifiers]


def test_the_app_is_pinned_beside_what_everything_else_was_tested_with():
    """Gradio asks for an older Pillow; nothing else differs. `.ci/requirements.py app` brings the file up to date."""
    tested, app = pins("tested.txt"), pins("app.txt")
    assert {name for name, release in tested.items() if app.get(name) != release} == ONLY_WITH_THE_APP & tested.keys()
    assert "gradio" in app and "gradio" not in tested


def test_every_range_of_a_library_ends():
    """`packaging` follows the calendar, and breaks nothing by it."""
    open_ends = [name for name, found in declared(TOOLS).items() if not any(item.operator == "<" for item in found)]
    assert open_ends == ["packaging"]


def imported_distributions() -> set[str]:
    """What the files of a checkpoint import, by the names that pyproject.toml uses."""
    modules = set()
    for file in [*ROOT.glob("*_mf2.py"), ROOT / "peft_dfn.py"]:
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                modules |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                modules.add(node.module.partition(".")[0])
    owners = packages_distributions()
    return {canonicalize_name(owners[name][0]) for name in modules - sys.stdlib_module_names if name in owners}


def test_checkpoints_record_the_declared_range_of_all_that_their_code_imports():
    ranges = declared()
    recorded = {canonicalize_name(name): SpecifierSet(text) for name, text in TESTED_WITH.items()}
    needed = (imported_distributions() & set(ranges)) | {"torchvision"}
    assert recorded == {name: ranges[name] for name in needed}


# --------------------------------------------------------------------------------------------------------------- shown
def test_the_commands_shown_install_what_was_tested():
    """A checkout is installed with the constraints, wherever it is shown; `mf2-face[…]` is a release on PyPI."""
    for file in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/*.md")]:
        for line in file.read_text("utf-8").splitlines():
            if re.search(r"pip install .*-e", line):
                assert CONSTRAINED_INSTALL.search(line), f"{file.name}: {line}"


def test_the_table_of_tested_versions_is_that_of_the_files():
    table = (ROOT / "docs" / "tested_versions.md").read_text("utf-8")
    rows = re.findall(r"^\| `([\w-]+)` \| (\S+) \| (\S+) \| `?([^`|]*?)`? \|", table, re.M)
    minimum, tested = pins("minimum.txt"), pinned()
    expected = {name: (minimum[name], tested[name], found) for name, found in declared(TOOLS).items()}
    assert {canonicalize_name(name): (low, high, SpecifierSet(text)) for name, low, high, text in rows} == expected


# ------------------------------------------------------------------------------------------------------------- loading
@pytest.fixture
def saved(tmp_path) -> Path:
    MF2Config.from_size("tiny").save_pretrained(tmp_path)
    return tmp_path


@pytest.fixture
def said(monkeypatch, caplog):
    """What transformers' loggers say from here on; what was said once may be said again."""
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    type(versions_mf2.logger).warning_once.cache_clear()
    caplog.set_level(logging.WARNING)
    return lambda: [record.getMessage() for record in caplog.records if "not tested with" in record.getMessage()]


def edit(folder: Path, **fields) -> None:
    """Change fields of the saved configuration; `None` takes one away."""
    content = json.loads((folder / "config.json").read_text()) | fields
    (folder / "config.json").write_text(json.dumps({k: value for k, value in content.items() if value is not None}))


def test_what_is_installed_lies_in_the_recorded_range(saved, said):
    assert json.loads((saved / "config.json").read_text())["tested_with"] == TESTED_WITH
    assert MF2Config.from_pretrained(saved).tested_with == TESTED_WITH
    assert said() == []


def test_a_release_outside_of_the_range_is_told_in_one_line_and_once(saved, said):
    edit(saved, tested_with={**TESTED_WITH, "transformers": ">=4,<5", "torch": "<2"})
    for _ in range(2):
        MF2Config.from_pretrained(saved)
    (line,) = said()
    assert "\n" not in line
    assert f"transformers {version('transformers')} (tested: >=4,<5)" in line
    assert f"torch {version('torch')} (tested: <2)" in line
    assert "numpy" not in line


def test_a_checkpoint_without_a_record_loads_and_gets_one(saved, said):
    edit(saved, tested_with=None)
    assert "tested_with" not in json.loads((saved / "config.json").read_text())
    config = MF2Config.from_pretrained(saved)
    assert config.tested_with == TESTED_WITH and said() == []


def test_the_record_of_other_code_is_not_held_against_this_code(saved, said):
    """With the package installed its code runs, so that its ranges count; the other code is told of by its version."""
    edit(saved, tested_with={"transformers": "<5"}, code_version="0.0.1")
    assert MF2Config.from_pretrained(saved).tested_with == TESTED_WITH and said() == []
    edit(saved, code_version=CODE_VERSION)
    assert MF2Config.from_pretrained(saved).tested_with == {"transformers": "<5"} and len(said()) == 1


@pytest.mark.parametrize(
    ("installed", "specifiers", "is_outside"),
    [("2.14.1+cu130", ">=2.8,<3", False), ("2.15.0.dev1", ">=2.8,<3", False), ("5.25.0", ">=5.23,<5.25", True)],
)
def test_builds_and_pre_releases_count_as_their_release(monkeypatch, installed, specifiers, is_outside):
    monkeypatch.setattr(versions_mf2, "version", lambda name: installed)
    assert bool(untested_versions({"any": specifiers})) is is_outside


def test_what_is_not_installed_is_not_told_of():
    assert untested_versions({"no-such-distribution": ">=1"}) == []


def test_the_line_comes_through_transformers_own_verbosity(saved, said):
    level = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        edit(saved, tested_with={"transformers": "<5"})
        MF2Config.from_pretrained(saved)
        assert said() == []
    finally:
        transformers_logging.set_verbosity(level)
