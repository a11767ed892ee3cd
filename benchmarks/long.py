"""Benchmarks of large inputs: `mf2 analyze` on many frames and pictures, the report of an hour, a large index."""

import argparse
import json
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pandas as pd

from mf2.analysis.report.command import write_report
from mf2.analysis.run_folder import MANIFEST_NAME
from mf2.benchmarks.branch import Section
from mf2.benchmarks.long_analysis import FRAME_RATE, make_options, measure_analysis, save_frames
from mf2.benchmarks.long_search import Originals, measure_search
from mf2.benchmarks.timing import describe_machine
from mf2.labels_mf2 import AU_IDS, EMOTIONS
from mf2.utils.files import write_json
from mf2.utils.markdown import markdown_table

REPORT_TARGETS = {"MB": 30.0, "s to open": 3.0}


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
def measure_indices(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Measure indices of faces like those of `--pictures`, or of random ones."""
    with tempfile.TemporaryDirectory(dir=args.work_dir) as name:
        if args.pictures:
            originals = Originals.encode(args.pictures, args.model, Path(args.work_dir or name, "originals"))
            originals = originals.enlarge(args.queries, args.width, args.seed)
        else:
            originals = Originals.draw(args.queries, args.width, args.seed)
        yield from measure_search(args.faces, originals, args.candidates, args.searches, args.seed, Path(name))


# ---------------------------------------------------------------------------------------------------------- main
def run(args: argparse.Namespace) -> None:
    """Run the benchmark and print its tables.

    Raises:
        ValueError: there are too few images.
    """
    if args.images < 1000:
        raise ValueError(f"--images is {args.images}; tenths of less than 1000 tell nothing.")
    if args.work_dir:
        Path(args.work_dir).mkdir(parents=True, exist_ok=True)
    options = make_options(args.model, args.runtime, args.batch_size)
    machine = describe_machine("cpu")
    print("# Benchmark of long runs\n")
    print(markdown_table(("", "value"), [(name, str(value)) for name, value in (vars(args) | machine).items()]))
    parts: dict[str, tuple[str, Iterator[dict[str, Any]]]] = {
        kind: (title, measure_analysis(kind, args.images, options, args.seed, args.work_dir))
        for kind, title in (("frames", "Frames of one video"), ("pictures", "Pictures"))
    }
    parts |= {
        "report": ("Report", measure_report(args.report_frames, args.seed)),
        "search": ("Search", measure_indices(args)),
    }
    sections = {}
    for name in args.only:
        title, rows = parts[name]
        sections[name] = Section(title, list(rows))
        print(sections[name].to_markdown(), flush=True)
    if args.output:
        results = {name: asdict(section) for name, section in sections.items()}
        write_json(args.output, {"machine": machine, "settings": vars(args), "sections": results})
