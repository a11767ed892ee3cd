"""The way of `mf2 analyze`: sources → frames → faces → model → rows, each stage beside the others.

Decoding runs in threads of its own, looking for faces and aligning them in another, with bounded queues between, so
that the model does not wait for them and memory does not grow with the length of a video. A queue is passed by batches
of faces: Python's lock changes hands for each thing that is handed over, and a small model does much in that time.
"""

import json
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
from tqdm import tqdm

from ..head_pose_mf2 import head_poses
from ..onnx_runtime.description import INPUT_NAMES
from ..regions_mf2 import seen_box
from ..utils.devices import TF32
from ..utils.face_table import STATUS_ERROR, STATUS_NO_FACE, STATUS_OK
from ..utils.videos import import_av
from .caption_check import check_captions
from .face_arguments import FaceSearch
from .faces import Face, LocatedFrame, describe_finder, locate_faces, make_finder
from .media import FRAMES_AHEAD, Source, file_version, find_sources, read_frames
from .peer_formats import PEER_WRITERS, check_peer_formats
from .run_folder import MANIFEST_NAME, RunFolder
from .runtimes import ONNX, TORCH, FaceRecognizer
from .streaming import run_ahead
from .tables import BOX, LANDMARKS, NO_FACE, POSE, WRITERS, Row, row_columns, threshold_columns

CHUNKS_AHEAD = 2
"""Chunks that may wait for the model."""
MIN_CHUNK = 8
"""Faces that are aligned at once, at least, however small the model's batches are: a call costs more than a face."""
FRAMES_WITHOUT_FACE = 4
"""A chunk is closed after so many times its faces in frames, whether or not they have any."""


@dataclass(frozen=True)
class AnalyzeOptions:
    """How to analyse; see `mf2 analyze --help`."""

    model: str
    adapters: tuple[str, ...] = ()
    device: str | None = None
    batch_size: int = 16
    faces: FaceSearch = field(default_factory=FaceSearch)
    captions: tuple[str, ...] = ()
    rerank: str | None = "agreement"
    fps: float | None = None
    shard: tuple[int, int] = (1, 1)
    formats: tuple[str, ...] = ("parquet",)
    num_threads: int = 4
    compile: bool = False
    precision: str = TF32
    runtime: str = TORCH

    def row_settings(self) -> dict[str, Any]:
        """The options that rows depend on, as JSON has them; the model tells the runtime."""
        free = ("device", "num_threads", "compile", "precision", "runtime")
        settings = {name: value for name, value in asdict(self).items() if name not in free}
        return json.loads(json.dumps(settings | settings.pop("faces")))


@dataclass
class Summary:
    """What a run saw; `failed` has the first error of each source with one, `captions` the checks of each kind."""

    sources: int = 0
    frames: int = 0
    faces: int = 0
    frames_without_face: int = 0
    errors: int = 0
    other_files: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    captions: dict[str, dict[str, Any]] = field(default_factory=dict)

    def counting(self, batches: Iterable[Sequence[Row]]) -> Iterator[Sequence[Row]]:
        """The batches of all rows in order, which are counted as they pass."""
        last = None
        for rows in batches:
            for row in rows:
                place, status = (row["source"], row["frame"]), row["status"]
                self.frames += place != last
                last = place
                self.faces += status == STATUS_OK
                self.frames_without_face += status == STATUS_NO_FACE
                if status == STATUS_ERROR:
                    self.errors += 1
                    self.failed.setdefault(row["source"], row["error"])
            yield rows

    def to_line(self) -> str:
        """The counts in a line."""
        parts = [counted(self.sources, "source"), counted(self.frames, "frame"), counted(self.faces, "face")]
        if self.frames_without_face:
            parts.append(f"{counted(self.frames_without_face, 'frame')} without a face")
        if self.errors:
            parts.append(f"{counted(self.errors, 'error')} in {counted(len(self.failed), 'source')}")
        for kind, check in self.captions.items():
            parts.append(f"{check['flagged']} of {check['naming']} {kind} captions flagged")
        if self.other_files:
            parts.append(f"{counted(self.other_files, 'file')} of other types left out")
        return ", ".join(parts)


