"""Faces with what is seen in them: AU regions on the picture, and a panel with probabilities, emotion and sentences.

Pillow alone, so that a video's frames are drawn in milliseconds.
"""

import math
import textwrap
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..labels_mf2 import ACTION_UNITS
from .tag_places import Box, place_tags

AU_NAMES = {unit.code: unit.name for unit in ACTION_UNITS.values()}
COLORS = matplotlib.colormaps["viridis"]
PAPER, INK, FAINT, TRACK = (250, 250, 248), (30, 30, 34), (120, 120, 128), (228, 228, 224)
PANEL_WIDTH = 440
LINE, TITLE = 17, 26
"""Heights of a line and of a panel's title, in pixels at scale 1, like all lengths here."""
MARGIN, NAME_WIDTH, BAR_WIDTH = 12, 186, 190
MAX_SCALE, MAX_TAG_SCALE = 1.8, 2.5
SHEET_ASPECT = 2.0
"""Width of a picture with its panels, in its heights."""
TAG_WIDTH = 1.4
"""How wide a tag may be beside other faces, in widths of its face's box."""
LINES_OF_FACE = 120
"""A line is at most so thin a part of a face, so that small faces are seen under their regions."""
TEXT_COLUMNS = 72
CAPTION_TITLES = {"emotion": "Emotion", "key_au": "Key AUs", "au": "AUs"}


Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass(frozen=True)
class FaceState:
    """A face and what a model says of it, to be drawn.

    Args:
        title: what the face is called.
        regions_px: `(A, 2, 4, 2)`, the corners of the two regions of each AU, in pixels of the picture.
        aus: code to probability, A of them.
        thresholds: code to the probability from which the AU is active.
        emotion: the likeliest.
        emotion_prob: its probability.
        captions: kind to sentence.
        box_px: x0 y0 x1 y1 of the face, to be tagged with its title.
        active_labels: codes of the AUs that are active by the labels.
        inactive_labels: codes of those that are not; an AU in neither has no label.
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

    def text_lines(self) -> list[str]:
        """The sentences, wrapped."""
        lines = []
        for kind, caption in self.captions.items():
            first, *others = caption.splitlines() or [""]
            for line in (f"{CAPTION_TITLES[kind]}: {first}", *others):
                lines += textwrap.wrap(line, TEXT_COLUMNS, subsequent_indent="   ")
        return lines


def probability_color(prob: float) -> tuple[int, int, int]:
    """The colour of a probability."""
    red, green, blue = (round(255 * part) for part in COLORS(float(prob))[:3])
    return red, green, blue


@lru_cache(maxsize=32)
def load_font(size: float) -> Font:
    """Pillow's own font in that size; its bitmap font where Pillow is built without FreeType."""
    return ImageFont.load_default(size)


def boxes_to_corners(boxes: np.ndarray) -> np.ndarray:
    """`(…, 4)` boxes x1 y1 x2 y2 to their corners `(…, 4, 2)`, in the order in which a frame is drawn."""
    return boxes[..., [[0, 1], [2, 1], [2, 3], [0, 3]]]


def panel_height(num_aus: int, num_lines: int) -> int:
    """How high a panel is, at scale 1."""
    return TITLE + (num_aus + num_lines) * LINE + 2 * MARGIN


# --------------------------------------------------------------------------------------------------------- picture
def draw_picture(picture: Image.Image, faces: Sequence[FaceState], height: int) -> Image.Image:
    """The picture with the regions and tags of the faces, enlarged to at least `height`."""
    zoom = max(1.0, height / picture.height)
    size = (round(picture.width * zoom), round(picture.height * zoom))
    drawn = picture.resize(size, Image.Resampling.BICUBIC) if zoom > 1 else picture.copy()
    draw = ImageDraw.Draw(drawn)
    for face in faces:
        regions_px = face.regions_px * zoom
        side = float(np.ptp(regions_px.reshape(-1, 2), axis=0).max()) if regions_px.size else 0.0
        thickness = min(max(1.0, drawn.height / 360), max(1.0, side / LINES_OF_FACE))
        draw_regions(draw, regions_px, list(face.aus.values()), thickness)
    draw_tags(draw, faces, zoom, size)
    return drawn


def draw_regions(draw: ImageDraw.ImageDraw, regions_px: np.ndarray, probs: Sequence[float], thickness: float) -> None:
    """A frame for each region, the likelier AU of a shared one on top and thicker."""
    for index in np.argsort(probs):
        width = max(1, round(thickness * (1 + 2 * probs[index])))
        for corners in regions_px[index]:
            points = [tuple(corner) for corner in corners]
            draw.line([*points, points[0]], fill=probability_color(probs[index]), width=width, joint="curve")


