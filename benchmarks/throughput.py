"""Time the image path of a model on a CPU: PyTorch as it is and compiled, and onnxruntime in float32 and int8.

All of them are given the same faces and run in turns, so that whatever else the machine does slows all of them; times
are the fastest repeat of each, which other work slows least. With one thread they are compared in the processor's
seconds, which are what an idle core would take, with more in elapsed ones. A product of large matrices takes turns
with them: a model's floating-point operations at its rate are the floor of float32. int8 takes the ranges of its
activations from the timed faces, and nothing of it is checked here: `mf2 export --dtype int8` checks scores on
labelled faces.
"""

import argparse
import copy
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mf2.analysis.media import find_sources
from mf2.analysis.onnx_export import ImagePath, export_onnx
from mf2.analysis.onnx_int8 import RECIPES, quantize
from mf2.analysis.recognizer import Recognizer, compile_image_passes
from mf2.benchmarks.analyze import PICTURE_SIZES, draw_frame, record_cpu_time, save_model
from mf2.benchmarks.arguments import RUNTIMES
from mf2.benchmarks.branch import Section
from mf2.benchmarks.timing import Timing, count_flops, describe_machine, time_side_by_side
from mf2.images_mf2 import read_image
from mf2.landmarks_mf2 import detect_in_pictures, find_detector
from mf2.onnx_runtime.description import INPUT_NAMES
from mf2.onnx_runtime.recognizer import ExportedModel
from mf2.utils.files import write_json
from mf2.utils.markdown import markdown_table

EAGER, COMPILED, ONNX, INT8 = RUNTIMES
PRODUCT, PRODUCT_SIZE = "float32 product", 2048
"""A product of square matrices, whose speed bounds a model in float32; two threads gain little on smaller ones."""
TARGETS = {ONNX: 1.5, INT8: 2.5}
"""Images a second over eager PyTorch's at a batch of 1, at least."""
Inputs = Mapping[str, np.ndarray]
Run = Callable[[Inputs], object]


class Contestants:
    """One model in every runtime that is compared, each reading `Inputs`.

    Args:
        model: a checkpoint.
        folder: for the exported files; those that it has are used.
        runtimes: which of `RUNTIMES`.
        layers: of int8, a name of `RECIPES`.
    """

    def __init__(self, model: str, folder: Path, runtimes: Sequence[str], layers: str):
        self.recognizer = Recognizer.from_pretrained(model, device="cpu")
        self.path = ImagePath(self.recognizer.model).eval()
        self.runtimes, self.folder = runtimes, folder
        self.files: dict[str, Path] = {}
        if {ONNX, INT8} & set(runtimes):
            self.files[ONNX] = folder / "float32.onnx"
            if not self.files[ONNX].is_file():
                export_onnx(self.recognizer.model, self.recognizer.processor, self.files[ONNX])
        if INT8 in runtimes:
            self.files[INT8] = folder / f"int8 {layers}.onnx"
            if not self.files[INT8].is_file():
                quantize(self.files[ONNX], self.files[INT8], RECIPES[layers], [self.faces(4)])
        if COMPILED in runtimes:
            self.compiled = copy.deepcopy(self.path)
            compile_image_passes(self.compiled.model)

    def faces(self, count: int) -> dict[str, np.ndarray]:
        """What so many drawn pictures become."""
        return self.read([draw_frame(number, PICTURE_SIZES["crops"]) for number in range(count)], [None] * count)

    def read(self, pictures: Sequence[np.ndarray], landmarks: Sequence[Any]) -> dict[str, np.ndarray]:
        """The inputs of the faces of pictures."""
        batch = self.recognizer.prepare(pictures, landmarks)
        return {name: np.asarray(batch[name]) for name in INPUT_NAMES}

    def runs(self, threads: int) -> dict[str, Run]:
        """Each runtime with so many threads."""
        torch.set_num_threads(threads)
        runs: dict[str, Run] = {EAGER: partial(_run_torch, self.path)}
        if COMPILED in self.runtimes:
            runs[COMPILED] = partial(_run_torch, self.compiled)
        for name, file in self.files.items():
            if name in self.runtimes:
                runs[name] = partial(_run_onnx, ExportedModel(file, threads))
        return runs

    def flops(self) -> int:
        """Floating-point operations of a face."""
        inputs = self.faces(1)
        return count_flops(lambda: self.path(*(torch.from_numpy(inputs[name]) for name in INPUT_NAMES)))


@torch.inference_mode()
def _run_torch(path: ImagePath, inputs: Inputs) -> list[np.ndarray]:
    return [output.numpy() for output in path(*(torch.from_numpy(inputs[name]) for name in INPUT_NAMES))]


def _run_onnx(exported: ExportedModel, inputs: Inputs) -> dict[str, np.ndarray]:
    return exported.run(*(inputs[name] for name in INPUT_NAMES))