def counted(number: int, noun: str) -> str:
    """`1 face`, `2 faces`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


# --------------------------------------------------------------------------------------------------------- running
def analyze(paths: Sequence[str | Path], output: str | Path, options: AnalyzeOptions) -> Summary:
    """Analyse pictures, folders and videos.

    Args:
        paths: what to analyse.
        output: the run's folder: the table `faces.…`, further formats, and `manifest.json`. A shard has a folder of
            its own in it. A run that was stopped goes on; of a finished one only sources that are new are analysed,
            and come after the others.
        options: how.
    Raises:
        FileNotFoundError: a path does not exist, or there is nothing to analyse.
        ImportError: a package that videos or the detector need is missing.
        ValueError: an option cannot be used, or the folder holds another run.
    """
    sources, num_other = find_sources(paths, Path(output).absolute())
    sources = take_shard(sources, options.shard)
    folder = shard_folder(Path(output), options.shard)
    if any(source.is_video for source in sources):
        import_av()
    started = time.perf_counter()
    recognizer = load_recognizer(options)
    check_peer_formats(options.formats, recognizer.label_spaces[""])
    found_with = describe_finder(options.faces, recognizer.landmark_detector)
    settings = options.row_settings() | {"detector": found_with, "sources": [source.name for source in sources]}
    settings["versions"] = file_versions(sources, options.num_threads)
    run = RunFolder(folder, settings, row_columns(recognizer.label_spaces, options.captions))
    places = {name: place for place, name in enumerate(run.settings["sources"])}
    sources = sorted(sources, key=lambda source: places[source.name])
    if run.is_finished:
        counts = json.loads((folder / MANIFEST_NAME).read_text("utf-8"))["summary"]
        return Summary(**counts)
    collect_rows(run, sources, recognizer, options)
    summary = _write_tables(run, options, recognizer, Summary(len(sources), other_files=num_other))
    run.finish(_describe(recognizer, options, summary, time.perf_counter() - started))
    return summary


def load_recognizer(options: AnalyzeOptions) -> FaceRecognizer:
    """What sees the faces.

    Raises:
        ValueError: the runtime cannot do what is asked for, or the model writes no captions of a kind.
    """
    if options.runtime == ONNX:
        from ..onnx_runtime import Recognizer as ExportedRecognizer

        refuse_without_torch(options)
        return ExportedRecognizer(options.model, options.adapters)
    from .recognizer import Recognizer  # not above: it imports torch

    recognizer = Recognizer.from_pretrained(
        options.model, options.adapters, options.device, options.compile, options.precision
    )
    for kind in options.captions:
        recognizer.model.check_caption_kind(kind)
    return recognizer


def refuse_without_torch(options: AnalyzeOptions) -> None:
    """Raise a `ValueError` for what only PyTorch computes."""
    unknown = {
        "--captions": bool(options.captions),
        "--compile": options.compile,
        f"--device {options.device}": options.device not in (None, "cpu"),
    }
    if asked := [name for name, is_asked in unknown.items() if is_asked]:
        raise ValueError(
            f"An ONNX file computes action units and emotions on the CPU; {asked[0]} needs --runtime torch."
        )


def take_shard(sources: Sequence[Source], shard: tuple[int, int]) -> list[Source]:
    """The i-th of n shares, (i, n), counted from 1. A source's name decides, so that it stays where it is when others
    come."""
    number, count = shard
    if not 1 <= number <= count:
        raise ValueError(f"--shard is {number}/{count}; the first number lies between 1 and the second.")
    return [source for source in sources if zlib.crc32(source.name.encode()) % count == number - 1]


def file_versions(sources: Sequence[Source], num_threads: int) -> dict[str, str]:
    """`file_version` of each source by its name."""
    with ThreadPoolExecutor(num_threads) as pool:
        versions = pool.map(file_version, (source.path for source in sources))
        return {source.name: version for source, version in zip(sources, versions, strict=True)}


def shard_folder(output: Path, shard: tuple[int, int]) -> Path:
    """Where a shard is written; the output itself where there is one only."""
    number, count = shard
    return output if count == 1 else output / f"shard-{number:05d}-of-{count:05d}"


def collect_rows(
    run: RunFolder, sources: Sequence[Source], recognizer: FaceRecognizer, options: AnalyzeOptions
) -> None:
    """Add the rows of everything that comes after what the run's parts hold."""
    find = make_finder(options.faces, recognizer.landmark_detector, str(recognizer.device), sources)
    run.claim()
    position = run.position
    tracker = run.resume_tracker() if position[0] >= 0 else None
    remaining = list(enumerate(sources))[max(position[0], 0) :]
    size = options.batch_size
    frames = read_frames(remaining, options.fps, position, options.num_threads)
    located = locate_faces(frames, find, min(size, FRAMES_AHEAD), tracker)
    chunks = run_ahead(make_chunks(located, recognizer, max(size, MIN_CHUNK)), CHUNKS_AHEAD)
    with tqdm(desc="analyze", unit="frame") as bar:
        for chunk in chunks:
            position = chunk.position
            run.add(complete_rows(chunk, recognizer, size, options.captions, options.rerank), position)
            bar.set_postfix_str(f"source {position[0] + 1}/{len(sources)}", refresh=False)
            bar.update(chunk.num_frames)
    run.close_part(position)


