"""What was seen, as HTML: the face with its regions, bars, sentences and a table to download.

What comes from outside (names, sentences) is escaped. Nothing lies on the server: pictures and tables are part of the
page, as data URIs.
"""

import csv
import io
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from PIL import Image

from ..analysis.caption_check import split_by_flags
from ..analysis.report.page import emotion_color
from ..analysis.tables import BOX, LANDMARKS, row_columns
from ..analysis.thumbnails import to_data_uri
from ..labels_mf2 import ACTION_UNITS, LabelSpace
from ..utils.data_uris import make_data_uri
from ..utils.drawing import CAPTION_TITLES, probability_color
from .searching import Found
from .videos import SeenVideo
from .viewer import SeenFace, SeenPicture, Sentence

MAX_SHOWN_PX = 960
"""Longest side of a picture on the page."""
LIVE_PX = 480
"""Longest side of a webcam's frame on the page."""
ENVIRONMENT = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
ENVIRONMENT.filters["percent"] = lambda share: f"{share:.0%}".replace("%", " %")
ENVIRONMENT.filters["signed"] = lambda value: f"{value:+.2f}".replace("-", "−")
ENVIRONMENT.filters["duration"] = lambda seconds: f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


@dataclass(frozen=True)
class AuMap:
    """A saliency map of an AU of a face."""

    face: int
    prefix: str
    code: str
    picture: Image.Image


@dataclass(frozen=True)
class Shown:
    """What a visitor looks at.

    Args:
        picture: what was seen.
        face: place of the one that is looked at.
        sentences: place of a face to what was written of it so far.
        map: of the AU that was clicked at last.
    """

    picture: SeenPicture
    face: int = 0
    sentences: Mapping[int, tuple[Sentence, ...]] = field(default_factory=dict)
    map: AuMap | None = None

    def with_sentence(self, sentence: Sentence) -> "Shown":
        """The same with a further sentence of the face."""
        written = (*self.sentences.get(self.face, ()), sentence)
        return replace(self, sentences={**self.sentences, self.face: written})


def render(template: str, **facts: Any) -> str:
    """A template of the page, filled."""
    return ENVIRONMENT.get_template(template).render(**facts)


def render_message(text: str, is_error: bool = True) -> str:
    """A line in place of a result."""
    return render("message.html.jinja", text=text, is_error=is_error)


# --------------------------------------------------------------------------------------------------------- one picture
def render_shown(
    shown: Shown, label_spaces: Mapping[str, LabelSpace], asked: Collection[str], waiting: Sequence[str] = ()
) -> str:
    """The picture, what is seen in the face that is looked at, its sentences, and the table.

    Args:
        label_spaces: by column prefix.
        asked: prefixes of those that are shown.
        waiting: kinds of sentences that are being written.
    """
    face = shown.picture.faces[shown.face] if shown.picture.faces else None
    rows = [
        {**seen.row, **{f"caption_{each.kind}": each.text for each in shown.sentences.get(place, ())}}
        for place, seen in enumerate(shown.picture.faces)
    ]
    return render(
        "picture.html.jinja",
        figure=describe_figure(shown.picture, shown.face, label_spaces, asked),
        face=face,
        readings=describe_readings(face, label_spaces, asked),
        sentences=[describe_sentence(each) for each in shown.sentences.get(shown.face, ())],
        waiting=[CAPTION_TITLES[kind] for kind in waiting],
        map=describe_map(shown.map) if shown.map and shown.map.face == shown.face else None,
        seconds=shown.picture.seconds,
        table=to_csv_uri(rows, label_spaces) if rows else None,
    )


def render_live(picture: SeenPicture, label_spaces: Mapping[str, LabelSpace], asked: Collection[str]) -> str:
    """A webcam's frame with its largest face; no sentences, no table."""
    face = picture.faces[0] if picture.faces else None
    return render(
        "live.html.jinja",
        figure=describe_figure(picture, 0, label_spaces, asked, LIVE_PX),
        face=face,
        readings=describe_readings(face, label_spaces, asked),
        seconds=picture.seconds,
    )


def describe_figure(
    picture: SeenPicture,
    chosen: int,
    label_spaces: Mapping[str, LabelSpace],
    asked: Collection[str] = ("",),
    longest_px: int = MAX_SHOWN_PX,
) -> dict[str, Any]:
    """The picture and the shapes on it: the box of every face, the regions of the chosen one, the likeliest on top."""
    height, width = picture.image.shape[:2]
    boxes = [tuple(seen.row[name] for name in BOX) for seen in picture.faces]
    shapes = []
    if picture.faces:
        prefix = next((prefix for prefix, space in label_spaces.items() if prefix in asked and space.au_ids), None)
        if prefix is not None:
            shapes = _describe_regions(picture.faces[chosen], prefix, label_spaces[prefix])
    return {
        "uri": to_data_uri(shrink(picture.image, longest_px)),
        "width": width,
        "height": height,
        "boxes": boxes,
        "chosen": chosen,
        "shapes": sorted(shapes, key=lambda shape: shape["prob"]),
    }


def _describe_regions(face: SeenFace, prefix: str, space: LabelSpace) -> list[dict[str, Any]]:
    thresholds = space.thresholds_by_code
    return [
        {
            "code": code,
            "name": ACTION_UNITS[au_id].name,
            "prob": face.row[prefix + code],
            "is_active": face.row[prefix + code] >= thresholds[code],
            "color": css_color(face.row[prefix + code]),
            "points": [" ".join(f"{x:.1f},{y:.1f}" for x, y in corners) for corners in regions],
        }
        for code, au_id, regions in zip(space.au_codes, space.au_ids, face.regions_px[prefix], strict=True)
    ]


