"""What the page shows of pictures: faces, what is seen in them, sentences, and where it comes from. No Gradio."""

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..analysis.caption_check import CAPTION_PREFIX
from ..analysis.engine import complete_rows, make_chunks
from ..analysis.face_arguments import DETECT, MEAN_FACE, FaceSearch
from ..analysis.faces import LocatedFrame, locate_faces, make_finder
from ..analysis.media import Frame, Source, read_frames
from ..analysis.overlay import region_corners
from ..analysis.recognizer import INPUT_NAMES, Recognizer, choose_device
from ..analysis.saliency import au_saliency, draw_saliency
from ..analysis.search.scoring import FaceScorer
from ..analysis.tables import LANDMARKS
from ..caption_meaning_mf2 import CaptionFlags, flag_caption
from ..dataset_tools.detectors import choose_backend
from ..evaluation.caption_scores import caption_kinds
from ..labels_mf2 import LabelSpace
from ..landmarks_mf2 import DetectedFace, faces_from_landmarks, is_ready
from ..utils.drawing import to_pixels
from ..utils.face_table import STATUS_OK
from ..utils.files import sha256_of_file
from .examples import Examples
from .settings import AppSettings
from .zero_gpu import is_zero_gpu

MAX_FACES = 16
"""Faces of a picture that are shown, the largest."""
MAP_PX = 320
NO_FACE_FOUND = "No face was found in this picture. Try one in which a face is larger and seen from the front."


@dataclass(frozen=True)
class SeenFace:
    """A face of a picture.

    Args:
        row: what is seen in it, by column; see `analysis.tables`.
        inputs: of the model, `pixel_values` `(1, 3, H, W)` and `au_boxes` `(1, A, 2, 4)`.
        regions_px: prefix of a label space to `(A, 2, 4, 2)`, corners of its AU regions in pixels of the picture.
    """

    row: Mapping[str, Any]
    inputs: Mapping[str, torch.Tensor]
    regions_px: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class SeenPicture:
    """A picture and its faces, the largest first.

    Args:
        name: of its file.
        image: `(height, width, 3)` uint8.
        faces: what was seen.
        seconds: what each step took.
    """

    name: str
    image: np.ndarray
    faces: tuple[SeenFace, ...]
    seconds: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Sentence:
    """What was written of a face, and what in it is not supported."""

    kind: str
    text: str
    flags: CaptionFlags


