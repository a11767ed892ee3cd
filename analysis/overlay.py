"""`mf2 analyze --overlay`: draws the results into the analysed pictures and videos.

Overlays are drawn from the finished table, source by source; existing ones are kept, so that an interrupted run
continues.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain, groupby, islice
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from PIL import Image
from tqdm import tqdm

from ..labels_mf2 import LabelSpace
from ..regions_mf2 import alignment_matrix, apply_matrix, au_boxes_from_landmarks, cover_matrix, mean_face
from ..utils.command_line import illustration
from ..utils.drawing import FaceState, boxes_to_corners, compose, panel_height
from ..utils.face_table import STATUS_OK, TABLE_NAME, free_name
from ..utils.files import replacing
from ..utils.suffixes import VIDEO_SUFFIXES
from ..utils.videos import import_av
from .media import Source, read_frames
from .run_folder import MANIFEST_NAME
from .runtimes import ONNX, choose_runtime
from .tables import BOX, LANDMARKS

OVERLAY_NAME = "overlay"
MAX_PANELS, MAX_VIDEO_PANELS = 12, 4
"""Maximum number of panels beside a picture and beside a video frame; the regions of all faces are drawn."""
CAPTION_LINES = 8
ROW_BATCH_SIZE = 256
RATE, TIME_BASE = 30, Fraction(1, 90_000)
"""Nominal frame rate of written videos, and the unit of their timestamps, which are those of the source."""


def write_overlays(folder: Path, with_panels: bool = True) -> Path:
    """Draw the sources of a run into `overlay/`: pictures as PNG, videos and animations as MP4.

    A source that cannot be drawn gives a warning.

    Args:
        folder: a finished run with `faces.parquet`.
        with_panels: put probabilities and captions beside the pictures.
    Returns:
        The folder with the drawings.
    """
    manifest = json.loads((folder / MANIFEST_NAME).read_text("utf-8"))
    image_settings = _load_image_settings(manifest["model"])
    artist = Artist(LabelSpace(**manifest["label_space"]), image_settings, manifest["settings"]["captions"])
    file = folder / f"{TABLE_NAME}.parquet"
    max_faces = _count_faces(file)
    taken: set[str] = set()
    sources = groupby(_read_rows(file), key=itemgetter("source"))
    for name, rows in tqdm(sources, desc="overlay", unit="source", total=len(max_faces)):
        source = Source(Path(name), name, Path(name).suffix.lower() in VIDEO_SUFFIXES)
        num_panels = min(MAX_VIDEO_PANELS if source.is_video else MAX_PANELS, max_faces[name])
        frames = artist.draw_frames(source, rows, manifest["settings"]["fps"], num_panels if with_panels else 0)
        stem = folder / OVERLAY_NAME / free_name(name, taken)
        with illustration(stem):
            _write_drawing(frames, stem)
    return folder / OVERLAY_NAME


def _load_image_settings(model: str) -> Any:
    """Return the object with a model's image settings: an image processor, or the description of an ONNX file."""
    if choose_runtime(model) == ONNX:
        from ..onnx_runtime import Recognizer

        return Recognizer(model).description
    from transformers import AutoProcessor

    from ..auto_mf2 import register_auto_classes

    register_auto_classes()
    return AutoProcessor.from_pretrained(model).image_processor


def _read_rows(file: Path) -> Iterator[dict[str, Any]]:
    for batch in pq.ParquetFile(file).iter_batches(ROW_BATCH_SIZE):
        yield from batch.to_pylist()


def _count_faces(file: Path) -> dict[str, int]:
    """Source -> maximum number of faces in a frame."""
    counts = (
        pq.read_table(file, columns=["source", "frame"]).group_by(["source", "frame"]).aggregate([([], "count_all")])
    )
    maxima = counts.group_by("source").aggregate([("count_all", "max")])
    return dict(zip(*(maxima[name].to_pylist() for name in ("source", "count_all_max")), strict=True))


@dataclass(frozen=True)
class Drawing:
    """A drawn frame, its time in seconds, and whether it belongs to a video."""

    picture: Image.Image
    time_s: float
    is_moving: bool


