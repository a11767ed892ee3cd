"""The runs behind the tables: each is run once, in its own folder, and resumes after an interruption.

A run is finished when its folder has `metrics.json`, which the training scripts write last.
"""

import itertools
import shlex
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from mf2.hub.file_names import METRICS_NAME
from mf2.utils.files import read_json

PACKAGE = Path(__file__).resolve().parents[1]
SCRIPTS = {
    "pretrain": (str(PACKAGE / "training" / "pretrain.py"),),
    "finetune": (str(PACKAGE / "training" / "finetune.py"),),
    "evaluation": ("-m", "mf2.cli", "evaluate"),
}
"""Script -> arguments of Python."""
LOG_NAME = "run.log"


@dataclass(frozen=True)
class Run:
    """One training (or evaluation), for one seed.

    Args:
        name: name of its folder, which identifies the run.
        script: `pretrain`, `finetune` or `evaluation`.
        flags: its flags, without seed and output folder.
        base: the run that it starts from.
    """

    name: str
    script: str
    flags: Mapping[str, str] = field(default_factory=dict)
    base: "Run | None" = None

    def with_bases(self) -> list["Run"]:
        """The run, preceded by all runs that it needs."""
        return [*(self.base.with_bases() if self.base else []), self]


@dataclass(frozen=True)
class RunFolder:
    """The runs in a results folder.

    Args:
        root: the results folder.
        config: YAML file of each script.
    """

    root: Path
    config: Mapping[str, str | None]

    def path(self, run: Run, seed: int) -> Path:
        """The folder of a run."""
        return self.root / "runs" / f"seed-{seed}" / run.name

    def metrics(self, run: Run, seed: int) -> dict[str, Any] | None:
        """The metrics of a run; None if it is not finished."""
        file = self.path(run, seed) / METRICS_NAME
        return read_json(file) if file.is_file() else None

    def command(self, run: Run, seed: int) -> list[str]:
        """The command of a run."""
        flags = dict(run.flags)
        if config := self.config.get(run.script):
            flags = {"config": config} | flags
        if run.base is not None:
            flags["model"] = str(self.path(run.base, seed))
        if run.script != "evaluation":
            flags["seed"] = str(seed)
        flags["output_dir"] = str(self.path(run, seed))
        words = [word for name, value in flags.items() for word in (f"--{name}", value)]
        return [sys.executable, *SCRIPTS[run.script], *words]


def needed_runs(runs: Iterable[Run]) -> list[Run]:
    """The distinct runs with their bases, bases first."""
    return list({needed.name: needed for run in runs for needed in run.with_bases()}.values())


def list_commands(folder: RunFolder, runs: Iterable[Run], seeds: Sequence[int]) -> list[str]:
    """One line per chain of unfinished runs, a base and all runs that start from it."""
    chains: dict[tuple[str, int], list[str]] = {}
    for seed, run in itertools.product(seeds, needed_runs(runs)):
        if folder.metrics(run, seed) is None:
            chains.setdefault((run.with_bases()[0].name, seed), []).append(shlex.join(folder.command(run, seed)))
    return [" && ".join(commands) for commands in chains.values()]


def run_all(folder: RunFolder, runs: Iterable[Run], seeds: Sequence[int], num_parallel: int) -> None:
    """Run everything that is not finished, by seed, bases first.

    Args:
        num_parallel: number of seeds to run in parallel.
    Raises:
        ChildProcessError: a run failed; the message shows its last line. Finished runs are kept.
    """
    ordered = needed_runs(runs)
    with tqdm(total=len(ordered) * len(seeds), desc="runs", unit="run") as bar:

        def run_seed(seed: int) -> None:
            for run in ordered:
                run_once(folder, run, seed)
                bar.update()

        with ThreadPoolExecutor(num_parallel) as pool:
            for finished in [pool.submit(run_seed, seed) for seed in seeds]:
                finished.result()


def run_once(folder: RunFolder, run: Run, seed: int) -> None:
    """Run it unless it is finished."""
    if folder.metrics(run, seed) is not None:
        return
    path = folder.path(run, seed)
    path.mkdir(parents=True, exist_ok=True)
    log = path / LOG_NAME
    with log.open("ab") as output:
        code = subprocess.run(folder.command(run, seed), stdout=output, stderr=subprocess.STDOUT).returncode
    if code:
        last = log.read_text("utf-8", "replace").strip().splitlines()[-1:]
        raise ChildProcessError(f"{run.name} with seed {seed} ended with status {code}: {' '.join(last)} (see {log})")