class Viewer:
    """A checkpoint with adapters, and a way to find faces; one visitor at a time.

    Args:
        recognizer: sees the faces.
        faces: how they are found.
        detector: what finds them; None where every picture is taken as one face, cut out.
        examples: pictures whose faces are known.
        device: where to compute, if the model is to be moved there for each call.
    """

    def __init__(
        self,
        recognizer: Recognizer,
        faces: FaceSearch,
        detector: str | None,
        examples: Examples,
        device: str | None = None,
    ):
        self.recognizer, self.faces, self.detector, self.examples = recognizer, faces, detector, examples
        self._find = make_finder(faces, recognizer.landmark_detector, str(recognizer.device), [])
        self._device = device
        self._lock = threading.Lock()

    @classmethod
    def load(cls, settings: AppSettings, examples: Examples) -> "Viewer":
        """Load the model and set up the detector.

        Raises:
            ValueError, OSError, ImportError: one of them cannot be used; see `Recognizer` and `make_finder`.
        """
        moves = is_zero_gpu()
        recognizer = Recognizer.from_pretrained(settings.model, settings.adapters, "cpu" if moves else settings.device)
        faces, detector = choose_faces(settings.faces, recognizer.landmark_detector)
        return cls(recognizer, faces, detector, examples, "cuda" if moves else None)

    @property
    def label_spaces(self) -> Mapping[str, LabelSpace]:
        """What can be asked, by column prefix: `""` is the checkpoint, `"<adapter>."` an adapter."""
        return self.recognizer.label_spaces

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of sentence that the model writes."""
        model = self.recognizer.model
        return caption_kinds(model.config, model.label_space)

    @contextmanager
    def computing(self) -> Iterator[Recognizer]:
        """The block in which one visitor computes."""
        with self._lock:
            if self._device:
                self.recognizer.model.to(choose_device(self._device))
            yield self.recognizer

    # ----------------------------------------------------------------------------------------------------------- faces
    def see_file(self, path: str | Path) -> SeenPicture:
        """The faces of a picture.

        Raises:
            ValueError: it cannot be read, or no face is found.
        """
        source = Source(Path(path), Path(path).name, is_video=False)
        return self._see(next(read_frames([(0, source)], num_threads=1)))

    def see_frame(self, image: np.ndarray) -> SeenPicture:
        """The faces of a webcam's frame, `(height, width, 3)` uint8; there may be none."""
        source = Source(Path("webcam"), "webcam", is_video=True)
        return self._see(Frame(source, 0, image=image, is_moving=True))

    def _see(self, frame: Frame) -> SeenPicture:
        if frame.image is None:
            reason = frame.error.replace(str(frame.source.path), frame.source.name)
            raise ValueError(f"This picture cannot be read: {reason}")
        with self.computing() as recognizer:
            started = time.perf_counter()
            located = next(locate_faces([frame], self.find, batch_size=1))
            if located.error:
                raise ValueError(located.error)
            found_at = time.perf_counter()
            faces = self._recognize(located, recognizer)
            seen_at = time.perf_counter()
        if not faces and not frame.is_moving:
            raise ValueError(NO_FACE_FOUND)
        seconds = {"faces": found_at - started, "model": seen_at - found_at}
        return SeenPicture(frame.source.name, frame.image, faces, seconds)

    def find(self, frames: Sequence[Frame]) -> list[list[DetectedFace] | Exception | None]:
        """Where the faces of frames are: known of the examples that were drawn, looked for in others."""
        known = [self._known_faces(frame) for frame in frames]
        others = iter(self._find([frame for frame, faces in zip(frames, known, strict=True) if faces is None]))
        found = [next(others) if faces is None else faces for faces in known]
        return [faces[:MAX_FACES] if isinstance(faces, list) else faces for faces in found]

    def _known_faces(self, frame: Frame) -> list[DetectedFace] | None:
        if frame.is_moving or not self.examples.landmarks or not frame.source.path.is_file():
            return None
        points = self.examples.landmarks.get(sha256_of_file(frame.source.path))
        return None if points is None else faces_from_landmarks(points)

    def _recognize(self, located: LocatedFrame, recognizer: Recognizer) -> tuple[SeenFace, ...]:
        if not located.faces:
            return ()
        chunk = next(make_chunks([located], recognizer, chunk_size=MAX_FACES))
        rows = [row for row in complete_rows(chunk, recognizer, MAX_FACES) if row["status"] == STATUS_OK]
        seen = [
            SeenFace(
                row,
                {name: values[place : place + 1].cpu() for name, values in chunk.inputs.items()},
                self._regions(row, located.frame.size, recognizer),
            )
            for place, row in enumerate(rows)
        ]
        return tuple(seen)

    def _regions(self, row: Mapping[str, Any], size: tuple[int, int], recognizer: Recognizer) -> dict[str, np.ndarray]:
        points = row.get(LANDMARKS)
        landmarks_px = None if points is None else np.reshape(points, (-1, 2)).astype(np.float64)
        return {
            prefix: region_corners(landmarks_px, size, space.au_ids, recognizer.image_processor)
            for prefix, space in self.label_spaces.items()
        }

    def compare(self, first: SeenFace, second: SeenFace) -> float:
        """How alike two faces are to the model: the mean cosine of their retrieval embeddings, in [-1, 1]."""
        with self.computing() as recognizer:
            ours, theirs = (self._embed(recognizer, face) for face in (first, second))
        return float(FaceScorer(ours)(theirs[None])[0])

    @torch.inference_mode()
    def _embed(self, recognizer: Recognizer, face: SeenFace) -> torch.Tensor:
        """`(Q, P)` embeddings of a face in the space of the global branch, or of the AU branch where it is alone."""
        pixels, boxes = recognizer.primary_inputs(face.inputs)
        model = recognizer.model
        branch = next(iter(model.branches))
        return model.get_image_features(pixel_values=pixels, au_boxes=boxes, branch=branch).pooler_output[0].cpu()

    # ------------------------------------------------------------------------------------------------------- sentences
    def write(self, face: SeenFace, kind: str) -> Sentence:
        """A sentence of that kind, the one of eight that the recognisers support best."""
        with self.computing() as recognizer:
            (written,) = recognizer.write_captions(face.inputs, [kind])
        text = written[CAPTION_PREFIX + kind]
        return Sentence(kind, text, flag_caption(kind, text, face.row, self.label_spaces[""].thresholds_by_code))

    # -------------------------------------------------------------------------------------------------------- saliency
    def draw_map(self, face: SeenFace, prefix: str, code: str) -> Image.Image:
        """Where in the face an AU of the checkpoint (an empty prefix) or of an adapter is seen."""
        place = self.label_spaces[prefix].au_codes.index(code)
        with self.computing() as recognizer, recognizer.activate(prefix) as own:
            pixels, boxes = (face.inputs[name][0].to(recognizer.device) for name in INPUT_NAMES)
            boxes = boxes[own]
            (saliency,) = au_saliency(recognizer.model, pixels, boxes, [place])
        return draw_saliency(to_pixels(pixels, self.recognizer.image_processor), saliency, MAP_PX)


def choose_faces(search: FaceSearch, preferred: str) -> tuple[FaceSearch, str | None]:
    """How faces are found, and by which detector: without one that is ready every picture is one face, cut out.

    A detector that was named and is not ready is an error; a file of points is refused, as it knows none of the
    pictures that are uploaded.

    Raises:
        ValueError: points are to come from a file.
    """
    if search.is_file:
        raise ValueError(f"--landmarks {search.landmarks}: a page takes {DETECT} or {MEAN_FACE}.")
    if search.landmarks == MEAN_FACE:
        return search, None
    is_named = search.backend is not None or search.model_file is not None
    name = choose_backend(preferred, search.backend, search.model_file)
    if not is_named and not is_ready(name):
        return FaceSearch(MEAN_FACE), None
    return search, name
