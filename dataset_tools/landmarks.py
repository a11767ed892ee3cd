"""`mf2 data landmarks`: detects the 68 landmarks of a data set's images and stores them in the data set.

OUT                              the data set with landmarks; null if no face was found
OUT.landmarks/parts/KEY/*.npz    the results so far, each file for a part of the images; removed at the end
OUT.landmarks/not_found.csv      images without landmarks, with the reason
OUT.landmarks/contact_sheet.png, OUT.landmarks/report.json

A part is written when it is complete, so that a killed run resumes with the missing parts. Several machines share the
work with `--shard i/n` on a shared folder; a last run without that option finds all parts and writes the data set. KEY
identifies the data, the detector and its model file: with other inputs, all images are processed again, except those
whose landmarks the same detector has stored in an earlier OUT.
"""

import argparse
import csv
import hashlib
import importlib.metadata
import json
import multiprocessing
import os
import re
import shutil
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from .. import __version__
from ..labels_mf2 import NUM_LANDMARKS
from ..utils.command_line import illustration
from ..utils.files import replacing, sha256_of_file, write_json
from .contact_sheet import draw_contact_sheet
from .detectors import choose_backend, load_backend
from .landmark_files import read_matching_landmarks
from .rewrite import Row, StoredDataset
from .schema import MANIFEST_NAME, dataset_fingerprint
from .stage_report import Tally
from .stage_settings import add_stage_settings, collect_settings

IMAGES_PER_PART = 64
SHEET_FACES = 48
COUNTED = {
    "images": "images",
    "kept": "had landmarks already",
    "found": "detected, or read from the file",
    "several_faces": "of these, the largest of several faces",
    "no_face": "without landmarks: no face was detected, or the file has none",
    "unreadable": "without landmarks: the image cannot be read",
}
_NO_FACE, _UNREADABLE = 0, -1

Landmarks = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Detection:
    """The result for one image.

    Args:
        landmarks_px: `(68, 2)` pixels of its largest face, or None.
        num_faces: the number of faces; -1 for an image that cannot be read.
    """

    landmarks_px: Landmarks | None
    num_faces: int


