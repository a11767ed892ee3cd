"""Whether `mf2 analyze` gets slower or larger with the number of frames or pictures.

The whole command is measured by its CPU time and memory in a process of its own, beside short analyses in another one.
"""

import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from PIL import Image

from mf2.analysis.engine import AnalyzeOptions
from mf2.analysis.face_arguments import MEAN_FACE, FaceSearch
from mf2.analysis.onnx_export import export_onnx
from mf2.analysis.recognizer import Recognizer
from mf2.analysis.runtimes import ONNX
from mf2.benchmarks.analyze import draw_frame, save_model
from mf2.benchmarks.long_process import Interval, analyze_measured
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
MARKS = 50
"""Number of measured intervals of a run."""
SHORT = 100
"""Number of images of a short analysis."""


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
        save = save_pictures if kind == "pictures" else save_frames
        save(folder / "images", count)
        save(folder / "short", min(SHORT, count))
        file = folder / "intervals.jsonl"
        options = in_fresh_process(prepare_model, options, folder, seed)
        in_fresh_process(analyze_measured, folder, options, max(count // MARKS, 1))
        intervals = [Interval(**json.loads(line)) for line in file.read_text().splitlines()]
    yield from summarize_tenths(kind, intervals)


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
        row["CPU of short analyses"] = cpu_s / images / (control_s / len(own))
        row["memory, MB"] = median(interval.memory for interval in own) / 1e6
        first = first or {name: row[name] for name in ("CPU ms an image", "CPU of short analyses", "memory, MB")}
        growth = {f"{name}, of the first": row[name] / value for name, value in first.items()}
        judged = [growth[f"{name}, of the first"] for name in ("CPU of short analyses", "memory, MB")]
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
