"""How commands end: what a user did wrong is a line and a status, and nothing else is hidden."""

import subprocess
import sys

import pytest

from mf2.utils.command_line import one_line, run_command


def raising(error: BaseException):
    def command():
        raise error

    return command


@pytest.mark.parametrize(("status", "expected"), [(None, 0), (0, 0), (3, 3)])
def test_the_status_is_the_commands(status, expected):
    assert run_command("mf2 x", lambda: status) == expected


@pytest.mark.parametrize("kind", [ValueError, FileNotFoundError, ModuleNotFoundError, FloatingPointError])
def test_a_users_error_is_one_line(capsys, kind):
    assert run_command("mf2 x", raising(kind("a.yaml has\n  no key b;\n add it"))) == 1
    assert capsys.readouterr() == ("", "mf2 x: error: a.yaml has no key b; add it\n")


def test_an_interruption_is_one_line(capsys):
    assert run_command("mf2 x", raising(KeyboardInterrupt())) == 130
    assert capsys.readouterr().err == "mf2 x: interrupted; run the same command to continue.\n"


def test_a_defect_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        run_command("mf2 x", lambda: 1 / 0)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("Caught ValueError in DataLoader worker process 0.\nTraceback …\nValueError: row 3"), "row 3"),
        (OSError(), "OSError"),
    ],
)
def test_a_message_is_the_one_that_helps(error, line):
    assert one_line(error) == line


def test_the_commands_load_no_torch():
    """Which takes seconds."""
    code = (
        "import sys, mf2.cli, mf2.cli.data, mf2.cli.benchmark, mf2.utils.command_line; print('torch' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"
