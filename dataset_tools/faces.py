"""Draws faces: a parametric face (`face_model`) painted as a relief, lit, turned, and put before a background.

`render_face` is all that others need. The face is painted in its own plane (`face_parts`, `face_hair`), shaded from
the normals of its relief, and carried to the picture by turning that relief; the 68 points go through the same
mapping, so they are exact in the picture that is drawn.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter

from . import face_parts as parts
from .face_canvas import X_RANGE, Y_RANGE, Array, Canvas, Surface, get_canvas, srgb_to_linear
from .face_hair import paint_back, paint_hair
from .face_model import Identity
from .face_parts import Face

OVERSAMPLING = 1.35
"""Pixels of the painted face for each pixel of the picture, along one axis."""
FACE_CENTER = (0.0, 0.48)
"""The point of face space that lies in the middle of a picture without shift."""
_BACK_DEPTH = -0.45
_PROJECTION_STEPS = 8


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
    gaze: tuple[float, float] = (0.0, 0.0)
    light_azimuth: float = -30.0
    light_elevation: float = 35.0
    light_strength: float = 0.9
    light_color: tuple[float, float, float] = (1.0, 0.97, 0.92)
    ambient_strength: float = 0.45
    ambient_color: tuple[float, float, float] = (0.94, 0.97, 1.0)
    rim_strength: float = 0.15
    background_seed: int = 0
    background_color: tuple[float, float, float] = (0.45, 0.50, 0.55)
    background_contrast: float = 0.25
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


def render_face(identity: Identity, intensities: Array, scene: Scene | None = None, size: int = 112) -> RenderedFace:
    """Draw one face.

    Args:
        identity: who it is.
        intensities: `(12,)` AU intensities in [0, 1], in the order of `AU_IDS`.
        scene: how the picture is taken; the default is a frontal studio portrait.
        size: width and height in pixels, at least 32.
    Raises:
        ValueError: a size or an intensity out of its bounds.
    """
    scene = scene or Scene()
    intensities = np.asarray(intensities, np.float32)
    _check(intensities, size)
    canvas = get_canvas(round(scene.eye_distance * size * OVERSAMPLING, 1))
    face = Face(canvas, identity, intensities, scene.gaze)
    camera = Camera(scene, size)
    head, back = paint_head(face), Surface(canvas, face.skin)
    paint_back(back, face)
    picture = draw_background(scene, size)
    picture = camera.project(
        shade(back, scene, camera), np.full(canvas.shape, _BACK_DEPTH, np.float32), picture, canvas
    )
    picture = camera.project(shade(head, scene, camera), head.form, picture, canvas)
    return RenderedFace(develop(picture, scene, size), camera.place(face.points, head.form, canvas))


def _check(intensities: Array, size: int) -> None:
    if size < 32:
        raise ValueError(f"image size {size} is too small to draw a face; the least is 32 pixels.")
    if intensities.shape != (12,) or not np.all((intensities >= 0) & (intensities <= 1)):
        raise ValueError(f"AU intensities must be 12 values in [0, 1]; got {intensities.tolist()}.")


def paint_head(face: Face) -> Surface:
    """The head with all its parts."""
    surface = Surface(face.canvas, face.skin)
    parts.shape_relief(surface, face)
    parts.paint_skin(surface, face)
    parts.paint_nostrils(surface, face)
    parts.paint_beard(surface, face)
    parts.paint_wrinkles(surface, face)
    parts.paint_mouth(surface, face)
    parts.paint_eyes(surface, face)
    parts.paint_brows(surface, face)
    paint_hair(surface, face)
    parts.paint_glasses(surface, face)
    return surface


# ------------------------------------------------------------------------------------------------------------ light
def shade(surface: Surface, scene: Scene, camera: "Camera") -> Array:
    """Light a surface.

    Key light with a soft, reddish terminator (light that scatters in the skin), cast shadows, sky and ground light
    weakened in hollows, highlights, and a rim where the surface turns away.

    Returns:
        `(H, W, 4)` linear colour and alpha.
    """
    canvas = surface.canvas
    height = surface.form + surface.detail
    down, right = np.gradient(height * canvas.pixels_per_unit)
    facing = 1 / np.sqrt(1 + right**2 + down**2)
    light, view = camera.to_face(_direction(scene)), camera.to_face(np.array([0.0, 0.0, 1.0]))
    cosine = (light[2] - right * light[0] - down * light[1]) * facing
    wrap = np.array([0.38, 0.22, 0.16], np.float32)
    key = (
        np.clip((cosine[..., None] + wrap) / (1 + wrap), 0, None) * cast_shadow(surface.form, light, canvas)[..., None]
    )
    hollow = np.clip(gaussian_filter(height, 0.06 * canvas.pixels_per_unit) - height, 0, None)
    hollow += 0.7 * np.clip(
        gaussian_filter(surface.form, 0.22 * canvas.pixels_per_unit, truncate=2.5) - surface.form, 0, None
    )
    sky = (0.72 + 0.28 * down * facing) * np.exp(-7.0 * hollow)
    half = (light + view) / np.linalg.norm(light + view)
    shine = np.clip((half[2] - right * half[0] - down * half[1]) * facing, 0, 1) ** 22
    rim = scene.rim_strength * (1 - np.clip(facing, 0, 1)) ** 3
    key_color = scene.light_strength * np.array(scene.light_color, np.float32)
    sky_color = scene.ambient_strength * np.array(scene.ambient_color, np.float32)
    color = surface.albedo * (key * key_color + (sky + rim)[..., None] * sky_color)
    color += (surface.gloss * shine * 0.16)[..., None] * key_color + surface.glint[..., None] * (key_color + sky_color)
    return np.concatenate([color, surface.alpha[..., None]], axis=-1).astype(np.float32)


def _direction(scene: Scene) -> NDArray[np.float64]:
    azimuth, elevation = np.radians([scene.light_azimuth, scene.light_elevation])
    return np.array([np.sin(azimuth) * np.cos(elevation), -np.sin(elevation), np.cos(azimuth) * np.cos(elevation)])


def cast_shadow(form: Array, light: NDArray[np.float64], canvas: Canvas) -> Array:
    """(H, W) share of the key light that arrives: rays towards the light, stopped softly by what stands higher."""
    lit = np.ones_like(form)
    per_depth = light[:2] / max(float(light[2]), 0.15)
    for distance in (0.05, 0.10, 0.16, 0.24, 0.34):
        dx, dy = np.round(distance * per_depth * canvas.pixels_per_unit).astype(int)
        blocked = np.roll(form, (-dy, -dx), axis=(0, 1)) - form - distance
        np.minimum(lit, 1 - np.clip(blocked / 0.06, 0, 1) * 0.75, out=lit)
    return gaussian_filter(lit, 0.03 * canvas.pixels_per_unit)


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

    def to_face(self, direction: NDArray[np.float64]) -> NDArray[np.float64]:
        """A direction seen by the camera, in face space."""
        return self.rotation.T @ direction

    def place(self, points: Array, form: Array, canvas: Canvas) -> Array:
        """(N, 2) points of face space, on the relief -> pixels of the picture."""
        depth = _sample(form[..., None], points[:, 0], points[:, 1], canvas)[:, 0]
        turned = np.column_stack([points, depth]) @ self.rotation[:2].T
        return (self.origin + self.scale * turned).astype(np.float32)

    def project(self, layer: Array, form: Array, picture: Array, canvas: Canvas) -> Array:
        """Lay a painted layer `(H, W, 4)` with its relief over the picture `(size, size, 3)`."""
        x, y = self._seen_points(form, canvas)
        seen = _sample(layer, x, y, canvas).reshape(self.size, self.size, 4)
        alpha = seen[..., 3:]
        return picture * (1 - alpha) + seen[..., :3] * alpha

    def _seen_points(self, form: Array, canvas: Canvas) -> tuple[Array, Array]:
        """Which point of face space each pixel shows: a fixed point, as its depth shifts it and it has its depth."""
        pixels = np.indices((self.size, self.size)).reshape(2, -1)[::-1].T
        plane = (pixels - self.origin) / self.scale
        inverse = np.linalg.inv(self.rotation[:2, :2])
        flat, tilt = (plane @ inverse.T).astype(np.float32), (inverse @ self.rotation[:2, 2]).astype(np.float32)
        depth = np.zeros(len(flat), np.float32)
        for _ in range(_PROJECTION_STEPS):
            x, y = flat[:, 0] - tilt[0] * depth, flat[:, 1] - tilt[1] * depth
            depth = _sample(form[..., None], x, y, canvas)[:, 0]
        return flat[:, 0] - tilt[0] * depth, flat[:, 1] - tilt[1] * depth


def _sample(layer: Array, x: Array, y: Array, canvas: Canvas) -> Array:
    """(N, C) bilinear values of a layer (H, W, C) at points of face space; beyond the canvas its edge goes on."""
    rows, columns = canvas.shape
    u = np.clip((x - X_RANGE[0]) * canvas.pixels_per_unit, 0, columns - 1.001)
    v = np.clip((y - Y_RANGE[0]) * canvas.pixels_per_unit, 0, rows - 1.001)
    left, top = u.astype(np.int32), v.astype(np.int32)
    u, v = (u - left)[:, None], (v - top)[:, None]
    flat = layer.reshape(-1, layer.shape[-1])
    corner = top * columns + left
    upper = flat[corner] * (1 - u) + flat[corner + 1] * u
    lower = flat[corner + columns] * (1 - u) + flat[corner + columns + 1] * u
    return upper * (1 - v) + lower * v


# ---------------------------------------------------------------------------------------------------------- picture
def draw_background(scene: Scene, size: int) -> Array:
    """(size, size, 3) linear: soft shapes far out of focus."""
    rng = np.random.default_rng(scene.background_seed)
    base = np.array(scene.background_color)
    patches = base * (1 + scene.background_contrast * rng.standard_normal((5, 5, 1))) + (
        0.25 * scene.background_contrast * rng.standard_normal((5, 5, 3))
    )
    coarse = Image.fromarray((np.clip(patches, 0.02, 1) * 255).astype(np.uint8))
    smooth = np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC), np.float32) / 255
    return srgb_to_linear(smooth)


def develop(picture: Array, scene: Scene, size: int) -> NDArray[np.uint8]:
    """Linear light -> sRGB bytes, with the camera's blur and noise."""
    sigma = scene.blur * size / 112
    if sigma > 0.1:
        picture = gaussian_filter(picture, (sigma, sigma, 0), truncate=3)
    values = np.clip(picture, 0, 1) ** (1 / 2.2)
    if scene.noise > 0:
        values += scene.noise * np.random.default_rng(scene.noise_seed).standard_normal(values.shape, np.float32)
    return (np.clip(values, 0, 1) * 255 + 0.5).astype(np.uint8)
