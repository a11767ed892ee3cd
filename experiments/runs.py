"""The trainings behind the tables, each run once: in a folder of its own, continued where it was stopped.

A run is done when its folder has `metrics.json`, which the training scripts write last.
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
"""What Python runs."""
LOG_NAME = "run.log"


@dataclass(frozen=True)
class Run:
    """One training (or evaluation), for one seed.

    Args:
        name: of the folder, below that of its seed; it stands for the run.
        script: `pretrain`, `finetune` or `evaluation`.
        flags: its flags but the seed and the output folder.
        base: the run whose result it starts from.
    """

    name: str
    script: str
    flags: Mapping[str, str] = field(default_factory=dict)
    base: "Run | None" = None

    def with_bases(self) -> list["Run"]:
        """The run after all that it needs."""
        return [*(self.base.with_bases() if self.base else []), self]


@dataclass(frozen=True)
class RunFolder:
    """Where the runs of a results folder are.

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
        """What the run has measured; None where it is not done."""
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
    """The runs and what they start from, each once, bases first."""
    return list({needed.name: needed for run in runs for needed in run.with_bases()}.values())


def list_commands(folder: RunFolder, runs: Iterable[Run], seeds: Sequence[int]) -> list[str]:
    """A line for what must run in order (a base, then all that start from it) and is not done."""
    chains: dict[tuple[str, int], list[str]] = {}
    for seed, run in itertools.product(seeds, needed_runs(runs)):
        if folder.metrics(run, seed) is None:
            chains.setdefault((run.with_bases()[0].name, seed), []).append(shlex.join(folder.command(run, seed)))
    return [" && ".join(commands) for commands in chains.values()]


def run_all(folder: RunFolder, runs: Iterable[Run], seeds: Sequence[int], num_parallel: int) -> None:
    """Run what is not done, seed by seed, bases first.

    Args:
        num_parallel: seeds that run at once.
    Raises:
        ChildProcessError: a run failed; its last lines are shown, and what is done stays.
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
    """Run one, unless it is done."""
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
