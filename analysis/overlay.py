"""`mf2 analyze --overlay`: the analysed pictures and videos again, with what was seen drawn into them.

Drawn from the finished table, source by source; what is there already is left as it is, so that a stopped run goes on.
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
from .runtimes import ONNX, runtime_of
from .tables import BOX, LANDMARKS

OVERLAY_NAME = "overlay"
MAX_PANELS, MAX_VIDEO_PANELS = 12, 4
"""Faces of a picture, and of a video's frame, that have a panel; all have their regions drawn."""
CAPTION_LINES = 8
ROWS_AT_ONCE = 256
RATE, TIME_BASE = 30, Fraction(1, 90_000)
"""Frames a second that a player is told to expect; the real times are those of the source, in units of the second."""


def write_overlays(folder: Path) -> Path:
    """Draw the sources of a run into `overlay/`, pictures as PNG, videos and animations as MP4.

    One that cannot be drawn is a warning; the others are drawn.

    Args:
        folder: a finished run with `faces.parquet`.
    Returns:
        The folder with the drawings.
    """
    manifest = json.loads((folder / MANIFEST_NAME).read_text("utf-8"))
    reading = _load_reading(manifest["model"])
    artist = Artist(LabelSpace(**manifest["label_space"]), reading, manifest["settings"]["captions"])
    file = folder / f"{TABLE_NAME}.parquet"
    most_faces = _most_faces(file)
    taken: set[str] = set()
    sources = groupby(_rows(file), key=itemgetter("source"))
    for name, rows in tqdm(sources, desc="overlay", unit="source", total=len(most_faces)):
        source = Source(Path(name), name, Path(name).suffix.lower() in VIDEO_SUFFIXES)
        num_panels = min(MAX_VIDEO_PANELS if source.is_video else MAX_PANELS, most_faces[name])
        frames = artist.draw_frames(source, rows, manifest["settings"]["fps"], num_panels)
        stem = folder / OVERLAY_NAME / free_name(name, taken)
        with illustration(stem):
            _write_drawing(frames, stem)
    return folder / OVERLAY_NAME


def _load_reading(model: str) -> Any:
    """What has the settings with which a model reads pictures: an image processor, or the description of a file."""
    if runtime_of(model) == ONNX:
        from ..onnx_runtime import Recognizer

        return Recognizer(model).description
    from transformers import AutoProcessor

    from ..auto_mf2 import register_auto_classes

    register_auto_classes()
    return AutoProcessor.from_pretrained(model).image_processor


def _rows(file: Path) -> Iterator[dict[str, Any]]:
    for batch in pq.ParquetFile(file).iter_batches(ROWS_AT_ONCE):
        yield from batch.to_pylist()


def _most_faces(file: Path) -> dict[str, int]:
    """How many faces a frame has at the most, by source."""
    counts = (
        pq.read_table(file, columns=["source", "frame"]).group_by(["source", "frame"]).aggregate([([], "count_all")])
    )
    most = counts.group_by("source").aggregate([("count_all", "max")])
    return dict(zip(*(most[name].to_pylist() for name in ("source", "count_all_max")), strict=True))


@dataclass(frozen=True)
class Drawing:
    """A drawn frame, the seconds since the beginning, and whether it may be one of several."""

    picture: Image.Image
    time_s: float
    is_moving: bool


class Artist:
    """Draws frames from their rows.

    Args:
        label_space: of the columns without a prefix.
        image_processor: as the run's; it places the regions.
        captions: the kinds that the rows have.
    """

    def __init__(self, label_space: LabelSpace, image_processor: Any, captions: Sequence[str] = ()):
        self.image_processor, self.captions = image_processor, captions
        self.au_ids = label_space.au_ids
        self.thresholds = dict(zip(label_space.au_codes, label_space.thresholds, strict=True))

    def draw_frames(
        self, source: Source, rows: Iterable[Mapping[str, Any]], fps: float | None, num_panels: int
    ) -> Iterator[Drawing]:
        """The frames of a source that can be read, each with its rows, which are in the same order."""
        of_frames = groupby(rows, key=itemgetter("frame"))
        for frame, (_, of_frame) in zip(read_frames([(0, source)], fps), of_frames, strict=False):
            faces = [row for row in of_frame if row["status"] == STATUS_OK]
            if frame.image is not None:
                yield Drawing(self.draw_frame(frame.image, faces, num_panels), frame.time_s, source.is_video)

    def draw_frame(self, image: np.ndarray, rows: Sequence[Mapping[str, Any]], num_panels: int) -> Image.Image:
        """A frame with the faces of its rows."""
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
    """The AU regions in the picture, where they are turned with the face.

    Args:
        landmarks_px: `(68, 2)` in pixels of the picture; None where the picture is a face crop.
        size: height and width of the picture.
        image_processor: with the settings of the run.
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
    """Write `stem.png` of a single picture, `stem.mp4` of several; nothing of none, or where it is there already."""
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
    """Encode drawings of that width and height as H.264 with their own times."""
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
