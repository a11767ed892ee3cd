"""Measures training steps on a busy machine, for different numbers of threads and wait policies.

    mf2 benchmark shared_machine --busy 0 6

Each setting has its own process; they take turns, so that other load on the machine affects all of them. Steps with
spinning threads take very long next to busy loops; settings not measured within `--busy_s` are left out.
"""

import argparse
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from statistics import median
from typing import Any

import torch

from mf2.benchmarks.inputs import IMAGE_SIZES, make_batch, make_config, make_model
from mf2.benchmarks.timing import describe_machine
from mf2.utils.files import write_json
from mf2.utils.markdown import markdown_table
from mf2.utils.threads import WINDOW_S, fit_threads

SETTLE_S = 2 * WINDOW_S
"""Seconds of untimed steps at the start of a turn."""
BUSY_LOOP = "import sys, time\nend = time.monotonic() + float(sys.argv[1])\nwhile time.monotonic() < end: pass"


@dataclass(frozen=True)
class Setting:
    """Number of threads, whether it is adapted to the free cores, and the environment for OpenMP."""

    threads: int
    fit: bool = False
    environ: Mapping[str, str] = field(default_factory=dict)


def make_settings(threads: int) -> dict[str, Setting]:
    """The compared settings: that of the commands, OpenMP's default, threads that sleep while waiting, one thread."""
    return {
        "fitted": Setting(threads, fit=True),
        "spinning": Setting(threads),
        "sleeping": Setting(threads, environ={"OMP_WAIT_POLICY": "passive"}),
        "single": Setting(1),
    }


# ------------------------------------------------------------------------------------------------------------- process
class Stepper:
    """A process that runs training steps on request."""

    def __init__(self, setting: Setting, size: str, batch_size: int):
        context = multiprocessing.get_context("spawn")
        self._connection, other = context.Pipe()
        with _environment(setting.environ):
            self._process = context.Process(
                target=_take_steps, args=(other, setting.threads, setting.fit, size, batch_size), daemon=True
            )
            self._process.start()

    def measure(self, steps: int) -> list[float]:
        """Return the seconds of each step, after a warm-up in which threads are adapted."""
        self._connection.send(steps)
        return self._connection.recv()

    def close(self) -> None:
        """End the process."""
        self._process.terminate()
        self._process.join()


@contextmanager
def _environment(changes: Mapping[str, str]) -> Iterator[None]:
    """Set only these OpenMP variables for processes started in the block."""
    before = dict(os.environ)
    for name in [name for name in before if name.startswith(("OMP_", "GOMP_", "KMP_", "MKL_"))]:
        del os.environ[name]
    os.environ.update(changes)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _take_steps(connection: Connection, threads: int, fit: bool, size: str, batch_size: int) -> None:
    """Run as many steps (forward, backward, update at a rate of 0) as requested, and send the seconds of each."""
    torch.set_num_threads(threads)
    config = make_config(size, seed=0)
    model = make_model(config, 0, "cpu")
    batch = make_batch(config, batch_size, IMAGE_SIZES[size], 0, "cpu")
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0)

    def step() -> float:
        start = time.perf_counter()
        if fit:
            fit_threads("cpu")
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return time.perf_counter() - start

    while True:
        count = connection.recv()
        settled = time.monotonic() + SETTLE_S
        while time.monotonic() < settled:
            step()
        connection.send([step() for _ in range(count)])


# ------------------------------------------------------------------------------------------------------------- measure
@contextmanager
def busy_loops(count: int, seconds: float) -> Iterator[Callable[[], bool]]:
    """Run busy processes during the block; yields a function that tells whether they are still running."""
    end = time.monotonic() + seconds
    loops = [subprocess.Popen([sys.executable, "-c", BUSY_LOOP, str(seconds)]) for _ in range(count)]
    try:
        yield lambda: time.monotonic() < end
    finally:
        for loop in loops:
            loop.terminate()
            loop.wait()


def measure(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure seconds per step by setting and number of busy loops, with the load average at the end."""
    settings = make_settings(args.threads)
    steppers = {name: Stepper(settings[name], args.size, args.batch_size) for name in args.settings}
    try:
        return [_measure_beside(count, steppers, args) for count in args.busy]
    finally:
        for stepper in steppers.values():
            stepper.close()


def _measure_beside(count: int, steppers: Mapping[str, Stepper], args: argparse.Namespace) -> dict[str, Any]:
    seconds: dict[str, list[float]] = {name: [] for name in steppers}
    with busy_loops(count, args.busy_s) as are_running:
        for name in [name for _ in range(args.turns) for name in steppers]:
            measured = steppers[name].measure(args.steps)
            if not are_running():
                break
            seconds[name] += measured
    return {"busy": count, "load": round(os.getloadavg()[0], 1), "seconds": seconds}


def to_markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """Table of median seconds per step, also relative to the fastest setting with the fewest busy loops."""
    header = ["a step, s", *(f"{row['busy']} busy loops (load {row['load']})" for row in rows)]
    fastest = min(median(seconds) for seconds in rows[0]["seconds"].values() if seconds)
    names = list(rows[0]["seconds"])
    return markdown_table(header, [[name, *(_show(row["seconds"][name], fastest) for row in rows)] for name in names])


def _show(seconds: Sequence[float], fastest: float) -> str:
    return f"{median(seconds):.2f} ({median(seconds) / fastest:.1f} ×)" if seconds else "–"


# ------------------------------------------------------------------------------------------------------------- command
def run(args: argparse.Namespace) -> None:
    """Run the benchmark and print its table."""
    if min(args.turns, args.steps, args.threads, args.batch_size) < 1 or args.busy_s <= 0 or min(args.busy) < 0:
        raise ValueError("Every number must be above 0, but --busy, which may be 0.")
    machine = describe_machine("cpu")
    rows = measure(args)
    print(to_markdown(rows))
    if args.output:
        write_json(args.output, {"machine": machine, "settings": vars(args), "rows": rows})
