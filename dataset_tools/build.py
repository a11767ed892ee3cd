"""`mf2 data build --config mfa.yaml`: runs the stages of a data set in order, skipping unchanged ones.

    reader: affwild2            # see `mf2 data import --help`
    root: /data/Aff-Wild2
    output_dir: runs/mfa        # index/, selection/, dataset/, landmarked/, captioned/, export/ and build.json
    stages:                     # the options of each `mf2 data` command; only index and import are required
      index: {unlabelled: drop}
      select: {paper: true, seed: 0}
      import: {}
      landmarks: {backend: face-alignment, num_workers: 4}
      caption: {profile: local, max_usd: 20}
      top_up: {}                # replaces frames whose captions failed, then imports and captions the new ones
      validate: {}
      export: {full: true}

The fingerprint of a stage covers its options, the version of this package and the *content* of its inputs.
"""

import argparse
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import yaml

from .. import __version__
from ..utils.command_line import USER_ERRORS
from ..utils.files import sha256_of_file, write_json
from ..utils.markdown import markdown_table
from .captions.results import DEAD_LETTERS_NAME
from .importer import LANDMARKS_NAME
from .index import FRAMES_NAME, read_frames
from .readers.registry import load_reader
from .schema import MANIFEST_NAME, dataset_fingerprint
from .stages import load_stage, make_stage_parser

STATE_NAME = "build.json"
STAGES = ("index", "select", "import", "landmarks", "caption", "top_up", "validate", "export")
REQUIRED_STAGES = ("index", "import")
TOP_UP_NEEDS = ("select", "caption")
ESTIMATES = ("caption",)
"""Stages whose own dry run estimates uploads and costs."""
_RESTART = -1  # status: the stages have to be checked again from the first
_UNKNOWN = ""  # fingerprint of a stage whose inputs do not exist yet
_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
_FILE_OPTIONS = ("replaced", "prompts", "profiles", "prices", "landmarks", "labels")
"""Options with paths that may be relative to the folder of the configuration."""
_CONFIG_KEYS = ("reader", "root", "output_dir", "stages")


@dataclass(frozen=True)
class Stage:
    """One command of `mf2 data` with its arguments.

    Args:
        name: name of the command.
        argv: its arguments.
        product: the file that exists when the stage is done.
        read_inputs: yields texts that identify the content of the inputs.
        edits_inputs: whether it may change its own inputs and those of earlier stages.
    """

    name: str
    argv: list[str]
    product: Path
    read_inputs: Callable[[], Iterator[str]]
    edits_inputs: bool = False

    def fingerprint(self) -> str:
        """SHA-256 over version, arguments and inputs."""
        digest = hashlib.sha256(json.dumps([__version__, self.name, self.argv]).encode())
        for text in self.read_inputs():
            digest.update(f"{text}\n".encode())
        for path in map(Path, self.argv):
            if path.is_file() and path != self.product:
                digest.update(sha256_of_file(path).encode())
        return digest.hexdigest()


