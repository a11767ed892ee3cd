"""What the page shows of a video: the frames with their regions, the report, and the table."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

from ..analysis.engine import AnalyzeOptions, analyze
from ..analysis.overlay import OVERLAY_NAME, write_overlays
from ..analysis.report.page import render as render_report
from ..analysis.report.views import find_views, read_run
from ..utils.data_uris import make_data_uri
from ..utils.suffixes import VIDEO_SUFFIXES
from ..utils.videos import find_video_duration
from .settings import AppSettings
from .viewer import Viewer


@dataclass(frozen=True)
class SeenVideo:
    """A video and what is recognised in it, as parts of a page.

    Args:
        note: what could not be read of it; empty of a whole video.
        report: the page of `mf2 report`, as HTML.
        overlay_uri: the video with its regions, as a data URI; None where it could not be drawn.
        table_uri: the table of faces, as a data URI.
        counts: of `frames` and `faces`.
        seconds: what the analysis took.
    """

    note: str
    report: str
    overlay_uri: str | None
    table_uri: str
    counts: Mapping[str, int]
    seconds: float


def see_video(viewer: Viewer, settings: AppSettings, path: Path) -> SeenVideo:
    """Analyse an uploaded video; nothing of it stays.

    Raises:
        ValueError: it cannot be read, is too long, or shows no face.
    """
    check_video(path, settings.limits.video_s)
    started = perf_counter()
    with TemporaryDirectory(prefix="mf2-video-") as folder, viewer.computing() as recognizer:
        options = AnalyzeOptions(
            model=settings.model,
            adapters=settings.adapters,
            faces=viewer.faces,
            fps=settings.limits.video_fps,
            formats=("parquet", "csv"),
        )
        run = Path(folder)
        summary = analyze([path], run, options, recognizer)
        reason = next(iter(summary.failed.values()), "").replace(str(path), path.name)
        if reason and not summary.faces:
            raise ValueError(f"This video cannot be read: {reason}")
        if not summary.faces:
            raise ValueError(f"No face was found in any of the {summary.frames} frames of this video.")
        write_overlays(run, with_panels=False)
        drawn = next((run / OVERLAY_NAME).glob("*.mp4"), None)
        return SeenVideo(
            report=make_report(run, path.name, settings.headline),
            note=reason,
            overlay_uri=make_data_uri(drawn.read_bytes(), "video/mp4") if drawn else None,
            table_uri=make_data_uri((run / "faces.csv").read_bytes(), "text/csv"),
            counts={"frames": summary.frames, "faces": summary.faces},
            seconds=perf_counter() - started,
        )


def check_video(path: Path, longest_s: float) -> None:
    """Raise a `ValueError` for what is no video, and for one that is too long."""
    if path.suffix.lower() not in VIDEO_SUFFIXES:
        raise ValueError(f"{path.name} is no video that can be read; its name ends in none of the known ways.")
    try:
        duration_s = find_video_duration(path)
    except ValueError as error:
        raise ValueError(f"This video cannot be read: {error}".replace(str(path), path.name)) from None
    if duration_s > longest_s:
        raise ValueError(f"This video is {duration_s:.0f} s long; at most {longest_s:g} s are taken. Cut it first.")


def make_report(run: Path, title: str, model: str) -> str:
    """The page of `mf2 report`, without the settings of the run."""
    table, manifest = read_run(run)
    return render_report(find_views(table, manifest["thresholds"]), {"model": model}, title)
