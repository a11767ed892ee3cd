"""`mf2 data build --config mfa.yaml`: the stages of a data set in order, each skipped while its inputs are unchanged.

    reader: affwild2            # see `mf2 data import --help`
    root: /data/Aff-Wild2
    output_dir: runs/mfa        # index/, selection/, dataset/, captioned/, export/ and build.json
    stages:                     # the options of each `mf2 data` command; select, caption and export may be left out
      index: {unlabelled: drop}
      select: {paper: true, seed: 0}
      import: {}
      caption: {backend: template}
      export: {full: true}

A stage is known by a fingerprint over its options, the version of this package and the *content* of what it reads.
"""

import argparse
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from .. import __version__
from .cli import make_parser
from .importer import LANDMARKS_NAME
from .index import FRAMES_NAME, read_frames
from .readers import load_reader
from .report import markdown_table, write_json
from .schema import MANIFEST_NAME, dataset_fingerprint, sha256_of_file

STATE_NAME = "build.json"
STAGES = ("index", "select", "import", "caption", "export")
REQUIRED_STAGES = ("index", "import")
_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
_CONFIG_KEYS = ("reader", "root", "output_dir", "stages")


@dataclass(frozen=True)
class Stage:
    """One command of `mf2 data` with its arguments.

    product: the file that exists when the stage is done.
    read_inputs: yields what identifies the content that the stage reads.
    """

    name: str
    argv: list[str]
    product: Path
    read_inputs: Callable[[], Iterator[str]]

    def fingerprint(self) -> str:
        """A sha256 over version, arguments and inputs."""
        digest = hashlib.sha256(json.dumps([__version__, self.name, self.argv]).encode())
        for text in self.read_inputs():
            digest.update(f"{text}\n".encode())
        for path in map(Path, self.argv):
            if path.is_file():
                digest.update(sha256_of_file(path).encode())
        return digest.hexdigest()


# --------------------------------------------------------------------------------------------------------- command
def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `mf2 data build`."""
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="YAML file with the stages")
    parser.add_argument("--dry_run", action="store_true", help="only say which stages would run")


def run(args: argparse.Namespace) -> int:
    """Run what has changed and print what was done; the status of a stage that did not finish."""
    config = read_config(args.config)
    state_path = Path(config["output_dir"]) / STATE_NAME
    state = json.loads(state_path.read_text("utf-8")) if state_path.is_file() else {}
    done, stale = [], False
    for stage in plan(config):
        start = time.perf_counter()
        # The inputs of what follows a stage that would run are not known yet.
        fingerprint = None if stale and args.dry_run else stage.fingerprint()
        if fingerprint and state.get(stage.name) == fingerprint and stage.product.exists():
            done.append((stage.name, "unchanged", "-", stage.product.parent))
            continue
        stale = True
        if args.dry_run:
            done.append((stage.name, "would run", "-", stage.product.parent))
            continue
        if status := _run_stage(stage):
            return status
        state[stage.name] = fingerprint
        write_json(state_path, state)
        done.append((stage.name, "made", f"{time.perf_counter() - start:.1f}", stage.product.parent))
    print(markdown_table(("stage", "what", "seconds", "folder"), done))
    return 0


def _run_stage(stage: Stage) -> int:
    print(f"== {stage.name}: mf2 data {' '.join([stage.name, *stage.argv])}")
    module, parser = make_parser(stage.name)
    try:
        return module.run(parser.parse_args(stage.argv)) or 0
    except (ValueError, OSError) as error:
        raise ValueError(f"stage {stage.name}: {error}") from error


# ------------------------------------------------------------------------------------------------------------ plan
def read_config(path: Path) -> dict[str, Any]:
    """The configuration file, checked.

    Raises:
        FileNotFoundError: no such file, or no folder at its `root`.
        ValueError: not YAML, a missing or unknown key or stage; what is allowed is shown.
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
            f"{path}: stages must be some of {', '.join(STAGES)}, {' and '.join(REQUIRED_STAGES)} among them."
        )
    if not Path(config["root"]).is_dir():
        raise FileNotFoundError(f"The root {config['root']} is not a folder.")
    config["stages"] = {name: stages[name] or {} for name in STAGES if name in stages}
    return config


def plan(config: Mapping[str, Any]) -> Iterator[Stage]:
    """The stages in order, each reading what the one before it makes."""
    load_reader(config["reader"])
    source, out = [config["reader"], config["root"]], Path(config["output_dir"])
    options = {name: to_argv(given) for name, given in config["stages"].items()}
    root, frames, dataset = Path(config["root"]), out / "index", out / "dataset"

    argv = [*source, str(frames), *options["index"]]
    yield Stage("index", argv, frames / FRAMES_NAME, partial(_tree_contents, root))
    selected: list[str] = []
    if "select" in options:
        unselected, frames = frames / FRAMES_NAME, out / "selection"
        argv = [str(unselected.parent), str(frames), *options["select"]]
        yield Stage("select", argv, frames / FRAMES_NAME, partial(_file_contents, unselected))
        selected = ["--selection", str(frames)]
    argv = [*source, str(dataset), *options["index"], *options["import"], *selected, "--overwrite"]
    yield Stage("import", argv, dataset / MANIFEST_NAME, partial(_image_contents, root, frames))
    if "caption" in options:
        uncaptioned, dataset = dataset, out / "captioned"
        argv = [str(uncaptioned), "--out", str(dataset), *options["caption"]]
        yield Stage("caption", argv, dataset / MANIFEST_NAME, partial(_dataset_contents, uncaptioned))
    if "export" in options:
        exported = out / "export"
        argv = [str(dataset), str(exported), *options["export"], "--overwrite"]
        yield Stage("export", argv, exported / MANIFEST_NAME, partial(_dataset_contents, dataset))


def to_argv(options: Mapping[str, Any]) -> list[str]:
    """`{"paper": True, "seed": 3}` -> `["--paper", "--seed", "3"]`; a list gives several values."""
    argv = []
    for name, value in options.items():
        if value is None or value is False:
            continue
        values = [] if value is True else value if isinstance(value, list) else [value]
        argv += [f"--{name}", *map(str, values)]
    return argv


# -------------------------------------------------------------------------------------------------------- contents
def _tree_contents(root: Path) -> Iterator[str]:
    """The names of all files below `root`, and the contents of those that are no images."""
    linked = [path for path in sorted(root.iterdir()) if path.is_symlink() and path.is_dir()]
    for top in (root, *linked):
        for folder, subfolders, names in os.walk(top):
            subfolders.sort()
            for name in sorted(names):
                yield f"{folder}/{name}"
                if not name.lower().endswith(_IMAGE_SUFFIXES):
                    yield from _file_contents(Path(folder, name))


def _image_contents(root: Path, frames: Path) -> Iterator[str]:
    """The frame table, the images that it names and the landmarks beside them."""
    yield from _file_contents(frames / FRAMES_NAME)
    yield from _file_contents(root / LANDMARKS_NAME)
    for path in read_frames(frames)["path"].to_pylist():
        yield from _file_contents(root / path)


def _file_contents(path: Path) -> Iterator[str]:
    yield sha256_of_file(path) if path.is_file() else "absent"


def _dataset_contents(folder: Path) -> Iterator[str]:
    yield dataset_fingerprint(folder)
