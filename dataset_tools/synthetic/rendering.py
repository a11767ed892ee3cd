"""Renders faces: a parametric face (`face_model`) is painted as a relief, lit, rotated, and put before a background.

`render_face` is the entry point. The face is painted in face space (`face_parts`, `hair`), shaded from the normals of
its relief, and projected to the picture by rotating that relief. The 68 points are projected in the same way, so that
they are exact in the picture.
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
"""Pixels of the painted face per pixel of the picture, along one axis."""
FACE_CENTER = (0.0, 0.48)
"""The point of face space in the middle of a picture without shift."""
_BACK_DEPTH, _INITIAL_DEPTH = -0.45, 0.8
_PROJECTION_STEPS = 7
_SCATTER = (0.38, 0.22, 0.16)  # how far red, green and blue light reach past the shadow's edge
_SHININESS = 22
_SHADOW_STEPS = (0.05, 0.10, 0.16, 0.24, 0.34)
_BACKGROUND_SIZE = 28


@dataclass(frozen=True)
class Background:
    """The background: a colour (sRGB in [0, 1]), and the contrast of the shapes and lights drawn with `seed`."""

    seed: int = 0
    color: tuple[float, float, float] = (0.45, 0.50, 0.55)
    contrast: float = 0.25


@dataclass(frozen=True)
class Scene:
    """Pose, light, background and camera of one picture.

    Angles are in degrees; yaw turns the face to the right of the picture, pitch down, roll clockwise. Light comes
    from `light_azimuth` (right of the camera) and `light_elevation` (above it). `eye_distance` and `shift` are
    fractions of the picture size; `blur` is the sigma of a Gaussian in 1/112 of the picture size; `noise` is the
    standard deviation of the sRGB values.
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
    """A picture and its landmarks.

    Attributes:
        image: `(size, size, 3)` uint8 sRGB.
        landmarks_px: `(68, 2)` float32, the iBUG points in pixels; pixel centres have integer coordinates.
    """

    image: NDArray[np.uint8]
    landmarks_px: Array


def render_face(
    identity: Identity, expression: Expression, scene: Scene | None = None, size: int = 112
) -> RenderedFace:
    """Render one face.

    Args:
        identity: the person.
        expression: the AU intensities and the gaze.
        scene: pose, light and camera; the default is a frontal studio portrait.
        size: width and height in pixels.
    Raises:
        ValueError: the size is too small.
    """
    if size < MIN_SIZE:
        raise ValueError(f"image size {size} is too small to draw a face; the minimum is {MIN_SIZE} pixels.")
    scene = scene or Scene()
    canvas = get_canvas(math.ceil(scene.eye_distance * size * OVERSAMPLING))
    face, camera = Face(canvas, identity, expression), Camera(scene, size)
    hair = Hair(face)
    head, back = paint_head(face, hair), Surface(canvas, face.skin)
    paint_back(back, face, hair)
    picture = draw_background(scene.background, size)
    picture = camera.composite(shade(back, scene, camera), None, canvas, picture)
    picture = camera.composite(shade(head, scene, camera), head.form, canvas, picture)
    return RenderedFace(to_srgb_bytes(picture, scene, size), camera.project(face.points, head.form, canvas))


