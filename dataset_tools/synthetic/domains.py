"""The distributions that generated faces are drawn from: people, light, pose and camera.

A `Domain` is a population and the way it is photographed. `DOMAINS` has a default one and a shifted one, to measure
the effect of a domain shift.
"""

from dataclasses import dataclass, fields, replace
from functools import cache
from typing import TypeVar

import numpy as np

from ...labels_mf2 import AU_IDS
from .face_model import AVERAGE_FACE, Array, Expression, Identity, Shape
from .rendering import Background, Scene

T = TypeVar("T")
Range = tuple[float, float]

_HAIR_COLORS = (
    (0.07, 0.06, 0.06), (0.10, 0.07, 0.06), (0.18, 0.12, 0.08), (0.28, 0.18, 0.11), (0.42, 0.27, 0.15),
    (0.62, 0.46, 0.27), (0.78, 0.64, 0.42), (0.50, 0.20, 0.09),
)  # fmt: skip
_GREY_HAIR = (0.72, 0.71, 0.70)
_DARK_IRIS = ((0.16, 0.09, 0.05), (0.24, 0.14, 0.07), (0.33, 0.21, 0.10))
_LIGHT_IRIS = ((0.30, 0.42, 0.52), (0.38, 0.50, 0.60), (0.36, 0.42, 0.26), (0.45, 0.38, 0.22))
_FRAME_COLORS = ((0.07, 0.06, 0.06), (0.25, 0.14, 0.08), (0.60, 0.52, 0.38), (0.45, 0.10, 0.12), (0.15, 0.20, 0.35))
_LIGHT_LIPS, _DARK_LIPS = (0.78, 0.48, 0.45), (0.34, 0.17, 0.16)
_LONG_STYLES = ("long", "wavy", "bob", "fringe", "tied", "curly", "parted")
_SHORT_STYLES = ("short", "parted", "shaved", "receding", "curly", "bald", "short", "fringe")


@dataclass(frozen=True)
class Domain:
    """A population and how it is photographed.

    Pairs are ranges; `glasses` and `beard` (for masculine faces) are probabilities; `yaw`, `pitch`, `roll`,
    `light_azimuth`, `shift` and `warmth` are limits on either side of 0. Units are those of `Identity` and `Scene`.
    """

    name: str = "default"
    shape_spread: float = 1.0
    melanin: Range = (0.0, 1.0)
    age: Range = (0.0, 1.0)
    glasses: float = 0.12
    beard: float = 0.45
    yaw: float = 16.0
    pitch: float = 9.0
    roll: float = 8.0
    eye_distance: Range = (0.285, 0.325)
    shift: float = 0.025
    light_azimuth: float = 60.0
    light_elevation: Range = (5.0, 55.0)
    light_strength: Range = (0.65, 1.05)
    ambient_strength: Range = (0.35, 0.60)
    warmth: float = 0.10
    blur: Range = (0.0, 0.55)
    noise: Range = (0.002, 0.018)
    jpeg_quality: tuple[int, int] = (72, 95)


DOMAINS: dict[str, Domain] = {
    "default": Domain(),
    "shifted": Domain(
        name="shifted",
        shape_spread=1.35,
        age=(0.25, 1.0),
        glasses=0.30,
        yaw=24.0,
        pitch=14.0,
        roll=12.0,
        eye_distance=(0.25, 0.31),
        light_azimuth=80.0,
        light_elevation=(-15.0, 40.0),
        light_strength=(0.45, 0.95),
        ambient_strength=(0.20, 0.40),
        warmth=0.22,
        blur=(0.3, 0.9),
        noise=(0.010, 0.030),
        jpeg_quality=(45, 80),
    ),
}
"""The choices of `--domain`."""


def get_domain(name: str) -> Domain:
    """The domain called `name`.

    Raises:
        ValueError: there is no such domain; the known names are listed.
    """
    if name not in DOMAINS:
        raise ValueError(f"There is no domain {name!r}; known are {', '.join(DOMAINS)}.")
    return DOMAINS[name]


