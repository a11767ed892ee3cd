"""Benchmarks of large inputs: `mf2 analyze` on many frames and pictures, the report of an hour, a large index.

Rates are compared in CPU seconds of this process, which depend little on other processes; elapsed seconds are also
given.
"""

import argparse
import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import Any

import numpy as np
import pandas as pd
import psutil
import torch
from PIL import Image
from safetensors.torch import save_file

from mf2.analysis.engine import AnalyzeOptions, collect_rows
from mf2.analysis.face_arguments import MEAN_FACE, FaceSearch
from mf2.analysis.media import find_sources
from mf2.analysis.recognizer import Recognizer
from mf2.analysis.report.command import write_report
from mf2.analysis.run_folder import MANIFEST_NAME, RunFolder
from mf2.analysis.search.face_index import FORMAT, INDEX_NAME, FaceIndex, IndexedFile
from mf2.analysis.search.ranking import face_scorer, search
from mf2.analysis.tables import row_columns
from mf2.benchmarks.analyze import draw_frame, save_model
from mf2.benchmarks.branch import Section
from mf2.benchmarks.timing import describe_machine, in_fresh_process, time_once
from mf2.labels_mf2 import AU_IDS, EMOTIONS
from mf2.modeling_mf2 import MF2Model
from mf2.utils.files import write_json
from mf2.utils.markdown import markdown_table
from mf2.utils.videos import import_av

PICTURE_PX = 96
DISTINCT = 64
"""Number of different pictures and frames, which are repeated."""
TENTHS = 10
GROWTH_TARGET = 1.03
"""Maximum ratio of CPU time per image, and of memory, between the last and the first tenth."""
FRAME_RATE = 25
REPORT_TARGETS = {"MB": 30.0, "s to open": 3.0}
FACES_PER_SHARD = 4096


# ------------------------------------------------------------------------------------------------------ analysis
class MeasuredRun(RunFolder):
    """A run folder that records rows, time, CPU time and memory whenever rows are added."""

    def __init__(self, *args: Any):
        super().__init__(*args)
        self.marks: list[tuple[int, float, float, int]] = []

    def add(self, rows: Sequence[dict[str, Any]], position: tuple[int, int]) -> None:
        """Add rows, and record a mark."""
        super().add(rows, position)
        count = len(rows) + (self.marks[-1][0] if self.marks else 0)
        self.marks.append((count, perf_counter(), process_time(), psutil.Process().memory_info().rss))


def measure_analysis(kind: str, count: int, seed: int) -> Iterator[dict[str, Any]]:
    """Measure time per image and memory in each tenth of a run over pictures, or frames of one video."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_model("tiny", folder / "tiny", seed)
        source = folder / "pictures"
        source.mkdir()
        (save_pictures if kind == "pictures" else save_frames)(source, count)
        marks = in_fresh_process(analyze_measured, str(source), str(folder / "tiny"), str(folder / "run"))
    yield from summarize_tenths(kind, marks)


def analyze_measured(source: str, model: str, output: str) -> list[tuple[int, float, float, int]]:
    """Analyse a folder and return the run's marks; called in a new process."""
    torch.set_num_threads(1)
    options = AnalyzeOptions(model, device="cpu", faces=FaceSearch(MEAN_FACE))
    recognizer = Recognizer.from_pretrained(model, device="cpu")
    sources, _ = find_sources([source])
    run = MeasuredRun(
        Path(output), {"sources": [found.name for found in sources]}, row_columns(recognizer.label_spaces)
    )
    collect_rows(run, sources, recognizer, options)
    return run.marks


def summarize_tenths(kind: str, marks: Sequence[tuple[int, float, float, int]]) -> Iterator[dict[str, Any]]:
    """One row per tenth of the images; the first one starts after 1 % of the images, the warm-up."""
    total = marks[-1][0]
    shares = [0.01, *(tenth / TENTHS for tenth in range(1, TENTHS))]
    starts = [next(index for index, mark in enumerate(marks) if mark[0] >= total * share) for share in shares]
    ends = [*starts[1:], len(marks) - 1]
    first: dict[str, float] = {}
    for tenth, (start, end) in enumerate(zip(starts, ends, strict=True), start=1):
        images = marks[end][0] - marks[start][0]
        row: dict[str, Any] = {"of": kind, "images": total, "tenth": tenth}
        row["CPU ms an image"] = 1e3 * (marks[end][2] - marks[start][2]) / images
        row["ms an image"] = 1e3 * (marks[end][1] - marks[start][1]) / images
        row["memory, MB"] = median(mark[3] for mark in marks[start : end + 1]) / 1e6
        first = first or {name: row[name] for name in ("CPU ms an image", "memory, MB")}
        growth = {f"{name}, of the first": row[name] / value for name, value in first.items()}
        last = tenth == TENTHS
        yield row | growth | {f"≤ {GROWTH_TARGET}": max(growth.values()) <= GROWTH_TARGET if last else None}


