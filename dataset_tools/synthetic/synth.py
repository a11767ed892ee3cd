"""`mf2 data synth`: a data set of generated faces in the MFA schema, made offline, without licence restrictions.

Every image is a function of (seed, split, index): random generators seeded with these numbers give its emotion and AUs
(`au_prior`), its person and its setting (`domains`). So the same seed gives the same bytes on one machine with any
number of workers, and the evaluation split does not depend on the size of the training split. The frames of one person
form one video (`video_id` = `group_id`), and no person is in two splits. Emotions are balanced. The label of an AU is
1 if its intensity reaches `ACTIVE_INTENSITY`. Valence and arousal follow from emotion and AUs (`affect`).
"""

import argparse
import io
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from ...labels_mf2 import ACTION_UNITS, AFFECT, AU_IDS, EMOTIONS
from ...utils.command_line import illustration
from ...utils.files import replacing
from ...utils.malloc import keep_freed_memory
from ..captions import template_captions
from ..contact_sheet import draw_contact_sheet
from .affect import affect_ceiling, sample_affect
from .au_prior import bayes_emotion, expected_ceiling, sample_aus
from .domains import DOMAINS, get_domain, sample_expression, sample_frame, sample_identity, sample_setting
from .face_model import Identity
from .rendering import Scene, render_face

GENERATOR_VERSION = 3
"""Incremented with every change that alters the images or labels of a seed."""
ACTIVE_INTENSITY = 0.2
"""The intensity (FACS A to E mapped to 0..1) from which on the label of an AU is 1."""
_ACTIVE_RANGE = (0.40, 1.0)
_RESIDUAL_RATE, _RESIDUAL_MAX = 0.35, 0.12  # how often and how strongly an inactive AU moves
_SPLITS = ("train", "validation")
_SHEET_FACES = 48
SHEET_NAME = "contact_sheet.png"
_EMOTION, _LABELS, _PERSON, _FRAME, _AFFECT = range(5)  # purposes of the random generators

Rows = Iterable[dict[str, Any]]


@dataclass(frozen=True)
class SynthConfig:
    """Settings of the generator.

    Args:
        num_train: number of images in the training split.
        num_eval: number of images in the validation split.
        frames_per_identity: number of images per person.
        seed: seed of all random numbers.
        image_size: width and height in pixels.
        domain: a name in `DOMAINS`.
    Raises:
        ValueError: a number out of its bounds, or an unknown domain.
    """

    num_train: int = 4096
    num_eval: int = 512
    frames_per_identity: int = 16
    seed: int = 0
    image_size: int = 112
    domain: str = "default"

    def __post_init__(self) -> None:
        for name, minimum in (
            ("num_train", 1),
            ("num_eval", 1),
            ("frames_per_identity", 1),
            ("seed", 0),
            ("image_size", 32),
        ):
            if getattr(self, name) < minimum:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least {minimum}.")
        get_domain(self.domain)

    def num_images(self, split: str) -> int:
        """The number of images in a split."""
        return self.num_train if split == "train" else self.num_eval


# ----------------------------------------------------------------------------------------------------------- labels
def _rng(config: SynthConfig, split: str, purpose: int, index: int) -> np.random.Generator:
    return np.random.default_rng((config.seed, _SPLITS.index(split), purpose, index))


def image_emotion(config: SynthConfig, split: str, index: int) -> int:
    """The emotion index of an image: each block of eight images has every emotion once."""
    block, position = divmod(index, len(EMOTIONS))
    return int(_rng(config, split, _EMOTION, block).permutation(len(EMOTIONS))[position])


def image_aus(config: SynthConfig, split: str, index: int) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """(12,) AU labels of an image, and (12,) their intensities."""
    rng = _rng(config, split, _LABELS, index)
    labels = sample_aus(image_emotion(config, split, index), rng)
    strength, residual = rng.beta(2.0, 1.6, labels.size), rng.random(labels.size)
    active = _ACTIVE_RANGE[0] + (_ACTIVE_RANGE[1] - _ACTIVE_RANGE[0]) * strength
    inactive = np.where(rng.random(labels.size) < _RESIDUAL_RATE, _RESIDUAL_MAX * residual, 0.0)
    return labels, np.where(labels == 1, active, inactive).astype(np.float32)


def image_affect(config: SynthConfig, split: str, index: int) -> NDArray[np.float64]:
    """(2,) valence and arousal of an image."""
    aus = image_aus(config, split, index)
    return sample_affect(image_emotion(config, split, index), *aus, _rng(config, split, _AFFECT, index))


