"""The grid over face space that faces are painted on, antialiased shapes on it, and the painted surface.

Fields are float32. Edges are one pixel wide, so that a movement of a point by a fraction of a pixel changes the
picture.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image
from scipy.interpolate import CubicSpline
from scipy.ndimage import gaussian_filter

from .face_model import Array

X_RANGE, Y_RANGE = (-1.80, 1.80), (-1.85, 2.45)
"""The part of face space that is painted."""
POLAR_CENTER_Y = 0.30
"""The outline of the head is a radius as a function of the angle around (0, POLAR_CENTER_Y)."""
ANGLES: Array = np.linspace(-np.pi, np.pi, 361)
"""The angles at which the outline is tabulated, in radians."""


# ----------------------------------------------------------------------------------------------------------- shapes
def smoothstep(low: float, high: float, value: ArrayLike) -> Array:
    """0 at `low`, 1 at `high`, a smooth ramp between them, and constant beyond; `low` may be larger than `high`."""
    t = np.clip((np.asarray(value, np.float32) - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def bell(value: ArrayLike, width: ArrayLike) -> Array:
    """The Gaussian exp(-(value / width)²)."""
    return np.exp(-((np.asarray(value, np.float32) / np.asarray(width, np.float32)) ** 2))


def vector_length(x: ArrayLike, y: ArrayLike) -> Array:
    """The length of the vectors (x, y), six times as fast as `np.hypot`, which guards against overflow."""
    return np.sqrt(np.square(x) + np.square(y))


def interpolate_periodic(table: Array, position: Array) -> Array:
    """Linear interpolation of a periodic table (n,) at real-valued positions."""
    lower = np.floor(position)
    index = lower.astype(np.intp) % len(table)
    return table[index] + (position - lower) * (np.roll(table, -1) - table)[index]


def srgb_to_linear(color: ArrayLike) -> Array:
    """sRGB in [0, 1] -> linear light, with a gamma of 2.2."""
    return np.asarray(color, np.float32) ** 2.2


def as_color(values: ArrayLike) -> Array:
    """Reshape a colour (3,) to (3, 1, 1) to broadcast over fields (H, W); (3, H, W) stays unchanged."""
    values = np.asarray(values, np.float32)
    return values[:, None, None] if values.ndim == 1 else values


def curve_through(points: ArrayLike) -> Callable[[Array], Array]:
    """The cubic spline y(x) through points given in any order."""
    points = np.asarray(points, np.float64)
    points = points[np.argsort(points[:, 0])]
    spline = CubicSpline(points[:, 0], points[:, 1], bc_type="natural")
    return lambda x: spline(x).astype(np.float32)


def bezier(anchors: ArrayLike, step: float) -> Array:
    """`(n, 2)` points on the quadratic Bézier curve of three anchors, about `step` apart."""
    anchors = np.asarray(anchors, np.float32)
    extent = vector_length(*np.diff(anchors, axis=0).T).sum()
    return _bernstein(max(4, int(np.ceil(extent / step)) + 1)) @ anchors


@lru_cache(maxsize=256)
def _bernstein(num_points: int) -> Array:
    """`(n, 3)` weights of a quadratic Bézier curve's anchors."""
    t = np.linspace(0, 1, num_points, dtype=np.float32)
    return np.stack([(1 - t) ** 2, 2 * t * (1 - t), t**2], axis=-1)


@lru_cache(maxsize=256)
def _fade_to_ends(num_points: int) -> Array:
    """`(n,)` weights along a line: 1 in the middle, near 0 at the ends."""
    return np.sin(np.linspace(0.02, np.pi - 0.02, num_points, dtype=np.float32)) ** 0.8


def enlarge(values: Array, shape: tuple[int, int]) -> Array:
    """Bilinear resampling of a coarse field to (H, W)."""
    return np.asarray(Image.fromarray(values).resize(shape[::-1], Image.Resampling.BILINEAR))


def blur_wide(values: Array, sigma: float) -> Array:
    """Gaussian blur by many pixels, computed on a grid four times coarser."""
    coarse = np.asarray(Image.fromarray(values).reduce(4))
    return enlarge(gaussian_filter(coarse, sigma / 4, truncate=2.5), values.shape)


# ----------------------------------------------------------------------------------------------------------- canvas
@dataclass(frozen=True)
class Window:
    """A rectangle of the canvas: its slices and its coordinates, `x` (1, w) and `y` (h, 1)."""

    index: tuple[slice, slice]
    x: Array
    y: Array


