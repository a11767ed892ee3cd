"""Compares the speed of `mf2 analyze` with a plain model loop, and measures its memory on a long video.

The plain loop runs the model on prepared batches, which is an upper bound of the speed. The difference is the cost of
decoding, alignment and writing, as far as they do not run concurrently with the model. Concurrency needs a free core:
with as many threads as cores, or on a busy machine, the full cost is measured. Set `--threads` to one less than the
number of cores.
"""

import argparse
import itertools
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np
import torch
from PIL import Image

from mf2.analysis.engine import AnalyzeOptions, analyze, collect_rows
from mf2.analysis.face_arguments import DETECT, MEAN_FACE, FaceSearch
from mf2.analysis.media import find_sources
from mf2.analysis.recognizer import INPUT_NAMES, Recognizer
from mf2.analysis.run_folder import RunFolder
from mf2.analysis.tables import row_columns
from mf2.benchmarks.branch import Section
from mf2.benchmarks.inputs import IMAGE_SIZES, caption_tokenizer, get_qformer_config, make_config
from mf2.benchmarks.timing import describe_machine, in_fresh_process, peak_memory_during, time_side_by_side
from mf2.dataset_tools.detectors import choose_backend, load_backend
from mf2.dataset_tools.landmark_files import COLUMNS
from mf2.images_mf2 import read_image
from mf2.labels_mf2 import MEAN_FACE_68
from mf2.landmarks_mf2 import PREFERRED_DETECTOR
from mf2.modeling_mf2 import MF2ForConditionalGeneration
from mf2.processing_mf2 import MF2ImageProcessor, MF2Processor
from mf2.utils.devices import cuda_products
from mf2.utils.files import write_json
from mf2.utils.markdown import markdown_table
from mf2.utils.videos import import_av

PICTURE_SIZES = {"crops": (112, 112), "photographs": (640, 480)}
"""Width and height of the JPEG files; decoding a photograph takes longer than a `tiny` model."""
VIDEO_SIZE = (320, 240)
SPEED_TARGET = 0.9
"""Minimum speed of `mf2 analyze` relative to the plain loop, in batches of 16."""
FLOOR_TARGET = 0.95
"""Minimum share of the CPU time of `mf2 analyze` that decoding, alignment and the model take by themselves."""
MEMORY_TARGET = 1.05
"""Maximum ratio of the peak memory over all frames to that over the first frames."""
LANDMARKS = {"mean_face": MEAN_FACE, "given": "landmarks.csv", "detect": DETECT}
"""Name -> value of `mf2 analyze --landmarks`, or a file in the folder of the pictures."""
PLAIN = ("plain", "")


# ---------------------------------------------------------------------------------------------------------- inputs
def save_model(size: str, folder: Path, seed: int) -> Path:
    """Save a checkpoint with random weights, which do not affect timings."""
    config = make_config(size, seed)
    torch.manual_seed(seed)
    MF2ForConditionalGeneration(config).save_pretrained(folder)
    side = {"height": IMAGE_SIZES[size], "width": IMAGE_SIZES[size]}
    tokenizer = caption_tokenizer(get_qformer_config(config).vocab_size, seed)
    MF2Processor(MF2ImageProcessor(size=side), tokenizer).save_pretrained(folder)
    return folder


def draw_frame(number: int, size: tuple[int, int]) -> np.ndarray:
    """Draw a `(height, width, 3)` uint8 image that depends on `number` and compresses like a photograph."""
    x, y = np.meshgrid(np.arange(size[0]), np.arange(size[1]))
    waves = [127 + 60 * np.sin((x + 3 * number) / 31 + k) + 60 * np.cos((y - number) / 17 + k) for k in range(3)]
    noise = np.random.default_rng(number).normal(0, 6, (*size[::-1], 1))
    return (np.stack(waves, axis=-1) + noise).clip(0, 255).astype(np.uint8)


def centred_face(size: tuple[int, int]) -> np.ndarray:
    """`(68, 2)` landmarks of a face in the centre of a picture of a width and height, in pixels."""
    side = 0.8 * min(size)
    return np.array(MEAN_FACE_68) * side + (np.array(size) - side) / 2


def save_pictures(folder: Path, count: int) -> None:
    """Write `<kind>/<number>.jpg`, and `landmarks.csv` with a face in the centre of each picture."""
    lines = [",".join(COLUMNS)]
    for kind, size in PICTURE_SIZES.items():
        (folder / kind).mkdir()
        points = centred_face(size)
        for number in range(count):
            Image.fromarray(draw_frame(number, size)).save(folder / kind / f"{number:05d}.jpg", quality=90)
            lines.append(",".join(map(str, [kind, number, *points.ravel().round(2).tolist()])))
    (folder / "landmarks.csv").write_text("\n".join(lines) + "\n")


