"""What faces are painted on: a grid over face space, soft shapes on it, and the surface that the paint makes.

Fields are float32. Shapes are soft at the width of a pixel, so that a moved point moves the picture by
fractions of a pixel.
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
"""The angles at which that function is tabulated, in radians."""


# ----------------------------------------------------------------------------------------------------------- shapes
def smoothstep(low: float, high: float, value: ArrayLike) -> Array:
    """0 at `low`, 1 at `high`, a smooth ramp between them and flat beyond; `low` may be the larger one."""
    t = np.clip((np.asarray(value, np.float32) - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def bell(value: ArrayLike, width: ArrayLike) -> Array:
    """The Gaussian exp(-(value / width)²)."""
    return np.exp(-((np.asarray(value, np.float32) / np.asarray(width, np.float32)) ** 2))


def vector_length(x: ArrayLike, y: ArrayLike) -> Array:
    """Of the vectors (x, y); `np.hypot` guards against overflow and takes six times as long."""
    return np.sqrt(np.square(x) + np.square(y))


def interpolate_periodic(table: Array, place: Array) -> Array:
    """Values of a table (n,) at real-valued places, linear in between; place n is place 0 again."""
    before = np.floor(place)
    index = before.astype(np.intp) % len(table)
    return table[index] + (place - before) * (np.roll(table, -1) - table)[index]


def srgb_to_linear(color: ArrayLike) -> Array:
    """sRGB in [0, 1] -> linear light, by the plain power of 2.2."""
    return np.asarray(color, np.float32) ** 2.2


def as_color(values: ArrayLike) -> Array:
    """A colour (3,) as (3, 1, 1), to be combined with fields (H, W); one for each pixel, (3, H, W), as it is."""
    values = np.asarray(values, np.float32)
    return values[:, None, None] if values.ndim == 1 else values


def curve_through(points: ArrayLike) -> Callable[[Array], Array]:
    """The smooth y(x) through points given in any order."""
    points = np.asarray(points, np.float64)
    points = points[np.argsort(points[:, 0])]
    spline = CubicSpline(points[:, 0], points[:, 1], bc_type="natural")
    return lambda x: spline(x).astype(np.float32)


def bezier(anchors: ArrayLike, step: float) -> Array:
    """`(n, 2)` points of the quadratic Bézier curve of three anchors, about `step` apart."""
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
    """`(n,)` strength along a line: 1 in its middle, near 0 at its ends."""
    return np.sin(np.linspace(0.02, np.pi - 0.02, num_points, dtype=np.float32)) ** 0.8


def enlarge(values: Array, shape: tuple[int, int]) -> Array:
    """Bilinear (H, W) version of a coarse field."""
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
        place = (self.theta - ANGLES[0]) / (ANGLES[1] - ANGLES[0])
        self._angle = place.astype(np.intp)  # of `ANGLES`, the last one before each pixel's
        self._past_angle = (place - self._angle).astype(np.float32)

    def coverage(self, distance: Array) -> Array:
        """How much of each pixel lies inside a shape, from the signed distance in units (negative inside)."""
        return np.clip(0.5 - distance * self.pixels_per_unit, 0, 1)

    def bump(self, x: float, y: float, radius_x: float, radius_y: float) -> Array:
        """(H, W) Gaussian of height 1."""
        return bell(self.y - y, radius_y) * bell(self.x - x, radius_x)

    def bumps(self, table: ArrayLike) -> Array:
        """(H, W) sum of Gaussians, each a row (x, y, radius x, radius y, height) of the table."""
        x, y, radius_x, radius_y, height = np.array(table, np.float32).T[:, :, None]
        columns, rows = bell(self.x - x, radius_x), bell(self.y.T - y, radius_y)  # (n, W), (n, H)
        return (height * rows).T @ columns

    def around(self, radius: Array) -> Array:
        """(H, W) radius in the direction of each pixel, from one for each of `ANGLES`."""
        radius = radius.astype(np.float32)
        return radius[self._angle] + self._past_angle * np.diff(radius, append=radius[-1])[self._angle]

    def window(self, points: ArrayLike, margin: float) -> Window:
        """The rectangle around points."""
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
    """The canvas of that resolution; it is shared and never written to."""
    return Canvas(pixels_per_unit)


# ---------------------------------------------------------------------------------------------------------- surface
class Surface:
    """What light falls on: relief, colour, gloss and outline, all (H, W) unless said otherwise.

    Attributes:
        form: heights that also carry the points when the head turns.
        detail: heights too fine to move anything; they only catch the light.
        albedo: `(3, H, W)` linear colour.
        gloss: strength of the highlights.
        glint: light that is simply there, such as the reflections in the eyes.
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
        """Lay a linear colour, (3,) or (3, h, w), over the surface where `mask` is 1."""
        albedo = self._albedo_in(window)
        albedo += mask * (as_color(color) - albedo)

    def tint(self, amount: Array, factor: ArrayLike, window: Window | None = None) -> None:
        """Multiply the colour by `factor` (3,) where `amount` is 1."""
        albedo = self._albedo_in(window)
        albedo *= 1 + amount * (as_color(factor) - 1)

    def _albedo_in(self, window: Window | None) -> Array:
        return self.albedo if window is None else self.albedo[:, window.index[0], window.index[1]]

    def clear(self, mask: Array, window: Window | None = None) -> None:
        """Take away fine relief and gloss where `mask` is 1."""
        index = ... if window is None else window.index
        self.detail[index] *= 1 - mask
        self.gloss[index] *= 1 - mask

    def crease(self, path: Array, width: float, depth: float) -> None:
        """Press a line into the skin: a valley between two rims, darker at its bottom, that fades to its ends.

        Args:
            path: `(n, 2)` points, less than `width` apart.
            width: of the valley, in units.
            depth: 0 for none to about 1.
        """
        window = self.canvas.window(path, 2.5 * width)
        squared = (window.x - path[:, 0, None, None]) ** 2 + (window.y - path[:, 1, None, None]) ** 2
        nearest = squared.argmin(axis=0)
        distance = squared.min(axis=0) / width**2
        valley = depth * _fade_to_ends(len(path))[nearest] * np.exp(-distance)
        self.detail[window.index] -= width * (1 - 1.5 * distance) * valley
        self.tint(0.35 * valley, (0.45, 0.30, 0.25), window)
