"""The help of every command: it ends with an example, and the example is a command."""

import re
import shlex
import subprocess
import sys

import pytest

from mf2 import landmarks_mf2
from mf2.benchmarks import analyze, arguments, branch, finetune, gpu_sections, inputs, shared_machine, tools
from mf2.cli import COMMANDS, benchmark, data, main
from mf2.dataset_tools.stages import StageParser
from mf2.evaluation import arguments as evaluation_arguments
from mf2.evaluation import landmark_sources
from mf2.utils.command_line import make_parser

NESTED = {"data": data.COMMANDS, "benchmark": benchmark.COMMANDS}
ALL = {(name,): command for name, command in COMMANDS.items() if name not in NESTED} | {
    (name, nested): command for name, commands in NESTED.items() for nested, command in commands.items()
}


@pytest.mark.parametrize("words", ALL, ids=" ".join)
def test_the_example_is_a_command(words):
    """It is parsed, and not run."""
    prog = " ".join(("mf2", *words))
    parser = make_parser(prog, ALL[words], *([StageParser] if words[0] == "data" else []))
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


HEAVY = ("torch", "transformers", "peft", "timm", "matplotlib", "scipy.stats", "tensorboard")
SHOW_HELP = """
import sys
from mf2.cli import main
for words in {words!r}:
    try:
        main([*words, "--help"])
    except SystemExit:
        pass
    for name in {heavy!r}:
        if name in sys.modules:
            sys.exit(f"mf2 {{' '.join(words)}} --help imports {{name}}")
"""


def test_help_imports_nothing_heavy():
    """One process for all commands: what one of them imports stays in `sys.modules`."""
    code = SHOW_HELP.format(words=[(), ("data",), ("benchmark",), *ALL], heavy=HEAVY)
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr


def test_choices_in_help_are_those_that_the_commands_know():
    assert evaluation_arguments.SOURCES == (landmarks_mf2.DETECT, landmarks_mf2.MEAN_FACE, landmark_sources.GIVEN)
    assert tuple(inputs.IMAGE_SIZES) == arguments.SIZES
    assert tuple(branch.SECTIONS) == arguments.BRANCH_SECTIONS
    assert tuple(finetune.SECTIONS) == arguments.FINETUNE_SECTIONS
    assert tuple(gpu_sections.SECTIONS) == arguments.GPU_SECTIONS
    assert tuple(analyze.PICTURE_SIZES) == arguments.PICTURES
    assert tuple(analyze.LANDMARKS) == arguments.LANDMARKS
    assert tuple(shared_machine.make_settings(1)) == arguments.SETTINGS
    assert tuple(tools.RUNNERS) == arguments.TOOLS


def test_the_commands_are_on_one_screen_in_groups(capsys):
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert re.findall(r"^([a-z& ]+):$", shown, re.M) == ["data", "train & adapt", "evaluate", "use", "share"]
    assert all(re.search(rf"^  {name} ", shown, re.M) for name in COMMANDS)
    assert "training/pretrain.py" in shown and "training/finetune.py" in shown
    assert len(shown.splitlines()) <= 24 and max(map(len, shown.splitlines())) <= 100
