"""Which options the messages of a command speak of, found in the source: every definition that the command can reach.

A definition is a function, class or constant at the top of a file; it reaches what it names. Dispatch by strings (a
reader, a detector, a stage) is not followed.
"""

import ast
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
OPTION = re.compile(r"(?<![\w-])(?<!var\()--[a-z]\w*")

Definition = tuple[str, str]
"""Module of the package with dots, and name."""


@dataclass(frozen=True)
class Module:
    """The definitions of a file by name, and what its other names are: `(module, name)`, or `(module, "")`."""

    definitions: Mapping[str, list[ast.stmt]]
    imported: Mapping[str, Definition]


def _is_module(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."))
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


@cache
def read_module(name: str) -> Module:
    """A module of the package."""
    path = ROOT.joinpath(*name.split("."))
    is_package = path.is_dir()
    tree = ast.parse((path / "__init__.py" if is_package else path.with_suffix(".py")).read_text("utf-8"))
    package = name.split(".")[: None if is_package else -1]
    imported: dict[str, Definition] = {}
    for node in (node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)):
        words = (node.module or "").split(".") if node.module else []
        if node.level:
            words = package[: len(package) + 1 - node.level] + words
        elif words[:1] == ["mf2"]:
            words = words[1:]
        else:
            continue
        for alias in node.names:
            whole = ".".join([*words, alias.name])
            place = (whole, "") if _is_module(whole) else (".".join(words), alias.name)
            if place[0] and _is_module(place[0]):
                imported[alias.asname or alias.name] = place
    definitions: dict[str, list[ast.stmt]] = {}
    for node in tree.body:
        for defined in _names(node):
            definitions.setdefault(defined, []).append(node)
    return Module(definitions, imported)


def _names(node: ast.stmt) -> Iterator[str]:
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        yield node.name
    elif isinstance(node, ast.Assign):
        yield from (target.id for target in node.targets if isinstance(target, ast.Name))
    elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        yield node.target.id


def _followed(module: str, name: str) -> Definition | None:
    """Where a name of a module is defined; None outside of the package."""
    found = read_module(module)
    if name in found.definitions:
        return module, name
    place = found.imported.get(name)
    return _followed(*place) if place and place[1] else None


def _reached(definition: Definition) -> Iterator[Definition]:
    module, name = definition
    found = read_module(module)
    for node in (node for top in found.definitions[name] for node in ast.walk(top)):
        if isinstance(node, ast.Name) and (place := _followed(module, node.id)):
            yield place
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            owner = found.imported.get(node.value.id)
            if owner and not owner[1] and (place := _followed(owner[0], node.attr)):
                yield place


def reach(starts: Iterable[Definition], left_out: Iterable[Definition] = ()) -> set[Definition]:
    """The starts and everything that they name, over any number of steps, but what is left out."""
    seen: set[Definition] = set(left_out)
    waiting = [place for start in starts if (place := _followed(*start))]
    while waiting:
        definition = waiting.pop()
        if definition not in seen:
            seen.add(definition)
            waiting += _reached(definition)
    return seen - set(left_out)


def messages(definition: Definition) -> Iterator[str]:
    """The texts of a definition that speak of an option, without docstrings and lone names of options."""
    module, name = definition
    for top in read_module(module).definitions[name]:
        inner = {id(part) for node in ast.walk(top) if isinstance(node, ast.JoinedStr) for part in node.values}
        inner |= {id(node.value) for node in ast.walk(top) if isinstance(node, ast.Expr)}
        for node in ast.walk(top):
            if id(node) in inner or not isinstance(node, (ast.Constant, ast.JoinedStr)):
                continue
            text = _text(node)
            if OPTION.search(text) and not OPTION.fullmatch(text):
                yield text


def _text(node: ast.expr) -> str:
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part) if isinstance(part, ast.Constant) else "…" for part in node.values)
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""