# --------------------------------------------------------------------------------------------------------- command
def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `mf2 data landmarks`."""
    add = parser.add_argument
    add("data", type=Path, help="folder of a data set")
    add(
        "--output_dir",
        "--out",
        dest="out",
        type=Path,
        help="folder of the data set with landmarks (default: DATA itself)",
    )
    add("--backend", metavar="NAME", help="detector, or your own module:factory; see `mf2 detectors`")
    add("--model_file", type=Path, metavar="FILE", help="model file of the backend; see `mf2 detectors`")
    add("--landmarks", type=Path, metavar="FILE", help="landmark file (.csv or .npz) instead of a backend")
    add("--redo", action="store_true", help="also process images that have landmarks already")
    add(
        "--shard",
        type=_parse_shard,
        default=(1, 1),
        metavar="i/n",
        help="process the i-th of n shards and write no data set",
    )
    add("--num_workers", type=int, default=1, metavar="N", help="processes (default: %(default)s)")
    add("--batch_size", type=int, default=16, metavar="N", help="images per call of the backend (%(default)s)")
    add("--device", help="cpu, cuda, cuda:1 … (default: a GPU if there is one)")


def _parse_shard(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise argparse.ArgumentTypeError(f"{text!r} is not a shard; give i/n with 1 <= i <= n, such as 1/4.")
    return int(match[1]), int(match[2])


def run(args: argparse.Namespace) -> int:
    """Detect the missing landmarks, then write the data set."""
    for name in ("num_workers", "batch_size"):
        if getattr(args, name) < 1:
            raise ValueError(f"{name} is {getattr(args, name)}; it must be at least 1.")
    if args.landmarks and (args.backend or args.model_file or args.shard != (1, 1)):
        raise ValueError("--landmarks gives the points: leave out --backend, --model_file and --shard.")
    stored = StoredDataset(args.data)
    pending = [position for position, points in enumerate(stored.column("landmarks")) if args.redo or points is None]
    if args.landmarks:
        detections = _read_file(stored, pending, args.landmarks)
        _write(args, stored, detections, {"file_sha256": sha256_of_file(args.landmarks)})
        return 0
    job = DetectionJob(args.data, *_choose_backend(args.backend, args.model_file), args.device, args.batch_size)
    reused = {} if args.redo else _reuse_earlier(args, stored, pending, job.describe())
    pending = [position for position in pending if position not in reused]
    parts = Parts(_work_folder(args) / "parts" / job.key(pending), pending)
    _process_parts(job, parts, args)
    if args.shard != (1, 1):
        print(
            f"Shard {args.shard[0]} of {args.shard[1]} is done: {parts.num_done} of {len(parts)} parts are complete."
        )
        print("When all shards are done, the same command without --shard writes the data set.")
        return 0
    _write(args, stored, reused | parts.read(), job.describe())
    shutil.rmtree(_work_folder(args) / "parts", ignore_errors=True)
    return 0


def _choose_backend(name: str | None, model_file: Path | None) -> tuple[str, Path | None]:
    """The backend to use, and its model file if it needs one."""
    from ..landmarks_mf2 import PREFERRED_DETECTOR, find_model_file

    backend = choose_backend(PREFERRED_DETECTOR, name, model_file)
    return backend, model_file if ":" in backend else find_model_file(backend, model_file)


def _work_folder(args: argparse.Namespace) -> Path:
    target: Path = (args.out or args.data).resolve()
    return target.with_name(f"{target.name}.landmarks")


# ------------------------------------------------------------------------------------------------------- detection
@dataclass(frozen=True)
class DetectionJob:
    """Detects the landmarks of a data set's images; it is sent to the worker processes.

    Args:
        folder: folder of the data set.
        backend: name of a detector, or `module:factory`.
        model_file: model file of the backend, if it needs one.
        device: device of the backend; None uses a GPU if there is one.
        batch_size: number of images per call of the backend.
    """

    folder: Path
    backend: str
    model_file: Path | None
    device: str | None
    batch_size: int

    def key(self, pending: Sequence[int]) -> str:
        """A hash that identifies the parts of this job: its data, images, detector and model."""
        model = self.model_file and self.model_file.is_file() and sha256_of_file(self.model_file)
        inputs = [__version__, dataset_fingerprint(self.folder), self.backend, model, list(pending), IMAGES_PER_PART]
        return hashlib.sha256(json.dumps(inputs).encode()).hexdigest()[:16]

    def describe(self) -> dict[str, Any]:
        """Backend, model and versions, for the manifest."""
        return {
            "backend": self.backend,
            "model_sha256": sha256_of_file(self.model_file) if self.model_file else None,
            "versions": {"mf2": __version__, **_backend_version(self.backend)},
        }

    @cached_property
    def stored(self) -> StoredDataset:
        """The data set, opened once per process."""
        return StoredDataset(self.folder)

    @cached_property
    def detector(self) -> Any:
        """The backend, loaded once per process."""
        return load_backend(self.backend, self.device, self.model_file)

    def detect(self, positions: Sequence[int]) -> list[Detection]:
        """Detect the landmarks of the images at those positions, in order."""
        return [
            detection
            for start in range(0, len(positions), self.batch_size)
            for detection in self._detect_batch(positions[start : start + self.batch_size])
        ]

    def _detect_batch(self, positions: Sequence[int]) -> Iterator[Detection]:
        images = [_read_image(self.stored.row(position)) for position in positions]
        readable = [image for image in images if image is not None]
        from ..landmarks_mf2 import detect_in_pictures  # imported here because it loads torch

        faces_of_images = iter(detect_in_pictures(self.detector, readable, in_tiles=False) if readable else [])
        for image in images:
            if image is None:
                yield Detection(None, _UNREADABLE)
                continue
            faces = next(faces_of_images)
            largest = max(faces, key=lambda face: face.area_px, default=None)
            yield Detection(None if largest is None else largest.landmarks_px, len(faces))


def _backend_version(backend: str) -> dict[str, str]:
    """The installed version of a backend that has the name of its package; else empty."""
    try:
        return {backend: importlib.metadata.version(backend)}
    except (importlib.metadata.PackageNotFoundError, ValueError):
        return {}


def _read_image(row: Row) -> npt.NDArray[np.uint8] | None:
    from ..images_mf2 import read_image

    try:
        return read_image(row["image"], row["file_name"])
    except ValueError:
        return None


# ----------------------------------------------------------------------------------------------------------- parts
class Parts:
    """Detections on disk: one file for each `IMAGES_PER_PART` of the pending images.

    Args:
        folder: folder of the part files.
        pending: positions of the images to process.
    """

    def __init__(self, folder: Path, pending: Sequence[int]) -> None:
        self.folder = folder
        self.positions = [pending[i : i + IMAGES_PER_PART] for i in range(0, len(pending), IMAGES_PER_PART)]

    def __len__(self) -> int:
        return len(self.positions)

    def path(self, part: int) -> Path:
        """The file of a part."""
        return self.folder / f"{part:06d}.npz"

    @property
    def num_done(self) -> int:
        """The number of complete parts."""
        return sum(self.path(part).is_file() for part in range(len(self)))

    def missing(self, shard: tuple[int, int]) -> list[int]:
        """The missing parts of the i-th of n shards."""
        index, count = shard
        return [part for part in range(index - 1, len(self), count) if not self.path(part).is_file()]

    def write(self, part: int, detections: Sequence[Detection]) -> None:
        """Write a part; it gets its name when it is complete."""
        no_points = np.full((NUM_LANDMARKS, 2), np.nan, np.float32)
        points = [no_points if result.landmarks_px is None else result.landmarks_px for result in detections]
        with replacing(self.path(part)) as file:
            np.savez(file, landmarks=np.stack(points), num_faces=[result.num_faces for result in detections])

    def read(self) -> dict[int, Detection]:
        """Read all detections, by position."""
        detections = {}
        for part, positions in enumerate(self.positions):
            with np.load(self.path(part), allow_pickle=False) as file:
                for position, points, num_faces in zip(positions, file["landmarks"], file["num_faces"], strict=True):
                    detections[position] = Detection(points if num_faces > 0 else None, int(num_faces))
        return detections


def _process_parts(job: DetectionJob, parts: Parts, args: argparse.Namespace) -> None:
    """Process the missing parts of this shard, in this process or in several."""
    missing = parts.missing(args.shard)
    shard = range(args.shard[0] - 1, len(parts), args.shard[1])
    total = sum(len(parts.positions[part]) for part in shard)
    remaining = sum(len(parts.positions[part]) for part in missing)
    with tqdm(total=total, initial=total - remaining, desc="landmarks", unit="image") as bar:
        for part in _iterate_parts(job, parts, missing, args.num_workers):
            bar.update(len(parts.positions[part]))


def _iterate_parts(job: DetectionJob, parts: Parts, missing: Sequence[int], num_workers: int) -> Iterator[int]:
    """Process parts; yields the number of each part when it is written."""
    if num_workers == 1 or len(missing) < 2:
        for part in missing:
            yield _process_part(job, parts, part)
        return
    num_workers = min(num_workers, len(missing))
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(num_workers, context, _start_worker, (job, parts, num_workers))
    try:
        for future in as_completed([pool.submit(_process_part_in_worker, part) for part in missing]):
            yield future.result()
    except BrokenProcessPool:
        raise OSError(
            "A worker process was killed, probably for lack of memory. Finished parts are kept: run the same command "
            "with a smaller --num_workers or --batch_size."
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _process_part(job: DetectionJob, parts: Parts, part: int) -> int:
    parts.write(part, job.detect(parts.positions[part]))
    return part


_task: tuple[DetectionJob, Parts] | None = None
"""The job of this worker process, and its parts."""


def _start_worker(job: DetectionJob, parts: Parts, num_workers: int) -> None:
    """Initialise a worker: limit its threads, and end it when the main process was killed."""
    import torch

    global _task
    _task = (job, parts)
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // num_workers))
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _process_part_in_worker(part: int) -> int:
    assert _task is not None, "the pool starts its workers with _start_worker"
    return _process_part(*_task, part)


# ----------------------------------------------------------------------------------------------------------- result
def _reuse_earlier(
    args: argparse.Namespace, stored: StoredDataset, pending: Sequence[int], description: Mapping[str, Any]
) -> dict[int, Detection]:
    """The landmarks of the same images from the same detector in the data set that OUT will replace."""
    if args.out is None or args.out.resolve() == args.data.resolve() or not (args.out / MANIFEST_NAME).is_file():
        return {}
    earlier = StoredDataset(args.out)
    earlier_description = earlier.manifest.get("landmarks", {})
    if any(earlier_description.get(name) != value for name, value in description.items()):
        return {}
    points = {_hash_image(earlier, p): xy for p, xy in enumerate(earlier.column("landmarks")) if xy is not None}
    reused = {position: points.get(_hash_image(stored, position)) for position in pending}
    return {p: Detection(np.asarray(xy, np.float32), 1) for p, xy in reused.items() if xy is not None}


def _hash_image(stored: StoredDataset, position: int) -> str:
    return hashlib.sha256(stored.row(position)["image"]).hexdigest()


def _read_file(stored: StoredDataset, pending: Iterable[int], path: Path) -> dict[int, Detection]:
    """Read the landmarks of pending images from a landmark file."""
    frames = dict(enumerate(zip(stored.column("video_id"), stored.column("frame"), strict=True)))
    landmarks = read_matching_landmarks(path, {frames[position] for position in pending})
    points = {position: landmarks.get(frames[position]) for position in pending}
    return {position: Detection(xy, _NO_FACE if xy is None else 1) for position, xy in points.items()}


def _write(
    args: argparse.Namespace,
    stored: StoredDataset,
    detections: Mapping[int, Detection],
    description: Mapping[str, Any],
) -> None:
    """Write the report, the data set and, last, the contact sheet."""
    folder = _work_folder(args)
    tally = _count(stored, detections)
    report = {**description, **tally.to_dict()}
    _write_not_found(folder / "not_found.csv", stored, detections)
    positions = dict.fromkeys(index * len(stored) // SHEET_FACES for index in range(SHEET_FACES))
    sheet_rows = [{**stored.row(position), **_new_landmarks(detections, position)} for position in positions]
    write_json(folder / "report.json", report)
    stages = add_stage_settings(stored.manifest, "landmarks", collect_settings(args, add_arguments))
    manifest = {"landmarks": {**description, "counts": dict(tally.counts)}, **stages}
    with tqdm(total=len(stored), desc="data set", unit="image") as bar:

        def change(position: int, row: Row) -> Row:
            bar.update()
            return _new_landmarks(detections, position)

        stored.rewrite(args.out or args.data, change, manifest)
    _draw_sheet(folder / "contact_sheet.png", sheet_rows, stored.emotions)
    print(tally.to_markdown())
    print(f"{args.out or args.data}; see contact_sheet.png and not_found.csv in {folder}")


def _new_landmarks(detections: Mapping[int, Detection], position: int) -> Row:
    return {"landmarks": detections[position].landmarks_px} if position in detections else {}


def _count(stored: StoredDataset, detections: Mapping[int, Detection]) -> Tally:
    tally = Tally(COUNTED)
    tally.add("images", len(stored))
    tally.add("kept", len(stored) - len(detections))
    for detection in detections.values():
        tally.add("found", detection.num_faces > 0)
        tally.add("several_faces", detection.num_faces > 1)
        tally.add("no_face", detection.num_faces == _NO_FACE)
        tally.add("unreadable", detection.num_faces == _UNREADABLE)
    return tally


def _write_not_found(path: Path, stored: StoredDataset, detections: Mapping[int, Detection]) -> None:
    names = stored.column("file_name")
    with replacing(path) as part, part.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("file_name", "reason"))
        for position, detection in detections.items():
            if detection.landmarks_px is None:
                writer.writerow((names[position], "unreadable" if detection.num_faces == _UNREADABLE else "no face"))


def _draw_sheet(path: Path, rows: Sequence[Row], emotions: Sequence[str]) -> None:
    """Draw the contact sheet of faces with their landmarks."""
    with illustration(path), replacing(path) as part:
        draw_contact_sheet(rows, with_landmarks=True, emotions=emotions).save(part)
