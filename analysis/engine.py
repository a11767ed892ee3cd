"""The pipeline of `mf2 analyze`: sources → frames → faces → model → rows, as concurrent stages.

Decoding runs in its own threads, and detection and alignment in another, with bounded queues, so that the model does
not wait for them and memory does not grow with the length of a video. Queues pass batches of faces, because every
transfer between threads needs Python's lock, and a small model computes much in that time.
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
from ..regions_mf2 import visible_box
from ..utils.devices import TF32
from ..utils.face_table import STATUS_ERROR, STATUS_NO_FACE, STATUS_OK
from ..utils.videos import import_av
from .caption_check import check_captions
from .face_arguments import FaceSearch
from .faces import Face, LocatedFrame, describe_finder, locate_faces, make_finder
from .media import FRAMES_AHEAD, Source, compute_file_version, find_sources, read_frames
from .peer_formats import PEER_WRITERS, check_peer_formats
from .run_folder import MANIFEST_NAME, RunFolder
from .runtimes import ONNX, TORCH, FaceRecognizer
from .streaming import run_ahead
from .tables import BOX, LANDMARKS, NO_FACE, POSE, WRITERS, Row, row_columns, threshold_columns

CHUNKS_AHEAD = 2
"""Maximum number of chunks waiting for the model."""
MIN_CHUNK = 8
"""Minimum number of faces aligned at once, even for smaller batches: a call costs more than a face."""
FILES_AT_ONCE = 256
"""Number of files whose versions a thread computes at once: a task for each would take more memory than its result."""
FRAMES_WITHOUT_FACE = 4
"""A chunk is closed after this multiple of its size in frames, even if few of them have faces."""


@dataclass(frozen=True)
class AnalyzeOptions:
    """Options of an analysis; see `mf2 analyze --help`."""

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
        """The options that the rows depend on, as JSON values."""
        irrelevant = ("device", "num_threads", "compile", "precision", "runtime")
        settings = {name: value for name, value in asdict(self).items() if name not in irrelevant}
        return json.loads(json.dumps(settings | settings.pop("faces")))


@dataclass
class Summary:
    """Counts of a run; `failed` maps sources to their first error, `captions` kinds of caption to their checks."""

    sources: int = 0
    frames: int = 0
    faces: int = 0
    frames_without_face: int = 0
    errors: int = 0
    other_files: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    captions: dict[str, dict[str, Any]] = field(default_factory=dict)

    def count_rows(self, batches: Iterable[Sequence[Row]]) -> Iterator[Sequence[Row]]:
        """Pass on batches of rows, in order, and count them."""
        last = None
        for rows in batches:
            for row in rows:
                frame, status = (row["source"], row["frame"]), row["status"]
                self.frames += frame != last
                last = frame
                self.faces += status == STATUS_OK
                self.frames_without_face += status == STATUS_NO_FACE
                if status == STATUS_ERROR:
                    self.errors += 1
                    self.failed.setdefault(row["source"], row["error"])
            yield rows

    def to_line(self) -> str:
        """The counts as one line."""
        parts = [
            format_count(self.sources, "source"),
            format_count(self.frames, "frame"),
            format_count(self.faces, "face"),
        ]
        if self.frames_without_face:
            parts.append(f"{format_count(self.frames_without_face, 'frame')} without a face")
        if self.errors:
            parts.append(f"{format_count(self.errors, 'error')} in {format_count(len(self.failed), 'source')}")
        for kind, check in self.captions.items():
            parts.append(f"{check['flagged']} of {check['naming']} {kind} captions flagged")
        if self.other_files:
            parts.append(f"{format_count(self.other_files, 'file')} of other types left out")
        return ", ".join(parts)


def format_count(number: int, noun: str) -> str:
    """`1 face`, `2 faces`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