def _mix(first: tuple[float, ...], second: tuple[float, ...], share: float) -> tuple[float, float, float]:
    mixed = (1 - share) * np.array(first) + share * np.array(second)
    return tuple(mixed.clip(0, 1).tolist())


def _choose(options: tuple[T, ...], rng: np.random.Generator) -> T:
    return options[rng.integers(len(options))]


def sample_shape(rng: np.random.Generator, masculinity: float, spread: float) -> Shape:
    """Draw proportions; those of jaw, brows and lips depend on `masculinity` in [0, 1]."""
    values = {f.name: float(np.clip(rng.standard_normal(), -2.2, 2.2)) * spread for f in fields(Shape)}
    lean = 2 * masculinity - 1
    values["jaw_width"] += 0.5 * lean
    values["jaw_square"] += 0.7 * lean
    values["chin_length"] += 0.3 * lean
    values["brow_thickness"] += 0.9 * lean
    values["brow_height"] -= 0.5 * lean
    values["upper_lip"] -= 0.5 * lean
    values["lower_lip"] -= 0.4 * lean
    return Shape(**values)


@cache
def _offset_cholesky() -> Array:
    """(68, 68) Cholesky factor that turns white noise into offsets that vary smoothly over the face."""
    squared = ((AVERAGE_FACE[:, None] - AVERAGE_FACE[None]) ** 2).sum(axis=-1, dtype=np.float64)
    covariance = 0.018**2 * np.exp(-squared / (2 * 0.30**2)) + 0.010**2 * np.exp(-squared / (2 * 0.10**2))
    return np.linalg.cholesky(covariance + 1e-9 * np.eye(len(covariance))).astype(np.float32)


def sample_offsets(rng: np.random.Generator) -> Array:
    """Draw (68, 2) individual offsets of a person's points: a smooth random field."""
    return _offset_cholesky() @ rng.standard_normal(AVERAGE_FACE.shape).astype(np.float32)


def sample_identity(rng: np.random.Generator, domain: Domain) -> Identity:
    """Draw one person."""
    masculinity = float(rng.beta(0.5, 0.5))
    melanin = float(rng.uniform(*domain.melanin))
    age = float(np.clip(rng.beta(1.3, 1.8), 0, 1) * (domain.age[1] - domain.age[0]) + domain.age[0])
    light_looks = rng.random() < (1 - melanin) ** 1.5
    hair = _choose(_HAIR_COLORS[1:] if light_looks else _HAIR_COLORS[:3], rng)
    grey = float(np.clip(rng.normal(1.6 * (age - 0.55), 0.15), 0, 0.95))
    makeup = float(rng.beta(1, 2)) * (1 - masculinity)
    style = _choose(_SHORT_STYLES if rng.random() < masculinity else _LONG_STYLES, rng)
    bearded = rng.random() < domain.beard and masculinity > 0.5
    bare_lips = _mix(_LIGHT_LIPS, _DARK_LIPS, melanin)
    lipstick = _mix(tuple(rng.uniform((0.60, 0.10, 0.15), (0.85, 0.35, 0.45))), _DARK_LIPS, 0.6 * melanin)
    return Identity(
        shape=sample_shape(rng, masculinity, domain.shape_spread),
        offsets=domain.shape_spread * sample_offsets(rng),
        mobility=rng.uniform(0.6, 1.1, len(AU_IDS)).astype(np.float32),
        masculinity=masculinity,
        age=age,
        wrinkling=float(np.clip(0.65 + 0.35 * age + 0.1 * rng.standard_normal(), 0.5, 1.1)),
        melanin=melanin,
        undertone=float(rng.random()),
        redness=float(rng.beta(2, 3)),
        freckles=float(rng.random()) if light_looks and rng.random() < 0.25 else 0.0,
        gloss=float(rng.uniform(0.1, 0.8)),
        hair_style=style,
        hair_part=float(rng.uniform(-0.5, 0.5)),
        hair_color=_mix(hair, _GREY_HAIR, grey),
        brow_color=_mix(_mix(hair, (0.12, 0.08, 0.06), 0.35), _GREY_HAIR, 0.7 * grey),
        iris_color=_choose(_LIGHT_IRIS if light_looks and rng.random() < 0.6 else _DARK_IRIS, rng),
        lip_color=_mix(bare_lips, lipstick, makeup),
        lip_strength=float(np.clip(0.35 + 0.25 * rng.random() + 0.5 * makeup, 0, 1)),
        lashes=float(np.clip(0.25 * rng.random() + 0.35 * (1 - masculinity) + 0.4 * makeup, 0, 1)),
        beard=float(rng.choice([rng.uniform(0.15, 0.35), rng.uniform(0.55, 0.95)])) if bearded else 0.0,
        glasses=float(rng.uniform(0.1, 1.0)) if rng.random() < domain.glasses else 0.0,
        frame_color=_choose(_FRAME_COLORS, rng),
        cloth_color=_mix(tuple(rng.uniform(0.05, 0.8, 3)), (rng.uniform(0.1, 0.9),) * 3, 0.6),
        texture_seed=int(rng.integers(2**31)),
    )


