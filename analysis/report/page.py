"""Renders the report of an analysis as one self-contained HTML file.

The page contains its pictures, style and script, and a content security policy forbids network requests. Text from
outside (names, errors, captions, the model card) is escaped.
"""

import re
from collections import Counter
from collections.abc import Container, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import markdown_it
from markupsafe import Markup, escape

from ... import __version__
from ...caption_meaning_mf2 import flag_caption
from ...labels_mf2 import AFFECT
from ..caption_check import CAPTION_PREFIX
from ..thumbnails import Thumbnails, face_key, make_thumbnails
from .views import MAX_PICTURES, Findings, Reading, Signal, Summary, View

HIDDEN_SETTINGS = ("label_space", "summary", "thresholds")
"""Parts of the manifest that are not listed in the settings."""
TEMPLATE = "report.html.jinja"
MAX_LISTED = 500
"""Maximum number of listed sources, and of listed errors."""
LISTED_VALUES = 12
"""Maximum number of listed values of a setting."""
MAX_PEAKS = 24
"""Maximum number of faces shown in a view."""
CAPTION_COLUMNS = ("caption_emotion", "caption_key_au", "caption_au")
"""Columns of the caption shown with a face, in order of preference."""
THUMBNAIL_PX, SMALL_THUMBNAIL_PX = 128, 64
EMOTION_COLORS = ("neutral", "anger", "disgust", "fear", "happiness", "sadness", "surprise", "other")
"""Emotions with a colour in the style sheet; other emotions use these colours in turn."""

Peak = tuple[dict[str, Any], list[Summary]]
"""A row of the table, and the signals that peak there."""

_FRONT_MATTER = re.compile(r"\A---\n.*?\n---\n", re.DOTALL)


def render(findings: Findings, manifest: Mapping[str, Any], title: str) -> str:
    """Render the page as HTML."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(__package__, ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = lambda share: f"{share:.0%}".replace("%", " %")
    environment.filters["shorten"] = shorten
    environment.filters["signed"] = lambda value: f"{value:+.2f}".replace("-", "−")
    counts = findings.counts
    return environment.get_template(TEMPLATE).render(
        title=title,
        lead=f"{_format_count(counts['faces'], 'face')} in {_format_count(counts['sources'], 'source')}",
        tiles=_tiles(counts),
        likeliest=[
            {"name": name, "share": share, "color": emotion_color(name)} for name, share in findings.likeliest.items()
        ],
        views=_show_views(findings.views),
        timelines=[_show_timeline(view) for view in findings.views],
        num_hidden_faces=findings.num_hidden_faces,
        sources=findings.sources[:MAX_LISTED],
        problems=findings.problems[:MAX_LISTED],
        captions=findings.captions,
        counts=counts,
        settings=list(flatten({name: value for name, value in manifest.items() if name not in HIDDEN_SETTINGS})),
        card=render_card(manifest.get("model")),
        model=manifest.get("model"),
        version=__version__,
    )


# -------------------------------------------------------------------------------------------------------------- parts
def emotion_color(name: str, index: int = 0) -> str:
    """The CSS colour of an emotion; for unknown names, the colour at `index`."""
    known = name.lower() in EMOTION_COLORS
    return f"var(--{name.lower() if known else EMOTION_COLORS[index % len(EMOTION_COLORS)]})"


def _tiles(counts: Mapping[str, int]) -> list[dict[str, Any]]:
    names = {
        "sources": "Sources",
        "frames": "Frames",
        "faces": "Faces",
        "no_face": "No face",
        "errors": "Errors",
    }
    return [
        {"name": text, "value": counts[name], "alert": name == "errors" and counts[name] > 0}
        for name, text in names.items()
    ]


def _show_views(views: Sequence[View]) -> list[dict[str, Any]]:
    """Template data of the views; the thumbnails of all views are made together."""
    peaks = [find_peaks(view) for view in views]
    listed = [view.rows.head(MAX_PICTURES).to_dict("records") if view.timeline is None else [] for view in views]
    large = make_thumbnails((row for view_peaks in peaks for row, _ in view_peaks), THUMBNAIL_PX)
    small = make_thumbnails((row for rows in listed for row in rows), SMALL_THUMBNAIL_PX)
    return [
        _show_view(view, view_peaks, large)
        | {"pictures": [_show_picture(row, view, small, _multi_face_sources(rows)) for row in rows]}
        for view, view_peaks, rows in zip(views, peaks, listed, strict=True)
    ]


def _multi_face_sources(rows: Sequence[Mapping[str, Any]]) -> set[str]:
    """Sources of the pictures with several faces."""
    return {source for source, count in Counter(row["source"] for row in rows).items() if count > 1}


def _show_view(view: View, peaks: Sequence[Peak], thumbnails: Thumbnails) -> dict[str, Any]:
    cards = [_show_peak(row, items, view, thumbnails) for row, items in peaks]
    return {
        "title": view.title,
        "timeline": view.timeline,
        "portrait": next((card["image"] for card in cards if card["image"]), None),
        "aus": [_show_summary(item, view.reading) for item in view.aus],
        "emotions": [_show_summary(item, view.reading) for item in view.emotions],
        "affect": view.affect,
        "points": _affect_points(view),
        "peaks": cards,
        "num_unlisted": max(len(view.rows) - MAX_PICTURES, 0),
    }


def _affect_points(view: View) -> list[dict[str, Any]]:
    """Valence and arousal of the first pictures, for the plane; those of a video are in its timeline."""
    if len(view.affect) < len(AFFECT) or view.timeline is not None:
        return []
    names = ["name", *(item.signal.column for item in view.affect)]
    rows = view.rows[names].head(MAX_PICTURES).itertuples(index=False, name=None)
    return [{"name": name, "valence": valence, "arousal": arousal} for name, valence, arousal in rows]


def find_peaks(view: View) -> list[Peak]:
    """Find the rows where AUs that are active, or emotions that are the most probable, somewhere in the view peak.

    Returns:
        At most `MAX_PEAKS` rows with the signals that peak there, the strongest first. Rows of videos are ordered by
        time, rows of pictures by strength.
    """
    by_row: dict[int, list[Summary]] = {}
    shown = [item for item in (*view.emotions, *view.aus) if item.share > 0]
    for item in sorted(shown, key=lambda item: -item.peak):
        by_row.setdefault(item.peak_row, []).append(item)
    strongest = list(by_row)[:MAX_PEAKS]
    order = strongest if view.timeline is None else sorted(strongest, key=lambda row: view.rows.at[row, "frame"])
    return [(view.rows.loc[row].to_dict(), by_row[row]) for row in order]


def _show_summary(item: Summary, reading: Reading) -> dict[str, Any]:
    numbers = {"mean": item.mean, "share": item.share, "peak": item.peak}
    return numbers | {"signal": item.signal, "color": _signal_color(item.signal, reading)}


def _show_peak(row: Mapping[str, Any], items: Sequence[Summary], view: View, thumbnails: Thumbnails) -> dict[str, Any]:
    is_video = view.timeline is not None
    column = next((name for name in CAPTION_COLUMNS if isinstance(row.get(name), str)), None)
    thresholds = view.reading.thresholds
    return {
        "image": thumbnails.get(face_key(row)),
        "place": _format_time(row["time_s"]) if is_video else row["name"],
        "time_s": row["time_s"] if is_video else None,
        "caption": column and row[column],
        "flags": str(flag_caption(column.removeprefix(CAPTION_PREFIX), row[column], row, thresholds))
        if column and not view.reading.adapter
        else "",
        "tags": [
            {"code": item.signal.code, "prob": item.peak, "color": _signal_color(item.signal, view.reading)}
            for item in items
        ],
    }


def _show_picture(
    row: Mapping[str, Any], view: View, thumbnails: Thumbnails, multi_face: Container[str]
) -> dict[str, Any]:
    """A line of the table of pictures; faces of a picture with several faces are numbered."""
    emotion = max(view.reading.emotions, key=lambda signal: row[signal.column], default=None)
    return {
        "name": row["name"] + f" · {row['face']}" * (row["source"] in multi_face),
        "path": row["source"],
        "image": thumbnails.get(face_key(row)),
        "emotion": emotion
        and {
            "name": emotion.name,
            "prob": row[emotion.column],
            "color": _signal_color(emotion, view.reading),
        },
        "aus": [
            {"prob": row[signal.column], "is_active": row[signal.column] >= signal.threshold}
            for signal in view.reading.aus
        ],
        "affect": [row[signal.column] for signal in view.reading.affect],
    }


def _show_timeline(view: View) -> dict[str, Any] | None:
    """Data of a view's timeline for the script."""
    if view.timeline is None:
        return None
    reading = view.reading
    return view.timeline | {
        "thresholds": [signal.threshold for signal in reading.aus],
        "names": [signal.name for signal in reading.emotions],
        "colors": [_signal_color(signal, reading) for signal in reading.emotions],
    }