def _write_tables(run: RunFolder, options: AnalyzeOptions, recognizer: FaceRecognizer, summary: Summary) -> Summary:
    counted_batches = summary.counting(run.batches())
    for place, name in enumerate(options.formats):
        batches = run.batches() if place else counted_batches
        if name in WRITERS:
            WRITERS[name](batches, run.columns, run.folder)
        else:
            PEER_WRITERS[name](batches, recognizer.label_spaces[""], run.folder)
    summary.captions = _check_captions(run, recognizer, options.captions)
    return summary


def _check_captions(run: RunFolder, recognizer: FaceRecognizer, kinds: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Whether the captions of all faces agree with the AUs and the emotion beside them, by kind."""
    thresholds = threshold_columns({"": recognizer.label_spaces[""]})
    rows = (row for batch in run.batches() for row in batch) if kinds else ()
    return {kind: check.to_dict() for kind, check in check_captions(rows, thresholds, kinds).items()}


def _describe(recognizer: FaceRecognizer, options: AnalyzeOptions, summary: Summary, seconds: float) -> dict[str, Any]:
    return {
        "model": options.model,
        "thresholds": threshold_columns(recognizer.label_spaces),
        "label_space": recognizer.label_spaces[""].to_dict(),
        "adapters": {prefix[:-1]: space.to_dict() for prefix, space in recognizer.label_spaces.items() if prefix},
        "versions": recognizer.versions,
        "device": str(recognizer.device),
        "seconds": round(seconds, 1),
        "summary": asdict(summary),
    }


# ---------------------------------------------------------------------------------------------------------- chunks
@dataclass(frozen=True)
class Chunk:
    """Whole frames on their way to the model: their rows, which lack what it says, and what it reads of the faces.

    Args:
        rows: see `tables`, in order; those with `status` ok are the faces.
        inputs: of the model, `(faces, …)`, arrays or tensors; empty without a face.
        num_frames: how many frames these are.
        position: place of the source and number of the last frame.
    """

    rows: list[dict[str, Any]]
    inputs: dict[str, Any]
    num_frames: int
    position: tuple[int, int]


def make_chunks(located: Iterable[LocatedFrame], recognizer: FaceRecognizer, chunk_size: int) -> Iterator[Chunk]:
    """Frames until there are so many faces, as their rows and the model's inputs."""
    frames: list[LocatedFrame] = []
    num_faces = 0
    for frame in located:
        frames.append(frame)
        num_faces += len(frame.faces)
        if num_faces >= chunk_size or len(frames) >= FRAMES_WITHOUT_FACE * chunk_size:
            yield _make_chunk(frames, recognizer)
            frames, num_faces = [], 0
    if frames:
        yield _make_chunk(frames, recognizer)


def _make_chunk(frames: list[LocatedFrame], recognizer: FaceRecognizer) -> Chunk:
    seen = [located for located in frames if located.faces]
    batch: Mapping[str, Any] = {}
    if seen:
        pictures = [cast(np.ndarray, located.frame.image) for located in seen]  # it has faces, so that it was read
        batch = recognizer.prepare(pictures, [_points(located.faces) for located in seen])
    places = iter(_places(seen, batch))
    rows: list[dict[str, Any]] = []
    for located in frames:
        frame = located.frame
        row = {"source": frame.source.name, "frame": frame.index, "time_s": frame.time_s, "face": NO_FACE}
        if located.error:
            rows.append(row | {"status": STATUS_ERROR, "error": located.error})
        elif not located.faces:
            rows.append(row | {"status": STATUS_NO_FACE})
        rows += [row | next(places) for _ in located.faces]
    last = frames[-1].frame
    inputs = {name: batch[name] for name in INPUT_NAMES if name in batch}
    return Chunk(rows, inputs, len(frames), (last.source_idx, last.index))


def _points(faces: Sequence[Face]) -> np.ndarray | None:
    """`(faces, 68, 2)`, or None for a face crop."""
    points = [face.detected.landmarks_px for face in faces if face.detected]
    return np.stack(points) if points else None


def _places(seen: Sequence[LocatedFrame], batch: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Where each face is and where it is turned to; of a face crop, what was seen."""
    faces = [(face, located.frame.size) for located in seen for face in located.faces]
    poses = iter(_poses([(face.detected.landmarks_px, size) for face, size in faces if face.detected]))
    for row_idx, (face, size) in enumerate(faces):
        row = {"face": face.id, "status": STATUS_OK, "landmarks_found": face.detected is not None}
        if face.detected is None:
            height, width = batch["pixel_values"].shape[-2:]
            crop = seen_box(batch["align_matrix"][row_idx], (height, width), size)
            yield row | dict(zip(BOX, crop, strict=True))
        else:
            row |= dict(zip(BOX, map(float, face.detected.box_xyxy_px), strict=True)) | next(poses)
            points = np.asarray(face.landmarks_px, dtype=np.float32)
            yield row | {LANDMARKS: points.ravel(), "face_score": face.detected.score}


def _poses(faces: Sequence[tuple[np.ndarray, tuple[int, int]]]) -> list[dict[str, float]]:
    """The pose columns of faces, given as points and the size of their picture; none where no head can be seen."""
    if not faces:
        return []
    points, sizes = (np.stack(values) for values in zip(*faces, strict=True))
    poses = head_poses(points, sizes)
    return [dict(zip(POSE, pose.tolist(), strict=True)) if np.isfinite(pose).all() else {} for pose in poses]


def complete_rows(
    chunk: Chunk,
    recognizer: FaceRecognizer,
    batch_size: int,
    captions: Sequence[str] = (),
    rerank: str | None = "agreement",
) -> list[dict[str, Any]]:
    """The rows of a chunk with what the model says of the faces, at most `batch_size` at once."""
    states: list[dict[str, Any]] = []
    num_faces = sum(row["status"] == STATUS_OK for row in chunk.rows)
    for start in range(0, num_faces, batch_size):
        inputs = {name: values[start : start + batch_size] for name, values in chunk.inputs.items()}
        found = recognizer.recognize(inputs)
        if captions:
            writer: Any = recognizer  # of PyTorch: others are refused captions
            written = writer.write_captions(inputs, captions, rerank)
            found = [state | texts for state, texts in zip(found, written, strict=True)]
        states += found
    of_faces = iter(states)
    return [row | next(of_faces) if row["status"] == STATUS_OK else row for row in chunk.rows]
