"""Generated faces for the demo: pictures of persons not in training and a short film of one, with landmarks."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image

from ..dataset_tools.synthetic.domains import get_domain, sample_identity, sample_setting
from ..dataset_tools.synthetic.face_model import Expression
from ..dataset_tools.synthetic.rendering import RenderedFace, Scene, render_face
from ..dataset_tools.synthetic.synth import SynthConfig, make_row
from ..labels_mf2 import AU_IDS, PROTOTYPES
from ..utils.files import replacing

FILM_NAME, LANDMARKS_NAME, FACES_NAME = "film.webp", "landmarks.npz", "faces"
STORY = ("Neutral", "Happiness", "Neutral", "Surprise", "Fear", "Neutral", "Anger", "Disgust", "Sadness", "Neutral")
"""Emotions that the film shows, in order."""
FPS = 12
SCENE_FRAMES = 16
"""Frames from one expression to the next."""
INTENSITY = 0.85
FILM_PX = 160
FILM_PERSON = 37


def write_sample(folder: Path, num_pictures: int = 24) -> list[Path]:
    """Draw `faces/`, `film.webp` and `landmarks.npz` into a folder.

    The pictures are the first of the validation split of the default synthetic sample, whose persons are not in the
    training split. The same arguments give the same files.

    Returns:
        The folder of pictures and the film.
    """
    faces, film = folder / FACES_NAME, folder / FILM_NAME
    faces.mkdir(parents=True, exist_ok=True)
    points = dict(_write_pictures(faces, num_pictures))
    frames = list(draw_film())
    points |= {(film.stem, number): frame.landmarks_px for number, frame in enumerate(frames)}
    first, *others = (Image.fromarray(frame.image) for frame in frames)
    with replacing(film) as part:
        first.save(part, save_all=True, append_images=others, duration=round(1000 / FPS), quality=92)
    videos, numbers = zip(*points, strict=True)
    with replacing(folder / LANDMARKS_NAME) as part:
        np.savez_compressed(part, video=videos, frame=numbers, landmarks=np.stack(list(points.values())))
    return [faces, film]


def _write_pictures(folder: Path, count: int) -> Iterator[tuple[tuple[str, int], np.ndarray]]:
    """Write one picture of each of `count` persons; yield its (name, 0) and landmarks."""
    config = SynthConfig()
    for person in range(count):
        row = make_row(config, "validation", person * config.frames_per_identity + person % len(PROTOTYPES))
        name = f"person-{person:02d}"
        with replacing(folder / f"{name}.jpg") as part:
            part.write_bytes(row["image"])
        yield (name, 0), row["landmarks"]


def draw_film() -> Iterator[RenderedFace]:
    """Yield the film's frames: one person shows the prototypes of `STORY` while the head turns slightly."""
    rng, domain = np.random.default_rng(FILM_PERSON), get_domain("default")
    identity = sample_identity(rng, domain)
    setting = sample_setting(rng, identity, domain)
    for number, intensities in enumerate(story_intensities()):
        yield render_face(identity, Expression(intensities), _move(setting, number), FILM_PX)


def story_intensities() -> np.ndarray:
    """`(frames, 12)` intensities of the AUs: each expression is held, then turns smoothly into the next."""
    poses = np.array([[INTENSITY * (au_id in PROTOTYPES.get(emotion, ())) for au_id in AU_IDS] for emotion in STORY])
    progress = np.clip((np.arange(SCENE_FRAMES) / SCENE_FRAMES - 0.35) / 0.4, 0, 1)
    share = (progress**2 * (3 - 2 * progress))[:, None]  # smoothstep
    scenes = [(1 - share) * before + share * after for before, after in pairwise(poses)]
    return np.concatenate([*scenes, poses[-1:]]).astype(np.float32)


def _move(setting: Scene, number: int) -> Scene:
    """The setting of a frame: a slow head movement and new noise."""
    yaw, roll = 6 * np.sin(number / 17), 3 * np.sin(number / 23)
    return replace(setting, yaw=setting.yaw + yaw, roll=setting.roll + roll, noise_seed=number)
