"""How many threads compute on the CPU: as many as other processes leave cores free."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import psutil
import torch

WINDOW_S = 2.0
"""What is free is measured, and the threads are fitted to it, so often."""


@dataclass(frozen=True)
class Reading:
    """Seconds that have passed, that the cores were idle (all together), and that this process has computed."""

    time: float
    idle: float
    own: float


def read_cores() -> Reading:
    """The counters now, of the cores that this process may use; only differences mean something."""
    process = psutil.Process()
    times = psutil.cpu_times(percpu=True)
    allowed = process.cpu_affinity() if hasattr(process, "cpu_affinity") else range(len(times))
    idle = sum(times[core].idle + getattr(times[core], "iowait", 0.0) for core in allowed if core < len(times))
    return Reading(time.monotonic(), idle, time.process_time())


class ThreadFitter:
    """Chooses a number of threads.

    Threads of one operator wait for each other after each part of a model. Where one of them has to wait for a core
    that another process has, the others spin and then lose theirs, and a step takes dozens of times as long as on an
    idle machine; with a thread for each core that is free it slows in proportion (`mf2 benchmark shared_machine`).

    Args:
        most: threads on an idle machine.
        read: the counters of the cores.
    """

    def __init__(self, most: int, read: Callable[[], Reading] = read_cores):
        self.most = self.threads = most
        self._read, self._before = read, read()

    def fit(self) -> int:
        """The number of threads, chosen anew after each window: the cores that were idle or this process's own."""
        if self.most > 1 and time.monotonic() - self._before.time >= WINDOW_S:
            before, now = self._before, self._read()
            free = (now.idle - before.idle + now.own - before.own) / (now.time - before.time)
            self.threads = min(max(int(free + 0.5), 1), self.most)
            self._before = now
        return self.threads


_local = threading.local()  # OpenMP keeps the number for each thread that computes


def fit_threads(device: str | torch.device) -> None:
    """Give torch's operators in this thread as many threads as cores are free, at most what was set for it.

    To be called before every batch, by the thread that computes it. What `torch.set_num_threads` or the environment
    set is the most; with 1 nothing ever changes.

    Args:
        device: where the batch is computed; unless that is the CPU, nothing happens.
    """
    if torch.device(device).type != "cpu":
        return
    fitter, current = getattr(_local, "fitter", None), torch.get_num_threads()
    if fitter is None or fitter.threads != current:  # set by somebody else
        fitter = _local.fitter = ThreadFitter(current)
    if fitter.fit() != current:
        torch.set_num_threads(fitter.threads)
