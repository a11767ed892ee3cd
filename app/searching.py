"""The search of the page: which of the example pictures fit a description."""

import json
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from ..analysis.media import find_sources
from ..analysis.search.face_index import Encoder, FaceIndex
from ..analysis.search.ranking import crop_matches, search, text_scorer
from .viewer import Viewer

FACE_PX = 200


class Found(NamedTuple):
    """A face that fits: its picture's name, how well it fits (a cosine in [-1, 1]), and the face."""

    name: str
    score: float
    face: Image.Image


class ExampleSearch:
    """Searches the faces of the examples, which are encoded at the first search.

    Args:
        viewer: has the examples, finds and encodes their faces.
        folder: of the index.
    """

    def __init__(self, viewer: Viewer, folder: Path):
        self.viewer, self.folder = viewer, folder
        self._index: FaceIndex | None = None

    def find(self, text: str, top_k: int) -> list[Found]:
        """The faces that fit a text best, the best first.

        Raises:
            ValueError: the text is empty.
        """
        if not text.strip():
            raise ValueError("Describe a face, such as: raised inner brows, parted lips.")
        with self.viewer.computing() as recognizer:
            index = self._encode()
            branch = index.encoder.branch
            scorer = text_scorer(recognizer.model, recognizer.processor, text, branch)
            matches = search(index, scorer, top_k)
        faces = crop_matches(matches, FACE_PX)
        return [Found(Path(match.path).name, match.score, faces[match]) for match in matches if match in faces]

    def _encode(self) -> FaceIndex:
        if self._index is None:
            recognizer = self.viewer.recognizer
            branch = next(iter(recognizer.model.branches))
            encoder = Encoder(recognizer.model, recognizer.processor, self.viewer.find, branch)
            self._index = FaceIndex(self.folder, encoder, json.dumps([self.viewer.detector]))
        self._index.update(find_sources(self.viewer.examples.pictures)[0])
        return self._index