def paint_head(face: Face, hair: Hair) -> Surface:
    """Paint the head with all its parts."""
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
    """Compute the light that a surface reflects.

    The model has a key light with cast shadows and a soft, reddish shadow edge (light scatters in skin), ambient light
    that is weaker from below and in hollows, highlights, and a rim light at grazing angles.

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
    ambient = (0.72 + 0.28 * down * facing) * np.exp(-7.0 * hollow) + scene.rim_strength * (1 - facing) ** 3
    key_color = scene.light_strength * np.array(scene.light_color, np.float32)
    ambient_color = scene.ambient_strength * np.array(scene.ambient_color, np.float32)
    lit = cast_shadow(surface.form, light, unit)
    out = np.empty((4, *height.shape), np.float32)
    for channel, wrap in enumerate(_SCATTER):
        key = np.clip((towards_light + wrap) / (1 + wrap), 0, None) * lit * key_color[channel]
        out[channel] = surface.albedo[channel] * (key + ambient * ambient_color[channel])
        out[channel] += 0.16 * surface.gloss * shine * key_color[channel]
        out[channel] += surface.glint * (key_color[channel] + ambient_color[channel])
    out[3] = surface.alpha
    return np.ascontiguousarray(np.moveaxis(out, 0, -1))


def _light_direction(scene: Scene) -> Array:
    """Unit vector towards the light, in camera coordinates."""
    azimuth, elevation = np.radians([scene.light_azimuth, scene.light_elevation])
    return np.array([np.sin(azimuth) * np.cos(elevation), -np.sin(elevation), np.cos(azimuth) * np.cos(elevation)])


def cast_shadow(form: Array, light: Array, pixels_per_unit: int) -> Array:
    """(H, W) share of the key light that arrives: rays towards the light are softly blocked by higher points."""
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
    """Projects face space to the picture: a rotation and a scaled orthographic projection."""

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
        """Transform a direction from camera coordinates to face space, as float32."""
        return (self.rotation.T @ direction).astype(np.float32)

    def project(self, points: Array, form: Array, canvas: Canvas) -> Array:
        """Project (N, 2) points of face space, at the depth of the relief, to pixels of the picture."""
        depth = _sample(form, points[:, 0], points[:, 1], canvas)
        turned = np.column_stack([points, depth]) @ self.rotation[:2].T
        return (self.origin + self.scale * turned).astype(np.float32)

    def composite(self, layer: Array, form: Array | None, canvas: Canvas, picture: Array) -> Array:
        """Blend a lit layer `(H, W, 4)` over the picture `(size, size, 3)`; without a relief, the layer is flat."""
        x, y = self._visible_points(form, canvas)
        sampled = _sample(layer, x, y, canvas).reshape(self.size, self.size, 4)
        return picture + sampled[..., 3:] * (sampled[..., :3] - picture)

    def _visible_points(self, form: Array | None, canvas: Canvas) -> tuple[Array, Array]:
        """The point of face space that each pixel shows.

        The position of that point depends on its depth, and the depth on the position: a fixed point, found by
        iteration. The iteration converges if no slope of the relief exceeds the cotangent of the rotation angle.
        """
        pixels = np.indices((self.size, self.size)).reshape(2, -1)[::-1].T
        inverse = np.linalg.inv(self.rotation[:2, :2])
        flat = ((pixels - self.origin) / self.scale @ inverse.T).astype(np.float32).T
        tilt = (inverse @ self.rotation[:2, 2]).astype(np.float32)[:, None]
        if form is None:
            return tuple(flat - tilt * _BACK_DEPTH)
        x, y = flat - tilt * _INITIAL_DEPTH
        for _ in range(_PROJECTION_STEPS):
            x, y = flat - tilt * _sample(form, x, y, canvas)
        return x, y


def _sample(layer: Array, x: Array, y: Array, canvas: Canvas) -> Array:
    """(N, …) bilinear samples of a layer (H, W, …) at N points of face space, with edge padding."""
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
    """(size, size, 3) linear: a gradient with blurred shapes and lights. The array is shared: do not modify it."""
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


def to_srgb_bytes(picture: Array, scene: Scene, size: int) -> NDArray[np.uint8]:
    """Convert linear light to uint8 sRGB, with the blur and noise of the camera."""
    sigma = scene.blur * size / 112
    if sigma > 0.1:
        picture = gaussian_filter(picture, sigma, truncate=3, axes=(0, 1))
    values = np.clip(scene.exposure * picture, 0, 1) ** (1 / 2.2)
    if scene.noise > 0:
        values += scene.noise * np.random.default_rng(scene.noise_seed).standard_normal(values.shape, np.float32)
    return (np.clip(values, 0, 1) * 255 + 0.5).astype(np.uint8)
