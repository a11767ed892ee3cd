"""The measured process of `mf2 benchmark long`: a long analysis, and short ones beside it. Does not import torch.

Other work on the machine changes the CPU time of the same instructions (shared caches, threads that take turns). So at
every mark of the long analysis, a second process, which has analysed nothing else, analyses the first images again;
these short analyses are the control.
"""

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np
import psutil
from numpy.typing import ArrayLike

from mf2.analysis.engine import AnalyzeOptions, analyze, load_recognizer
from mf2.analysis.run_folder import PARTS_NAME
from mf2.analysis.runtimes import FaceRecognizer


@dataclass(frozen=True)
class Interval:
    """What a process spent between two marks.

    Args:
        process: its id; a resumed run has several.
        start, end: number of images analysed before it, and after it.
        seconds, cpu_s: elapsed and CPU seconds.
        control_s: CPU seconds per image of a short analysis at its end.
        memory: resident bytes at the end, on Linux without those of files, which the system takes when it needs them.
    """

    process: int
    start: int
    end: int
    seconds: float
    cpu_s: float
    control_s: float
    memory: int


class ShortAnalyses:
    """Analyses a few images again and again, in a process of its own.

    Args:
        source: folder of the images.
        options: of the analysis.
    """

    def __init__(self, source: Path, options: AnalyzeOptions):
        self._source = source
        self._pool = ProcessPoolExecutor(1, get_context("spawn"), initializer=_load, initargs=(options,))
        self.run()  # warm-up

    def run(self) -> float:
        """CPU seconds per image of one analysis."""
        return self._pool.submit(_analyze_short, self._source).result()


_loaded: list[Any] = []


def _load(options: AnalyzeOptions) -> None:
    _loaded[:] = [options, load_recognizer(options)]


def _analyze_short(source: Path) -> float:
    options, recognizer = _loaded
    with tempfile.TemporaryDirectory() as output:
        started = process_time()
        summary = analyze([source], output, options, recognizer)
        return (process_time() - started) / summary.frames


class MeasuredRecognizer:
    """A recogniser that measures the run it is used in.

    Args:
        recognizer: gets every call.
        file: JSON lines of `Interval`, to which is appended.
        done: number of images analysed before.
        distance: number of images from one mark to the next.
        control: the short analyses.
    """

    def __init__(self, recognizer: FaceRecognizer, file: Path, done: int, distance: int, control: ShortAnalyses):
        self.recognizer, self.file, self.distance, self.control = recognizer, file, distance, control
        self.label_spaces, self.device = recognizer.label_spaces, recognizer.device
        self.landmark_detector, self.versions = recognizer.landmark_detector, recognizer.versions
        self.done = self._marked = done
        self._started, self._parent = _clocks(), os.getppid()

    def prepare(self, pictures: Sequence[np.ndarray], landmarks: Sequence[ArrayLike | None]) -> Mapping[str, Any]:
        """Preprocess faces; see `FaceRecognizer.prepare`."""
        return self.recognizer.prepare(pictures, landmarks)

    def recognize(self, inputs: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Recognise a batch of faces, and measure at every mark."""
        rows = self.recognizer.recognize(inputs)
        self.done += len(rows)
        if self.done - self._marked >= self.distance:
            self.mark()
        return rows

    def mark(self) -> None:
        """Close an interval; ends the process if the command that started it was killed."""
        if os.getppid() != self._parent:
            raise KeyboardInterrupt
        seconds, cpu_s = (now - start for now, start in zip(_clocks(), self._started, strict=True))
        usage = psutil.Process().memory_info()
        memory = usage.rss - getattr(usage, "shared", 0)
        interval = Interval(os.getpid(), self._marked, self.done, seconds, cpu_s, self.control.run(), memory)
        with self.file.open("a") as lines:
            lines.write(json.dumps(asdict(interval)) + "\n")
        self._marked, self._started = self.done, _clocks()


def _clocks() -> tuple[float, float]:
    return perf_counter(), process_time()


def analyze_measured(folder: Path, options: AnalyzeOptions, distance: int) -> None:
    """Analyse `images` of a folder into `run`, beside those in `short`, and write `intervals.jsonl`."""
    limit_threads()
    run = folder / "run"
    control = ShortAnalyses(folder / "short", options)
    measured = MeasuredRecognizer(
        load_recognizer(options), folder / "intervals.jsonl", count_rows(run), distance, control
    )
    analyze([folder / "images"], run, options, measured)


def count_rows(run: Path) -> int:
    """Number of rows that an interrupted run has saved."""
    return sum(len(part.read_bytes().splitlines()) - 1 for part in (run / PARTS_NAME).glob("part-*.jsonl"))


def limit_threads() -> None:
    """Use one thread for operators, in this process and its children."""
    os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