# --------------------------------------------------------------------------------------------------------- running
def analyze(
    paths: Sequence[str | Path],
    output: str | Path,
    options: AnalyzeOptions,
    recognizer: FaceRecognizer | None = None,
) -> Summary:
    """Analyse pictures, folders and videos.

    Args:
        paths: pictures, videos and folders.
        output: the run's folder, for the table `faces.…`, further formats, and `manifest.json`; shards have
            sub-folders. An interrupted run resumes. If the run is finished, only new sources are analysed; their rows
            are appended.
        options: see `AnalyzeOptions`.
        recognizer: that of the options, if it is loaded already.
    Returns:
        The counts of the run.
    Raises:
        FileNotFoundError: a path does not exist, or there is nothing to analyse.
        ImportError: a package for videos or for the detector is missing.
        ValueError: an option is invalid, or the folder has another run.
    """
    sources, num_other = find_sources(paths, Path(output).absolute())
    sources = select_shard(sources, options.shard)
    folder = shard_folder(Path(output), options.shard)
    if any(source.is_video for source in sources):
        import_av()
    started = time.perf_counter()
    recognizer = recognizer or load_recognizer(options)
    check_peer_formats(options.formats, recognizer.label_spaces[""])
    detector = describe_finder(options.faces, recognizer.landmark_detector)
    settings = options.row_settings() | {"detector": detector, "sources": [source.name for source in sources]}
    settings["versions"] = compute_file_versions(sources, options.num_threads)
    run = RunFolder(folder, settings, row_columns(recognizer.label_spaces, options.captions))
    order = {name: index for index, name in enumerate(run.settings["sources"])}
    sources = sorted(sources, key=lambda source: order[source.name])
    if run.is_finished:
        counts = json.loads((folder / MANIFEST_NAME).read_text("utf-8"))["summary"]
        return Summary(**counts)
    collect_rows(run, sources, recognizer, options)
    summary = _write_tables(run, options, recognizer, Summary(len(sources), other_files=num_other))
    run.finish(_describe(recognizer, options, summary, time.perf_counter() - started))
    return summary


def load_recognizer(options: AnalyzeOptions) -> FaceRecognizer:
    """Load the model in the runtime of the options.

    Raises:
        ValueError: the runtime does not support an option, or the model does not generate a kind of caption.
    """
    if options.runtime == ONNX:
        from ..onnx_runtime import Recognizer as ExportedRecognizer

        refuse_without_torch(options)
        return ExportedRecognizer(options.model, options.adapters)
    from .recognizer import Recognizer  # imported here, because it imports torch

    recognizer = Recognizer.from_pretrained(
        options.model, options.adapters, options.device, options.compile, options.precision
    )
    for kind in options.captions:
        recognizer.model.check_caption_kind(kind)
    return recognizer


def refuse_without_torch(options: AnalyzeOptions) -> None:
    """Raise a `ValueError` for options that need PyTorch."""
    unsupported = {
        "--captions": bool(options.captions),
        "--compile": options.compile,
        f"--device {options.device}": options.device not in (None, "cpu"),
    }
    if requested := [name for name, is_requested in unsupported.items() if is_requested]:
        raise ValueError(
            f"An ONNX file computes action units and emotions on the CPU; {requested[0]} needs --runtime torch."
        )


def select_shard(sources: Sequence[Source], shard: tuple[int, int]) -> list[Source]:
    """Return the i-th of n parts of the sources, for the shard (i, n) with i from 1.

    The part depends only on the source's name, so that it does not change when sources are added.
    """
    number, count = shard
    if not 1 <= number <= count:
        raise ValueError(f"--shard is {number}/{count}; the first number lies between 1 and the second.")
    return [source for source in sources if zlib.crc32(source.name.encode()) % count == number - 1]


def compute_file_versions(sources: Sequence[Source], num_threads: int) -> dict[str, str]:
    """Name of each source -> `compute_file_version`."""

    def versions_from(first: int) -> dict[str, str]:
        part = sources[first : first + FILES_AT_ONCE]
        return {source.name: compute_file_version(source.path) for source in part}

    with ThreadPoolExecutor(num_threads) as pool:
        parts = pool.map(versions_from, range(0, len(sources), FILES_AT_ONCE))
        return {name: version for part in parts for name, version in part.items()}


def shard_folder(output: Path, shard: tuple[int, int]) -> Path:
    """The output folder of a shard; `output` itself if there is only one."""
    number, count = shard
    return output if count == 1 else output / f"shard-{number:05d}-of-{count:05d}"


def collect_rows(
    run: RunFolder, sources: Sequence[Source], recognizer: FaceRecognizer, options: AnalyzeOptions
) -> None:
    """Analyse everything after the run's last saved frame, and add the rows."""
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
    counted_batches = summary.count_rows(run.batches())
    for index, name in enumerate(options.formats):
        batches = run.batches() if index else counted_batches
        if name in WRITERS:
            WRITERS[name](batches, run.columns, run.folder)
        else:
            PEER_WRITERS[name](batches, recognizer.label_spaces[""], run.folder)
    summary.captions = _check_captions(run, recognizer, options.captions)
    return summary


