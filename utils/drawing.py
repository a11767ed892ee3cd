"""Draws the results of a model on pictures: AU regions, and a panel with probabilities, emotion and captions.

Only Pillow is used, so that a frame of a video is drawn in milliseconds.
"""

import math
import textwrap
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..caption_meaning_mf2 import flag_caption
from ..labels_mf2 import ACTION_UNITS
from .tag_layout import Box, place_tags

AU_NAMES = {unit.code: unit.name for unit in ACTION_UNITS.values()}
COLORS = matplotlib.colormaps["viridis"]
PAPER, INK, FAINT, TRACK = (250, 250, 248), (30, 30, 34), (120, 120, 128), (228, 228, 224)
WARNING = (184, 24, 24)
"""Colour of captions that contradict the probabilities."""
PANEL_WIDTH = 440
LINE, TITLE = 17, 26
"""Heights of a line and of the title of a panel, in pixels at scale 1, like all lengths here."""
MARGIN, NAME_WIDTH, BAR_WIDTH = 12, 186, 190
MAX_SCALE, MAX_TAG_SCALE = 1.8, 2.5
SHEET_ASPECT = 2.0
"""Aspect ratio (width / height) of a picture with its panels."""
TAG_WIDTH = 1.4
"""Maximal width of a tag in a picture with several faces, relative to the box of its face."""
MIN_FACE_LINES = 120
"""Minimal ratio of face size to line width, so that small faces are visible under their regions."""
TEXT_COLUMNS = 72
CAPTION_TITLES = {"emotion": "Emotion", "key_au": "Key AUs", "au": "AUs"}


Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass(frozen=True)
class FaceState:
    """A face and the output of a model for it.

    Args:
        title: title of the face.
        regions_px: `(A, 2, 4, 2)`, the corners of the two regions of each AU, in pixels of the picture.
        aus: AU code -> probability, for A AUs.
        thresholds: AU code -> probability from which on the AU is active.
        emotion: the most likely emotion.
        emotion_prob: its probability.
        captions: caption kind -> text.
        box_px: x0 y0 x1 y1 of the face; the box gets a tag with the title.
        active_labels: codes of the AUs that are labelled active.
        inactive_labels: codes of the AUs that are labelled inactive; other AUs are unlabelled.
        emotion_label: the labelled emotion.
    """

    title: str
    regions_px: np.ndarray
    aus: Mapping[str, float]
    thresholds: Mapping[str, float]
    emotion: str = ""
    emotion_prob: float = 0.0
    captions: Mapping[str, str] = field(default_factory=dict)
    box_px: Sequence[float] | None = None
    active_labels: Collection[str] = ()
    inactive_labels: Collection[str] = ()
    emotion_label: str = ""

    def text_lines(self) -> list[tuple[str, bool]]:
        """The captions as wrapped lines, each with whether it belongs to a caption that contradicts the probabilities.

        Such a caption ends with its flags in brackets.
        """
        lines = []
        for kind, caption in self.captions.items():
            flags = flag_caption(kind, caption, {**self.aus, "emotion": self.emotion or None}, self.thresholds)
            first, *others = (f"{caption} [{flags}]" if flags else caption).splitlines() or [""]
            for line in (f"{CAPTION_TITLES[kind]}: {first}", *others):
                wrapped = textwrap.wrap(line, TEXT_COLUMNS, subsequent_indent="   ")
                lines += [(part, bool(flags)) for part in wrapped]
        return lines


def probability_color(prob: float) -> tuple[int, int, int]:
    """The colour of a probability."""
    red, green, blue = (round(255 * part) for part in COLORS(float(prob))[:3])
    return red, green, blue


@lru_cache(maxsize=32)
def load_font(size: float) -> Font:
    """Load Pillow's font in that size, or its bitmap font if Pillow is built without FreeType."""
    return ImageFont.load_default(size)


def to_pixels(pixel_values: Any, image_processor: Any) -> np.ndarray:
    """Convert normalised pixel values, a `(3, H, W)` tensor, back to `(H, W, 3)` uint8.

    Args:
        image_processor: has the `image_mean` and `image_std` of the normalisation.
    """
    mean, std = (np.asarray(getattr(image_processor, name)) for name in ("image_mean", "image_std"))
    pixels = pixel_values.cpu().numpy().transpose(1, 2, 0) * std + mean
    return (pixels.clip(0, 1) * 255).round().astype(np.uint8)


