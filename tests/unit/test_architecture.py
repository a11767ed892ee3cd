"""Who imports whom: every import of the package against the tables of `docs/architecture.md`."""

import ast
import importlib.util
import re
import sys
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import mf2

ROOT = Path(mf2.__file__).parent
NO_PACKAGE = ("docs", "model_cards", "tests")


@cache
def read_tables() -> tuple[dict[str, set[str]], dict[str, set[str]]]:
    """Package -> what it may import, and package -> modules that it may not, in the order of the page."""
    allowed: dict[str, set[str]] = {}
    forbidden: dict[str, set[str]] = {}
    table = forbidden
    for line in (ROOT / "docs" / "architecture.md").read_text("utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| package |"):
            table = allowed if cells[-1] == "imports" else forbidden
        elif line.startswith("| `"):
            table[cells[0].strip("`")] = set(re.findall(r"`([\w.]+)`", cells[2 if table is allowed else 1]))
    return allowed, forbidden


@cache
def read_modules() -> dict[str, Path]:
    """Every module of the package by its name."""
    modules = {}
    for path in ROOT.rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if parts[0] in read_tables()[0] or len(parts) == 1:
            modules[".".join(("mf2", *parts)).removesuffix(".__init__")] = path
    return modules


@cache
def imports_of(name: str) -> frozenset[str]:
    """The modules of the package that a module imports, also inside functions, absolutely or relatively."""
    modules = read_modules()
    package = name if modules[name].name == "__init__.py" else name.rpartition(".")[0]
    found = set()
    for node in ast.walk(ast.parse(modules[name].read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            source = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            full = {f"{source}.{alias.name}" for alias in node.names}
            found |= {target if target in modules else source for target in full}
    return frozenset(target for target in found if target.partition(".")[0] == "mf2") - {name}


def package_of(module: str) -> str:
    """`mf2` for the files at the root."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and (ROOT / parts[1]).is_dir() else "mf2"


def test_the_table_names_every_package():
    folders = {path.parent.name for path in ROOT.glob("*/__init__.py")} - set(NO_PACKAGE)
    assert set(read_tables()[0]) == folders | {"mf2"}


def test_a_row_names_only_rows_above_it():
    allowed = read_tables()[0]
    above: set[str] = set()
    for package, imports in allowed.items():
        assert imports <= above, package
        above.add(package)


def test_packages_import_what_the_table_allows():
    allowed = read_tables()[0]
    arrows = {(name, target) for name in read_modules() for target in imports_of(name)}
    wrong = {
        f"{name} -> {target}"
        for name, target in arrows
        if package_of(target) not in allowed[package_of(name)] | {package_of(name)}
    }
    assert not wrong and len(arrows) > 500


def test_modules_do_not_import_what_is_forbidden():
    _, forbidden = read_tables()
    assert forbidden
    for package, names in forbidden.items():
        targets = {f"mf2.{name}" for name in names}
        assert targets <= set(read_modules())
        wrong = {name: imports_of(name) & targets for name in read_modules() if package_of(name) == package}
        assert not any(wrong.values()), wrong


def test_no_two_files_import_each_other():
    try:
        TopologicalSorter({name: imports_of(name) for name in read_modules()}).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_no_two_sub_packages_import_each_other():
    """Files that lie beside the sub-packages may use them and be used by them."""
    graph: dict[str, set[str]] = {}
    for name, path in read_modules().items():
        source = path.parent.relative_to(ROOT)
        targets = {read_modules()[target].parent.relative_to(ROOT) for target in imports_of(name)}
        if len(source.parts) > 1:
            graph.setdefault(str(source), set()).update(str(t) for t in targets if len(t.parts) > 1 and t != source)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_hub_files_import_hub_files_as_neighbours():
    """A checkpoint brings them into a package of another name."""
    for path in ROOT.glob("*.py"):
        nodes = [node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.ImportFrom)]
        assert not [node.module for node in nodes if node.level == 0 and (node.module or "").startswith("mf2")], path
        assert path.stem.endswith("_mf2") or path.stem in ("__init__", "peft_dfn"), path


@pytest.mark.parametrize("path", sorted((ROOT / "training").glob("*.py")), ids=lambda path: path.stem)
def test_a_launched_script_finds_installed_packages_and_not_its_neighbours(path):
    """Its folder is the first on Python's path."""
    assert path.stem not in sys.stdlib_module_names
    assert path.stem == "__init__" or importlib.util.find_spec(path.stem) is None