# --------------------------------------------------------------------------------------------------------- command
def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `mf2 data build`."""
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="YAML file with the stages")
    parser.add_argument("--dry_run", action="store_true", help="only show which stages would run")


def run(args: argparse.Namespace) -> int:
    """Run the stages that have changed and print a summary; returns the status of a stage that failed, else 0."""
    return Build(read_config(args.config), args.dry_run).run()


class Build:
    """Runs the stages of a configuration.

    Args:
        config: from `read_config`.
        dry_run: only show which stages would run.
    """

    def __init__(self, config: Mapping[str, Any], dry_run: bool) -> None:
        self._config, self._dry_run = config, dry_run
        self._state_path = Path(config["output_dir"]) / STATE_NAME
        self._state: dict[str, str] = {}
        if self._state_path.is_file():
            self._state = json.loads(self._state_path.read_text("utf-8"))
        self._summary: list[tuple[object, ...]] = []
        self._is_stale = False  # an earlier stage would run, so that the inputs of the next ones are unknown

    def run(self) -> int:
        """Run the stages in order; returns 0, or the status of the stage that failed."""
        while status := self._run_stages():
            if status != _RESTART:
                return status
        print(markdown_table(("stage", "what", "seconds", "folder"), self._summary))
        return 0

    def _run_stages(self) -> int:
        """Run the changed stages; returns `_RESTART` after a stage that changed the inputs of earlier ones."""
        for stage in plan(self._config):
            start = time.perf_counter()
            fingerprint = _UNKNOWN if self._is_stale else stage.fingerprint()
            if self._state.get(stage.name) == fingerprint and stage.product.exists():
                self._record(stage, "unchanged")
            elif self._dry_run:
                if stage.name in ESTIMATES and not self._is_stale:
                    _run_stage(stage, "--dry_run")
                self._is_stale = True
                self._record(stage, "would run")
            elif status := _run_stage(stage):
                return status
            else:
                self._record(stage, "made", f"{time.perf_counter() - start:.1f}")
                if stage.edits_inputs and stage.fingerprint() != fingerprint:
                    return _RESTART
                self._state[stage.name] = fingerprint
                write_json(self._state_path, self._state)
        return 0

    def _record(self, stage: Stage, what: str, seconds: str = "-") -> None:
        self._summary.append((stage.name, what, seconds, stage.product.parent))


def _run_stage(stage: Stage, *extra_args: str) -> int:
    argv = [*stage.argv, *extra_args]
    print(f"== {stage.name}: mf2 data {' '.join([stage.name, *argv])}")
    args = make_stage_parser(stage.name).parse_args(argv)
    try:
        return load_stage(stage.name).run(args) or 0
    except USER_ERRORS as error:
        raise ValueError(f"stage {stage.name}: {error}") from error


# ------------------------------------------------------------------------------------------------------------ plan
def read_config(path: Path) -> dict[str, Any]:
    """Read and check the configuration file.

    Raises:
        FileNotFoundError: there is no such file, or its `root` is not a folder.
        ValueError: invalid YAML, or a missing or unknown key or stage; the allowed ones are shown.
    """
    if not path.is_file():
        raise FileNotFoundError(f"The configuration {path} does not exist.")
    try:
        config = yaml.safe_load(path.read_text("utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from None
    if not isinstance(config, dict) or set(config) != set(_CONFIG_KEYS):
        raise ValueError(f"{path} must have exactly the keys {', '.join(_CONFIG_KEYS)}.")
    stages = config["stages"]
    if not isinstance(stages, dict) or not set(REQUIRED_STAGES) <= set(stages) <= set(STAGES):
        raise ValueError(
            f"{path}: stages must be some of {', '.join(STAGES)}, including {' and '.join(REQUIRED_STAGES)}."
        )
    if "top_up" in stages and not set(TOP_UP_NEEDS) <= set(stages):
        raise ValueError(f"{path}: top_up needs the stages {' and '.join(TOP_UP_NEEDS)}.")
    if not Path(config["root"]).is_dir():
        raise FileNotFoundError(f"The root {config['root']} is not a folder.")
    config["stages"] = {name: _resolve_files(stages[name] or {}, path.parent) for name in STAGES if name in stages}
    return config


def _resolve_files(options: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Resolve relative file options against the working directory or, if missing there, the configuration's folder."""
    resolved = {
        name: str(folder / options[name])
        for name in _FILE_OPTIONS
        if isinstance(options.get(name), str)
        and not Path(options[name]).exists()
        and (folder / options[name]).exists()
    }
    return {**options, **resolved}


def plan(config: Mapping[str, Any]) -> Iterator[Stage]:
    """The stages in order; each reads the output of the one before it."""
    load_reader(config["reader"])
    return chain(_plan_frames(config), _plan_data_set(config))


