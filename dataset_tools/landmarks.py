"""`mf2 data landmarks`: finds the 68 landmarks of a data set's images, once and for all.

OUT                              the data set with landmarks; null where no face was found
OUT.landmarks/parts/KEY/*.npz    what was found so far, a part of the images in each file; removed at the end
OUT.landmarks/not_found.csv      images without landmarks, with the reason
OUT.landmarks/contact_sheet.png, OUT.landmarks/report.json

A part is written when it is whole, so that a run that was killed goes on with the missing ones. Several machines share
the work by `--shard i/n` on a folder that they all see; a last run without it finds nothing left and writes the data
set. KEY stands for the data, the detector and its model file: other inputs start anew, but for images whose landmarks
the same detector has left in an earlier OUT.
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
from .landmark_files import read_landmarks_of
from .rewrite import Row, StoredDataset
from .schema import MANIFEST_NAME, dataset_fingerprint
from .stage_report import Tally
from .stage_settings import settings_of, with_stage

IMAGES_PER_PART = 64
SHEET_FACES = 48
COUNTED = {
    "images": "images",
    "kept": "had landmarks already",
    "found": "found or given",
    "several_faces": "of these, the largest of several faces",
    "no_face": "without landmarks: no face was found, or none was given",
    "unreadable": "without landmarks: the image cannot be read",
}
_NO_FACE, _UNREADABLE = 0, -1

Landmarks = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Finding:
    """What was found for one image: `(68, 2)` pixels of its largest face or None, and how many faces it has.

    `num_faces` is -1 for an image that cannot be read.
    """

    landmarks_px: Landmarks | None
    num_faces: int


# --------------------------------------------------------------------------------------------------------- command
def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `mf2 data landmarks`."""
    add = parser.add_argument
    add("data", type=Path, help="folder of a data set")
    add(
        "--output_dir",
        "--out",
        dest="out",
        type=Path,
        help="folder of the data set with landmarks (default: in the place of DATA)",
    )
    add("--backend", metavar="NAME", help="detector, or module:factory of your own; see `mf2 detectors`")
    add("--model_file", type=Path, metavar="FILE", help="model that the backend reads; see `mf2 detectors`")
    add("--landmarks", type=Path, metavar="FILE", help="given landmarks (.csv or .npz) instead of a backend")
    add("--redo", action="store_true", help="also for images that have landmarks already")
    add(
        "--shard",
        type=_parse_shard,
        default=(1, 1),
        metavar="i/n",
        help="do the i-th of n shares and write no data set",
    )
    add("--num_workers", type=int, default=1, metavar="N", help="processes (default: %(default)s)")
    add("--batch_size", type=int, default=16, metavar="N", help="images in one call of the backend (%(default)s)")
    add("--device", help="cpu, cuda, cuda:1 … (default: a GPU where there is one)")


