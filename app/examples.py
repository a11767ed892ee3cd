"""Pictures to try the page on: generated faces, so that nobody's photograph is needed, or a folder of one's own."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ..analysis.media import find_sources
from ..dataset_tools.synthetic.domains import get_domain, sample_identity, sample_setting
from ..dataset_tools.synthetic.face_model import Expression
from ..dataset_tools.synthetic.rendering import RenderedFace, render_face
from ..labels_mf2 import AU_IDS, PROTOTYPES
from ..utils.files import sha256_of_file

EXPRESSIONS = ("Happiness", "Surprise", "Anger", "Sadness", "Fear", "Disgust", "Neutral")
NUM_FACES = 12
SIZE_PX = 256
INTENSITY = 0.85
FIRST_PERSON = 100
"""Seed of the first person; the others follow."""


@dataclass(frozen=True)
class Examples:
    """Pictures, and where their faces are.

    Args:
        folder: holds them.
        pictures: files, in order.
        landmarks: `(1, 68, 2)` points in pixels by the SHA-256 of a picture, of those that were drawn.
        is_generated: whether they were drawn.
    """

    folder: Path
    pictures: tuple[Path, ...]
    landmarks: dict[str, np.ndarray]
    is_generated: bool


def find_examples(folder: Path) -> Examples:
    """The pictures below a folder.

    Raises:
        FileNotFoundError: there is no such folder, or no picture in it.
    """
    sources, _ = find_sources([folder])
    pictures = tuple(source.path for source in sources if not source.is_video)
    if not pictures:
        raise FileNotFoundError(f"{folder} holds no pictures; name another folder with --examples.")
    return Examples(folder, pictures, {}, is_generated=False)


def draw_examples(folder: Path, count: int = NUM_FACES, size_px: int = SIZE_PX) -> Examples:
    """Draw faces into a folder: every picture another person, with the expressions in turn; always the same."""
    landmarks = {}
    pictures = []
    for number, face in enumerate(_draw(count, size_px)):
        picture = folder / f"face-{number + 1:02d}.jpg"
        Image.fromarray(face.image).save(picture, quality=92)
        landmarks[sha256_of_file(picture)] = np.asarray(face.landmarks_px)[None]
        pictures.append(picture)
    return Examples(folder, tuple(pictures), landmarks, is_generated=True)


def _draw(count: int, size_px: int) -> Iterator[RenderedFace]:
    domain = get_domain("default")
    for number in range(count):
        rng = np.random.default_rng(FIRST_PERSON + number)
        identity = sample_identity(rng, domain)
        aus = PROTOTYPES.get(EXPRESSIONS[number % len(EXPRESSIONS)], ())
        intensities = np.array([INTENSITY * (au_id in aus) for au_id in AU_IDS], dtype=np.float32)
        yield render_face(identity, Expression(intensities), sample_setting(rng, identity, domain), size_px)