def save_pictures(folder: Path, count: int) -> None:
    """Write `count` JPEG files, with `DISTINCT` different ones."""
    drawn = []
    for number in range(min(DISTINCT, count)):
        file = folder / f"{number:06d}.jpg"
        Image.fromarray(draw_frame(number, (PICTURE_PX, PICTURE_PX))).save(file, quality=90)
        drawn.append(file.read_bytes())
    for number in range(len(drawn), count):
        (folder / f"{number:06d}.jpg").write_bytes(drawn[number % len(drawn)])


def save_frames(folder: Path, count: int) -> None:
    """Write `video.mp4` with `count` frames."""
    av = import_av()
    size = (PICTURE_PX, PICTURE_PX)
    drawn = [av.VideoFrame.from_ndarray(draw_frame(number, size), format="rgb24") for number in range(DISTINCT)]
    with av.open(str(folder / "video.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=FRAME_RATE)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for number in range(count):
            frame = drawn[number % DISTINCT].reformat()
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


# -------------------------------------------------------------------------------------------------------- report
def measure_report(frames: int, seed: int) -> Iterator[dict[str, Any]]:
    """Measure the report of a video with two faces throughout and further faces for a short time."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        save_frames(folder, frames)
        save_run(folder, folder / "video.mp4", frames, seed)
        started = perf_counter()
        page = write_report(folder)
        row: dict[str, Any] = {"frames": frames, "rows": 3 * frames, "s to write": perf_counter() - started}
        row["MB"] = page.stat().st_size / 1e6
        row["s to open"], row["s to switch faces"] = open_in_browser(page)
    for name, limit in REPORT_TARGETS.items():
        row[f"{name} ≤ {limit:g}"] = row[name] <= limit
    yield row


def save_run(folder: Path, video: Path, frames: int, seed: int) -> None:
    """Write a finished analysis with random-walk probabilities, in the format of `mf2 analyze`."""
    rng = np.random.default_rng(seed)
    tables = []
    guest_frames = 250
    for face in range(3):
        steps = rng.normal(0, 0.08, (frames, len(AU_IDS))).cumsum(0)
        emotions = np.exp(rng.normal(0, 0.05, (frames, len(EMOTIONS))).cumsum(0))
        emotions /= emotions.sum(1, keepdims=True)
        ids = face if face < 2 else 2 + np.arange(frames) // guest_frames
        table = pd.DataFrame({"source": str(video), "frame": np.arange(frames), "face": ids, "status": "ok"})
        table["time_s"] = table["frame"] / FRAME_RATE
        for corner, value in (("x0", 10), ("y0", 10), ("x1", 60), ("y1", 60)):
            table[corner] = float(value)
        for au_id, values in zip(AU_IDS, (1 + np.sin(steps)).T / 2, strict=True):
            table[f"AU{au_id}"] = values
        for emotion, values in zip(EMOTIONS, emotions.T, strict=True):
            table[f"emotion_{emotion}"] = values
        table["emotion"] = np.array(EMOTIONS)[emotions.argmax(1)]
        tables.append(table)
    pd.concat(tables).sort_values(["frame", "face"]).assign(error=None).to_parquet(folder / "faces.parquet")
    thresholds = {f"AU{au_id}": 0.5 for au_id in AU_IDS}
    (folder / MANIFEST_NAME).write_text(json.dumps({"model": None, "thresholds": thresholds}))


def open_in_browser(page: Path) -> tuple[float | None, float | None]:
    """Seconds until Chromium has drawn a page, and until it has switched to another face; None without Chromium."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        return None, None
    from playwright.sync_api import sync_playwright

    painted = "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        try:
            tab = browser.new_page(viewport={"width": 1280, "height": 900})
            started = perf_counter()
            tab.goto(page.as_uri(), wait_until="load")
            tab.evaluate(painted)
            opened = perf_counter() - started
            started = perf_counter()
            tab.locator(".views button").nth(1).click()
            tab.evaluate(painted)
            return opened, perf_counter() - started
        finally:
            browser.close()


# -------------------------------------------------------------------------------------------------------- search
class ReadyIndex(FaceIndex):
    """A prepared index, with the key in its folder."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.key = json.loads((folder / INDEX_NAME).read_text())["key"]
        self.files = self._load()


def measure_search(
    counts: Sequence[int], queries: int, width: int, seed: int, repeats: int
) -> Iterator[dict[str, Any]]:
    """Measure building the index from embeddings, its size per face, and queries, by number of faces."""
    for count in counts:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            row: dict[str, Any] = {"faces": count, "queries": queries, "width": width}
            row["s to build"] = time_once(partial(save_index, folder, count, queries, width, seed), "cpu")
            row["KB a face"] = sum(file.stat().st_size for file in folder.iterdir()) / count / 1e3
            row["s to open"] = time_once(partial(ReadyIndex, folder), "cpu")
            yield row | time_queries(ReadyIndex(folder), queries, width, seed, repeats)


def time_queries(index: FaceIndex, queries: int, width: int, seed: int, repeats: int) -> dict[str, float]:
    """Median seconds of a search by a face, and by a text with four phrasings."""
    generator = torch.Generator().manual_seed(seed + 1)
    like, text = unit(queries, width, generator=generator), unit(4, width, generator=generator)
    scorers = {"face": face_scorer(like), "text": lambda embeds: MF2Model.get_retrieval_scores(embeds, text).mean(1)}
    return {
        f"{kind}, s a query": median(time_once(partial(search, index, scorer, 12), "cpu") for _ in range(repeats))
        for kind, scorer in scorers.items()
    }


def unit(*shape: int, generator: torch.Generator) -> torch.Tensor:
    """Random vectors of length 1."""
    return torch.nn.functional.normalize(torch.randn(*shape, generator=generator), dim=-1)


def save_index(folder: Path, count: int, queries: int, width: int, seed: int) -> None:
    """Write an index of `count` faces in as many files, in the format of `FaceIndex`."""
    generator = torch.Generator().manual_seed(seed)
    files = []
    for shard, start in enumerate(range(0, count, FACES_PER_SHARD)):
        faces = min(FACES_PER_SHARD, count - start)
        tensors = {
            "embeds": unit(faces, queries, width, generator=generator).half(),
            "boxes": torch.full((faces, 4), float("nan")),
            "frames": torch.zeros(faces, dtype=torch.long),
            "times": torch.zeros(faces, dtype=torch.float64),
            "ids": torch.zeros(faces, dtype=torch.long),
        }
        save_file(tensors, folder / f"faces-{shard:05d}.safetensors")
        files += [IndexedFile(f"/faces/{start + row:07d}.jpg", 1, 1, shard, row, 1) for row in range(faces)]
    key = {"format": FORMAT, "model": "random"}
    write_json(folder / INDEX_NAME, {"key": key, "files": [asdict(file) for file in files]})


# ---------------------------------------------------------------------------------------------------------- main
def run(args: argparse.Namespace) -> None:
    """Run the benchmark and print its tables.

    Raises:
        ValueError: there are too few images.
    """
    if args.images < 1000:
        raise ValueError(f"--images is {args.images}; tenths of less than 1000 tell nothing.")
    machine = describe_machine("cpu")
    print("# Benchmark of long runs\n")
    print(markdown_table(("", "value"), [(name, str(value)) for name, value in (vars(args) | machine).items()]))
    parts: dict[str, tuple[str, Iterator[dict[str, Any]]]] = {
        "frames": ("Frames of one video, tiny", measure_analysis("frames", args.images, args.seed)),
        "pictures": ("Pictures, tiny", measure_analysis("pictures", args.images, args.seed)),
        "report": ("Report", measure_report(args.report_frames, args.seed)),
        "search": ("Search", measure_search(args.faces, args.queries, args.width, args.seed, args.repeats)),
    }
    sections = {}
    for name in args.only:
        title, rows = parts[name]
        sections[name] = Section(title, list(rows))
        print(sections[name].to_markdown(), flush=True)
    if args.output:
        results = {name: asdict(section) for name, section in sections.items()}
        write_json(args.output, {"machine": machine, "settings": vars(args), "sections": results})
