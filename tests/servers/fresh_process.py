"""Run a function in a fresh Python process where some packages cannot be imported, as on a machine without them.

    report = call_fresh("checks.py", "load", folder=str(folder), hide=("mf2", "peft"))

As a program this file is the other side: `python -I fresh_process.py CALL.json REPORT.json`.
"""

import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any


class Without:
    """A finder of `sys.meta_path` that does not find the hidden packages; whatever else is asked of it, it answers."""

    def __init__(self, finder: Any, hidden: Iterable[str]) -> None:
        self.finder, self.hidden = finder, frozenset(hidden)

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        return None if name.partition(".")[0] in self.hidden else self.finder.find_spec(name, path, target)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.finder, name)


def call_fresh(
    script: Path,
    function: str,
    *,
    hide: Iterable[str] = (),
    env: Mapping[str, str],
    timeout_s: float = 300,
    **arguments,
) -> Any:
    """What a function of a script returns when a fresh process calls it.

    Isolated (`-I`): neither the working directory nor PYTHONPATH add packages.

    Args:
        hide: packages that the process cannot import; that it cannot is checked there.
        env: the process's whole environment.
        arguments: of the function; they and what it returns travel as JSON.
    Raises:
        AssertionError: the process failed; with the end of what it wrote.
    """
    with TemporaryDirectory(prefix="fresh-") as folder:
        call, report = Path(folder, "call.json"), Path(folder, "report.json")
        call.write_text(json.dumps([str(Path(script).resolve()), function, list(hide), arguments]))
        command = [sys.executable, "-I", "-X", "utf8", str(Path(__file__).resolve()), str(call), str(report)]
        done = subprocess.run(command, env=dict(env), cwd=folder, capture_output=True, text=True, timeout=timeout_s)
        assert done.returncode == 0, f"{function} in a fresh process:\n{done.stdout[-2000:]}\n{done.stderr[-6000:]}"
        return json.loads(report.read_text())


def _watch_deprecations() -> None:
    sys.path.insert(0, str(Path(__file__).parent))
    importlib.import_module("deprecations").watch_process()
    del sys.path[0]


def _run(call: str, report: str) -> None:
    _watch_deprecations()
    script, function, hidden, arguments = json.loads(Path(call).read_text())
    sys.meta_path[:] = [Without(finder, hidden) for finder in sys.meta_path]
    for name in hidden:
        assert importlib.util.find_spec(name) is None, f"{name} can be imported"
    spec = importlib.util.spec_from_file_location(Path(script).stem, script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    Path(report).write_text(json.dumps(getattr(module, function)(**arguments)))


if __name__ == "__main__":
    _run(*sys.argv[1:])