def _plan_frames(config: Mapping[str, Any]) -> Iterator[Stage]:
    """The stages from the source to a data set."""
    options, out, root = _options(config), Path(config["output_dir"]), Path(config["root"])
    source, frames, dataset = [config["reader"], config["root"]], out / "index", out / "dataset"
    argv = [*source, str(frames), *options["index"]]
    yield Stage("index", argv, frames / FRAMES_NAME, partial(_tree_contents, root))
    selected: list[str] = []
    if "select" in options:
        index, frames = frames / FRAMES_NAME, out / "selection"
        argv = [str(index.parent), str(frames), *options["select"]]
        yield Stage("select", argv, frames / FRAMES_NAME, partial(_file_contents, index))
        selected = ["--selection", str(frames)]
    argv = [*source, str(dataset), *options["index"], *options["import"], *selected, "--overwrite"]
    yield Stage("import", argv, dataset / MANIFEST_NAME, partial(_image_contents, root, frames))


def _plan_data_set(config: Mapping[str, Any]) -> Iterator[Stage]:
    """The stages that process a data set."""
    options, out = _options(config), Path(config["output_dir"])
    dataset = out / "dataset"
    for name, folder in (("landmarks", out / "landmarked"), ("caption", out / "captioned")):
        if name in options:
            argv = [str(dataset), "--out", str(folder), *options[name]]
            yield Stage(name, argv, folder / MANIFEST_NAME, partial(_dataset_contents, dataset))
            dataset = folder
    if "top_up" in options:
        selection, index = out / "selection" / FRAMES_NAME, out / "index" / FRAMES_NAME
        store = config["stages"]["caption"].get("store", out / "captioned.captions")
        letters = Path(store) / DEAD_LETTERS_NAME
        argv = [str(selection.parent), str(index.parent), str(letters), *options["top_up"]]
        yield Stage("top_up", argv, selection, lambda: chain(*map(_file_contents, (selection, index, letters))), True)
    if "validate" in options:
        report = out / "validation" / "report.json"
        argv = [str(dataset), "--report", str(report), *options["validate"]]
        yield Stage("validate", argv, report, partial(_dataset_contents, dataset))
    if "export" in options:
        exported = out / "export"
        argv = [str(dataset), str(exported), *options["export"], "--overwrite"]
        yield Stage("export", argv, exported / MANIFEST_NAME, partial(_dataset_contents, dataset))


def _options(config: Mapping[str, Any]) -> dict[str, list[str]]:
    return {name: to_argv(options) for name, options in config["stages"].items()}


def to_argv(options: Mapping[str, Any]) -> list[str]:
    """`{"paper": True, "seed": 3}` -> `["--paper", "--seed", "3"]`; a list becomes several values."""
    argv = []
    for name, value in options.items():
        if value is None or value is False:
            continue
        values = [] if value is True else value if isinstance(value, list) else [value]
        argv += [f"--{name}", *map(str, values)]
    return argv


# -------------------------------------------------------------------------------------------------------- contents
def _tree_contents(root: Path) -> Iterator[str]:
    """The names of all files below `root`, and the contents of those that are not images."""
    linked = [path for path in sorted(root.iterdir()) if path.is_symlink() and path.is_dir()]
    for top in (root, *linked):
        for folder, subfolders, names in os.walk(top):
            subfolders.sort()
            for name in sorted(names):
                yield f"{folder}/{name}"
                if not name.lower().endswith(_IMAGE_SUFFIXES):
                    yield from _file_contents(Path(folder, name))


def _image_contents(root: Path, frames: Path) -> Iterator[str]:
    """The contents of the frame table, of its images and of the landmark file in `root`."""
    yield from _file_contents(frames / FRAMES_NAME)
    yield from _file_contents(root / LANDMARKS_NAME)
    for path in read_frames(frames)["path"].to_pylist():
        yield from _file_contents(root / path)


def _file_contents(path: Path) -> Iterator[str]:
    yield sha256_of_file(path) if path.is_file() else "absent"


def _dataset_contents(folder: Path) -> Iterator[str]:
    yield dataset_fingerprint(folder)
