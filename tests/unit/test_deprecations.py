"""The watch for deprecated calls: it sees ours, in every process, and leaves the libraries' own to them."""

import logging
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import deprecations
import pytest
from deprecations import speaker_and_user

CONFTEST = Path(__file__).parents[1] / "conftest.py"


@pytest.mark.parametrize(
    ("callers", "expected"),
    [
        (["warnings", "transformers", "torch", "mf2", "_pytest"], ("transformers", "mf2")),
        (["logging", "transformers", "transformers", "functools", "mf2"], ("transformers", "mf2")),
        (["transformers", "huggingface_hub.dataclasses", "dataclasses", "mf2"], ("transformers", "mf2")),
        (["httpx2", "huggingface_hub", "mf2"], ("httpx2", "huggingface_hub")),
        (["transformers", "peft", "mf2"], ("transformers", "peft")),
        (["torch", "transformers", "mf2"], ("torch", "transformers")),
        (["torch", "torch", "mf2"], ("torch", "mf2")),
        (["warnings", "mf2", "_pytest"], ("mf2", "mf2")),
        (["transformers", "torch", "threading"], ("transformers", None)),
    ],
)
def test_who_speaks_and_to_whom(callers, expected):
    assert speaker_and_user(iter(callers)) == expected


def call_from(packages: list[str], function, *args) -> None:
    """As if code of these packages called it, the first from outside."""
    for package in reversed(packages):
        code = "def call(): function(*args)"
        exec(code, scope := {"__name__": f"{package}.somewhere", "function": function, "args": args})
        function, args = scope["call"], ()
    function()


def warn(text: str, category: type[Warning] = FutureWarning, of: str = "transformers", by: str = "mf2") -> None:
    call_from([by, of], warnings.warn, text, category)


def say(text: str, of: str = "transformers", by: str = "mf2") -> None:
    call_from([by, of], logging.getLogger(f"{of}.somewhere").warning, text)


@pytest.fixture
def notes(deprecations_file, recwarn):
    """What was noted; emptied afterwards, so that the test itself does not fail for it."""
    deprecations.watch_warnings()
    yield lambda: deprecations_file.read_text().splitlines()
    deprecations_file.write_text("")


@pytest.mark.parametrize(
    ("speak", "is_noted"),
    [
        (lambda: warn("`a` is now called `b`"), True),
        (lambda: warn("`a` is now called `b`", DeprecationWarning), True),
        (lambda: warn("`a` is now called `b`", of="torch"), True),
        (lambda: warn("`a` is deprecated", UserWarning), True),
        (lambda: warn("the batch is empty", UserWarning), False),
        (lambda: warn("`a` is deprecated", by="peft"), False),
        (lambda: warn("this model will be removed next year", UserWarning, of="mf2"), False),
        (lambda: say("`a` is deprecated"), True),
        (lambda: say("`a` will be\nremoved in v6", by="transformers_modules"), True),
        (lambda: say("some weights were not used"), False),
        (lambda: say("`a` is deprecated", by="peft"), False),
    ],
)
def test_what_is_noted(speak, is_noted, notes):
    speak()
    assert bool(notes()) == is_noted


@pytest.mark.parametrize(("caller", "notes_of_it"), [("mf2", ["DeprecationWarning at <string>:1: old"]), ("peft", [])])
def test_a_process_that_a_test_starts_is_watched_and_writes_nothing_more(caller, notes_of_it, notes):
    code = (
        f"import warnings; exec(\"warnings.warn('old', DeprecationWarning)\", globals() | {{'__name__': '{caller}'}})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert notes() == notes_of_it


@pytest.mark.parametrize(
    ("line", "outcome"), [("pass", "1 passed"), ("warnings.warn('`a` is old', FutureWarning)", "1 error")]
)
def test_what_is_noted_is_an_error_of_the_test(line, outcome, tmp_path):
    """With the very conftest of these tests, over a test that calls from this repository."""
    shutil.copy(CONFTEST, tmp_path)
    code = f"import warnings\n\ndef test_it():\n    exec(\"{line}\", globals() | {{'__name__': 'mf2.x'}})\n"
    (tmp_path / "test_it.py").write_text(code)
    command = [sys.executable, "-m", "pytest", "-q", "-c", os.devnull, "--rootdir", tmp_path, tmp_path]
    environment = os.environ | {"PYTHONPATH": str(CONFTEST.with_name("servers"))}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert outcome in done.stdout