def boxes_to_corners(boxes: np.ndarray) -> np.ndarray:
    """`(…, 4)` boxes x1 y1 x2 y2 -> their corners `(…, 4, 2)`, in drawing order."""
    return boxes[..., [[0, 1], [2, 1], [2, 3], [0, 3]]]


def panel_height(num_aus: int, num_lines: int) -> int:
    """The height of a panel at scale 1, in pixels."""
    return TITLE + (num_aus + num_lines) * LINE + 2 * MARGIN


# --------------------------------------------------------------------------------------------------------- picture
def draw_picture(picture: Image.Image, faces: Sequence[FaceState], height: int) -> Image.Image:
    """Draw the regions and tags of the faces on a copy of the picture, enlarged to at least `height` pixels."""
    zoom = max(1.0, height / picture.height)
    size = (round(picture.width * zoom), round(picture.height * zoom))
    canvas = picture.resize(size, Image.Resampling.BICUBIC) if zoom > 1 else picture.copy()
    draw = ImageDraw.Draw(canvas)
    for face in faces:
        regions_px = face.regions_px * zoom
        side = float(np.ptp(regions_px.reshape(-1, 2), axis=0).max()) if regions_px.size else 0.0
        thickness = min(max(1.0, canvas.height / 360), max(1.0, side / MIN_FACE_LINES))
        draw_regions(draw, regions_px, list(face.aus.values()), thickness)
    draw_tags(draw, faces, zoom, size)
    return canvas


def draw_regions(draw: ImageDraw.ImageDraw, regions_px: np.ndarray, probs: Sequence[float], thickness: float) -> None:
    """Draw the outline of each region; regions of likelier AUs are on top and thicker."""
    for index in np.argsort(probs):
        width = max(1, round(thickness * (1 + 2 * probs[index])))
        for corners in regions_px[index]:
            points = [tuple(corner) for corner in corners]
            draw.line([*points, points[0]], fill=probability_color(probs[index]), width=width, joint="curve")


def _scale_box(box_px: Sequence[float], zoom: float) -> Box:
    x0, y0, x1, y1 = box_px
    return x0 * zoom, y0 * zoom, x1 * zoom, y1 * zoom


def draw_tags(draw: ImageDraw.ImageDraw, faces: Sequence[FaceState], zoom: float, size: tuple[int, int]) -> None:
    """Draw the boxes of the faces, and tags with their titles and, if there is room, their active AUs."""
    scale = min(MAX_TAG_SCALE, max(1.0, size[1] / 360))
    font = load_font(12 * scale)
    faces = [face for face in faces if face.box_px is not None]
    boxes = [_scale_box(face.box_px, zoom) for face in faces if face.box_px is not None]
    for box in boxes:
        draw.rectangle(box, outline=PAPER, width=max(1, round(scale / 2)))
    limits = [math.inf if len(faces) == 1 else TAG_WIDTH * (box[2] - box[0]) for box in boxes]
    texts = [_tag_texts(face, font, limit) for face, limit in zip(faces, limits, strict=True)]
    sizes = [[(font.getlength(text) + 6 * scale, 15 * scale) for text in face_texts] for face_texts in texts]
    for face_texts, placement in zip(texts, place_tags(boxes, sizes, size), strict=True):
        if placement is not None:
            index, tag = placement
            center = (tag[0] + 3 * scale, (tag[1] + tag[3]) / 2)
            draw.rectangle(tag, fill=INK)
            draw.text(center, face_texts[index], font=font, fill=PAPER, anchor="lm")


def _tag_texts(face: FaceState, font: Font, limit: float) -> list[str]:
    """The possible texts of a tag, the longest first: title with as many active AUs as fit, title, number."""
    active = [code for code, prob in face.aus.items() if prob >= face.thresholds[code]]
    texts = [
        " ".join([face.title, *active[:count]]) + " …" * (count < len(active)) for count in range(len(active) + 1)
    ]
    longest = next((text for text in reversed(texts) if font.getlength(text) <= limit), face.title)
    return [*dict.fromkeys((longest, face.title, face.title.removeprefix("face ")))]