def _parse_shard(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise argparse.ArgumentTypeError(f"{text!r} is no share; give i/n with 1 <= i <= n, such as 1/4.")
    return int(match[1]), int(match[2])


def run(args: argparse.Namespace) -> int:
    """Find what is missing, then write the data set."""
    for name in ("num_workers", "batch_size"):
        if getattr(args, name) < 1:
            raise ValueError(f"{name} is {getattr(args, name)}; it must be at least 1.")
    if args.landmarks and (args.backend or args.model_file or args.shard != (1, 1)):
        raise ValueError("--landmarks gives the points: leave out --backend, --model_file and --shard.")
    stored = StoredDataset(args.data)
    pending = [position for position, points in enumerate(stored.column("landmarks")) if args.redo or points is None]
    if args.landmarks:
        _write(args, stored, _given(stored, pending, args.landmarks), {"file_sha256": sha256_of_file(args.landmarks)})
        return 0
    search = Search(args.data, *_choose_backend(args.backend, args.model_file), args.device, args.batch_size)
    earlier = {} if args.redo else _from_earlier(args, stored, pending, search.describe())
    pending = [position for position in pending if position not in earlier]
    parts = Parts(_work_folder(args) / "parts" / search.key(pending), pending)
    _search_parts(search, parts, args)
    if args.shard != (1, 1):
        print(f"Share {args.shard[0]} of {args.shard[1]} is done: {parts.num_done} of {len(parts)} parts are there.")
        print("When all shares are, the same command without --shard writes the data set.")
        return 0
    _write(args, stored, earlier | parts.read(), search.describe())
    shutil.rmtree(_work_folder(args) / "parts", ignore_errors=True)
    return 0


def _choose_backend(name: str | None, model_file: Path | None) -> tuple[str, Path | None]:
    """The backend to run and its model file, where it reads one."""
    from ..landmarks_mf2 import PREFERRED_DETECTOR, find_model_file

    backend = choose_backend(PREFERRED_DETECTOR, name, model_file)
    return backend, model_file if ":" in backend else find_model_file(backend, model_file)


def _work_folder(args: argparse.Namespace) -> Path:
    target: Path = (args.out or args.data).resolve()
    return target.with_name(f"{target.name}.landmarks")


# ---------------------------------------------------------------------------------------------------------- search
@dataclass(frozen=True)
class Search:
    """How landmarks are looked for; goes to the worker processes.

    Args:
        folder: the data set.
        backend: a detector's name, or `module:factory`.
        model_file: for backends that read one.
        device: where the backend runs; None takes a GPU where there is one.
        batch_size: images in one call of the backend.
    """

    folder: Path
    backend: str
    model_file: Path | None
    device: str | None
    batch_size: int

    def key(self, pending: Sequence[int]) -> str:
        """What tells apart parts of different searches, or of different images."""
        model = self.model_file and self.model_file.is_file() and sha256_of_file(self.model_file)
        inputs = [__version__, dataset_fingerprint(self.folder), self.backend, model, list(pending), IMAGES_PER_PART]
        return hashlib.sha256(json.dumps(inputs).encode()).hexdigest()[:16]

    def describe(self) -> dict[str, Any]:
        """Backend, model and versions, for the manifest."""
        return {
            "backend": self.backend,
            "model_sha256": sha256_of_file(self.model_file) if self.model_file else None,
            "versions": {"mf2": __version__, **_version_of(self.backend)},
        }

    @cached_property
    def stored(self) -> StoredDataset:
        """The data set, opened once in each process."""
        return StoredDataset(self.folder)

    @cached_property
    def detector(self) -> Any:
        """The backend, made once in each process."""
        return load_backend(self.backend, self.device, self.model_file)

    def find(self, positions: Sequence[int]) -> list[Finding]:
        """The findings of the images at those positions, in order."""
        return [
            finding
            for start in range(0, len(positions), self.batch_size)
            for finding in self._find_batch(positions[start : start + self.batch_size])
        ]

    def _find_batch(self, positions: Sequence[int]) -> Iterator[Finding]:
        pictures = [_read_picture(self.stored.row(position)) for position in positions]
        readable = [picture for picture in pictures if picture is not None]
        from ..landmarks_mf2 import detect_in_pictures  # loads torch, which not every data tool needs

        faces = iter(detect_in_pictures(self.detector, readable, in_tiles=False) if readable else [])
        for picture in pictures:
            if picture is None:
                yield Finding(None, _UNREADABLE)
                continue
            found = next(faces)
            largest = max(found, key=lambda face: face.area_px, default=None)
            yield Finding(None if largest is None else largest.landmarks_px, len(found))


def _version_of(backend: str) -> dict[str, str]:
    """The installed version of a backend that is a package of that name."""
    try:
        return {backend: importlib.metadata.version(backend)}
    except (importlib.metadata.PackageNotFoundError, ValueError):
        return {}


def _read_picture(row: Row) -> npt.NDArray[np.uint8] | None:
    from ..images_mf2 import read_image

    try:
        return read_image(row["image"], row["file_name"])
    except ValueError:
        return None


# ----------------------------------------------------------------------------------------------------------- parts
class Parts:
    """Findings on disk: a file for each `IMAGES_PER_PART` of the pending images.

    Args:
        folder: of the part files.
        pending: positions of the images to look at.
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
        """How many parts are there."""
        return sum(self.path(part).is_file() for part in range(len(self)))

    def missing(self, shard: tuple[int, int]) -> list[int]:
        """The parts of the i-th of n shares that are not there yet."""
        index, count = shard
        return [part for part in range(index - 1, len(self), count) if not self.path(part).is_file()]

    def write(self, part: int, findings: Sequence[Finding]) -> None:
        """Write a part; it has its name when it is whole."""
        nothing = np.full((NUM_LANDMARKS, 2), np.nan, np.float32)
        points = [nothing if finding.landmarks_px is None else finding.landmarks_px for finding in findings]
        with replacing(self.path(part)) as file:
            np.savez(file, landmarks=np.stack(points), num_faces=[finding.num_faces for finding in findings])

    def read(self) -> dict[int, Finding]:
        """Every finding, by position."""
        findings = {}
        for part, positions in enumerate(self.positions):
            with np.load(self.path(part), allow_pickle=False) as file:
                for position, points, num_faces in zip(positions, file["landmarks"], file["num_faces"], strict=True):
                    findings[position] = Finding(points if num_faces > 0 else None, int(num_faces))
        return findings


def _search_parts(search: Search, parts: Parts, args: argparse.Namespace) -> None:
    """Make the missing parts of this share, in this process or in several."""
    missing = parts.missing(args.shard)
    share = range(args.shard[0] - 1, len(parts), args.shard[1])
    total = sum(len(parts.positions[part]) for part in share)
    left = sum(len(parts.positions[part]) for part in missing)
    with tqdm(total=total, initial=total - left, desc="landmarks", unit="image") as bar:
        for part in _make_parts(search, parts, missing, args.num_workers):
            bar.update(len(parts.positions[part]))


def _make_parts(search: Search, parts: Parts, missing: Sequence[int], num_workers: int) -> Iterator[int]:
    """Make parts; yields the number of each when it is written."""
    if num_workers == 1 or len(missing) < 2:
        for part in missing:
            yield _make_part(search, parts, part)
        return
    num_workers = min(num_workers, len(missing))
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(num_workers, context, _start_worker, (search, parts, num_workers))
    try:
        for done in as_completed([pool.submit(_make_part_in_worker, part) for part in missing]):
            yield done.result()
    except BrokenProcessPool:
        raise OSError(
            "A worker process was killed, mostly for want of memory. Finished parts are kept: run the same command "
            "with a smaller --num_workers or --batch_size."
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _make_part(search: Search, parts: Parts, part: int) -> int:
    parts.write(part, search.find(parts.positions[part]))
    return part


_task: tuple[Search, Parts] | None = None
"""What a worker process works on."""


def _start_worker(search: Search, parts: Parts, num_workers: int) -> None:
    """Prepare a worker: its share of the processor cores, and its end when the main process was killed."""
    import torch

    global _task
    _task = (search, parts)
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // num_workers))
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _make_part_in_worker(part: int) -> int:
    assert _task is not None, "the pool starts its workers with _start_worker"
    return _make_part(*_task, part)


# ----------------------------------------------------------------------------------------------------------- result
def _from_earlier(
    args: argparse.Namespace, stored: StoredDataset, pending: Sequence[int], description: Mapping[str, Any]
) -> dict[int, Finding]:
    """What the same search found for the same pictures in the data set that OUT will replace."""
    if args.out is None or args.out.resolve() == args.data.resolve() or not (args.out / MANIFEST_NAME).is_file():
        return {}
    earlier = StoredDataset(args.out)
    described = earlier.manifest.get("landmarks", {})
    if any(described.get(name) != value for name, value in description.items()):
        return {}
    points = {_sha256_of_image(earlier, p): xy for p, xy in enumerate(earlier.column("landmarks")) if xy is not None}
    same = {position: points.get(_sha256_of_image(stored, position)) for position in pending}
    return {p: Finding(np.asarray(xy, np.float32), 1) for p, xy in same.items() if xy is not None}


def _sha256_of_image(stored: StoredDataset, position: int) -> str:
    return hashlib.sha256(stored.row(position)["image"]).hexdigest()


def _given(stored: StoredDataset, pending: Iterable[int], path: Path) -> dict[int, Finding]:
    """The findings of a landmark file."""
    frames = dict(enumerate(zip(stored.column("video_id"), stored.column("frame"), strict=True)))
    given = read_landmarks_of(path, {frames[position] for position in pending})
    points = {position: given.get(frames[position]) for position in pending}
    return {position: Finding(xy, _NO_FACE if xy is None else 1) for position, xy in points.items()}


def _write(
    args: argparse.Namespace, stored: StoredDataset, findings: Mapping[int, Finding], description: Mapping[str, Any]
) -> None:
    """Write the report, the data set and, last, the contact sheet."""
    folder = _work_folder(args)
    tally = _count(stored, findings)
    report = {**description, **tally.to_dict()}
    _write_not_found(folder / "not_found.csv", stored, findings)
    shown = [number * len(stored) // SHEET_FACES for number in range(SHEET_FACES)]  # all over the data set
    sheet_rows = [{**stored.row(position), **_new_landmarks(findings, position)} for position in dict.fromkeys(shown)]
    write_json(folder / "report.json", report)
    made = with_stage(stored.manifest, "landmarks", settings_of(args, add_arguments))
    manifest = {"landmarks": {**description, "counts": dict(tally.counts)}, **made}
    with tqdm(total=len(stored), desc="data set", unit="image") as bar:

        def change(position: int, row: Row) -> Row:
            bar.update()
            return _new_landmarks(findings, position)

        stored.rewrite(args.out or args.data, change, manifest)
    _draw_sheet(folder / "contact_sheet.png", sheet_rows, stored.emotions)
    print(tally.to_markdown())
    print(f"{args.out or args.data}; see contact_sheet.png and not_found.csv in {folder}")


def _new_landmarks(findings: Mapping[int, Finding], position: int) -> Row:
    return {"landmarks": findings[position].landmarks_px} if position in findings else {}


def _count(stored: StoredDataset, findings: Mapping[int, Finding]) -> Tally:
    tally = Tally(COUNTED)
    tally.add("images", len(stored))
    tally.add("kept", len(stored) - len(findings))
    for finding in findings.values():
        tally.add("found", finding.num_faces > 0)
        tally.add("several_faces", finding.num_faces > 1)
        tally.add("no_face", finding.num_faces == _NO_FACE)
        tally.add("unreadable", finding.num_faces == _UNREADABLE)
    return tally


def _write_not_found(path: Path, stored: StoredDataset, findings: Mapping[int, Finding]) -> None:
    names = stored.column("file_name")
    with replacing(path) as part, part.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("file_name", "reason"))
        for position, finding in findings.items():
            if finding.landmarks_px is None:
                writer.writerow((names[position], "unreadable" if finding.num_faces == _UNREADABLE else "no face"))


def _draw_sheet(path: Path, rows: Sequence[Row], emotions: Sequence[str]) -> None:
    """Faces with their points."""
    with illustration(path), replacing(path) as part:
        draw_contact_sheet(rows, with_landmarks=True, emotions=emotions).save(part)