def label_table(config: SynthConfig, split: str) -> tuple[NDArray[np.int64], NDArray[np.int8]]:
    """(N,) emotions and (N, 12) AU labels of a split, without drawing its images."""
    indices = range(config.num_images(split))
    emotions = np.array([image_emotion(config, split, index) for index in indices])
    return emotions, np.array([image_aus(config, split, index)[0] for index in indices])


# ----------------------------------------------------------------------------------------------------------- images
@lru_cache(maxsize=64)
def _person(config: SynthConfig, split: str, person: int) -> tuple[Identity, Scene]:
    rng, domain = _rng(config, split, _PERSON, person), get_domain(config.domain)
    identity = sample_identity(rng, domain)
    return identity, sample_setting(rng, identity, domain)


def make_row(config: SynthConfig, split: str, index: int) -> dict[str, Any]:
    """Draw one image and return its row in the MFA schema, with the picture as JPEG bytes."""
    person, frame = divmod(index, config.frames_per_identity)
    identity, setting = _person(config, split, person)
    domain, rng = get_domain(config.domain), _rng(config, split, _FRAME, index)
    labels, intensities = image_aus(config, split, index)
    expression = sample_expression(rng, intensities)
    face = render_face(identity, expression, sample_frame(rng, setting, domain), config.image_size)
    emotion_idx = image_emotion(config, split, index)
    video_id = f"synth{config.seed}-{split}-{person:05d}"
    file_name = f"{video_id}/{frame + 1:05d}.jpg"
    active = [au_id for au_id, label in zip(AU_IDS, labels, strict=True) if label]
    captions = template_captions(file_name, active, EMOTIONS[emotion_idx], seed=config.seed)
    return {
        "image": _jpeg(face.image, int(rng.integers(domain.jpeg_quality[0], domain.jpeg_quality[1] + 1))),
        "file_name": file_name,
        "dataset": "synthetic",
        "video_id": video_id,
        "group_id": video_id,
        "frame": frame + 1,
        "emotion": emotion_idx,
        **{ACTION_UNITS[au_id].code: int(label) for au_id, label in zip(AU_IDS, labels, strict=True)},
        **dict(zip(AFFECT, image_affect(config, split, index).tolist(), strict=True)),
        "landmarks": face.landmarks_px,
        "caption_emotion": captions.emotion,
        "caption_au": captions.au,
        "caption_key_au": captions.key_au,
        "caption_source": "template",
    }