def _check_captions(run: RunFolder, recognizer: FaceRecognizer, kinds: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Check the captions of all faces against their AUs and emotion; kind of caption -> counts."""
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
    """A batch of complete frames for the model: their rows without recognition results, and the inputs of the faces.

    Args:
        rows: see `tables`, in order; rows with `status` ok are faces.
        inputs: the model's inputs, `(faces, …)` arrays or tensors; empty if there are no faces.
        num_frames: number of frames.
        position: index of the source and number of the last frame.
    """

    rows: list[dict[str, Any]]
    inputs: dict[str, Any]
    num_frames: int
    position: tuple[int, int]


def make_chunks(located: Iterable[LocatedFrame], recognizer: FaceRecognizer, chunk_size: int) -> Iterator[Chunk]:
    """Group frames into chunks of at least `chunk_size` faces, with their rows and the model's inputs."""
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
    with_faces = [located for located in frames if located.faces]
    batch: Mapping[str, Any] = {}
    if with_faces:
        pictures = [cast(np.ndarray, located.frame.image) for located in with_faces]  # has faces, so it was read
        batch = recognizer.prepare(pictures, [_stack_landmarks(located.faces) for located in with_faces])
    face_columns = iter(_face_columns(with_faces, batch))
    rows: list[dict[str, Any]] = []
    for located in frames:
        frame = located.frame
        row = {"source": frame.source.name, "frame": frame.index, "time_s": frame.time_s, "face": NO_FACE}
        if located.error:
            rows.append(row | {"status": STATUS_ERROR, "error": located.error})
        elif not located.faces:
            rows.append(row | {"status": STATUS_NO_FACE})
        rows += [row | next(face_columns) for _ in located.faces]
    last = frames[-1].frame
    inputs = {name: batch[name] for name in INPUT_NAMES if name in batch}
    return Chunk(rows, inputs, len(frames), (last.source_idx, last.index))


def _stack_landmarks(faces: Sequence[Face]) -> np.ndarray | None:
    """`(faces, 68, 2)` landmarks, or None for a face crop."""
    points = [face.detected.landmarks_px for face in faces if face.detected]
    return np.stack(points) if points else None


def _face_columns(frames: Sequence[LocatedFrame], batch: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the columns of each face: id, box, landmarks and head pose; for a face crop, the visible box."""
    faces = [(face, located.frame.size) for located in frames for face in located.faces]
    poses = iter(_poses([(face.detected.landmarks_px, size) for face, size in faces if face.detected]))
    for row_idx, (face, size) in enumerate(faces):
        row = {"face": face.id, "status": STATUS_OK, "landmarks_found": face.detected is not None}
        if face.detected is None:
            height, width = batch["pixel_values"].shape[-2:]
            crop = visible_box(batch["align_matrix"][row_idx], (height, width), size)
            yield row | dict(zip(BOX, crop, strict=True))
        else:
            row |= dict(zip(BOX, map(float, face.detected.box_xyxy_px), strict=True)) | next(poses)
            points = np.asarray(face.landmarks_px, dtype=np.float32)
            yield row | {LANDMARKS: points.ravel(), "face_score": face.detected.score}


def _poses(faces: Sequence[tuple[np.ndarray, tuple[int, int]]]) -> list[dict[str, float]]:
    """The pose columns of faces, given as landmarks and picture size; empty where the pose is undefined."""
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
    """Complete the rows of a chunk with the model's results, in batches of `batch_size` faces."""
    states: list[dict[str, Any]] = []
    num_faces = sum(row["status"] == STATUS_OK for row in chunk.rows)
    for start in range(0, num_faces, batch_size):
        inputs = {name: values[start : start + batch_size] for name, values in chunk.inputs.items()}
        found = recognizer.recognize(inputs)
        if captions:
            captioner: Any = recognizer  # PyTorch's; captions are refused for other runtimes
            written = captioner.write_captions(inputs, captions, rerank)
            found = [state | texts for state, texts in zip(found, written, strict=True)]
        states += found
    remaining_states = iter(states)
    return [row | next(remaining_states) if row["status"] == STATUS_OK else row for row in chunk.rows]
