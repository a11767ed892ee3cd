"""Whether `mf2 analyze` gets slower or larger with the number of frames or pictures.

The whole command is measured, in a process of its own. CPU time is that of the process. As other work on the machine
changes also the CPU time of the same instructions (shared caches, clock), the first batch of faces is recognised again
at regular distances, and times are also given relative to these repetitions, the control.
"""

import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from time import perf_counter, process_time, thread_time
from typing import Any

import numpy as np
import psutil
import torch
from numpy.typing import ArrayLike
from PIL import Image

from mf2.analysis.engine import AnalyzeOptions, analyze, load_recognizer
from mf2.analysis.face_arguments import MEAN_FACE, FaceSearch
from mf2.analysis.onnx_export import export_onnx
from mf2.analysis.recognizer import Recognizer
from mf2.analysis.run_folder import PARTS_NAME
from mf2.analysis.runtimes import ONNX, FaceRecognizer
from mf2.benchmarks.analyze import draw_frame, save_model
from mf2.benchmarks.timing import in_fresh_process
from mf2.utils.files import replacing
from mf2.utils.videos import import_av

PICTURE_PX = 96
DISTINCT = 64
"""Number of different pictures and frames, which are repeated."""
TENTHS = 10
GROWTH_TARGET = 1.03
"""Maximum ratio of CPU time per image, and of memory, between the last and the first tenth."""
FRAME_RATE = 25
MARKS = 500
"""Number of measured intervals of a run."""


@dataclass(frozen=True)
class Interval:
    """What a process spent between two marks.

    Args:
        process: its id; a resumed run has several.
        start, end: number of images analysed before it, and after it.
        seconds, cpu_s: elapsed and CPU seconds, without the control.
        control_s: CPU seconds of the control, one batch.
        memory: resident bytes at the end.
    """

    process: int
    start: int
    end: int
    seconds: float
    cpu_s: float
    control_s: float
    memory: int