def save_video(file: Path, count: int) -> Path:
    """Write a video of `count` frames."""
    av = import_av()
    cycle = [av.VideoFrame.from_ndarray(draw_frame(number, VIDEO_SIZE), format="rgb24") for number in range(50)]
    with av.open(str(file), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = *VIDEO_SIZE, "yuv420p"
        for number in range(count):
            frame = cycle[number % len(cycle)].reformat()
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return file


# ----------------------------------------------------------------------------------------------------------- speed
def measure_speed(size: str, args: argparse.Namespace, folder: Path) -> Iterator[dict[str, Any]]:
    """Measure images per second of the tool and of the plain loop, for each landmark source and batch size."""
    model = str(save_model(size, folder / size, args.seed))
    recognizer = Recognizer.from_pretrained(model, device=args.device, precision=args.precision)
    for batch_size in args.batch_sizes:
        runs = {PLAIN: plain_loop(recognizer, args.pictures, batch_size)}
        for kind, source in itertools.product(args.kinds, args.landmarks):
            landmarks = str(folder / LANDMARKS[source]) if source == "given" else LANDMARKS[source]
            options = AnalyzeOptions(
                str(folder / size), device=args.device, batch_size=batch_size, faces=FaceSearch(landmarks)
            )
            runs[kind, source] = make_analysis(folder / kind, recognizer, options)
        cpu: dict[tuple[str, str], list[float]] = {name: [] for name in runs}
        phases = {name: {"run": record_cpu_time(run, cpu[name])} for name, run in runs.items()}
        timings = time_side_by_side(phases, args.repeats, 1, args.device, f"{size}, batch {batch_size}")
        for kind, source in list(runs)[1:]:
            share = timings[PLAIN].seconds / timings[kind, source].seconds
            yield {
                "size": size,
                "batch": batch_size,
                "pictures": kind,
                "landmarks": source,
                "images/s": args.pictures / timings[kind, source].seconds,
                "plain loop, images/s": args.pictures / timings[PLAIN].seconds,
                "of the plain loop": share,
                f"≥ {SPEED_TARGET}": share >= SPEED_TARGET,
                "CPU ms an image": 1000 * min(cpu[kind, source]) / args.pictures,
                "plain loop, CPU ms": 1000 * min(cpu[PLAIN]) / args.pictures,
            }


def record_cpu_time(function: Callable[[], object], seconds: list[float]) -> Callable[[], None]:
    """Wrap a function to record the CPU time of all threads, which depends little on other processes."""

    def run() -> None:
        started = process_time()
        function()
        seconds.append(process_time() - started)

    return run


def plain_loop(recognizer: Recognizer, num_images: int, batch_size: int) -> Callable[[], None]:
    """Make a function that runs the model on prepared batches."""
    picture = draw_frame(0, PICTURE_SIZES["crops"])
    batch = recognizer.image_processor([picture] * batch_size)
    inputs = {name: batch[name].to(recognizer.device) for name in INPUT_NAMES}
    names = list(recognizer.model.label_spaces)[:1]

    @torch.inference_mode()
    def run() -> None:
        for start in range(0, num_images, batch_size):
            batch_inputs = {name: values[: num_images - start] for name, values in inputs.items()}
            with cuda_products(recognizer.precision):
                outputs = recognizer.model.forward_adapters(names, **batch_inputs)
            for output in outputs.values():
                output.au_logits.cpu()

    return run


def make_analysis(pictures: Path, recognizer: Recognizer, options: AnalyzeOptions) -> Callable[[], None]:
    """Make a function that runs `mf2 analyze` without loading the model, into a new folder each time."""
    sources, _ = find_sources([pictures])
    settings = {"sources": [source.name for source in sources]}

    def run() -> None:
        with tempfile.TemporaryDirectory() as folder:
            run_folder = RunFolder(Path(folder), settings, row_columns(recognizer.label_spaces))
            collect_rows(run_folder, sources, recognizer, options)

    return run


# ----------------------------------------------------------------------------------------------------------- floor
def measure_floor(size: str, args: argparse.Namespace, folder: Path) -> Iterator[dict[str, Any]]:
    """Measure the CPU time of an analysis beside its floor: decoding, alignment and the model, each by itself.

    The landmarks are given. With one thread, CPU time is what an idle core needs; the fastest repeat counts.
    """
    recognizer = Recognizer.from_pretrained(str(save_model(size, folder / f"{size}-floor", args.seed)), device="cpu")
    for batch_size, kind in itertools.product(args.batch_sizes, args.kinds):
        files = sorted((folder / kind).iterdir())
        pictures = decode_all(files)
        points = centred_face(PICTURE_SIZES[kind]).astype(np.float32)[None]
        options = AnalyzeOptions(
            str(folder), device="cpu", batch_size=batch_size, faces=FaceSearch(str(folder / LANDMARKS["given"]))
        )
        runs: dict[str, Callable[[], object]] = {
            "decode": partial(decode_all, files),
            "align": partial(align_all, recognizer, pictures, points, batch_size),
            "model": plain_loop(recognizer, len(files), batch_size),
            "analysis": make_analysis(folder / kind, recognizer, options),
        }
        cpu: dict[str, list[float]] = {name: [] for name in runs}
        phases = {name: {"run": record_cpu_time(run, cpu[name])} for name, run in runs.items()}
        time_side_by_side(phases, args.repeats, 1, "cpu", f"{size}, batch {batch_size}, {kind}")
        row: dict[str, Any] = {"size": size, "batch": batch_size, "pictures": kind}
        millis = {name: 1e3 * min(seconds[1:]) / len(files) for name, seconds in cpu.items()}
        row |= {f"{name}, CPU ms an image": value for name, value in millis.items()}
        share = (millis["decode"] + millis["align"] + millis["model"]) / millis["analysis"]
        yield row | {"of the floor": share, f"≥ {FLOOR_TARGET}": share >= FLOOR_TARGET}


def decode_all(files: Sequence[Path]) -> list[np.ndarray]:
    """Decode pictures."""
    return [read_image(file, file.name) for file in files]


def align_all(recognizer: Recognizer, pictures: Sequence[np.ndarray], points: np.ndarray, batch_size: int) -> None:
    """Prepare the faces of pictures in batches; `points` `(1, 68, 2)` is the face in each."""
    for start in range(0, len(pictures), batch_size):
        batch = pictures[start : start + batch_size]
        recognizer.prepare(batch, [points] * len(batch))


# -------------------------------------------------------------------------------------------------- start-up, memory
def measure_start(folder: Path, args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Measure the seconds of whole commands in separate processes; the minimum of three runs."""
    save_model("tiny", folder / "tiny", args.seed)
    picture = next((folder / "photographs").iterdir())
    one = ["analyze", str(picture), "--model", str(folder / "tiny"), "--landmarks", MEAN_FACE, "--device", args.device]
    for name, command in {
        "mf2 --help": ["--help"],
        "mf2 analyze --help": ["analyze", "--help"],
        "one picture": one,
    }.items():
        seconds = []
        for repeat in range(3):
            output = ["--output", str(folder / f"start-{repeat}")] if command is one else []
            started = perf_counter()
            subprocess.run([sys.executable, "-m", "mf2.cli", *command, *output], check=True, capture_output=True)
            seconds.append(perf_counter() - started)
        yield {"command": name, "seconds": min(seconds)}


def measure_memory(folder: Path, args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Measure the peak memory for a video and for its beginning, in separate processes."""
    save_model("tiny", folder / "tiny", args.seed)
    peaks = {}
    for count in (args.first_frames, args.frames):
        video = save_video(folder / f"{count}.mp4", count)
        peaks[count] = in_fresh_process(measure_peak, str(video), str(folder / "tiny"), args.device)
    whole = peaks[args.frames]
    for count, peak in peaks.items():
        row = {"frames": count, "peak, MB": peak / 1e6, "of the whole video's": peak / whole}
        yield row | {f"whole ≤ {MEMORY_TARGET} ×": whole <= MEMORY_TARGET * peak}


def measure_peak(video: str, model: str, device: str) -> int:
    """Peak memory of the process in bytes while a video is analysed; runs in a new process."""
    options = AnalyzeOptions(model, device=device, faces=FaceSearch(MEAN_FACE))
    with tempfile.TemporaryDirectory() as output:
        return peak_memory_during(lambda: analyze([video], output, options), "cpu")


# ------------------------------------------------------------------------------------------------------------- main
def run(args: argparse.Namespace) -> None:
    """Run the benchmark and print its tables."""
    if "detect" in args.landmarks:  # fail before anything is measured
        backend = choose_backend(PREFERRED_DETECTOR)
        load_backend(backend, args.device, instead="Or leave detect out of --landmarks.")
    if args.threads:
        torch.set_num_threads(args.threads)
    machine = describe_machine(args.device)
    print("# Benchmark of mf2 analyze\n")
    print(markdown_table(("", "value"), [(name, str(value)) for name, value in (vars(args) | machine).items()]))
    with tempfile.TemporaryDirectory() as name:
        sections = measure_all(args, Path(name))
    if args.output:
        results = {name: asdict(section) for name, section in sections.items()}
        write_json(args.output, {"machine": machine, "settings": vars(args), "sections": results})


def measure_all(args: argparse.Namespace, folder: Path) -> dict[str, Section]:
    """Measure and print the sections in order."""
    save_pictures(folder, args.pictures)
    parts = {
        "speed": ("Images a second", (row for size in args.sizes for row in measure_speed(size, args, folder))),
        "floor": ("Floor of an analysis", (row for size in args.sizes for row in measure_floor(size, args, folder))),
        "start": ("Start-up, tiny", measure_start(folder, args)),
        "memory": ("Peak memory on a video, tiny", measure_memory(folder, args)),
    }
    sections = {}
    for name in args.only:
        title, rows = parts[name]
        sections[name] = Section(title, list(rows))
        print(sections[name].to_markdown(), flush=True)
    return sections
