"""A message never advises an option that the command lacks: all texts that a command can reach, against its parser."""

import argparse
import re

import pytest
from advice import OPTION, messages, reach

from mf2.cli import COMMANDS, benchmark, data
from mf2.data_loading.csv_files import data_folder
from mf2.dataset_tools.readers.registry import READERS
from mf2.dataset_tools.stages import StageParser
from mf2.training.arguments import FinetuneArguments, PretrainArguments, _build_parser
from mf2.utils.command_line import Command, make_parser

NAMES_ITS_COMMAND = [("data_loading.csv_files", "import_csv")]
"""What says itself which command the options that it speaks of belong to."""
NOT_READ = {
    "mf2 demo": {
        "analysis": "gives the landmarks and every option of the analysis itself",
        "dataset_tools.detectors": "detects nothing",
    },
    "mf2 benchmark analyze": {
        "analysis": "gives every option of the analysis itself, and tries its detector first",
        "dataset_tools.detectors.load_backend": "has words of its own for it",
    },
    "mf2 benchmark gpu": dict.fromkeys(
        ("analysis", "benchmarks", "dataset_tools.detectors", "utils.devices"), "gives all options of what it measures"
    ),
    "mf2 benchmark long": {
        "analysis": "gives every option of the analysis itself",
        "dataset_tools.detectors": "detects nothing",
        "benchmarks.long.open_in_browser": "the browser's own options",
    },
    "mf2 benchmark throughput": {
        "analysis": "gives every option of the analysis and of the export itself",
        "benchmarks.analyze": "times the analysis by its functions alone",
        "dataset_tools.detectors.load_backend": "tries its detector first",
    },
    "mf2 benchmark training_steps": {
        "dataset_tools.schema.check_target": "draws its sample only where nothing is",
        "training": "passes on flags of training/pretrain.py",
    },
    "mf2 explain": {"analysis.peer_formats": "writes tables only", "analysis.engine.select_shard": "has one share"},
    "mf2 app": {
        "analysis.faces._GivenLandmarks": "takes no file of points",
        "analysis.engine": "gives every option of the analysis of a video itself",
        "analysis.run_folder": "analyses into a folder of its own",
        "analysis.peer_formats": "writes no such tables",
    },
    "mf2 publish": {"dataset_tools.schema.check_target": "writes no data set"},
    "mf2 data (?:caption|landmarks)": {"dataset_tools.schema.check_target": "replaces its own output"},
    "training/pretrain.py": {
        "dataset_tools.schema.check_target": "draws its sample only where nothing is",
        "training.arguments": "takes no arguments of fine-tuning",
    },
    "training/finetune.py": {"training.arguments.PretrainArguments": "takes no arguments of pre-training"},
    "mf2 data (?:import|index) (?:bp4d|disfa|emotionet|gft|rafau)": {
        "dataset_tools.readers.frame_table.COUNTED": "codes no emotions"
    },
    "mf2 data (?:import|index) afew": {
        "dataset_tools.readers.frame_table.ambiguous_folders_error": "has one file a clip"
    },
    "mf2 data (?:import|index) csv": {
        "dataset_tools.readers.frame_table.ambiguous_folders_error": "names each picture by its path"
    },
}
"""Command, as a pattern -> what it reaches -> why its users never read that."""
OTHER_PROGRAM = re.compile(r"accelerate launch|torchrun")


def _options(parser: argparse.ArgumentParser) -> set[str]:
    return {option for action in parser._actions for option in action.option_strings}


def _commands() -> dict[str, tuple[set[str], list[tuple[str, str]]]]:
    """What is typed -> its options, and the definitions where it starts."""
    named: dict[str, tuple[Command, type[argparse.ArgumentParser]]] = {
        f"mf2 {name}": (command, argparse.ArgumentParser) for name, command in COMMANDS.items()
    }
    for group, parser_class in ((data, StageParser), (benchmark, argparse.ArgumentParser)):
        prog = "mf2 " + group.__name__.rpartition(".")[2]
        del named[prog]
        named |= {f"{prog} {name}": (command, parser_class) for name, command in group.COMMANDS.items()}
    found = {}
    for prog, (command, parser_class) in named.items():
        starts = [(command.module, "run")]
        if command.arguments:
            starts.append(tuple(command.arguments.split(":")))
        else:
            starts.append((command.module, "add_arguments"))
        found[prog] = (_options(make_parser(prog, command, parser_class)), starts)
    for stage in ("import", "index"):
        prog = f"mf2 data {stage}"
        parser = make_parser(prog, named[prog][0], StageParser)
        (choices,) = (action.choices for action in parser._actions if isinstance(action, argparse._SubParsersAction))
        _, starts = found.pop(prog)
        for name, (module, _) in READERS.items():
            reader = f"dataset_tools.readers.{module}"
            of_reader = [(reader, "read"), (reader, "ABOUT"), (reader, "add_arguments")]
            found[f"{prog} {name}"] = (_options(choices[name]), [*starts, *of_reader])
    for name, arguments in (("pretrain", PretrainArguments), ("finetune", FinetuneArguments)):
        found[f"training/{name}.py"] = (_options(_build_parser(arguments, "")), [(f"training.{name}", "main")])
    return found


def _is_never_read(prog: str, definition: tuple[str, str]) -> bool:
    places = [place for pattern, of_prog in NOT_READ.items() if re.fullmatch(pattern, prog) for place in of_prog]
    return any(f"{'.'.join(definition)}.".startswith(f"{place}.") for place in places)


ALL = _commands()


@pytest.mark.parametrize("prog", ALL)
def test_a_message_speaks_of_options_that_the_command_has(prog):
    options, starts = ALL[prog]
    wrong = []
    for definition in sorted(reach(starts, NAMES_ITS_COMMAND)):
        for text in messages(definition):
            named = [other for other in ALL if other in text]
            known = set().union(options, *(ALL[other][0] for other in named))
            if OTHER_PROGRAM.search(text):
                continue
            wrong += [
                f"{'.'.join(definition)}: {option} in {text!r}"
                for option in OPTION.findall(text)
                if option not in known and not _is_never_read(prog, definition)
            ]
    assert not wrong, "\n".join(wrong)


def test_the_sweep_sees_advice_of_an_option_that_a_command_lacks():
    """`mf2 report` has no --shard, and what `mf2 analyze` says of it would be noticed there."""
    analyze, report = ALL["mf2 analyze"], ALL["mf2 report"]
    texts = [text for definition in reach(analyze[1]) for text in messages(definition)]
    assert any("--shard is" in text for text in texts) and "--shard" in analyze[0] - report[0]


def test_what_helps_with_a_csv_file_is_said_with_its_command(tmp_path):
    (tmp_path / "f.png").write_bytes(b"")
    (tmp_path / "labels.csv").write_text("path,AU1\nf.png,3.5\n")
    with pytest.raises(ValueError, match=r"--threshold.*`mf2 data import csv .* OUT --labels .*labels\.csv`"):
        data_folder(str(tmp_path / "labels.csv"), tmp_path / "out")