def sample_expression(rng: np.random.Generator, intensities: Array) -> Expression:
    """Draw the parts of an expression that no AU codes: asymmetry, gaze and the opening of the eyes."""
    gaze = rng.normal(0, 1, 2).clip(-1.5, 1.5) * (0.030, 0.012)
    return Expression(
        intensities=intensities,
        asymmetry=float(rng.normal(0, 0.08)),
        eye_opening=float(np.clip(rng.normal(0.97, 0.10), 0.7, 1.2)),
        gaze=(float(gaze[0]), float(gaze[1])),
    )


def sample_setting(rng: np.random.Generator, identity: Identity, domain: Domain) -> Scene:
    """Draw what all frames of a person share: camera, light and background. The exposure adapts to dark skin."""
    warm = rng.uniform(-domain.warmth, domain.warmth)
    cool = rng.uniform(-domain.warmth, domain.warmth)
    return Scene(
        yaw=rng.normal(0, 0.4) * domain.yaw,
        pitch=rng.normal(0, 0.4) * domain.pitch,
        eye_distance=rng.uniform(*domain.eye_distance),
        light_azimuth=rng.uniform(-1, 1) * domain.light_azimuth,
        light_elevation=rng.uniform(*domain.light_elevation),
        light_strength=rng.uniform(*domain.light_strength),
        light_color=(1 + warm, 1.0, 1 - warm),
        ambient_strength=rng.uniform(*domain.ambient_strength),
        ambient_color=(1 + cool, 1.0, 1 - cool),
        rim_strength=rng.uniform(0, 0.4),
        exposure=(1 + 0.9 * identity.melanin**2) * rng.uniform(0.85, 1.1),
        background=Background(
            seed=int(rng.integers(2**31)),
            color=tuple((rng.uniform(0.15, 0.75) + 0.05 * rng.standard_normal(3)).clip(0.05, 0.9).tolist()),
            contrast=rng.uniform(0.1, 0.6),
        ),
        blur=rng.uniform(*domain.blur),
        noise=rng.uniform(*domain.noise),
    )


def sample_frame(rng: np.random.Generator, setting: Scene, domain: Domain) -> Scene:
    """Draw one frame of a setting: head pose and position vary, and the light a little."""

    def vary_angle(mean: float, limit: float) -> float:
        return float(np.clip(mean + rng.normal(0, 0.35) * limit, -limit, limit))

    return replace(
        setting,
        yaw=vary_angle(setting.yaw, domain.yaw),
        pitch=vary_angle(setting.pitch, domain.pitch),
        roll=vary_angle(setting.roll, domain.roll),
        eye_distance=setting.eye_distance * rng.uniform(0.98, 1.02),
        shift=tuple(rng.uniform(-domain.shift, domain.shift, 2)),
        light_azimuth=setting.light_azimuth + rng.normal(0, 6),
        light_strength=setting.light_strength * rng.uniform(0.93, 1.07),
        noise_seed=int(rng.integers(2**31)),
    )