class Artist:
    """Draws frames from their rows.

    Args:
        label_space: label space of the columns without a prefix.
        image_processor: image settings of the run, which determine the regions.
        captions: kinds of caption in the rows.
    """

    def __init__(self, label_space: LabelSpace, image_processor: Any, captions: Sequence[str] = ()):
        self.image_processor, self.captions = image_processor, captions
        self.au_ids = label_space.au_ids
        self.thresholds = label_space.thresholds_by_code

    def draw_frames(
        self, source: Source, rows: Iterable[Mapping[str, Any]], fps: float | None, num_panels: int
    ) -> Iterator[Drawing]:
        """Draw the readable frames of a source with their rows; frames and rows are in the same order."""
        rows_by_frame = groupby(rows, key=itemgetter("frame"))
        for frame, (_, frame_rows) in zip(read_frames([(0, source)], fps), rows_by_frame, strict=False):
            faces = [row for row in frame_rows if row["status"] == STATUS_OK]
            if frame.image is not None:
                yield Drawing(self.draw_frame(frame.image, faces, num_panels), frame.time_s, source.is_video)

    def draw_frame(self, image: np.ndarray, rows: Sequence[Mapping[str, Any]], num_panels: int) -> Image.Image:
        """Draw the faces of a frame's rows."""
        faces = [self._describe(row, image.shape[:2]) for row in rows]
        panel_px = panel_height(len(self.thresholds), CAPTION_LINES if self.captions else 0)
        return compose(Image.fromarray(image), faces, num_panels, panel_px)

    def _describe(self, row: Mapping[str, Any], size: tuple[int, int]) -> FaceState:
        points = None if row[LANDMARKS] is None else np.reshape(row[LANDMARKS], (-1, 2)).astype(np.float64)
        emotion = row.get("emotion") or ""
        return FaceState(
            title=f"face {row['face']}",
            regions_px=region_corners(points, size, self.au_ids, self.image_processor),
            aus={code: row[code] for code in self.thresholds},
            thresholds=self.thresholds,
            emotion=emotion,
            emotion_prob=row.get(f"emotion_{emotion}", 0.0),
            captions={kind: row[f"caption_{kind}"] for kind in self.captions},
            box_px=None if points is None else [row[name] for name in BOX],
        )


def region_corners(
    landmarks_px: np.ndarray | None, size: tuple[int, int], au_ids: Sequence[int], image_processor: Any
) -> np.ndarray:
    """Compute the AU regions in the picture, rotated with the face.

    Args:
        landmarks_px: `(68, 2)` in pixels of the picture; None if the picture is a face crop.
        size: height and width of the picture.
        au_ids: AUs of the regions.
        image_processor: image settings of the run.
    Returns:
        `(A, 2, 4, 2)` float, the corners of the two regions of each AU in pixels of the picture.
    """
    target = (image_processor.size["height"], image_processor.size["width"])
    eyes = image_processor.eye_centers
    if landmarks_px is None:
        matrix, points = cover_matrix(size, target), mean_face(target, eyes)
    else:
        is_aligned = image_processor.do_align
        matrix = alignment_matrix(landmarks_px, target, eyes) if is_aligned else cover_matrix(size, target)
        points = apply_matrix(landmarks_px, matrix)
    boxes = au_boxes_from_landmarks(points, target, au_ids, image_processor.au_region_size)
    return apply_matrix(boxes_to_corners(boxes * (target[::-1] * 2)), np.linalg.inv(matrix))


# ----------------------------------------------------------------------------------------------------------- files
def _write_drawing(drawings: Iterator[Drawing], stem: Path) -> None:
    """Write a single picture to `stem.png`, several to `stem.mp4`; nothing if there is none or the file exists."""
    png, mp4 = (stem.with_name(stem.name + suffix) for suffix in (".png", ".mp4"))
    if png.exists() or mp4.exists():
        return
    first = list(islice(drawings, 2))
    if len(first) == 1 and not first[0].is_moving:
        with replacing(png) as partial:
            first[0].picture.save(partial)
    elif first:
        with replacing(mp4) as partial:
            _write_video(chain(first, drawings), first[0].picture.size, partial)


def _write_video(drawings: Iterable[Drawing], size: tuple[int, int], file: Path) -> None:
    """Encode drawings of the given width and height as H.264, with their times."""
    av = import_av()
    width, height = (side - side % 2 for side in size)  # yuv420p halves both
    with av.open(str(file), "w") as container:
        stream = container.add_stream("libx264" if "libx264" in av.codecs_available else "mpeg4", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.time_base = TIME_BASE
        for drawing in drawings:
            frame = av.VideoFrame.from_image(drawing.picture.crop((0, 0, width, height)))
            frame.pts, frame.time_base = round(drawing.time_s / TIME_BASE), TIME_BASE
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
