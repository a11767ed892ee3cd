"""Measurement of times, floating-point operations and peak memory, and a description of the machine."""

import datetime
import gc
import os
import platform
from collections.abc import Callable, Hashable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any, TypeVar

import torch
import transformers
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from mf2 import __version__

Result = TypeVar("Result")
Name = TypeVar("Name", bound=Hashable)
Phases = Mapping[str, Callable[[], object]]
"""Phase name -> function, timed separately and in order; a phase may use results of the previous one."""


# --------------------------------------------------------------------------------------------------------------- time
@dataclass(frozen=True)
class Timing:
    """Phase -> seconds of every repeat."""

    phases: dict[str, list[float]]

    @property
    def seconds(self) -> float:
        """Median over repeats of the sum of all phases."""
        return median(map(sum, zip(*self.phases.values(), strict=True)))

    def phase(self, name: str) -> float:
        """Median seconds of a phase."""
        return median(self.phases[name])


def time_side_by_side(
    runs: Mapping[Name, Phases],
    repeats: int,
    warm_up: int,
    device: str,
    title: str,
    clock: Callable[[], float] = perf_counter,
) -> dict[Name, Timing]:
    """Time runs in turns, so that other load on the machine affects all of them.

    Args:
        runs: name -> phases; every other repeat goes through the runs in reverse order.
        repeats: timed repeats of each run.
        warm_up: untimed repeats before.
        device: device to synchronise with.
        title: title of the progress bar.
        clock: returns seconds; `time.process_time` counts CPU time of this process only.
    """
    seconds: dict[Name, dict[str, list[float]]] = {
        name: {phase: [] for phase in phases} for name, phases in runs.items()
    }
    for repeat in tqdm(range(-warm_up, repeats), desc=title, leave=False):
        for name in list(runs)[:: -1 if repeat % 2 else 1]:
            for phase, function in runs[name].items():
                elapsed = time_once(function, device, clock)
                if repeat >= 0:
                    seconds[name][phase].append(elapsed)
    return {name: Timing(phases) for name, phases in seconds.items()}


def time_once(function: Callable[[], object], device: str, clock: Callable[[], float] = perf_counter) -> float:
    """Seconds of a call, including its work on the GPU."""
    synchronize(device)
    start = clock()
    function()
    synchronize(device)
    return clock() - start


def synchronize(device: str) -> None:
    """Wait for queued work on a GPU."""
    if device == "cuda":
        torch.cuda.synchronize()


def count_flops(function: Callable[[], object]) -> int:
    """Floating-point operations of matrix products, convolutions and attention in one call (2 per multiply-add)."""
    with FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops()


# ------------------------------------------------------------------------------------------------------------- memory
def can_measure_memory(device: str) -> bool:
    """Whether peak memory can be measured: on CUDA, or on Linux."""
    return device == "cuda" or Path("/proc/self/clear_refs").exists()


def release_memory(device: str) -> None:
    """Release unused memory."""
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()


def memory_in_use(device: str) -> int:
    """Bytes allocated on the GPU, or resident in this process."""
    gc.collect()
    return torch.cuda.memory_allocated() if device == "cuda" else _process_bytes("VmRSS")


def peak_memory_during(function: Callable[[], object], device: str) -> int:
    """Peak memory in bytes while the function runs."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        function()
        return torch.cuda.max_memory_allocated()
    Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
    function()
    return _process_bytes("VmHWM")


def _process_bytes(field: str) -> int:
    """A memory size of this process from `/proc`."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status[field].split()[0]) * 1024


def in_fresh_process(function: Callable[..., Result], *arguments: Any) -> Result:
    """Call an importable function in a new process, for clean memory measurements."""
    with ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


# ------------------------------------------------------------------------------------------------------------ machine
def describe_machine(device: str) -> dict[str, Any]:
    """Describe what timings depend on: processor, threads, load and versions, with the date."""
    facts = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "mf2": __version__,
    }
    return facts | ({"gpu": torch.cuda.get_device_name()} if device == "cuda" else {})


def _cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
