"""The commands of `mf2 data`, by name.

Options are written with underscores, like the keys of the YAML files; hyphens are accepted as well.
"""

import argparse
import sys
from types import ModuleType

from ..utils.command_line import Command, make_parser

STAGES: dict[str, Command] = {
    "synth": Command(
        "dataset_tools.synthetic.synth",
        "draw a synthetic sample: faces with exact landmarks, AUs, emotions and captions",
        "mf2 data synth data/faces --num_train 512 --num_eval 128",
    ),
    "list": Command("dataset_tools.listing", "list the supported data sets and their labels", "mf2 data list disfa"),
    "import": Command(
        "dataset_tools.importer",
        "read an annotated data set from disk into the MFA schema",
        "mf2 data import affwild2 /path/to/Aff-Wild2 data/affwild2 --unlabelled mask\n"
        "mf2 data import csv /path/to/images data/mine --labels labels.csv",
    ),
    "index": Command(
        "dataset_tools.index",
        "join annotations and images of a data set and report what is missing or invalid",
        "mf2 data index affwild2 /path/to/Aff-Wild2 runs/index",
    ),
    "select": Command(
        "dataset_tools.select",
        "select a balanced sample of an index, split by video",
        "mf2 data select runs/index runs/selection --paper",
    ),
    "landmarks": Command(
        "dataset_tools.landmarks",
        "detect the 68 landmarks of every image, or read them from a file",
        "mf2 data landmarks data/affwild2 --out data/landmarked --num_workers 4",
    ),
    "caption": Command(
        "dataset_tools.captions.command",
        "write the three captions of every image",
        "mf2 data caption data/landmarked --backend template",
    ),
    "top_up": Command(
        "dataset_tools.top_up",
        "replace selected frames whose captions failed by unused ones",
        "mf2 data top_up runs/selection runs/index data/captioned.captions/dead_letters.jsonl",
    ),
    "validate": Command(
        "dataset_tools.captions.validate_command",
        "check captions against the labels and report violations",
        "mf2 data validate data/captioned --report report.json",
    ),
    "join": Command(
        "dataset_tools.join",
        "join annotations without images, from a folder or the Hub, with the images",
        "mf2 data join org/mfa data/mfa --images /path/to/pictures",
    ),
    "export": Command(
        "dataset_tools.export",
        "write a data set as a Hub repository: card, annotations and, on request, images",
        "mf2 data export data/captioned exported --full",
    ),
}


class StageParser(argparse.ArgumentParser):
    """A parser that accepts `--max-usd` for `--max_usd`; so do its subparsers."""

    def parse_known_args(self, args=None, namespace=None):  # type: ignore[no-untyped-def, override]
        """See `argparse.ArgumentParser`."""
        argv = sys.argv[1:] if args is None else args
        return super().parse_known_args([_use_underscores(arg) for arg in argv], namespace)


def _use_underscores(arg: str) -> str:
    """`--max-usd=1-2` -> `--max_usd=1-2`; arguments that are no options stay unchanged."""
    name, equals, value = arg.partition("=")
    if not name.startswith("--"):
        return arg
    return f"--{name[2:].replace('-', '_')}{equals}{value}"


def make_stage_parser(stage: str) -> argparse.ArgumentParser:
    """Make the argument parser of a stage."""
    return make_parser(f"mf2 data {stage}", STAGES[stage], StageParser)


def load_stage(stage: str) -> ModuleType:
    """Import the module of a stage; its `run(args)` runs the stage."""
    return STAGES[stage].load()