class MeasuredRecognizer:
    """A recogniser that measures the run it is used in.

    Args:
        recognizer: gets every call.
        file: JSON lines of `Interval`, to which is appended.
        done: number of images analysed before.
        distance: number of images from one mark to the next.
    """

    def __init__(self, recognizer: FaceRecognizer, file: Path, done: int, distance: int):
        self.recognizer, self.file, self.distance = recognizer, file, distance
        self.label_spaces, self.device = recognizer.label_spaces, recognizer.device
        self.landmark_detector, self.versions = recognizer.landmark_detector, recognizer.versions
        self.done = self._marked = done
        self._control: Mapping[str, Any] = {}
        self._started = perf_counter(), process_time()

    def prepare(self, pictures: Sequence[np.ndarray], landmarks: Sequence[ArrayLike | None]) -> Mapping[str, Any]:
        """Preprocess faces; see `FaceRecognizer.prepare`."""
        return self.recognizer.prepare(pictures, landmarks)

    def recognize(self, inputs: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Recognise a batch of faces, and measure at every mark."""
        self._control = self._control or inputs
        rows = self.recognizer.recognize(inputs)
        self.done += len(rows)
        if self.done - self._marked >= self.distance:
            self.mark()
        return rows

    def mark(self) -> None:
        """Close an interval."""
        seconds, cpu_s = (now - start for now, start in zip(_clocks(), self._started, strict=True))
        started = thread_time()
        self.recognizer.recognize(self._control)
        interval = Interval(
            os.getpid(), self._marked, self.done, seconds, cpu_s, thread_time() - started, _resident_bytes()
        )
        with self.file.open("a") as lines:
            lines.write(json.dumps(asdict(interval)) + "\n")
        self._marked, self._started = self.done, _clocks()


def _clocks() -> tuple[float, float]:
    return perf_counter(), process_time()


def _resident_bytes() -> int:
    return psutil.Process().memory_info().rss


# ------------------------------------------------------------------------------------------------------- measuring
def measure_analysis(
    kind: str, count: int, options: AnalyzeOptions, seed: int, work_dir: str | None
) -> Iterator[dict[str, Any]]:
    """Measure time per image and memory in each tenth of a run over pictures, or frames of one video.

    Args:
        kind: `frames` or `pictures`.
        count: number of images.
        options: of the analysis; `model` is a size with random weights, or a checkpoint.
        seed: of random weights.
        work_dir: folder for everything that is written, so that a run resumes; None for a temporary one.
    """
    with tempfile.TemporaryDirectory() as temporary:
        name = f"{kind}-{count}-{Path(options.model).name}-{options.runtime}-{seed}"
        folder = Path(work_dir or temporary, name)
        folder.mkdir(parents=True, exist_ok=True)
        source = folder / "images"
        (save_pictures if kind == "pictures" else save_frames)(source, count)
        file = folder / "intervals.jsonl"
        options = in_fresh_process(prepare_model, options, folder, seed)
        in_fresh_process(analyze_measured, source, folder, options, count)
        intervals = [Interval(**json.loads(line)) for line in file.read_text().splitlines()]
    yield from summarize_tenths(kind, intervals)


def analyze_measured(source: Path, folder: Path, options: AnalyzeOptions, count: int) -> None:
    """Analyse a folder, and write `intervals.jsonl`; called in a new process."""
    torch.set_num_threads(1)
    recognizer = load_recognizer(options)
    run = folder / "run"
    measured = MeasuredRecognizer(recognizer, folder / "intervals.jsonl", count_rows(run), max(count // MARKS, 1))
    analyze([source], run, options, measured)


def prepare_model(options: AnalyzeOptions, folder: Path, seed: int) -> AnalyzeOptions:
    """Save random weights if the model is a size, and export it for onnxruntime; returns options with its path."""
    model = Path(options.model)
    if not model.exists():
        model = folder / options.model
        if not model.is_dir():
            save_model(options.model, model, seed)
    if options.runtime == ONNX:
        exported = folder / "model.onnx"
        if not exported.is_file():
            loaded = Recognizer.from_pretrained(str(model), device="cpu")
            export_onnx(loaded.model, loaded.processor, exported)
        model = exported
    return AnalyzeOptions(**{**vars(options), "model": str(model)})


def count_rows(run: Path) -> int:
    """Number of rows that an interrupted run has saved."""
    return sum(len(part.read_bytes().splitlines()) - 1 for part in (run / PARTS_NAME).glob("part-*.jsonl"))


def summarize_tenths(kind: str, intervals: Sequence[Interval]) -> Iterator[dict[str, Any]]:
    """One row per tenth of the images; the first intervals of each process, its warm-up, are left out."""
    total = intervals[-1].end
    started = {interval.process: interval.start for interval in reversed(intervals)}
    warm = [interval for interval in intervals if interval.start >= started[interval.process] + total / 100]
    first: dict[str, float] = {}
    for tenth in range(1, TENTHS + 1):
        own = [interval for interval in warm if tenth - 1 < TENTHS * interval.end / total <= tenth]
        if not own:
            raise ValueError(f"Tenth {tenth} of {total} images has no measured interval; take more --images.")
        images = sum(interval.end - interval.start for interval in own)
        cpu_s, control_s = (sum(values) for values in zip(*((i.cpu_s, i.control_s) for i in own), strict=True))
        row: dict[str, Any] = {"of": kind, "images": total, "tenth": tenth}
        row["processes"] = len({interval.process for interval in own})
        row["ms an image"] = 1e3 * sum(interval.seconds for interval in own) / images
        row["CPU ms an image"] = 1e3 * cpu_s / images
        row["CPU of control batches"] = cpu_s / images / (control_s / len(own))
        row["memory, MB"] = median(interval.memory for interval in own) / 1e6
        first = first or {name: row[name] for name in ("CPU ms an image", "CPU of control batches", "memory, MB")}
        growth = {f"{name}, of the first": row[name] / value for name, value in first.items()}
        judged = [growth[f"{name}, of the first"] for name in ("CPU of control batches", "memory, MB")]
        yield row | growth | {f"≤ {GROWTH_TARGET}": max(judged) <= GROWTH_TARGET if tenth == TENTHS else None}


def make_options(model: str, runtime: str, batch_size: int) -> AnalyzeOptions:
    """Options of the measured analysis: the mean face as landmarks, so that no detector is needed."""
    return AnalyzeOptions(model, device="cpu", batch_size=batch_size, faces=FaceSearch(MEAN_FACE), runtime=runtime)


# ---------------------------------------------------------------------------------------------------------- images
def save_pictures(folder: Path, count: int) -> None:
    """Write `count` JPEG files, with `DISTINCT` different ones; those that exist stay."""
    folder.mkdir(exist_ok=True)
    size = (PICTURE_PX, PICTURE_PX)
    drawn: list[bytes] = []
    for number in range(count):
        file = folder / f"{number:06d}.jpg"
        if number < DISTINCT:
            if not file.is_file():
                Image.fromarray(draw_frame(number, size)).save(file, quality=90)
            drawn.append(file.read_bytes())
        elif not file.is_file():
            file.write_bytes(drawn[number % DISTINCT])


def save_frames(folder: Path, count: int) -> None:
    """Write `video.mp4` with `count` frames, unless it exists."""
    folder.mkdir(exist_ok=True)
    file = folder / "video.mp4"
    if file.is_file():
        return
    av = import_av()
    size = (PICTURE_PX, PICTURE_PX)
    drawn = [av.VideoFrame.from_ndarray(draw_frame(number, size), format="rgb24") for number in range(DISTINCT)]
    with replacing(file) as part, av.open(str(part), "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=FRAME_RATE)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for number in range(count):
            frame = drawn[number % DISTINCT].reformat()
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
