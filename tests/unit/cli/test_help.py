"""The help of every command: it ends with an example, and the example is a command."""

import re
import shlex

import pytest

from mf2.cli import COMMANDS, benchmark, data, main
from mf2.dataset_tools.stages import StageParser
from mf2.utils.command_line import make_parser

NESTED = {"data": data.COMMANDS, "benchmark": benchmark.COMMANDS}
ALL = {(name,): command for name, command in COMMANDS.items() if name not in NESTED} | {
    (name, nested): command for name, commands in NESTED.items() for nested, command in commands.items()
}


@pytest.mark.parametrize("words", ALL, ids=" ".join)
def test_the_example_is_a_command(words):
    """It is parsed, and not run."""
    prog = " ".join(("mf2", *words))
    _, parser = make_parser(prog, ALL[words], *([StageParser] if words[0] == "data" else []))
    examples = ALL[words].example.replace("\\\n", " ").splitlines()
    assert examples
    for example in examples:
        assert example.startswith(prog)
        parser.parse_args(shlex.split(example)[1 + len(words) :])
    shown = parser.format_help()
    assert shown.count("\nexample:\n") == 1 and all(f"  {line}\n" in shown for line in ALL[words].example.splitlines())


@pytest.mark.parametrize("words", [*ALL, ("data",), ("benchmark",)], ids=" ".join)
def test_help_ends_well(words, capsys):
    with pytest.raises(SystemExit) as end:
        main([*words, "--help"])
    assert end.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: mf2 {' '.join(words)} ")


def test_the_commands_are_on_one_screen_in_groups(capsys):
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert re.findall(r"^([a-z& ]+):$", shown, re.M) == ["data", "train & adapt", "evaluate", "use", "share"]
    assert all(re.search(rf"^  {name} ", shown, re.M) for name in COMMANDS)
    assert "training/pretrain.py" in shown and "training/finetune.py" in shown
    assert len(shown.splitlines()) <= 24 and max(map(len, shown.splitlines())) <= 100
