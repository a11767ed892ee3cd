"""An index of face embeddings on disk, encoded once per model.

    index.json                   key of the encoder
    faces-<number>.safetensors   a shard, the faces of some files: `embeds` (F, Q, P) float16, `boxes` (F, 4) pixels,
                                 `frames` (F), `times` (F) seconds, `ids` (F)
    files-<number>.json          for each file of the shard its size, time and the rows of its faces

A file is encoded again if its size or modification time changed; the index is rebuilt if the model, the branch or the
face search changed. The list of a shard's files is written after the shard, so that an interrupted run resumes.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tqdm import tqdm

from ...modeling_mf2 import MF2Model
from ...processing_mf2 import MF2Processor
from ...utils.files import replacing, write_json
from ...utils.threads import fit_threads
from ..faces import Face, FindFaces, LocatedFrame, locate_faces
from ..media import Frame, Source, read_frames
from ..recognizer import INPUT_NAMES
from ..streaming import run_ahead
from .fingerprint import fingerprint

INDEX_NAME = "index.json"
FORMAT = 2
FILES_PER_SHARD = 256
FACES_PER_SHARD = 4096
"""A shard ends with the file in which it reaches either number."""


class EncodedFace(NamedTuple):
    """A face in a frame and its `(Q, P)` embeddings."""

    frame: Frame
    face: Face
    embeds: torch.Tensor


@dataclass(frozen=True)
class Encoder:
    """Encodes the faces of frames in the embedding space of a branch.

    Args:
        model: in evaluation mode, on its device.
        processor: the model's.
        find: finds the faces of frames.
        branch: `emo` or `au`.
        batch_size: faces per forward pass.
        fps: frames per second of videos to encode.
    """

    model: MF2Model
    processor: MF2Processor
    find: FindFaces
    branch: str = "emo"
    batch_size: int = 16
    fps: float = 1.0

    def encode(self, located: Iterable[LocatedFrame]) -> Iterator[EncodedFace]:
        """Encode the faces of frames, in order."""
        waiting: list[tuple[Frame, Face]] = []
        for frame in located:
            waiting += [(frame.frame, face) for face in frame.faces]
            while len(waiting) >= self.batch_size:
                yield from self._encode_batch(waiting[: self.batch_size])
                del waiting[: self.batch_size]
        if waiting:
            yield from self._encode_batch(waiting)

    def _encode_batch(self, faces: Sequence[tuple[Frame, Face]]) -> Iterator[EncodedFace]:
        batch = self.processor.image_processor(
            [frame.image for frame, _ in faces], landmarks=[face.landmarks_px for _, face in faces]
        )
        inputs = {name: batch[name].to(self.model.device) for name in INPUT_NAMES}
        fit_threads(self.model.device)
        with torch.inference_mode():
            embeds = self.model.get_image_features(**inputs, branch=self.branch).pooler_output.cpu()
        return (EncodedFace(*face, values) for face, values in zip(faces, embeds, strict=True))

    def locate(self, sources: Iterable[tuple[int, Source]]) -> Iterator[LocatedFrame]:
        """Locate the faces in the frames of numbered sources, ahead of the model."""
        return run_ahead(locate_faces(read_frames(sources, self.fps), self.find, self.batch_size), self.batch_size)

    def key(self, faces: str) -> dict[str, Any]:
        """The key that an index must match; `faces` is the key of the face search."""
        model = fingerprint(self.model, self.processor)
        return {"format": FORMAT, "model": model, "branch": self.branch, "faces": faces, "fps": self.fps}


# -------------------------------------------------------------------------------------------------------------- index
@dataclass(frozen=True)
class IndexedFile:
    """An encoded file; its faces are the rows `first` to `first + count` (exclusive) of a shard."""

    path: str
    size: int
    mtime_ns: int
    shard: int = -1
    first: int = 0
    count: int = 0
    error: str = ""

    def is_unchanged(self) -> bool:
        """Whether the file is unchanged since it was encoded."""
        return _stamp(Path(self.path)) == (self.size, self.mtime_ns)


def _stamp(path: Path) -> tuple[int, int]:
    """Size and modification time; (-1, -1) for a missing file."""
    try:
        stat = path.stat()
    except OSError:
        return -1, -1
    return stat.st_size, stat.st_mtime_ns


class Shard(NamedTuple):
    """Faces in memory: the path of each, and tensors with one row per face."""

    paths: list[str]
    tensors: dict[str, torch.Tensor]


class FaceIndex:
    """The faces of a set of files, for one encoder.

    Args:
        folder: folder of the index; created if needed.
        encoder: computes the embeddings.
        faces: key of the face search.
    """

    def __init__(self, folder: str | Path, encoder: Encoder, faces: str):
        self.folder = Path(folder)
        self.encoder = encoder
        self.key = encoder.key(faces)
        self.files = self._load()

    def _load(self) -> dict[str, IndexedFile]:
        """Load the indexed files by path, if the key matches; files whose shard is missing are dropped."""
        if _read_json(self.folder / INDEX_NAME).get("key") != self.key:
            return {}
        files: dict[str, IndexedFile] = {}
        for path in sorted(self.folder.glob("files-*.json")):
            listed = [IndexedFile(**entry) for entry in _read_json(path).get("files", ())]
            has_faces = bool(listed) and self.shard_path(listed[0].shard).is_file()
            files |= {file.path: file for file in listed if has_faces or not file.count}
        return files

    def update(self, sources: Sequence[Source]) -> int:
        """Update the index to these files: encode new or changed ones, and remove all others.

        Returns:
            The number of encoded files.
        """
        sources_by_path = {str(source.path.absolute()): source for source in sources}
        self._forget(
            path for path, file in self.files.items() if path not in sources_by_path or not file.is_unchanged()
        )
        missing = [path for path in sources_by_path if path not in self.files]
        with tqdm(total=len(missing), desc="encoding faces", unit="file", disable=not missing) as bar:
            for start in range(0, len(missing), FILES_PER_SHARD):
                paths = missing[start : start + FILES_PER_SHARD]
                self._encode({path: sources_by_path[path] for path in paths}, bar)
        return len(missing)

    def _forget(self, paths: Iterable[str]) -> None:
        """Remove files, and whatever is in the folder of another key."""
        self.folder.mkdir(parents=True, exist_ok=True)
        changed = {self.files.pop(path).shard for path in list(paths)}
        by_shard = self.files_by_shard()
        for path in [*self.folder.glob("files-*.json"), *self.folder.glob("faces-*.safetensors")]:
            if int(path.stem.split("-")[1]) not in by_shard:
                path.unlink()
        for shard in changed & by_shard.keys():
            self._save_list(shard, by_shard[shard])
        write_json(self.folder / INDEX_NAME, {"key": self.key})

    def _encode(self, sources: dict[str, Source], bar: tqdm) -> None:
        """Encode files into one or more new shards, and add them to the index."""
        files = [IndexedFile(path, *_stamp(source.path)) for path, source in sources.items()]  # before they are read
        errors: dict[int, str] = {}
        located = _track_progress(self.encoder.locate(enumerate(sources.values())), errors, bar)
        faces: list[EncodedFace] = []
        first = 0
        for face in self.encoder.encode(located):
            source_idx = face.frame.source_idx
            if len(faces) >= FACES_PER_SHARD and source_idx != faces[-1].frame.source_idx:
                self._add_shard(files, range(first, source_idx), faces, errors)
                faces, first = [], source_idx
            faces.append(face._replace(embeds=face.embeds.half()))
        self._add_shard(files, range(first, len(files)), faces, errors)

    def _add_shard(
        self, files: Sequence[IndexedFile], source_idxs: range, faces: Sequence[EncodedFace], errors: dict[int, str]
    ) -> None:
        """Write the faces of some of the files as a shard."""
        shard = 1 + max((file.shard for file in self.files.values()), default=-1)
        if faces:
            with replacing(self.shard_path(shard)) as part:
                save_file(_to_tensors(faces), part)
        counts = Counter(face.frame.source_idx for face in faces)
        listed, first = [], 0
        for idx in source_idxs:
            count, error = counts[idx], errors.get(idx, "")
            listed.append(replace(files[idx], shard=shard, first=first, count=count, error=error))
            first += count
        self._save_list(shard, listed)
        self.files |= {file.path: file for file in listed}

    def _save_list(self, shard: int, files: Sequence[IndexedFile]) -> None:
        write_json(self.folder / f"files-{shard:05d}.json", {"files": [asdict(file) for file in files]})

    def shard_path(self, number: int) -> Path:
        """The file of a shard's faces."""
        return self.folder / f"faces-{number:05d}.safetensors"

    def files_by_shard(self) -> dict[int, list[IndexedFile]]:
        """Number of each shard, in order -> its files, in the order of their rows."""
        by_shard: dict[int, list[IndexedFile]] = {}
        for file in self.files.values():
            by_shard.setdefault(file.shard, []).append(file)
        return {shard: sorted(by_shard[shard], key=lambda file: file.first) for shard in sorted(by_shard)}

    def shards(self) -> Iterator[Shard]:
        """Yield the faces shard by shard, so that memory does not grow with their number."""
        for number, files in self.files_by_shard().items():
            if any(file.count for file in files):
                rows = torch.cat([torch.arange(file.first, file.first + file.count) for file in files])
                yield self.read_shard(number, rows, [file.path for file in files for _ in range(file.count)])

    def num_rows(self, number: int) -> int:
        """Number of rows of a shard, including those of removed files; 0 without a file."""
        path = self.shard_path(number)
        if not path.is_file():
            return 0
        with safe_open(path, "pt") as opened:
            return opened.get_slice("embeds").get_shape()[0]

    def read_shard(self, number: int, rows: torch.Tensor, paths: list[str]) -> Shard:
        """Read rows of a shard; the file is memory-mapped, so that others are not read.

        Args:
            number: of the shard.
            rows: `(F,)` rows.
            paths: of the files of these rows.
        """
        tensors = load_file(self.shard_path(number))
        if not torch.equal(rows, torch.arange(len(tensors["embeds"]))):
            tensors = {name: values[rows] for name, values in tensors.items()}
        return Shard(paths, tensors)

    @property
    def errors(self) -> dict[str, str]:
        """Path -> error of the files that could not be read completely."""
        return {file.path: file.error for file in self.files.values() if file.error}

    def __len__(self) -> int:
        return sum(file.count for file in self.files.values())


def _read_json(path: Path) -> dict[str, Any]:
    """A JSON object; empty if the file is missing or damaged."""
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}


def _track_progress(located: Iterable[LocatedFrame], errors: dict[int, str], bar: tqdm) -> Iterator[LocatedFrame]:
    """Pass frames on, collect the errors of their sources, and update the progress bar."""
    done = bar.n
    for frame in located:
        if frame.error:
            errors[frame.frame.source_idx] = frame.error
        bar.update(done + frame.frame.source_idx + 1 - bar.n)
        yield frame


def _to_tensors(encoded: Sequence[EncodedFace]) -> dict[str, torch.Tensor]:
    no_box = (float("nan"),) * 4
    boxes = [face.detected.box_xyxy_px if face.detected else no_box for _, face, _ in encoded]
    return {
        "embeds": torch.stack([embeds for _, _, embeds in encoded]),
        "boxes": torch.tensor(boxes, dtype=torch.float32),
        "frames": torch.tensor([frame.index for frame, _, _ in encoded]),
        "times": torch.tensor([frame.time_s for frame, _, _ in encoded], dtype=torch.float64),
        "ids": torch.tensor([face.id for _, face, _ in encoded]),
    }