def _jpeg(image: NDArray[np.uint8], quality: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


@contextmanager
def _row_maker(config: SynthConfig, num_workers: int) -> Iterator[Callable[[str], Rows]]:
    """Provide a function `split -> rows in order`; rows are drawn in this process or in several."""
    if num_workers <= 1:
        yield lambda split: (make_row(config, split, index) for index in range(config.num_images(split)))
        return
    with multiprocessing.get_context("spawn").Pool(num_workers, initializer=keep_freed_memory) as pool:
        yield lambda split: pool.imap(partial(make_row, config, split), range(config.num_images(split)), chunksize=16)


# --------------------------------------------------------------------------------------------------------- data set
def synthesize(
    out_dir: str | Path,
    config: SynthConfig | None = None,
    *,
    num_workers: int = 1,
    overwrite: bool = False,
    show_progress: bool = True,
) -> Path:
    """Generate a data set: parquet shards, card, manifest and `contact_sheet.png`.

    If `out_dir` already holds the data set of this configuration without its contact sheet, only the sheet is drawn.
    Worker processes are spawned: a script that calls this with `num_workers` > 1 needs the usual
    `if __name__ == "__main__"`.

    Returns:
        The folder, readable by `schema.load_mfa` and `datasets.load_dataset`.
    Raises:
        ValueError: an invalid configuration.
        FileExistsError: `out_dir` is not empty and `overwrite` is False.
    """
    from ..schema import write_mfa  # imported here because it would slow the start of every worker

    config = config or SynthConfig()
    if not overwrite and lacks_only_sheet(Path(out_dir), config):
        draw_sheet(Path(out_dir), config)
        return Path(out_dir)
    total = config.num_train + config.num_eval
    with (
        _row_maker(config, num_workers) as make_rows,
        tqdm(total=total, desc="drawing faces", unit="img", disable=not show_progress) as bar,
    ):
        splits = {split: _with_progress(make_rows(split), bar) for split in _SPLITS}
        folder = write_mfa(out_dir, splits, manifest=describe(config), affect=True, overwrite=overwrite)
    draw_sheet(folder, config)
    return folder


def _with_progress(rows: Rows, bar: tqdm) -> Iterator[dict[str, Any]]:
    """Yield the rows and advance the progress bar."""
    for row in rows:
        bar.update()
        yield row


def lacks_only_sheet(folder: Path, config: SynthConfig) -> bool:
    """Whether a folder holds the data set of a configuration without its contact sheet."""
    from ..schema import MANIFEST_NAME, read_manifest

    if (folder / SHEET_NAME).exists() or not (folder / MANIFEST_NAME).is_file():
        return False
    manifest = read_manifest(folder)
    return (manifest.get("config"), manifest.get("generator_version")) == (asdict(config), GENERATOR_VERSION)


def draw_sheet(folder: Path, config: SynthConfig) -> None:
    """Draw `contact_sheet.png` if it is missing: faces at equal distances in the evaluation split."""
    file = folder / SHEET_NAME
    if not file.exists():
        with illustration(file), replacing(file) as part:
            indices = np.linspace(0, config.num_eval - 1, min(_SHEET_FACES, config.num_eval)).round().astype(int)
            draw_contact_sheet([make_row(config, "validation", int(index)) for index in indices]).save(part)


def describe(config: SynthConfig) -> dict[str, Any]:
    """The manifest's entries: configuration, AU rates of each split, and what the true AUs allow.

    `emotion_ceiling` is an accuracy, `affect_ceiling` a concordance (CCC) by dimension.
    """
    tables = {split: label_table(config, split) for split in _SPLITS}
    eval_emotions, eval_aus = tables["validation"]
    return {
        "pretty_name": "Generated faces",
        "license": "apache-2.0",
        "source": "synthetic",
        "generator_version": GENERATOR_VERSION,
        "config": asdict(config),
        "num_identities": {split: -(-config.num_images(split) // config.frames_per_identity) for split in _SPLITS},
        "au_prevalence": {
            split: {
                ACTION_UNITS[a].code: round(float(rate), 4) for a, rate in zip(AU_IDS, aus.mean(axis=0), strict=True)
            }
            for split, (_, aus) in tables.items()
        },
        "emotion_ceiling": {
            "validation": round(float((bayes_emotion(eval_aus) == eval_emotions).mean()), 4),
            "expected": round(expected_ceiling(), 4),
        },
        "affect_ceiling": {"validation": _affect_ceiling(config, "validation")},
    }


def _affect_ceiling(config: SynthConfig, split: str) -> dict[str, float]:
    indices = range(config.num_images(split))
    aus, intensities = zip(*(image_aus(config, split, index) for index in indices), strict=True)
    labels = [image_affect(config, split, index) for index in indices]
    return {name: round(value, 4) for name, value in affect_ceiling(aus, intensities, labels).items()}


# ---------------------------------------------------------------------------------------------------------- command
def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `mf2 data synth`."""
    default = SynthConfig()
    parser.add_argument("out_dir", metavar="OUT", type=Path, help="folder to make")
    parser.add_argument("--num_train", type=int, default=default.num_train, help="training images (%(default)s)")
    parser.add_argument("--num_eval", type=int, default=default.num_eval, help="evaluation images (%(default)s)")
    parser.add_argument(
        "--frames_per_identity", type=int, default=default.frames_per_identity, help="images a person (%(default)s)"
    )
    parser.add_argument(
        "--seed", type=int, default=default.seed, help="the same seed gives the same bytes (%(default)s)"
    )
    parser.add_argument("--image_size", type=int, default=default.image_size, help="width in pixels (%(default)s)")
    parser.add_argument("--domain", choices=sorted(DOMAINS), default=default.domain, help="population (%(default)s)")
    parser.add_argument("--num_workers", type=int, default=os.cpu_count() or 1, help="processes (%(default)s)")
    parser.add_argument("--overwrite", action="store_true", help="replace the data set OUT")


def run(args: argparse.Namespace) -> int:
    """Generate the data set and print a summary."""
    from ..schema import read_manifest

    config = SynthConfig(**{field.name: getattr(args, field.name) for field in fields(SynthConfig)})
    folder = synthesize(args.out_dir, config, num_workers=args.num_workers, overwrite=args.overwrite)
    manifest = read_manifest(folder)
    ceiling, of_affect = (manifest[name]["validation"] for name in ("emotion_ceiling", "affect_ceiling"))
    print(
        f"{folder}: {config.num_train} training and {config.num_eval} evaluation images, contact_sheet.png.\n"
        f"From the true AUs, the emotion of {ceiling:.1%} of the evaluation images can be inferred; with their "
        f"intensities, valence up to a CCC of {of_affect['valence']:.3f} and arousal of {of_affect['arousal']:.3f}."
    )
    return 0