class Canvas:
    """A grid over face space: `x` (1, W) and `y` (H, 1) of the pixels, and (H, W) polar coordinates around the face.

    `theta` is 0 straight up and grows clockwise to ±π at the chin; `rho` is the distance.
    """

    def __init__(self, pixels_per_unit: int) -> None:
        self.pixels_per_unit = pixels_per_unit
        self.x = np.arange(X_RANGE[0], X_RANGE[1], 1 / pixels_per_unit, dtype=np.float32)[None, :]
        self.y = np.arange(Y_RANGE[0], Y_RANGE[1], 1 / pixels_per_unit, dtype=np.float32)[:, None]
        self.shape = (self.y.size, self.x.size)
        self.theta = np.arctan2(self.x, POLAR_CENTER_Y - self.y)
        self.rho = vector_length(self.x, self.y - POLAR_CENTER_Y)
        position = (self.theta - ANGLES[0]) / (ANGLES[1] - ANGLES[0])
        self._angle_idx = position.astype(np.intp)  # index in `ANGLES` of the last angle before that of each pixel
        self._angle_fraction = (position - self._angle_idx).astype(np.float32)

    def coverage(self, distance: Array) -> Array:
        """The share of each pixel inside a shape, from the signed distance in units (negative inside)."""
        return np.clip(0.5 - distance * self.pixels_per_unit, 0, 1)

    def bump(self, x: float, y: float, radius_x: float, radius_y: float) -> Array:
        """(H, W) Gaussian of height 1."""
        return bell(self.y - y, radius_y) * bell(self.x - x, radius_x)

    def bumps(self, table: ArrayLike) -> Array:
        """(H, W) sum of Gaussians, each a row (x, y, radius x, radius y, height) of the table."""
        x, y, radius_x, radius_y, height = np.array(table, np.float32).T[:, :, None]
        columns, rows = bell(self.x - x, radius_x), bell(self.y.T - y, radius_y)  # (n, W), (n, H)
        return (height * rows).T @ columns

    def radius_at_pixels(self, radius: Array) -> Array:
        """(H, W) radius in the direction of each pixel, interpolated from radii (361,) at `ANGLES`."""
        radius = radius.astype(np.float32)
        return radius[self._angle_idx] + self._angle_fraction * np.diff(radius, append=radius[-1])[self._angle_idx]

    def window(self, points: ArrayLike, margin: float) -> Window:
        """The rectangle around points, with a margin in units."""
        points = np.asarray(points)
        (left, top), (right, bottom) = points.min(axis=0) - margin, points.max(axis=0) + margin
        columns = self._span(left, right, X_RANGE[0], self.shape[1])
        rows = self._span(top, bottom, Y_RANGE[0], self.shape[0])
        return Window((rows, columns), self.x[:, columns], self.y[rows])

    def _span(self, low: float, high: float, origin: float, size: int) -> slice:
        start = int(np.clip((low - origin) * self.pixels_per_unit, 0, size - 1))
        stop = int(np.clip((high - origin) * self.pixels_per_unit + 2, start + 1, size))
        return slice(start, stop)


@lru_cache(maxsize=16)
def get_canvas(pixels_per_unit: int) -> Canvas:
    """The canvas of that resolution; it is shared and must not be modified."""
    return Canvas(pixels_per_unit)


# ---------------------------------------------------------------------------------------------------------- surface
class Surface:
    """A painted surface: relief, colour, gloss and outline, each (H, W) unless stated otherwise.

    Attributes:
        form: coarse heights; they affect the shading and where points lie in a turned head.
        detail: fine heights; they only affect the shading.
        albedo: `(3, H, W)` linear colour.
        gloss: strength of the highlights.
        glint: emitted light, such as the reflections in the eyes.
        alpha: 1 inside the outline.
    """

    def __init__(self, canvas: Canvas, color: ArrayLike) -> None:
        self.canvas = canvas
        self.form: Array = np.zeros(canvas.shape, np.float32)
        self.detail: Array = np.zeros(canvas.shape, np.float32)
        self.albedo: Array = np.empty((3, *canvas.shape), np.float32)
        self.albedo[:] = as_color(color)
        self.gloss: Array = np.zeros(canvas.shape, np.float32)
        self.glint: Array = np.zeros(canvas.shape, np.float32)
        self.alpha: Array = np.zeros(canvas.shape, np.float32)

    def paint(self, mask: Array, color: ArrayLike, window: Window | None = None) -> None:
        """Cover the surface with a linear colour, (3,) or (3, h, w), where `mask` is 1."""
        albedo = self._albedo_in(window)
        albedo += mask * (as_color(color) - albedo)

    def tint(self, amount: Array, factor: ArrayLike, window: Window | None = None) -> None:
        """Multiply the colour by `factor` (3,) where `amount` is 1."""
        albedo = self._albedo_in(window)
        albedo *= 1 + amount * (as_color(factor) - 1)

    def _albedo_in(self, window: Window | None) -> Array:
        return self.albedo if window is None else self.albedo[:, window.index[0], window.index[1]]

    def clear(self, mask: Array, window: Window | None = None) -> None:
        """Remove fine relief and gloss where `mask` is 1."""
        index = ... if window is None else window.index
        self.detail[index] *= 1 - mask
        self.gloss[index] *= 1 - mask

    def crease(self, path: Array, width: float, depth: float) -> None:
        """Add a skin crease: a valley between two rims, darker at its bottom, that fades towards its ends.

        Args:
            path: `(n, 2)` points, less than `width` apart.
            width: width of the valley, in units.
            depth: 0 for none to about 1.
        """
        window = self.canvas.window(path, 2.5 * width)
        squared = (window.x - path[:, 0, None, None]) ** 2 + (window.y - path[:, 1, None, None]) ** 2
        nearest = squared.argmin(axis=0)
        distance = squared.min(axis=0) / width**2
        valley = depth * _fade_to_ends(len(path))[nearest] * np.exp(-distance)
        self.detail[window.index] -= width * (1 - 1.5 * distance) * valley
        self.tint(0.35 * valley, (0.45, 0.30, 0.25), window)