# ----------------------------------------------------------------------------------------------------------- panel
def draw_panel(face: FaceState, height: int, scale: float) -> Image.Image:
    """Draw a panel: emotion, AUs as bars with names and thresholds, and as many lines of the captions as fit."""
    panel = Image.new("RGB", (round(PANEL_WIDTH * scale), height), PAPER)
    draw = ImageDraw.Draw(panel)
    x, y = MARGIN * scale, MARGIN * scale
    label = f"   (label: {face.emotion_label})" if face.emotion_label else ""
    emotion = f"{face.emotion} {face.emotion_prob:.0%}" if face.emotion else ""
    title = "  ".join(filter(None, [face.title, emotion]))
    draw.text((x, y), title + label, font=load_font(16 * scale), fill=INK)
    y += TITLE * scale
    for code, prob in face.aus.items():
        _draw_bar(draw, (x, y), code, prob, face, scale)
        y += LINE * scale
    lines, num_lines = face.text_lines(), int((height - y) / (LINE * scale))
    for line, is_flagged in lines if len(lines) <= num_lines else [*lines[: num_lines - 1], ("…", False)]:
        draw.text((x, y), line, font=load_font(12 * scale), fill=WARNING if is_flagged else INK)
        y += LINE * scale
    return panel


def _draw_bar(
    draw: ImageDraw.ImageDraw, corner: tuple[float, float], code: str, prob: float, face: FaceState, scale: float
) -> None:
    """Draw an AU: name, probability as a bar, threshold as a tick, and a dot (labelled active) or ring (inactive)."""
    x, y = corner
    ink = INK if prob >= face.thresholds[code] else FAINT
    draw.text((x, y), f"{code} {AU_NAMES[code]}", font=load_font(12 * scale), fill=ink)
    start, width, bottom = x + NAME_WIDTH * scale, BAR_WIDTH * scale, y + (LINE - 5) * scale
    draw.rectangle((start, y + 2 * scale, start + width, bottom), fill=TRACK)
    draw.rectangle((start, y + 2 * scale, start + width * prob, bottom), fill=probability_color(prob))
    tick = start + width * face.thresholds[code]
    draw.line((tick, y, tick, bottom + 2 * scale), fill=INK, width=max(1, round(scale)))
    draw.text((start + width + 6 * scale, y), f"{prob:.2f}", font=load_font(12 * scale), fill=ink)
    if code in face.active_labels or code in face.inactive_labels:
        fill = INK if code in face.active_labels else None
        draw.circle((x - 7 * scale, y + LINE / 2 * scale), 3 * scale, fill=fill, outline=INK)


def compose(picture: Image.Image, faces: Sequence[FaceState], num_panels: int, panel_px: int) -> Image.Image:
    """Draw the annotated picture, with panels of its first faces in columns beside it.

    Args:
        picture: the picture.
        faces: the faces in it.
        num_panels: number of panels to reserve space for, even without faces.
        panel_px: see `panel_height`; the picture is enlarged to the height of the panels.
    """
    if not num_panels:
        return draw_picture(picture, faces, 0)
    num_columns = _num_columns(picture.size, num_panels, panel_px)
    num_rows = math.ceil(num_panels / num_columns)
    annotated = draw_picture(picture, faces, panel_px * num_rows)
    scale = min(MAX_SCALE, annotated.height / (panel_px * num_rows))
    width, height = round(PANEL_WIDTH * scale), annotated.height // num_rows
    sheet = Image.new("RGB", (annotated.width + num_columns * width, annotated.height), PAPER)
    sheet.paste(annotated, (0, 0))
    for index, face in enumerate(faces[:num_panels]):
        column, row = divmod(index, num_rows)
        sheet.paste(draw_panel(face, height, scale), (annotated.width + column * width, row * height))
    return sheet


def _num_columns(size: tuple[int, int], num_panels: int, panel_px: int) -> int:
    """The number of columns of panels for which the aspect ratio is nearest to `SHEET_ASPECT`."""

    def aspect(num_columns: int) -> float:
        min_height = panel_px * math.ceil(num_panels / num_columns)
        height = max(size[1], min_height)
        scale = min(MAX_SCALE, height / min_height)
        return size[0] / size[1] + num_columns * PANEL_WIDTH * scale / height

    return min(range(1, num_panels + 1), key=lambda count: abs(math.log(aspect(count) / SHEET_ASPECT)))
