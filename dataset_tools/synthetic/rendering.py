"""Draws faces: a parametric face (`face_model`) painted as a relief, lit, turned, and put before a background.

`render_face` is all that others need. The face is painted in its own plane (`face_parts`, `face_hair`), shaded from
the normals of its relief, and carried to the picture by turning that relief; the 68 points go through the same
mapping, so they are exact in the picture that is drawn.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter

from . import face_parts as parts
from .canvas import X_RANGE, Y_RANGE, Canvas, Surface, blur_wide, enlarge, get_canvas, srgb_to_linear
from .face_model import Array, Expression, Identity
from .face_parts import Face
from .hair import Hair, paint_back

MIN_SIZE = 32
OVERSAMPLING = 1.35
"""Pixels of the painted face for each pixel of the picture, along one axis."""
FACE_CENTER = (0.0, 0.48)
"""The point of face space that lies in the middle of a picture without shift."""
_BACK_DEPTH, _USUAL_DEPTH = -0.45, 0.8
_PROJECTION_STEPS = 7
_SCATTER = (0.38, 0.22, 0.16)  # how far red, green and blue light reach past the terminator
_SHININESS = 22
_SHADOW_STEPS = (0.05, 0.10, 0.16, 0.24, 0.34)
_BACKGROUND_SIZE = 28


@dataclass(frozen=True)
class Background:
    """What is behind a face: a colour (sRGB in [0, 1]), and how far shapes and lights, drawn by `seed`, leave it."""

    seed: int = 0
    color: tuple[float, float, float] = (0.45, 0.50, 0.55)
    contrast: float = 0.25


@dataclass(frozen=True)
class Scene:
    """How one picture is taken: pose, light, background and camera.

    Angles are in degrees; yaw turns the face to the right of the picture, pitch down, roll clockwise. Light comes
    from `light_azimuth` (right of the camera) and `light_elevation` (above it). `eye_distance` and `shift` are
    fractions of the picture; `blur` is a Gaussian's sigma in 1/112 of the picture, `noise` a standard deviation of
    the sRGB values.
    """

    yaw: float = 0.0
    pitch: float = 0.0
    roll: float = 0.0
    eye_distance: float = 0.29
    shift: tuple[float, float] = (0.0, 0.0)
    light_azimuth: float = -30.0
    light_elevation: float = 35.0
    light_strength: float = 0.9
    light_color: tuple[float, float, float] = (1.0, 0.97, 0.92)
    ambient_strength: float = 0.45
    ambient_color: tuple[float, float, float] = (0.94, 0.97, 1.0)
    rim_strength: float = 0.15
    exposure: float = 1.0
    background: Background = Background()
    blur: float = 0.3
    noise: float = 0.008
    noise_seed: int = 0


@dataclass(frozen=True)
class RenderedFace:
    """A picture and what is true of it.

    Attributes:
        image: `(size, size, 3)` uint8 sRGB.
        landmarks_px: `(68, 2)` float32, the iBUG points in pixels; a pixel's centre has whole coordinates.
    """

    image: NDArray[np.uint8]
    landmarks_px: Array


def render_face(
    identity: Identity, expression: Expression, scene: Scene | None = None, size: int = 112
) -> RenderedFace:
    """Draw one face.

    Args:
        identity: who it is.
        expression: what the face does.
        scene: how the picture is taken; the default is a frontal studio portrait.
        size: width and height in pixels.
    Raises:
        ValueError: too small a size.
    """
    if size < MIN_SIZE:
        raise ValueError(f"image size {size} is too small to draw a face; the least is {MIN_SIZE} pixels.")
    scene = scene or Scene()
    canvas = get_canvas(math.ceil(scene.eye_distance * size * OVERSAMPLING))
    face, camera = Face(canvas, identity, expression), Camera(scene, size)
    hair = Hair(face)
    head, back = paint_head(face, hair), Surface(canvas, face.skin)
    paint_back(back, face, hair)
    picture = draw_background(scene.background, size)
    picture = camera.lay(shade(back, scene, camera), None, canvas, picture)
    picture = camera.lay(shade(head, scene, camera), head.form, canvas, picture)
    return RenderedFace(develop(picture, scene, size), camera.place(face.points, head.form, canvas))


def paint_head(face: Face, hair: Hair) -> Surface:
    """The head with all its parts."""
    surface = Surface(face.canvas, face.skin)
    for paint in (
        parts.shape_relief,
        parts.paint_skin,
        parts.paint_nostrils,
        parts.paint_beard,
        parts.paint_wrinkles,
        parts.paint_mouth,
        parts.paint_eyes,
        parts.paint_brows,
    ):
        paint(surface, face)
    hair.paint_front(surface)
    parts.paint_glasses(surface, face)
    return surface


# ------------------------------------------------------------------------------------------------------------ light
def shade(surface: Surface, scene: Scene, camera: "Camera") -> Array:
    """Light a surface.

    A key light with cast shadows and a soft, reddish terminator (light scatters in skin), light from all around that
    is weaker from below and in hollows, highlights, and a rim where the surface turns away.

    Returns:
        `(H, W, 4)` linear colour and alpha.
    """
    unit = surface.canvas.pixels_per_unit
    height = surface.form + surface.detail
    down, right = np.gradient(height * unit)
    facing = 1 / np.sqrt(1 + right**2 + down**2)
    light, view = camera.to_face(_light_direction(scene)), camera.to_face(np.array([0.0, 0.0, 1.0]))
    half = (light + view) / np.linalg.norm(light + view)
    towards_light = (light[2] - right * light[0] - down * light[1]) * facing
    shine = np.clip((half[2] - right * half[0] - down * half[1]) * facing, 0, 1) ** _SHININESS
    hollow = np.clip(gaussian_filter(height, 0.06 * unit, truncate=2.5) - height, 0, None)
    hollow += 0.7 * np.clip(blur_wide(surface.form, 0.22 * unit) - surface.form, 0, None)
    around = (0.72 + 0.28 * down * facing) * np.exp(-7.0 * hollow) + scene.rim_strength * (1 - facing) ** 3
    key_color = scene.light_strength * np.array(scene.light_color, np.float32)
    ambient_color = scene.ambient_strength * np.array(scene.ambient_color, np.float32)
    lit = cast_shadow(surface.form, light, unit)
    out = np.empty((4, *height.shape), np.float32)
    for channel, wrap in enumerate(_SCATTER):
        key = np.clip((towards_light + wrap) / (1 + wrap), 0, None) * lit * key_color[channel]
        out[channel] = surface.albedo[channel] * (key + around * ambient_color[channel])
        out[channel] += 0.16 * surface.gloss * shine * key_color[channel]
        out[channel] += surface.glint * (key_color[channel] + ambient_color[channel])
    out[3] = surface.alpha
    return np.ascontiguousarray(np.moveaxis(out, 0, -1))


def _light_direction(scene: Scene) -> Array:
    """Unit vector towards the light, seen by the camera."""
    azimuth, elevation = np.radians([scene.light_azimuth, scene.light_elevation])
    return np.array([np.sin(azimuth) * np.cos(elevation), -np.sin(elevation), np.cos(azimuth) * np.cos(elevation)])


def cast_shadow(form: Array, light: Array, pixels_per_unit: int) -> Array:
    """(H, W) share of the key light that arrives: rays towards the light, stopped softly by what stands higher."""
    coarse = np.ascontiguousarray(form[::2, ::2])
    lit = np.ones_like(coarse)
    per_depth = light[:2] / max(float(light[2]), 0.15) * pixels_per_unit / 2
    for distance in _SHADOW_STEPS:
        dx, dy = np.round(distance * per_depth).astype(int)
        blocked = np.roll(coarse, (-dy, -dx), axis=(0, 1)) - coarse - distance
        np.minimum(lit, 1 - 0.75 * np.clip(blocked / 0.06, 0, 1), out=lit)
    return enlarge(gaussian_filter(lit, 0.015 * pixels_per_unit), form.shape)


# ----------------------------------------------------------------------------------------------------------- camera
class Camera:
    """Carries points of face space to the picture and back: a turn, then a scaled parallel projection."""

    def __init__(self, scene: Scene, size: int) -> None:
        yaw, pitch, roll = np.radians([scene.yaw, scene.pitch, scene.roll])
        turn_y = np.array([[np.cos(yaw), 0, np.sin(yaw)], [0, 1, 0], [-np.sin(yaw), 0, np.cos(yaw)]])
        turn_x = np.array([[1, 0, 0], [0, np.cos(pitch), np.sin(pitch)], [0, -np.sin(pitch), np.cos(pitch)]])
        turn_z = np.array([[np.cos(roll), -np.sin(roll), 0], [np.sin(roll), np.cos(roll), 0], [0, 0, 1]])
        self.rotation = turn_z @ turn_x @ turn_y
        self.scale = scene.eye_distance * size
        self.size = size
        middle = (size - 1) / 2 + np.array(scene.shift) * size
        self.origin = middle - self.scale * (self.rotation @ [*FACE_CENTER, 0.45])[:2]

    def to_face(self, direction: Array) -> Array:
        """A direction seen by the camera, in face space, as float32."""
        return (self.rotation.T @ direction).astype(np.float32)

    def place(self, points: Array, form: Array, canvas: Canvas) -> Array:
        """(N, 2) points of face space, lying on the relief -> pixels of the picture."""
        depth = _sample(form, points[:, 0], points[:, 1], canvas)
        turned = np.column_stack([points, depth]) @ self.rotation[:2].T
        return (self.origin + self.scale * turned).astype(np.float32)

    def lay(self, layer: Array, form: Array | None, canvas: Canvas, picture: Array) -> Array:
        """Lay a lit layer `(H, W, 4)` over the picture `(size, size, 3)`; without a relief it is flat, far back."""
        x, y = self._seen_points(form, canvas)
        sampled = _sample(layer, x, y, canvas).reshape(self.size, self.size, 4)
        return picture + sampled[..., 3:] * (sampled[..., :3] - picture)

    def _seen_points(self, form: Array | None, canvas: Canvas) -> tuple[Array, Array]:
        """The point of face space that each pixel shows.

        Where it lies depends on its depth, and its depth on where it lies: a fixed point, found by iteration. It
        contracts as long as no slope of the relief exceeds the cotangent of the turn.
        """
        pixels = np.indices((self.size, self.size)).reshape(2, -1)[::-1].T
        inverse = np.linalg.inv(self.rotation[:2, :2])
        flat = ((pixels - self.origin) / self.scale @ inverse.T).astype(np.float32).T
        tilt = (inverse @ self.rotation[:2, 2]).astype(np.float32)[:, None]
        if form is None:
            return tuple(flat - tilt * _BACK_DEPTH)
        x, y = flat - tilt * _USUAL_DEPTH
        for _ in range(_PROJECTION_STEPS):
            x, y = flat - tilt * _sample(form, x, y, canvas)
        return x, y


def _sample(layer: Array, x: Array, y: Array, canvas: Canvas) -> Array:
    """(N, …) bilinear values of a layer (H, W, …) at N points of face space; beyond the canvas its edge goes on."""
    rows, columns = canvas.shape
    u = np.clip((x - X_RANGE[0]) * canvas.pixels_per_unit, 0, columns - 1.001)
    v = np.clip((y - Y_RANGE[0]) * canvas.pixels_per_unit, 0, rows - 1.001)
    left, top = u.astype(np.intp), v.astype(np.intp)
    u, v = u - left.astype(np.float32), v - top.astype(np.float32)
    flat, corner = layer.reshape(rows * columns, -1), top * columns + left
    values = [flat.take(corner + step, axis=0) for step in (0, 1, columns, columns + 1)]
    upper, lower = (left + u[:, None] * (right - left) for left, right in (values[:2], values[2:]))
    return (upper + v[:, None] * (lower - upper)).reshape(len(x), *layer.shape[2:])


# ---------------------------------------------------------------------------------------------------------- picture
@lru_cache(maxsize=16)
def draw_background(background: Background, size: int) -> Array:
    """(size, size, 3) linear: a gradient with soft shapes and lights far out of focus. It is shared; write nothing."""
    rng = np.random.default_rng(background.seed)
    y, x = np.mgrid[0 : 1 : _BACKGROUND_SIZE * 1j, 0 : 1 : _BACKGROUND_SIZE * 1j]
    picture = np.empty((*x.shape, 3))
    picture[:] = srgb_to_linear(background.color)
    picture *= (1 + background.contrast * rng.normal(0, 1.2) * (y - 0.5))[..., None]
    for _ in range(rng.integers(2, 7)):
        center, half = rng.uniform(-0.1, 1.1, 2), rng.uniform(0.06, 0.45, 2)
        inside = (np.abs(x - center[0]) < half[0]) & (np.abs(y - center[1]) < 2 * half[1])
        picture[inside] *= np.exp(background.contrast * (1.6 * rng.normal() + 0.25 * rng.standard_normal(3)))
    picture = gaussian_filter(picture, rng.uniform(0.5, 2.5), axes=(0, 1))
    coarse = Image.fromarray((np.clip(picture, 0.001, 1) ** (1 / 2.2) * 255).astype(np.uint8))
    smooth = np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC), np.float32) / 255
    return srgb_to_linear(smooth)


def develop(picture: Array, scene: Scene, size: int) -> NDArray[np.uint8]:
    """Linear light -> sRGB bytes, with the camera's blur and noise."""
    sigma = scene.blur * size / 112
    if sigma > 0.1:
        picture = gaussian_filter(picture, sigma, truncate=3, axes=(0, 1))
    values = np.clip(scene.exposure * picture, 0, 1) ** (1 / 2.2)
    if scene.noise > 0:
        values += scene.noise * np.random.default_rng(scene.noise_seed).standard_normal(values.shape, np.float32)
    return (np.clip(values, 0, 1) * 255 + 0.5).astype(np.uint8)
