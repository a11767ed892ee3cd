"""Equal time: each system gets as many steps as the time of MF²'s pays for."""

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
"""What the results folder holds of `mf2 benchmark training_steps`; a file that is there is not measured again."""
SAME_PACE = 0.05
"""A system that is so near MF²'s pace keeps its steps: times are not known better."""


def give_equal_time(tables: Mapping[str, Table], reference: Run, folder: RunFolder) -> dict[str, Table]:
    """The tables with the systems trained for as long as MF² is.

    Seconds a step are measured side by side by one process, not taken from the runs, which may have shared a machine.

    Args:
        reference: MF²'s run, whose steps are those of the pre-training configuration.
    Raises:
        ValueError: that configuration does not say how many steps.
        ChildProcessError: the measurement failed.
    """
    config = folder.config.get("pretrain")
    num_steps = load_yaml(config).get("max_steps") if config else None
    if not num_steps:
        raise ValueError(
            "--budgets time counts in steps of MF², so --pretrain_config must name a YAML file with max_steps."
        )
    systems = {run.name: run for table in tables.values() for run in table.rows.values() if "baseline" in run.flags}
    seconds = seconds_a_step(folder, [reference, *systems.values()])
    pace = {name: seconds[name] / seconds[reference.name] for name in systems}
    steps = {name: num_steps if abs(1 - of) <= SAME_PACE else round(num_steps / of) for name, of in pace.items()}
    return {name: _with_steps(table, steps, num_steps) for name, table in tables.items()}


def seconds_a_step(folder: RunFolder, runs: list[Run]) -> dict[str, float]:
    """By name of the run; measured where the results folder has no file of it."""
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
    """The rows with their own numbers of steps, in folders of their own, and a note that says them."""
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