def describe_readings(
    face: SeenFace | None, label_spaces: Mapping[str, LabelSpace], asked: Collection[str]
) -> list[dict[str, Any]]:
    """What those say that are asked, of the checkpoint and its adapters."""
    return [describe_reading(face, prefix, space) for prefix, space in label_spaces.items() if prefix in asked]


def describe_reading(face: SeenFace | None, prefix: str, space: LabelSpace) -> dict[str, Any]:
    """What the checkpoint (an empty prefix) or an adapter says: bars of AUs, emotions and affect."""
    row = face.row if face else {}
    aus = [
        {
            "code": code,
            "name": name,
            "prob": row.get(prefix + code, 0.0),
            "threshold": threshold,
            "is_active": row.get(prefix + code, 0.0) >= threshold,
            "color": css_color(row.get(prefix + code, 0.0)),
        }
        for code, name, threshold in zip(space.au_codes, space.au_names, space.thresholds, strict=True)
    ]
    emotions = [
        {"name": name, "prob": row.get(f"{prefix}emotion_{name}", 0.0), "color": emotion_color(name, place)}
        for place, name in enumerate(space.emotions)
    ]
    affect = [{"name": name, "value": row.get(prefix + name, 0.0)} for name in space.affect_names]
    return {
        "name": prefix.removesuffix("."),
        "prefix": prefix,
        "aus": aus,
        "affect": affect,
        "emotions": sorted(emotions, key=lambda emotion: -emotion["prob"]),
        "active": [au for au in aus if au["is_active"]],
    }


def css_color(prob: float) -> str:
    """The colour of a probability, as CSS writes it."""
    return "rgb({}, {}, {})".format(*probability_color(prob))


def describe_sentence(sentence: Sentence) -> dict[str, Any]:
    """A sentence by lines, each in pieces that are flagged or not, and why."""
    lines: list[list[tuple[str, bool]]] = [[]]
    for text, is_flagged in split_by_flags(sentence.text.strip(), sentence.flags):
        first, *others = text.split("\n")
        lines[-1].append((first, is_flagged))
        lines += [[(line, is_flagged)] for line in others]
    return {"title": CAPTION_TITLES[sentence.kind], "lines": lines, "flags": str(sentence.flags)}


def describe_map(au_map: AuMap) -> dict[str, Any]:
    """A saliency map with the AU's name."""
    name = ACTION_UNITS[int(au_map.code.removeprefix("AU"))].name
    by = au_map.prefix.removesuffix(".")
    return {"code": au_map.code, "name": name, "by": by, "uri": to_data_uri(au_map.picture)}


def shrink(image: np.ndarray, longest_px: int) -> Image.Image:
    """A picture that is no larger than the page shows it."""
    picture = Image.fromarray(image)
    picture.thumbnail((longest_px, longest_px), Image.Resampling.LANCZOS)
    return picture


# ----------------------------------------------------------------------------------------------- other kinds of result
def render_pair(
    pictures: tuple[SeenPicture, SeenPicture], likeness: float, label_spaces: Mapping[str, LabelSpace]
) -> str:
    """Two faces side by side, the largest of each picture: every AU and emotion of both, and where they differ."""
    space, rows = label_spaces[""], [picture.faces[0].row for picture in pictures]
    thresholds = space.thresholds_by_code
    aus = []
    for code, name in zip(space.au_codes, space.au_names, strict=True):
        probs = [row[code] for row in rows]
        active = [prob >= thresholds[code] for prob in probs]
        colors = [css_color(prob) for prob in probs]
        aus.append({"code": code, "name": name, "probs": probs, "active": active, "colors": colors})
    return render(
        "pair.html.jinja",
        figures=[describe_figure(picture, 0, label_spaces) for picture in pictures],
        readings=[describe_reading(picture.faces[0], "", space) for picture in pictures],
        aus=aus,
        likeness=likeness,
        differing=[au["code"] for au in aus if au["active"][0] != au["active"][1]],
        seconds={name: sum(each.seconds[name] for each in pictures) for name in pictures[0].seconds},
    )


def render_video(video: SeenVideo) -> str:
    """A video with its regions, its report, and the table."""
    return render("video.html.jinja", video=video)


def render_found(text: str, found: Sequence[Found], seconds: float) -> str:
    """The faces that fit a text."""
    faces = [{"name": each.name, "score": each.score, "uri": to_data_uri(each.face)} for each in found]
    return render("found.html.jinja", text=text, faces=faces, seconds={"search": seconds})


# --------------------------------------------------------------------------------------------------------------- table
def to_csv_uri(rows: Iterable[Mapping[str, Any]], label_spaces: Mapping[str, LabelSpace]) -> str:
    """The table of faces as `data:text/csv;base64,…`, with the columns of `mf2 analyze`."""
    captions = ("emotion", "key_au", "au")
    columns = [name for name in row_columns(label_spaces, captions) if name != LANDMARKS]
    lines = io.StringIO()
    writer = csv.DictWriter(lines, columns, extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)
    return make_data_uri(lines.getvalue().encode(), "text/csv")
