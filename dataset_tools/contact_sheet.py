"""Draws contact sheets: a grid of faces with their emotion and AUs, optionally with their landmarks."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..labels_mf2 import ACTION_UNITS, EMOTIONS

_TEXT_HEIGHT, _MARGIN = 40, 6
_BACKGROUND, _TEXT_COLOR, _GREY, _LANDMARK_COLOR = (250, 250, 248), (30, 30, 34), (110, 110, 118), (64, 255, 140)


def draw_contact_sheet(
    rows: Sequence[Mapping[str, Any]],
    columns: int = 8,
    face_size: int = 160,
    with_landmarks: bool = False,
    emotions: Sequence[str] = EMOTIONS,
) -> Image.Image:
    """Draw rows of the MFA schema, the first one at the top left.

    Args:
        rows: with `image` (encoded bytes; an unreadable one is drawn as an empty cell), `emotion`, AU columns and,
            with landmarks, `landmarks` in pixels or None.
        columns: number of faces in a line.
        face_size: width and height of each face on the sheet, in pixels.
        with_landmarks: whether to mark the 68 points.
        emotions: the list that emotion indices refer to.
    """
    cells = [
        (_draw_face(row, face_size, with_landmarks), _emotion_name(row, emotions), _active_aus(row)) for row in rows
    ]
    return draw_grid(cells, columns, face_size)


def draw_grid(cells: Sequence[tuple[Image.Image, str, str]], columns: int, face_size: int) -> Image.Image:
    """Draw pictures in a grid, the first one at the top left, each with a title and a second line in grey below it.

    Args:
        cells: a picture of `face_size` by `face_size` pixels, its title and its second line.
        columns: number of pictures in a line.
        face_size: width and height of a picture, in pixels.
    """
    cell = face_size + _MARGIN
    lines = -(-len(cells) // columns)
    sheet = Image.new("RGB", (columns * cell + _MARGIN, lines * (cell + _TEXT_HEIGHT) + _MARGIN), _BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    bold, small = ImageFont.load_default(14), ImageFont.load_default(11)
    for index, (face, title, text) in enumerate(cells):
        x = _MARGIN + index % columns * cell
        y = _MARGIN + index // columns * (cell + _TEXT_HEIGHT)
        sheet.paste(face, (x, y))
        draw.text((x, y + face_size + 2), title, _TEXT_COLOR, bold)
        draw.text((x, y + face_size + 20), text, _GREY, small)
    return sheet


def _draw_face(row: Mapping[str, Any], size: int, with_landmarks: bool) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(row["image"])).convert("RGB")
    except OSError:
        return Image.new("RGB", (size, size), _GREY)
    scale = size / np.array(image.size)
    face = image.resize((size, size), Image.Resampling.LANCZOS)
    if with_landmarks and row["landmarks"] is not None:
        draw = ImageDraw.Draw(face)
        for x, y in (np.asarray(row["landmarks"]) + 0.5) * scale - 0.5:
            draw.circle((x, y), 1, _LANDMARK_COLOR)
    return face


def _emotion_name(row: Mapping[str, Any], emotions: Sequence[str]) -> str:
    return "unlabelled" if row["emotion"] is None else emotions[row["emotion"]]


def _active_aus(row: Mapping[str, Any]) -> str:
    """The active AUs as a text; without any, whether none is active or AUs are unlabelled."""
    active = [str(unit.id) for unit in ACTION_UNITS.values() if row.get(unit.code) == 1]
    if active:
        return " + ".join(active)
    labels = {au_id: row.get(f"AU{au_id}") for au_id in ACTION_UNITS if f"AU{au_id}" in row}
    is_labelled = [label in (0, 1) for label in labels.values()]
    if any(is_labelled):
        return "no AU" if all(is_labelled) else "AUs unlabelled in part"
    return "AUs unlabelled"
