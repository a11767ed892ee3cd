"""Adapts the number of CPU threads to the cores that other processes leave free."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import psutil
import torch

WINDOW_S = 2.0
"""Interval, in seconds, at which free cores are measured and the number of threads is adapted."""


@dataclass(frozen=True)
class Reading:
    """Counters in seconds: monotonic time, idle time of all cores together, and CPU time of this process."""

    time: float
    idle: float
    process: float


def read_cores() -> Reading:
    """Read the counters of the cores that this process may use; only differences of counters have a meaning."""
    process = psutil.Process()
    times = psutil.cpu_times(percpu=True)
    allowed = process.cpu_affinity() if hasattr(process, "cpu_affinity") else range(len(times))
    idle = sum(times[core].idle + getattr(times[core], "iowait", 0.0) for core in allowed if core < len(times))
    return Reading(time.monotonic(), idle, time.process_time())


class ThreadFitter:
    """Chooses a number of threads.

    The threads of one operator wait for each other after every operator. If one of them has to wait for a core that
    another process uses, the others spin and then lose their cores, and a step takes dozens of times as long as on an
    idle machine; with one thread per free core it only slows down in proportion (`mf2 benchmark shared_machine`).

    Args:
        max_threads: number of threads on an idle machine.
        read: reads the counters of the cores.
    """

    def __init__(self, max_threads: int, read: Callable[[], Reading] = read_cores):
        self.max_threads = self.threads = max_threads
        self._read, self._last = read, read()

    def fit(self) -> int:
        """The number of threads, updated after each window: the cores that were idle or used by this process."""
        if self.max_threads > 1 and time.monotonic() - self._last.time >= WINDOW_S:
            last, now = self._last, self._read()
            free = (now.idle - last.idle + now.process - last.process) / (now.time - last.time)
            self.threads = min(max(int(free + 0.5), 1), self.max_threads)
            self._last = now
        return self.threads


_local = threading.local()  # OpenMP has a number of threads for each calling thread


def fit_threads(device: str | torch.device) -> None:
    """Set the number of threads of torch's operators in the calling thread to the number of free cores.

    To be called before every batch, by the thread that computes it. The maximum is the number set by
    `torch.set_num_threads` or the environment; with 1 nothing changes.

    Args:
        device: device of the batch; there is no effect unless it is the CPU.
    """
    if torch.device(device).type != "cpu":
        return
    fitter, current = getattr(_local, "fitter", None), torch.get_num_threads()
    if fitter is None or fitter.threads != current:  # the number was set elsewhere
        fitter = _local.fitter = ThreadFitter(current)
    if fitter.fit() != current:
        torch.set_num_threads(fitter.threads)