# ----------------------------------------------------------------------------------------------------------- measure
def measure_models(models: Mapping[str, str], args: argparse.Namespace, folder: Path) -> Iterator[dict[str, Any]]:
    """The rows of all models."""
    for name, model in models.items():
        place = folder / name
        place.mkdir(parents=True, exist_ok=True)
        if not model and not (place / "model").is_dir():
            save_model(name, place / "model", args.seed)
        contestants = Contestants(model or str(place / "model"), place, args.runtimes, args.layers)
        for threads in args.threads:
            for batch_size in args.batch_sizes:
                yield from measure_batch(name, contestants, threads, batch_size, args)


def measure_batch(
    name: str, contestants: Contestants, threads: int, batch_size: int, args: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    """A row for each runtime: the model on faces that are ready, and from pictures whose faces are looked for."""
    inputs = contestants.faces(batch_size)
    runs = contestants.runs(threads)
    phases = {(runtime, "ready"): {"run": partial(run, inputs)} for runtime, run in runs.items()}
    if args.pictures:
        pictures = read_pictures(args.pictures, batch_size)
        phases |= {
            (runtime, "detected"): {"run": partial(from_pictures, contestants, run, pictures)}
            for runtime, run in runs.items()
        }
    square = torch.ones(PRODUCT_SIZE, PRODUCT_SIZE)
    phases[PRODUCT, ""] = {"run": partial(torch.mm, square, square)}
    title = f"{name}, {threads} threads, batch {batch_size}"
    cpu: dict[tuple[str, str], list[float]] = {key: [] for key in phases}
    watched = {key: {"run": record_cpu_time(phase["run"], cpu[key])} for key, phase in phases.items()}
    timings = time_side_by_side(watched, args.repeats, 2, "cpu", title)
    taken = {key: min(cpu[key]) if threads == 1 else fastest(timing) for key, timing in timings.items()}
    peak = 2 * PRODUCT_SIZE**3 / taken.pop((PRODUCT, ""))
    flops = contestants.flops() * batch_size
    for key in taken:
        runtime, faces = key
        timing, ratio = timings[key], taken[EAGER, faces] / taken[key]
        row: dict[str, Any] = {
            "model": name,
            "threads": threads,
            "batch": batch_size,
            "faces": faces,
            "runtime": runtime,
        }
        row |= {"ms an image": 1e3 * fastest(timing) / batch_size, "images/s": batch_size / fastest(timing)}
        row |= {"CPU ms an image": 1e3 * min(cpu[key]) / batch_size, "of PyTorch": ratio}
        is_float = faces == "ready" and runtime != INT8
        row |= {"GFLOP an image": flops / batch_size / 1e9, "GFLOP/s of a product": peak / 1e9}
        row["of a product's rate"] = flops / taken[key] / peak if is_float else None
        wanted = TARGETS.get(runtime) if batch_size == 1 and faces == "ready" else None
        yield row | {"aim": None if wanted is None else ratio >= wanted}


def fastest(timing: Timing) -> float:
    """Seconds of the fastest repeat."""
    return min(map(sum, zip(*timing.phases.values(), strict=True)))


def read_pictures(folder: str, count: int) -> list[np.ndarray]:
    """So many pictures of a folder, again and again where it has fewer.

    Raises:
        ValueError: it has none.
    """
    files = [source.path for source in find_sources([folder])[0] if not source.is_video][:count]
    if not files:
        raise ValueError(f"--pictures {folder} holds no picture.")
    return [read_image(files[number % len(files)], str(number)) for number in range(count)]


def from_pictures(contestants: Contestants, run: Run, pictures: Sequence[np.ndarray]) -> object:
    """Look for faces, align them, and run."""
    found = detect_in_pictures(find_detector(contestants.recognizer.landmark_detector), pictures)
    landmarks = [np.stack([face.landmarks_px for face in faces[:1]]) if faces else None for faces in found]
    return run(contestants.read(pictures, landmarks))


# -------------------------------------------------------------------------------------------------------------- main
def run(args: argparse.Namespace) -> None:
    """Measure and print.

    Raises:
        ValueError: a number is too small, or a picture or model is missing.
    """
    if min(*args.threads, *args.batch_sizes, args.repeats) < 1:
        raise ValueError("--threads, --batch_sizes and --repeats must be at least 1.")
    models = dict(part.partition("=")[::2] for part in args.models)
    machine = describe_machine("cpu")
    print("# Throughput on a CPU\n")
    print(markdown_table(("", "value"), [(name, str(value)) for name, value in (vars(args) | machine).items()]))
    with tempfile.TemporaryDirectory() as name:
        section = Section("Images a second", list(measure_models(models, args, Path(args.work_dir or name))))
    print(section.to_markdown(), flush=True)
    if args.output:
        write_json(
            args.output, {"machine": machine, "settings": vars(args), "sections": {"throughput": asdict(section)}}
        )
