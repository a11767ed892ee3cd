"""The stages of a data set as commands, by name.

Options are spelt with underscores, as the keys of a YAML file are; hyphens do as well.
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
    "list": Command(
        "dataset_tools.listing", "show the data sets that can be read and what each gives", "mf2 data list disfa"
    ),
    "import": Command(
        "dataset_tools.importer",
        "read an annotated data set from disk into the MFA schema",
        "mf2 data import affwild2 /path/to/Aff-Wild2 data/affwild2 --unlabelled mask\n"
        "mf2 data import csv /path/to/images data/mine --labels labels.csv",
    ),
    "index": Command(
        "dataset_tools.index",
        "bring annotations and images of a data set together and report every oddity",
        "mf2 data index affwild2 /path/to/Aff-Wild2 runs/index",
    ),
    "select": Command(
        "dataset_tools.select",
        "choose a balanced sample of an index, split by video",
        "mf2 data select runs/index runs/selection --paper",
    ),
    "landmarks": Command(
        "dataset_tools.landmarks",
        "find the 68 landmarks of every image, or take given ones",
        "mf2 data landmarks data/affwild2 --out data/landmarked --num_workers 4",
    ),
    "caption": Command(
        "dataset_tools.captions.command",
        "write the three captions of every image",
        "mf2 data caption data/landmarked --backend template",
    ),
    "top_up": Command(
        "dataset_tools.top_up",
        "replace the selected frames whose captions failed by unused ones",
        "mf2 data top_up runs/selection runs/index data/captioned.captions/dead_letters.jsonl",
    ),
    "validate": Command(
        "dataset_tools.captions.validate_command",
        "check captions against the labels and report violations",
        "mf2 data validate data/captioned --report report.json",
    ),
    "join": Command(
        "dataset_tools.join",
        "join annotations without images, of a folder or of the Hub, with the pictures",
        "mf2 data join org/mfa data/mfa --images /path/to/pictures",
    ),
    "export": Command(
        "dataset_tools.export",
        "make a Hub repository of a data set: card, annotations, and the images on request",
        "mf2 data export data/captioned exported --full",
    ),
}


class StageParser(argparse.ArgumentParser):
    """Takes `--max-usd` for `--max_usd`, as its subparsers do."""

    def parse_known_args(self, args=None, namespace=None):  # type: ignore[no-untyped-def, override]
        """See `argparse`."""
        words = sys.argv[1:] if args is None else args
        return super().parse_known_args([_with_underscores(word) for word in words], namespace)


def _with_underscores(word: str) -> str:
    """`--max-usd=1-2` -> `--max_usd=1-2`; other words stay as they are."""
    name, equals, value = word.partition("=")
    if not name.startswith("--"):
        return word
    return f"--{name[2:].replace('-', '_')}{equals}{value}"


def make_stage_parser(stage: str) -> argparse.ArgumentParser:
    """The parser of a stage's arguments."""
    return make_parser(f"mf2 data {stage}", STAGES[stage], StageParser)


def load_stage(stage: str) -> ModuleType:
    """The module of a stage, whose `run(args)` runs it."""
    return STAGES[stage].load()
