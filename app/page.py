"""The page: its tabs, what belongs to what, and how it is served."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr

from .. import __version__
from .components import picture_input, video_input
from .handlers import (
    CHOOSE_PICTURE,
    CHOOSE_TWO,
    CHOOSE_VIDEO,
    DESCRIBE,
    START_WEBCAM,
    OtherHandlers,
    PictureHandlers,
)
from .limits import render_limits
from .rendering import Shown, render, render_message
from .settings import AppSettings
from .viewer import Viewer

STATIC = Path(__file__).parent / "static"
MODEL_QUEUE = "model"
"""Everything that computes waits in one queue: the model serves one visitor at a time."""
LIVE_VISITORS = 4
"""Webcams that are followed at once."""
FRAME_EVERY_S = 0.25
SEARCHES = (
    "raised inner brows, parted lips",
    "lowered brows, pressed lips",
    "lip corners pulled up, raised cheeks",
    "surprised",
)
FONTS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "sans-serif")
ACCENT = gr.themes.Color(
    name="mf2",
    c50="#f2f4fc",
    c100="#e3e8f9",
    c200="#c8d2f4",
    c300="#a6b6ec",
    c400="#8ea5ff",
    c500="#5a78dd",
    c600="#3f5fd0",
    c700="#344fb0",
    c800="#2c4290",
    c900="#263870",
    c950="#1b2548",
)


def make_theme() -> gr.themes.Base:
    """The colours of `mf2 report`, by day and by night, and no font from elsewhere."""
    theme = gr.themes.Base(
        primary_hue=ACCENT, neutral_hue=gr.themes.colors.stone, font=FONTS, font_mono=("ui-monospace", "monospace")
    )
    surfaces = {"body_background_fill": ("#f6f5f2", "#121317"), "body_text_color": ("#1d1f24", "#e9e8e4")}
    surfaces |= {"body_text_color_subdued": ("#646873", "#a2a6b1"), "border_color_primary": ("#e3e1db", "#2d3038")}
    names = ("block_background_fill", "background_fill_primary", "input_background_fill", "panel_background_fill")
    surfaces |= dict.fromkeys(names, ("#ffffff", "#1b1d23"))
    surfaces |= {"background_fill_secondary": ("#f6f5f2", "#121317")}
    colors = {name: by_day for name, (by_day, _) in surfaces.items()}
    colors |= {f"{name}_dark": by_night for name, (_, by_night) in surfaces.items()}
    return theme.set(**colors, block_radius="14px", block_shadow="none", block_border_width="1px")


def build_page(viewer: Viewer, settings: AppSettings, folder: Path) -> gr.Blocks:
    """The page of a model.

    Args:
        viewer: sees the pictures.
        settings: of the page.
        folder: takes the index of the search.
    """
    limits = settings.limits
    kept = (min(60, limits.kept_s), limits.kept_s)
    with gr.Blocks(title=f"{settings.headline} · MF²", analytics_enabled=False, delete_cache=kept) as page:
        gr.HTML(render_head(viewer, settings), apply_default_css=False)
        others = OtherHandlers(viewer, settings, folder)
        with gr.Tabs():
            with gr.Tab("Picture", id="picture"):
                _add_picture_tab(viewer, settings)
            with gr.Tab("Live", id="live"):
                _add_live_tab(others)
            with gr.Tab("Video", id="video"):
                _add_video_tab(others)
            with gr.Tab("Compare", id="compare"):
                _add_pair_tab(others)
            with gr.Tab("Search", id="search"):
                _add_search_tab(others)
        gr.HTML(render_foot(settings), apply_default_css=False)
    return page.queue(max_size=limits.queue, default_concurrency_limit=1, api_open=False)


def render_head(viewer: Viewer, settings: AppSettings) -> str:
    """Title, what is done with uploads, and how faces are found."""
    if viewer.detector is None:
        faces = "No face detector here: every picture is taken as one face, cut out. Scores are lower that way."
    else:
        faces = f"Faces and their landmarks are found by {viewer.detector}."
    training_data = viewer.recognizer.model.config.training_data or [{}]
    return render(
        "head.html.jinja",
        title=settings.headline,
        source=settings.source,
        minutes=max(1, round(settings.limits.kept_s / 60)),
        faces=faces,
        is_synthetic=all(data.get("synthetic") for data in training_data),
    )


def render_foot(settings: AppSettings) -> str:
    """The limits of the model, and what the page was made by."""
    limits = render_limits(settings.model)
    return render("foot.html.jinja", limits=limits, version=__version__, model=settings.headline)


def launch_options(settings: AppSettings) -> dict[str, Any]:
    """How the page is served: no link to share it, no files but uploads, and how large these may be."""
    return {
        "theme": make_theme(),
        "head": f"<style>{(STATIC / 'page.css').read_text('utf-8')}</style>",  # `css` would be scoped to the content
        "max_file_size": f"{settings.limits.upload_mb}mb",
        "share": False,
        "ssr_mode": False,
        "footer_links": ["gradio"],
        "blocked_paths": [str(Path.home()), str(Path.cwd())],
    }


# ---------------------------------------------------------------------------------------------------------------- tabs
def _add_picture_tab(viewer: Viewer, settings: AppSettings) -> None:
    handlers = PictureHandlers(viewer)
    with gr.Row():
        with gr.Column(scale=2, min_width=280):
            picture = picture_input("Picture", height=300, elem_id="picture")
            asked = _add_choice(viewer)
            _add_examples(viewer, [picture])
        with gr.Column(scale=5, min_width=320):
            result = _result(CHOOSE_PICTURE)
    shown = gr.State(None, time_to_live=settings.limits.kept_s)
    _on(picture.change, handlers.see, [picture, asked], [result, shown])
    _on(result.select, _with_target(handlers.choose), [shown, asked], [result, shown])
    asked.change(handlers.render, [shown, asked], result, show_progress="hidden", api_visibility="private")


def _add_live_tab(handlers: OtherHandlers) -> None:
    with gr.Row():
        with gr.Column(scale=2, min_width=280):
            webcam = gr.Image(
                label="Webcam",
                sources="webcam",
                streaming=True,
                type="numpy",
                buttons=[],
                height=300,
                elem_id="webcam",
            )
            asked = _add_choice(handlers.viewer)
        with gr.Column(scale=5, min_width=320):
            result = _result(START_WEBCAM)
    webcam.stream(
        handlers.follow,
        [webcam, asked],
        result,
        stream_every=FRAME_EVERY_S,
        time_limit=handlers.settings.limits.live_s,
        concurrency_id="live",
        concurrency_limit=LIVE_VISITORS,
        show_progress="hidden",
        api_visibility="private",
    )


def _add_video_tab(handlers: OtherHandlers) -> None:
    limits = handlers.settings.limits
    with gr.Row():
        with gr.Column(scale=2, min_width=280):
            video = video_input("Video", sources=["upload", "webcam"], height=300, elem_id="video")
            note = f"At most {limits.video_s:g} s and {limits.upload_mb} MB; {limits.video_fps:g} frames a second."
            gr.HTML(render("note.html.jinja", text=note), apply_default_css=False)
        with gr.Column(scale=5, min_width=320):
            result = _result(CHOOSE_VIDEO)
    _on(video.change, handlers.watch, [video], [result])


def _add_pair_tab(handlers: OtherHandlers) -> None:
    with gr.Row():
        with gr.Column(scale=2, min_width=280):
            pictures = [
                picture_input(f"{name} picture", height=220, elem_id=name.lower()) for name in ("First", "Second")
            ]
            _add_examples(handlers.viewer, pictures)
        with gr.Column(scale=5, min_width=320):
            result = _result(CHOOSE_TWO)
    for picture in pictures:
        _on(picture.change, handlers.compare, pictures, [result])


def _add_search_tab(handlers: OtherHandlers) -> None:
    with gr.Row():
        with gr.Column(scale=2, min_width=280):
            text = gr.Textbox(
                label="Description",
                elem_id="description",
                placeholder=SEARCHES[0],
                max_length=200,
                submit_btn="Search",
            )
            suggestions = gr.Examples(
                [[each] for each in SEARCHES], [text], label="For example", api_visibility="private"
            )
        with gr.Column(scale=5, min_width=320):
            result = _result(DESCRIBE)
    _on(text.submit, handlers.search, [text], [result])
    _on(suggestions.load_input_event.then, handlers.search, [text], [result])


def _add_choice(viewer: Viewer) -> gr.CheckboxGroup:
    """Whose answers are shown; the model gives all of them in one pass."""
    names = [(prefix.removesuffix(".") or "checkpoint", prefix) for prefix in viewer.label_spaces]
    prefixes = [prefix for _, prefix in names]
    return gr.CheckboxGroup(names, value=prefixes, label="Answers of", visible=len(names) > 1)


def _add_examples(viewer: Viewer, pictures: list[gr.Image]) -> None:
    """Pictures to try; where several are wanted, as many are put in together."""
    label = "Generated faces to try" if viewer.examples.is_generated else "Pictures to try"
    files = [str(path) for path in viewer.examples.pictures]
    count = len(pictures)
    rows = [files[start : start + count] for start in range(0, len(files) - count + 1, count)]
    gr.Examples(rows, pictures, label=label, examples_per_page=12, cache_examples=False, api_visibility="private")


def _result(text: str) -> gr.HTML:
    """Where results appear; a click on a bar, a region or a face in it is an event of its own."""
    script = (STATIC / "result.js").read_text("utf-8")
    empty = render_message(text, is_error=False)
    return gr.HTML(empty, js_on_load=script, apply_default_css=False, elem_classes="mf2-result")


def _with_target(choose: Callable[..., Any]) -> Callable[..., Any]:
    """The handler of a click as Gradio calls it, with what was clicked."""

    def choose_target(shown: Shown | None, asked: list[str], event: gr.EventData):
        yield from choose(shown, asked, {name: getattr(event, name) for name in ("code", "prefix", "face")})

    return choose_target


def _on(event: Callable[..., Any], handler: Callable[..., Any], inputs: list[Any], outputs: list[Any]) -> None:
    """Call a handler that computes: one at a time, all of them together, the newest wish of a visitor last."""
    event(
        handler,
        inputs,
        outputs,
        concurrency_id=MODEL_QUEUE,
        concurrency_limit=1,
        trigger_mode="always_last",
        show_progress="minimal",
        api_visibility="private",
    )