def _signal_color(signal: Signal, reading: Reading) -> str:
    """The colour of an emotion; the page's accent colour for an AU."""
    if signal in reading.emotions:
        return emotion_color(signal.name, reading.emotions.index(signal))
    return "var(--accent)"


def _format_count(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def shorten(name: str, limit: int) -> str:
    """Shorten a name in the middle; file names mostly differ at the end."""
    head, tail = limit // 3, limit - limit // 3 - 1
    return name if len(name) <= limit else f"{name[:head]}…{name[-tail:]}"


def _format_time(seconds: float) -> str:
    """`3.2 s`, or `1:03.2` from a minute on."""
    minutes, seconds = divmod(seconds, 60)
    return f"{minutes:.0f}:{seconds:04.1f}" if minutes else f"{seconds:.1f} s"


def flatten(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Flatten nested settings to pairs of a dotted name and a text."""
    for name, value in content.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", _format_value(value)


def _format_value(value: Any) -> str:
    if isinstance(value, list):
        more = [f"and {len(value) - LISTED_VALUES:,} more"] if len(value) > LISTED_VALUES else []
        return ", ".join([*map(_format_value, value[:LISTED_VALUES]), *more])
    return f"{value:.4g}" if isinstance(value, float) else str(value)


# --------------------------------------------------------------------------------------------------------- model card
def render_card(model: str | None) -> Markup | None:
    """Render the model card of a checkpoint folder or cached Hub repository as safe HTML; None if there is none."""
    text = read_card(model) if model else None
    return None if text is None else render_markdown(text)


def read_card(model: str) -> str | None:
    """Read the model card of a checkpoint folder or cached Hub repository; None if there is none."""
    file = _card_file(model)
    if file is None or not file.is_file():
        return None
    return _FRONT_MATTER.sub("", file.read_text("utf-8", errors="replace"))


def render_markdown(text: str) -> Markup:
    """Render Markdown as safe HTML.

    HTML in it is escaped, and pictures are replaced by their alternative text, as they would need requests.
    """
    parser = markdown_it.MarkdownIt("commonmark", {"html": False}).enable("table")
    parser.add_render_rule("image", lambda self, tokens, idx, *_: str(escape(f"[{tokens[idx].content}]")))
    return Markup(parser.render(text))


def _card_file(model: str) -> Path | None:
    if Path(model).is_dir():
        return Path(model, "README.md")
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        cached = try_to_load_from_cache(model, "README.md")
    except HFValidationError:
        return None
    return Path(cached) if isinstance(cached, str) else None
