"""What happens when a visitor does something: each function gets what the page holds and gives what it then shows.

What a visitor did wrong is one line in place of the result.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import wraps
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from ..utils.command_line import USER_ERRORS, one_line
from .rendering import AuMap, Shown, render_found, render_live, render_message, render_pair, render_shown, render_video
from .searching import ExampleSearch
from .settings import AppSettings
from .videos import see_video
from .viewer import Viewer
from .zero_gpu import on_gpu

CHOOSE_PICTURE = "Choose a picture, paste one, or take one of the examples."
CHOOSE_TWO = "Choose two pictures; the largest face of each is compared."
CHOOSE_VIDEO = "Choose a video, or record one."
START_WEBCAM = "Start the webcam; what it sees is shown here as it moves."
DESCRIBE = "Describe a face; the examples that fit are shown, the best first."
ANALYSING = "Analysing the video …"
MAX_FOUND = 12

Update = tuple[str, Shown | None]
"""The result as HTML, and what a further click needs."""


def explaining(handler: Callable[..., Iterator[Any]], is_alone: bool = False) -> Callable[..., Iterator[Any]]:
    """The same handler, whose visitor reads what was wrong with what was given.

    Args:
        is_alone: whether it gives the result alone, and nothing for further clicks.
    """

    @wraps(handler)
    def explained(*args: Any) -> Iterator[Any]:
        try:
            yield from handler(*args)
        except USER_ERRORS as error:
            message = render_message(one_line(error))
            yield message if is_alone else (message, None)

    return explained


class PictureHandlers:
    """A picture and what is seen in it.

    Args:
        viewer: sees it.
    """

    def __init__(self, viewer: Viewer):
        self.viewer = viewer
        self.see = on_gpu(explaining(self._see))
        self.choose = on_gpu(explaining(self._choose))

    def _see(self, path: str | None, asked: Sequence[str]) -> Iterator[Update]:
        """The faces of an uploaded picture, then its sentences one by one."""
        if path is None:
            yield render_message(CHOOSE_PICTURE, is_error=False), None
            return
        shown = Shown(self.viewer.see_file(path))
        yield from self._write(shown, asked)

    def _write(self, shown: Shown, asked: Sequence[str]) -> Iterator[Update]:
        """What is there, and what is written of the face that is looked at, as it comes."""
        written = {sentence.kind for sentence in shown.sentences.get(shown.face, ())}
        waiting = [kind for kind in self.viewer.kinds if kind not in written]
        yield self.render(shown, asked, waiting), shown
        while waiting:
            sentence = self.viewer.write(shown.picture.faces[shown.face], waiting.pop(0))
            shown = shown.with_sentence(sentence)
            yield self.render(shown, asked, waiting), shown

    def _choose(self, shown: Shown | None, asked: Sequence[str], target: dict[str, str | None]) -> Iterator[Update]:
        """A click on a face, a bar or a region."""
        if shown is None:
            return
        face = int(target.get("face") or shown.face)
        shown = replace(shown, face=face if 0 <= face < len(shown.picture.faces) else shown.face)
        prefix, code = target.get("prefix") or "", target.get("code")
        if prefix in self.viewer.label_spaces and code in self.viewer.label_spaces[prefix].au_codes:
            picture = self.viewer.draw_map(shown.picture.faces[shown.face], prefix, code)
            shown = replace(shown, map=AuMap(shown.face, prefix, code, picture))
        yield from self._write(shown, asked)

    def render(self, shown: Shown | None, asked: Sequence[str], waiting: Sequence[str] = ()) -> str:
        """What is shown already, with the answers that are asked for."""
        if shown is None:
            return render_message(CHOOSE_PICTURE, is_error=False)
        return render_shown(shown, self.viewer.label_spaces, asked, waiting)


class OtherHandlers:
    """A webcam, a video, two pictures, and a search.

    Args:
        viewer: sees them.
        settings: of the page.
        folder: of the search's index.
    """

    def __init__(self, viewer: Viewer, settings: AppSettings, folder: Path):
        self.viewer, self.settings = viewer, settings
        self.examples = ExampleSearch(viewer, folder)
        self.follow = on_gpu(explaining(self._follow, is_alone=True))
        self.watch = on_gpu(explaining(self._watch, is_alone=True))
        self.compare = on_gpu(explaining(self._compare, is_alone=True))
        self.search = on_gpu(explaining(self._search, is_alone=True))

    def _follow(self, frame: np.ndarray | None, asked: Sequence[str]) -> Iterator[str]:
        """A frame of a webcam."""
        if frame is None:
            yield render_message(START_WEBCAM, is_error=False)
        else:
            yield render_live(self.viewer.see_frame(frame), self.viewer.label_spaces, asked)

    def _watch(self, path: str | None) -> Iterator[str]:
        """An uploaded video."""
        if path is None:
            yield render_message(CHOOSE_VIDEO, is_error=False)
            return
        yield render_message(ANALYSING, is_error=False)
        yield render_video(see_video(self.viewer, self.settings, Path(path)))

    def _compare(self, first: str | None, second: str | None) -> Iterator[str]:
        """Two pictures, once both are there."""
        if first is None or second is None:
            yield render_message(CHOOSE_TWO, is_error=False)
            return
        pictures = self.viewer.see_file(first), self.viewer.see_file(second)
        likeness = self.viewer.compare(pictures[0].faces[0], pictures[1].faces[0])
        yield render_pair(pictures, likeness, self.viewer.label_spaces)

    def _search(self, text: str) -> Iterator[str]:
        """A description."""
        started = perf_counter()
        found = self.examples.find(text, MAX_FOUND)
        yield render_found(text, found, perf_counter() - started)
