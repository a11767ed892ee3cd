"""The GPU benchmark: everything that needs a GPU, in a few minutes and offline.

Each section runs in its own process with its own time limit, so that a section that hangs, runs out of memory or
breaks the GPU's context does not affect the others. Every row is written as soon as it is measured (`rows.jsonl`), and
the results after every section (`gpu.json`). While a section runs, the process of the next one loads its libraries.

Models have random weights and inputs are generated, so that nothing is downloaded.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

from mf2.benchmarks.gpu_sections import SECTIONS, Plan
from mf2.benchmarks.timing import describe_machine
from mf2.utils.devices import check_device
from mf2.utils.files import write_json

RESULTS, ROWS, LOG = "gpu.json", "rows.jsonl", "gpu.log"
MIN_SECONDS = 15.0
"""Minimum remaining time to start a section."""
LOG_LINES = 12
"""Number of log lines in the results of a failed section."""


@dataclass
class Outcome:
    """A section's results; `status` is `done`, `failed`, `timed out` or `skipped`."""

    title: str
    status: str
    seconds: float = 0.0
    rows: list[dict[str, Any]] = field(default_factory=list)
    log: list[str] = field(default_factory=list)

    def summary(self) -> str:
        """A summary such as `done after 12 s, 5 rows, 1 of them an error`."""
        errors = sum("error" in row for row in self.rows)
        text = f"{self.status} after {self.seconds:.0f} s, {len(self.rows)} rows"
        return f"{text}, {errors} of them an error" if errors else text


class Worker:
    """The process of a section: it loads its libraries immediately, and measures on request.

    Args:
        section: name of the section.
        plan: how to measure.
        folder: folder for rows and log.
    """

    def __init__(self, section: str, plan: Plan, folder: Path):
        self.section, self.folder = section, folder
        command = [sys.executable, "-m", "mf2.benchmarks.gpu_sections", section, json.dumps(asdict(plan))]
        self.log = open(folder / LOG, "a+", encoding="utf-8", errors="replace")  # noqa: SIM115 - closed by `stop`
        self.log_start = self.log.seek(0, os.SEEK_END)
        self.process = subprocess.Popen(
            [*command, str(folder / ROWS)],
            stdin=subprocess.PIPE,
            stderr=self.log,
            text=True,
            start_new_session=True,  # so that its child processes, such as compilers, are ended with it
        )

    def measure(self, seconds: float) -> str:
        """Let it measure for at most `seconds`; returns the status."""
        try:
            self.process.communicate("go\n", timeout=seconds)
        except subprocess.TimeoutExpired:
            return "timed out"
        return "failed" if self.process.returncode else "done"

    def stop(self) -> None:
        """End the process and its child processes."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.log.close()

    def last_lines(self) -> list[str]:
        """The last lines of its log."""
        self.log.seek(self.log_start)
        text = self.log.read()
        return text.splitlines()[-LOG_LINES:]


def read_rows(file: Path, section: str) -> list[dict[str, Any]]:
    """Read the rows of a section; an incomplete line is skipped."""
    rows = []
    for line in file.read_text().splitlines() if file.exists() else []:
        if not line.endswith("}"):
            continue
        entry = json.loads(line)
        if entry["section"] == section:
            rows.append(entry["row"])
    return rows


def measure_all(sections: Sequence[str], plan: Plan, folder: Path, minutes: float, scale: float) -> dict[str, Outcome]:
    """Run the sections in order, and write the results after each."""
    started = perf_counter()
    machine = describe_machine("cpu")
    outcomes: dict[str, Outcome] = {}
    workers = {sections[0]: Worker(sections[0], plan, folder)}
    try:
        for number, name in enumerate(sections):
            for following in sections[number + 1 : number + 2]:
                workers[following] = Worker(following, plan, folder)
            left = 60 * minutes - (perf_counter() - started)
            outcomes[name] = run_section(workers[name], min(SECTIONS[name].seconds * scale, left))
            at = perf_counter() - started
            print(f"[{at:.0f} s] {name}: {outcomes[name].summary()}", flush=True)
            results = {key: asdict(value) for key, value in outcomes.items()}
            write_json(
                folder / RESULTS, {"machine": machine, "plan": asdict(plan), "seconds": at, "sections": results}
            )
    finally:
        for worker in workers.values():
            worker.stop()
    return outcomes


def run_section(worker: Worker, seconds: float) -> Outcome:
    """Run a section for at most `seconds`."""
    title, begun = SECTIONS[worker.section].title, perf_counter()
    if seconds < MIN_SECONDS:
        worker.stop()
        return Outcome(title, "skipped")
    status = worker.measure(seconds)
    log = worker.last_lines() if status != "done" else []
    worker.stop()
    return Outcome(title, status, perf_counter() - begun, read_rows(worker.folder / ROWS, worker.section), log)


def run(args: argparse.Namespace) -> int:
    """Run the benchmark; the exit status is 1 if a section was not completed.

    Raises:
        ValueError: there is no GPU, or a limit is out of range.
    """
    for name in ("minutes", "scale_limits"):
        if getattr(args, name) <= 0:
            raise ValueError(f"--{name} is {getattr(args, name)}; it must be > 0.")
    plan = Plan(device="cpu" if args.dry_run else "cuda", dry_run=args.dry_run, seed=args.seed)
    check_device(plan.device)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # also ends the sections' processes
    folder = Path(args.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    for name in (RESULTS, ROWS, LOG):
        (folder / name).unlink(missing_ok=True)
    sections = list(dict.fromkeys(args.sections or SECTIONS))
    outcomes = measure_all(sections, plan, folder, args.minutes, args.scale_limits)
    unfinished = {name: outcome.status for name, outcome in outcomes.items() if outcome.status != "done"}
    print(f"Results: {folder / RESULTS}")
    for name, status in unfinished.items():
        print(f"{name}: {status}; {' | '.join(outcomes[name].log[-2:])}", file=sys.stderr)
    return 1 if unfinished else 0