def _scale_box(box_px: Sequence[float], zoom: float) -> Box:
    x0, y0, x1, y1 = box_px
    return x0 * zoom, y0 * zoom, x1 * zoom, y1 * zoom


def draw_tags(draw: ImageDraw.ImageDraw, faces: Sequence[FaceState], zoom: float, size: tuple[int, int]) -> None:
    """The boxes of the faces that have one, and their titles with the active AUs, or without where room is short."""
    scale = min(MAX_TAG_SCALE, max(1.0, size[1] / 360))
    font = load_font(12 * scale)
    faces = [face for face in faces if face.box_px is not None]
    boxes = [_scale_box(face.box_px, zoom) for face in faces if face.box_px is not None]
    for box in boxes:
        draw.rectangle(box, outline=PAPER, width=max(1, round(scale / 2)))
    limits = [math.inf if len(faces) == 1 else TAG_WIDTH * (box[2] - box[0]) for box in boxes]
    texts = [_tag_texts(face, font, limit) for face, limit in zip(faces, limits, strict=True)]
    sizes = [[(font.getlength(text) + 6 * scale, 15 * scale) for text in of_face] for of_face in texts]
    for of_face, place in zip(texts, place_tags(boxes, sizes, size), strict=True):
        if place is not None:
            number, tag = place
            draw.rectangle(tag, fill=INK)
            draw.text((tag[0] + 3 * scale, (tag[1] + tag[3]) / 2), of_face[number], font=font, fill=PAPER, anchor="lm")


def _tag_texts(face: FaceState, font: Font, limit: float) -> list[str]:
    """What a tag may say, the longest first: title and as many active AUs as the limit allows, the title, a number."""
    active = [code for code, prob in face.aus.items() if prob >= face.thresholds[code]]
    texts = [
        " ".join([face.title, *active[:count]]) + " …" * (count < len(active)) for count in range(len(active) + 1)
    ]
    longest = next((text for text in reversed(texts) if font.getlength(text) <= limit), face.title)
    return [*dict.fromkeys((longest, face.title, face.title.removeprefix("face ")))]


# ----------------------------------------------------------------------------------------------------------- panel
def draw_panel(face: FaceState, height: int, scale: float) -> Image.Image:
    """Emotion, AUs as bars with their names and thresholds, and sentences, cut where the panel ends."""
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
    for line in lines if len(lines) <= num_lines else [*lines[: num_lines - 1], "…"]:
        draw.text((x, y), line, font=load_font(12 * scale), fill=INK)
        y += LINE * scale
    return panel


def _draw_bar(
    draw: ImageDraw.ImageDraw, corner: tuple[float, float], code: str, prob: float, face: FaceState, scale: float
) -> None:
    """Name, probability as a bar, threshold as a tick; the label as a dot (active), a ring (not active) or nothing."""
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
    """The annotated picture with panels of its first faces at its side, in columns.

    Args:
        num_panels: panels that there is room for, whether or not there are faces.
        panel_px: see `panel_height`; the picture is enlarged to hold all panels.
    """
    if not num_panels:
        return draw_picture(picture, faces, 0)
    num_columns = _num_columns(picture.size, num_panels, panel_px)
    num_rows = math.ceil(num_panels / num_columns)
    drawn = draw_picture(picture, faces, panel_px * num_rows)
    scale = min(MAX_SCALE, drawn.height / (panel_px * num_rows))
    width, height = round(PANEL_WIDTH * scale), drawn.height // num_rows
    sheet = Image.new("RGB", (drawn.width + num_columns * width, drawn.height), PAPER)
    sheet.paste(drawn, (0, 0))
    for place, face in enumerate(faces[:num_panels]):
        column, row = divmod(place, num_rows)
        sheet.paste(draw_panel(face, height, scale), (drawn.width + column * width, row * height))
    return sheet


def _num_columns(size: tuple[int, int], num_panels: int, panel_px: int) -> int:
    """In how many columns of panels the sheet comes nearest to `SHEET_ASPECT`."""

    def aspect(num_columns: int) -> float:
        least = panel_px * math.ceil(num_panels / num_columns)
        height = max(size[1], least)
        scale = min(MAX_SCALE, height / least)
        return size[0] / size[1] + num_columns * PANEL_WIDTH * scale / height

    return min(range(1, num_panels + 1), key=lambda count: abs(math.log(aspect(count) / SHEET_ASPECT)))
