"""What happens when a visitor does something: each function gets what the page holds and gives what it then shows.

What a visitor did wrong is one line in place of the result.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import wraps
from typing import Any

from ..utils.command_line import USER_ERRORS, one_line
from .rendering import AuMap, Shown, render_message, render_shown
from .viewer import Viewer
from .zero_gpu import on_gpu

EMPTY = "Choose a picture, paste one, or take one of the examples."
Update = tuple[str, Shown | None]
"""The result as HTML, and what a further click needs."""


def explaining(handler: Callable[..., Iterator[Update]]) -> Callable[..., Iterator[Update]]:
    """The same handler, whose visitor reads what was wrong with what was given."""

    @wraps(handler)
    def explained(*args: Any) -> Iterator[Update]:
        try:
            yield from handler(*args)
        except USER_ERRORS as error:
            yield render_message(one_line(error)), None

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
            yield render_message(EMPTY, is_error=False), None
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
        code = target.get("code")
        if code in self.viewer.label_spaces[""].au_codes:
            picture = self.viewer.draw_map(shown.picture.faces[shown.face], code)
            shown = replace(shown, map=AuMap(shown.face, code, picture))
        yield from self._write(shown, asked)

    def render(self, shown: Shown | None, asked: Sequence[str], waiting: Sequence[str] = ()) -> str:
        """What is shown already, with the answers that are asked for."""
        if shown is None:
            return render_message(EMPTY, is_error=False)
        return render_shown(shown, self.viewer.label_spaces, asked, waiting)
