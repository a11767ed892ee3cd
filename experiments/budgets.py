"""Equal training time: the number of steps of each system is scaled by its seconds per step."""

import shlex
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from mf2.experiments.runs import Run, RunFolder
from mf2.experiments.table_layouts import Table
from mf2.utils.files import read_json
from mf2.utils.yaml_files import load_yaml

STEP_SECONDS_NAME = "step_seconds.json"
"""Output of `mf2 benchmark training_steps` in the results folder; it is reused if it exists."""
SAME_PACE = 0.05
"""Relative difference of the speed within which a system keeps its steps, as timings are not more precise."""


def give_equal_time(tables: Mapping[str, Table], reference: Run, folder: RunFolder) -> dict[str, Table]:
    """Return the tables with all systems trained for as long as MF².

    Seconds per step are measured together in one process, not taken from the runs, which may have shared a machine.

    Args:
        tables: tables with other systems.
        reference: MF²'s run, with the steps of the pre-training configuration.
        folder: the results folder.
    Raises:
        ValueError: the configuration has no `max_steps`.
        ChildProcessError: the measurement failed.
    """
    config = folder.config.get("pretrain")
    num_steps = load_yaml(config).get("max_steps") if config else None
    if not num_steps:
        raise ValueError(
            "--budgets time counts in steps of MF², so --pretrain_config must name a YAML file with max_steps."
        )
    systems = {run.name: run for table in tables.values() for run in table.rows.values() if "baseline" in run.flags}
    seconds = measure_step_seconds(folder, [reference, *systems.values()])
    pace = {name: seconds[name] / seconds[reference.name] for name in systems}
    steps = {
        name: num_steps if abs(1 - ratio) <= SAME_PACE else round(num_steps / ratio) for name, ratio in pace.items()
    }
    return {name: _with_steps(table, steps, num_steps) for name, table in tables.items()}


def measure_step_seconds(folder: RunFolder, runs: list[Run]) -> dict[str, float]:
    """Name of the run -> seconds per step, measured unless the results folder has them."""
    file = folder.root / STEP_SECONDS_NAME
    if not file.is_file():
        _measure(folder.config["pretrain"], runs, file)
    measured = read_json(file)["runs"]
    if missing := [run.name for run in runs if run.name not in measured]:
        raise ValueError(f"{file} has no {missing[0]!r}; remove it, and all are measured again.")
    return {run.name: measured[run.name]["seconds_per_step"] for run in runs}


def _measure(config: str | None, runs: list[Run], file: Path) -> None:
    named = (
        f"{run.name}={shlex.join(word for flag, value in run.flags.items() for word in (f'--{flag}', value))}"
        for run in runs
    )
    words = ["benchmark", "training_steps", *(["--config", config] if config else []), "--runs", *named]
    file.parent.mkdir(parents=True, exist_ok=True)
    done = subprocess.run([sys.executable, "-m", "mf2.cli", *words, "--output", str(file)])
    if done.returncode:
        raise ChildProcessError(f"mf2 benchmark training_steps ended with status {done.returncode}; see above.")


def _with_steps(table: Table, steps: Mapping[str, int], reference: int) -> Table:
    """Set the number of steps of each row, with separate folders and a note."""
    rows = {
        title: run
        if steps.get(run.name, reference) == reference
        else replace(
            run,
            name=f"{run.name}-{steps[run.name]}-steps",
            flags={**run.flags, "max_steps": str(steps[run.name])},
        )
        for title, run in table.rows.items()
    }
    counts = ", ".join(f"{title} {steps[run.name]}" for title, run in table.rows.items() if run.name in steps)
    note = f"Equal time: steps in the time of {reference} of MF² (pre-train): {counts}."
    return replace(table, rows=rows, notes=(*table.notes, note))
