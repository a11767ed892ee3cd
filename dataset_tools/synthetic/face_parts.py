"""Paints the parts of a face in layers: relief, skin, beard, wrinkles, nose, mouth, eyes, brows, glasses.

Each function paints one part onto a `Surface`. The position of a part is derived from the 68 points, so that the
points are exact by construction; the texture of an AU depends on its intensity on that half of the face. `side` is -1
for the left of the picture and 1 for the right; lengths are in eye distances.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.interpolate import CubicSpline, PchipInterpolator
from scipy.ndimage import gaussian_filter

from ...labels_mf2 import FLIP_68
from .canvas import (
    ANGLES,
    POLAR_CENTER_Y,
    Canvas,
    Surface,
    Window,
    as_color,
    bell,
    bezier,
    curve_through,
    enlarge,
    interpolate_periodic,
    smoothstep,
    srgb_to_linear,
    vector_length,
)
from .face_model import (
    LEFT_EYE,
    MOUTH,
    RIGHT_EYE,
    WRINKLES,
    Anchor,
    Array,
    Expression,
    Identity,
    face_points,
    neutral_points,
)

# sRGB, from the lightest to the darkest skin
_SKIN_TONES = np.array(
    [(250, 219, 202), (240, 197, 170), (226, 174, 140), (200, 150, 120), (160, 112, 86), (112, 76, 58), (72, 48, 39)]
)
_SCLERA, _TEETH = np.array((0.60, 0.57, 0.55), np.float32), np.array((0.62, 0.58, 0.51), np.float32)
_MOUTH_DARK, _TONGUE = (0.035, 0.012, 0.012), (0.36, 0.10, 0.10)
_NOSE_PROFILE = PchipInterpolator(  # height along the nose, from 0 at its root to 1 at its base
    [-0.40, -0.12, 0.0, 0.30, 0.60, 0.80, 0.92, 1.02, 1.12, 1.25],
    [0.0, 0.05, 0.08, 0.16, 0.27, 0.36, 0.35, 0.17, 0.03, 0.0],
)
_IRIS_RADIUS, _PUPIL_RADIUS = 0.098, 0.041
_ROLLED_IN = 0.62  # fraction of the red of each lip that AU23 at intensity 1 rolls in
_EYES = ((LEFT_EYE, -1), (RIGHT_EYE, 1))
_BROWS = ((slice(17, 22), -1), (slice(22, 27), 1))


@dataclass(frozen=True)
class Face:
    """One person with one expression on a canvas, and the values that several parts use."""

    canvas: Canvas
    identity: Identity
    expression: Expression

    @cached_property
    def points(self) -> Array:
        """(68, 2) points with the expression, in face space."""
        return face_points(self.identity, self.expression)

    @cached_property
    def neutral(self) -> Array:
        """(68, 2) points of the same face with a neutral expression."""
        return neutral_points(self.identity)

    @cached_property
    def skin(self) -> Array:
        """(3,) linear colour of the skin: a tone set by `melanin`, shifted to rosy or olive by `undertone`."""
        identity, tones = self.identity, np.arange(len(_SKIN_TONES))
        tone = [np.interp(identity.melanin * tones[-1], tones, channel) / 255 for channel in _SKIN_TONES.T]
        rosy = identity.undertone - 0.5
        return srgb_to_linear(tone) * np.array([1.0, 1.0 - 0.12 * rosy, 1.0 - 0.10 * rosy], np.float32)

    @cached_property
    def outline_radius(self) -> Array:
        """(361,) radius of the head without hair at `ANGLES`: through the 17 points of the jaw and over the skull."""
        return _head_outline(self.points)

    @cached_property
    def outline(self) -> Array:
        """(H, W) distance to the outline of the head, negative inside."""
        return self.canvas.rho - self.canvas.radius_at_pixels(self.outline_radius)

    def au(self, au_id: int, side: int = 0) -> float:
        """The intensity of an AU on one half of the face, or on the whole face (0)."""
        return self.expression.intensity(au_id, side)

    def noise(self, purpose: int) -> np.random.Generator:
        """A random generator of the person; `purpose` gives each part its own stream."""
        return np.random.default_rng((self.identity.texture_seed, purpose))


def _head_outline(points: Array) -> Array:
    width = float(points[16, 0] - points[0, 0]) / 2
    half_skull = np.array([(1.0, -0.42), (0.85, -0.92), (0.47, -1.28)])
    skull = np.concatenate([half_skull, [(0.0, -1.40)], (half_skull * [-1, 1])[::-1]]) * [width, 1.0]
    contour = np.concatenate([points[:17], skull])
    angle = np.arctan2(contour[:, 0], POLAR_CENTER_Y - contour[:, 1])
    radius = np.hypot(contour[:, 0], contour[:, 1] - POLAR_CENTER_Y)
    order = np.argsort(angle)
    angle, radius = angle[order], radius[order]
    spline = CubicSpline(np.append(angle, angle[0] + 2 * np.pi), np.append(radius, radius[0]), bc_type="periodic")
    return spline(ANGLES)


# ----------------------------------------------------------------------------------------------------------- relief
def shape_relief(surface: Surface, face: Face) -> None:
    """Shape the head: a dome that falls off at its outline, nose, eye sockets, cheeks, mouth, chin."""
    canvas, points, identity = face.canvas, face.points, face.identity
    dome = vector_length(canvas.x / 1.34, (canvas.y - 0.2) / 1.95).clip(0, 1.15)
    surface.form += 1.05 * (1 - dome**2.6) - 0.16 * smoothstep(-0.38, 0.04, face.outline) ** 1.5
    surface.form += _nose_relief(canvas, points, identity)
    mouth_y, chin_y = float(points[[48, 54, 62], 1].mean()), float(points[8, 1])
    bumps = [  # x, y, radius x, radius y, height
        (0.0, mouth_y - 0.02, 0.48, 0.30, 0.13),
        (0.0, float(points[57, 1]) + 0.10, 0.26, 0.065, -0.055),
        (0.0, chin_y - 0.19, 0.26, 0.16, 0.11 + 0.03 * identity.masculinity),
        (0.0, float(points[51, 1]) - 0.10, 0.045, 0.10, -0.022),
        *_side_bumps(face, -1),
        *_side_bumps(face, 1),
    ]
    surface.form += canvas.bumps(bumps)


def _side_bumps(face: Face, side: int) -> list[tuple[float, float, float, float, float]]:
    """Bumps of one half: eye socket, eyeball, brow ridge, cheek (raised by AU6, AU10, AU12), jowl, mouth, temple."""
    points, identity = face.points, face.identity
    eye_x, eye_y = face.neutral[LEFT_EYE if side < 0 else RIGHT_EYE].mean(axis=0)
    brow_x, brow_y = points[19 if side < 0 else 24]
    wing_x, wing_y = points[31 if side < 0 else 35]
    corner_x, corner_y = points[48 if side < 0 else 54]
    raised = 0.10 * face.au(6, side) + 0.07 * face.au(12, side)
    return [
        (eye_x, eye_y - 0.05, 0.31, 0.19, -0.17),
        (eye_x, eye_y, 0.20, 0.13, 0.095),
        (brow_x, brow_y + 0.02, 0.32, 0.10, 0.02 + 0.045 * identity.masculinity),
        (side * 0.70, 0.50, 0.33, 0.26, 0.06 + 0.025 * identity.shape.cheeks),
        (side * 0.62, 0.40 - 0.05 * face.au(6, side), 0.28, 0.16, raised),
        (wing_x + side * 0.10, wing_y - 0.16, 0.13, 0.13, 0.07 * face.au(10, side)),
        (side * 0.66, 1.00, 0.24, 0.30, -0.035 - 0.04 * identity.age + 0.02 * identity.shape.cheeks),
        (corner_x + side * 0.06, corner_y + 0.02, 0.07, 0.10, -0.025),
        (corner_x + side * 0.10, corner_y + 0.16, 0.11, 0.12, 0.085 * face.au(15, side)),
        (side * 1.02, -0.45, 0.20, 0.35, -0.06),
    ]


def _nose_relief(canvas: Canvas, points: Array, identity: Identity) -> Array:
    """(H, W) height of the bridge, tip and wings of the nose."""
    root, base = float(points[27, 1]), float(points[33, 1])
    along = ((canvas.y - root) / (base - root)).clip(_NOSE_PROFILE.x[0], _NOSE_PROFILE.x[-1])
    half_width = float(points[35, 0] - points[31, 0]) / 2
    width = half_width * np.interp(along, [-0.3, 0.2, 0.7, 1.0], [0.80, 0.58, 0.66, 0.75])
    nose = (1 + 0.13 * identity.shape.nose_depth) * _NOSE_PROFILE(along).astype(np.float32) * bell(canvas.x, width)
    for x, y in points[[31, 35]]:
        nose += 0.13 * canvas.bump(0.93 * x, y - 0.045, 0.095, 0.085)
    return nose


# ------------------------------------------------------------------------------------------------------------- skin
def paint_skin(surface: Surface, face: Face) -> None:
    """Paint the skin of head and ears: reddened cheeks, nose and ears, dark eye sockets, blotches, pores, freckles."""
    canvas, points, identity = face.canvas, face.points, face.identity
    surface.alpha = np.maximum(canvas.coverage(face.outline), _shape_ears(surface, face))
    flush = 0.55 * canvas.bump(0.0, points[30, 1] + 0.05, 0.20, 0.17)
    for side in (-1, 1):
        flush += 0.75 * canvas.bump(side * 0.72, 0.55, 0.33, 0.26) + 0.8 * canvas.bump(side * 1.2, 0.3, 0.15, 0.4)
    surface.tint(flush * identity.redness * (1 - 0.6 * identity.melanin), (1.02, 0.70, 0.66))
    for eye, _ in _EYES:
        x, y = points[eye].mean(axis=0)
        surface.tint(canvas.bump(x, y + 0.04, 0.34, 0.20) * (0.25 + 0.35 * identity.age), (0.82, 0.70, 0.70))
    rng = face.noise(1)
    blotches = enlarge(rng.standard_normal((14, 12), np.float32), canvas.shape)
    pores = gaussian_filter(rng.standard_normal(canvas.shape, np.float32), 0.7)
    surface.albedo *= 1 + 0.035 * blotches + 0.030 * pores
    surface.detail += (0.0012 + 0.0012 * identity.age) * pores
    oily = 0.35 + 0.8 * canvas.bump(0, 0.35, 0.22, 0.4) + 0.4 * canvas.bump(0, -0.6, 0.5, 0.25)
    surface.gloss += identity.gloss * oily
    if identity.freckles > 0:
        spots = smoothstep(0.6, 1.1, pores) * canvas.bump(0.0, 0.42, 0.85, 0.32)
        surface.tint(identity.freckles * spots, (0.62, 0.45, 0.36))


def _shape_ears(surface: Surface, face: Face) -> Array:
    """Shape both ears, each a rim around a hollow; returns their coverage (H, W)."""
    canvas = face.canvas
    beyond_face = smoothstep(-0.02, 0.03, face.outline)
    covered = np.zeros(canvas.shape, np.float32)
    for jaw, side in ((0, -1), (16, 1)):
        x, y = face.points[jaw] + np.array([side * 0.055, 0.18], np.float32)
        leaning = canvas.x - x + side * 0.10 * (canvas.y - y)
        radius = vector_length(leaning / 0.125, (canvas.y - y) / 0.33)
        covered = np.maximum(covered, canvas.coverage((radius - 1) * 0.13))
        surface.detail += beyond_face * (0.05 * bell(radius - 0.85, 0.16) - 0.04 * bell(radius, 0.55))
        surface.form -= 0.10 * beyond_face * bell(radius, 1.0)
    return covered


def paint_beard(surface: Surface, face: Face) -> None:
    """Paint stubble or a beard below a line from the ears past the mouth corners, and above the upper lip."""
    amount = face.identity.beard
    if amount <= 0:
        return
    canvas, points = face.canvas, face.points
    line = sorted(
        [
            (0.0, points[33, 1] + 0.10),
            (abs(points[31, 0]), points[31, 1] + 0.15),
            (abs(points[48, 0]), points[48, 1] - 0.10),
            (abs(points[3, 0]), 0.78),
            (abs(points[1, 0]), 0.25),
        ]
    )
    edge = np.interp(np.abs(canvas.x), *np.transpose(line)).astype(np.float32)
    strands = gaussian_filter(face.noise(2).standard_normal(canvas.shape, np.float32), (1.2, 0.45))
    mask = smoothstep(-0.06, 0.10, canvas.y - edge + 0.05 * strands) * smoothstep(0.10, -0.05, face.outline)
    density = np.clip(1.1 * amount + 0.35 * strands * min(1.0, 2 * amount), 0, 0.96)
    surface.paint(mask * density, 1.1 * srgb_to_linear(face.identity.brow_color))
    surface.detail += 0.012 * amount * mask * strands
    surface.gloss *= 1 - 0.7 * amount * mask


def paint_wrinkles(surface: Surface, face: Face) -> None:
    """Add the creases of active AUs and of age."""
    for wrinkle in WRINKLES:
        for side in (-1, 1) if wrinkle.mirrored else (0,):
            depth = wrinkle.depth(face.expression, face.identity, side)
            if depth > 0.03:
                anchors = [_anchor_position(anchor, face.points, side) for anchor in wrinkle.path]
                surface.crease(bezier(anchors, 0.7 / face.canvas.pixels_per_unit), wrinkle.width, depth)


def _anchor_position(anchor: Anchor, points: Array, side: int) -> tuple[float, float]:
    """The position of an anchor in face space; `side` is 1 for the right half of a mirrored wrinkle."""
    landmark, outward, down = anchor
    x, y = points[FLIP_68[landmark] if side > 0 else landmark]
    return float(x + (outward if side > 0 else -outward)), float(y + down)


def paint_nostrils(surface: Surface, face: Face) -> None:
    """Paint two dark openings under the tip of the nose."""
    points = face.points
    half_width = float(points[35, 0] - points[31, 0]) / 2
    window = face.canvas.window(points[31:36], 0.12)
    for side in (-1, 1):
        x = window.x - points[33, 0] - side * 0.46 * half_width
        y = window.y - points[32, 1] - 0.006 - side * 0.28 * x
        hole = np.exp(-(np.hypot(x / (0.26 * half_width), y / 0.030) ** 3))
        surface.tint(0.9 * hole, (0.16, 0.09, 0.08), window)
        surface.gloss[window.index] *= 1 - hole


# ------------------------------------------------------------------------------------------------------------ mouth
@dataclass(frozen=True)
class _Lips:
    """The contours of the lips over the columns of a window, (1, w) each, and the areas between them, (h, w) each."""

    upper_out: Array
    upper_in: Array
    lower_in: Array
    lower_out: Array
    skin: Array
    opening: Array


def _lips(face: Face, window: Window) -> _Lips:
    points, coverage, x, y = face.points, face.canvas.coverage, window.x, window.y
    upper_out = curve_through(points[48:55])(x)
    lower_out = curve_through(points[[54, 55, 56, 57, 58, 59, 48]])(x)
    parted = (x >= points[60, 0]) & (x <= points[64, 0])
    corners_y = points[[48, 54], 1].mean()
    upper_in = np.where(parted, curve_through(points[60:65])(x), corners_y)
    lower_in = np.where(parted, np.maximum(curve_through(points[[64, 65, 66, 67, 60]])(x), upper_in), corners_y)
    between_corners = coverage(points[48, 0] - x) * coverage(x - points[54, 0])
    gap = np.clip((lower_in - upper_in) * face.canvas.pixels_per_unit, 0, 1)
    return _Lips(
        upper_out,
        upper_in,
        lower_in,
        lower_out,
        skin=coverage(upper_out - y) * coverage(y - lower_out) * between_corners,
        opening=coverage(upper_in - y) * coverage(y - lower_in) * gap,
    )


def paint_mouth(surface: Surface, face: Face) -> None:
    """Paint the lips between the outer and the inner points, and teeth and tongue between parted lips."""
    window = face.canvas.window(face.points[MOUTH], 0.16)
    lips = _lips(face, window)
    _paint_lips(surface, face, window, lips)
    _paint_cavity(surface, face, window, lips)
    closed = lips.skin * (1 - np.clip((lips.lower_in - lips.upper_in) * face.canvas.pixels_per_unit, 0, 1))
    seam = closed * bell(window.y - lips.upper_in, 0.016 + 0.008 * face.au(24))
    surface.tint(0.85 * seam, (0.30, 0.16, 0.15), window)
    surface.detail[window.index] -= 0.012 * seam


def _paint_lips(surface: Surface, face: Face, window: Window, lips: _Lips) -> None:
    """Paint rounded, coloured lips.

    AU23 rolls the red in to a narrow, darker band; AU24 makes the lips pale and flat, between two bulges of skin.
    """
    identity, tightened, pressed = face.identity, face.au(23), face.au(24)
    upper = ((window.y - lips.upper_out) / np.maximum(lips.upper_in - lips.upper_out, 0.02)).clip(0, 1)
    lower = ((window.y - lips.lower_in) / np.maximum(lips.lower_out - lips.lower_in, 0.02)).clip(0, 1)
    rolled = _ROLLED_IN * tightened
    red_part = smoothstep(rolled - 0.12, rolled + 0.02, upper) * smoothstep(1.12 - rolled, 0.98 - rolled, lower)
    color = srgb_to_linear(identity.lip_color) * (1 - tightened * np.array([0.35, 0.68, 0.62], np.float32))
    color += 0.65 * pressed * (1.08 * face.skin - color)
    ring = bell(np.hypot(window.x / 0.46, (window.y - face.points[62, 1]) / 0.22), 1.0) * (1 - lips.skin * red_part)
    surface.tint(0.8 * tightened * ring, (1.16, 1.22, 1.22), window)
    surface.paint(lips.skin * red_part * (0.50 + 0.45 * identity.lip_strength), color, window)
    roundness = 0.035 * np.sin(np.pi * upper).clip(0) ** 0.8 + 0.055 * np.sin(np.pi * lower).clip(0) ** 0.8
    surface.detail[window.index] += lips.skin * roundness * (1 - 0.7 * pressed)
    surface.gloss[window.index] += lips.skin * (0.5 + 0.8 * identity.lip_strength * (1 - pressed))
    _crease_lips(surface, face, window, lips, tightened)
    _tighten_skin(surface, face, window, lips, tightened)
    middle = 0.045 * pressed * bell(window.x, 0.34)
    above, below = lips.upper_out - 0.05 - window.y, window.y - lips.lower_out - 0.05
    surface.detail[window.index] += middle * (bell(above, 0.06) + bell(below, 0.06))


def _crease_lips(surface: Surface, face: Face, window: Window, lips: _Lips, tightened: float) -> None:
    """Add the faint vertical creases of relaxed lips, which tightening smooths."""
    fan = window.x / (0.42 + 0.25 * np.abs(window.y - face.points[62, 1]))
    bent = face.noise(6).uniform(-1, 1, 3)
    stripes = np.cos(2 * np.pi * 4.2 * fan + 1.5 * bent[0] + 1.2 * np.sin(7 * fan + 3 * bent[1]))
    surface.detail[window.index] += 0.014 * (0.15 * lips.skin * (1 - tightened)) * stripes


def _tighten_skin(surface: Surface, face: Face, window: Window, lips: _Lips, tightened: float) -> None:
    """Add the rolled edges of AU23 around the narrow red: a bulge along each lip with a shaded border."""
    rolled = _ROLLED_IN * tightened
    above = lips.upper_out + rolled * (lips.upper_in - lips.upper_out) - window.y  # distances outside the red
    below = window.y - lips.lower_out + rolled * (lips.lower_out - lips.lower_in)
    across = bell(window.x / face.points[54, 0], 0.67)
    rolls = bell(above - 0.035, 0.035) + bell(below - 0.045, 0.045)
    surface.detail[window.index] += 0.040 * tightened * across * rolls
    shade = bell(below - 0.115, 0.035) + 0.6 * bell(above - 0.005, 0.014) + 0.6 * bell(below - 0.005, 0.014)
    surface.tint(0.40 * tightened * across * shade, (0.62, 0.50, 0.47), window)


def _paint_cavity(surface: Surface, face: Face, window: Window, lips: _Lips) -> None:
    """Paint the open mouth: upper teeth are fixed to the skull, lower teeth and tongue move with the jaw."""
    coverage, neutral, opening = face.canvas.coverage, face.neutral, lips.opening
    jaw_drop = float(face.points[8, 1] - neutral[8, 1])
    bow = 0.30 * window.x**2
    upper_edge = neutral[62, 1] + 0.030 - bow
    lower_edge = neutral[62, 1] + 0.065 + 0.75 * jaw_drop
    surface.paint(opening, _MOUTH_DARK, window)
    tongue = smoothstep(0.0, 0.12, window.y - upper_edge - 0.10 - 0.45 * jaw_drop) * bell(window.x**2, 0.24**2)
    surface.paint(0.8 * opening * tongue, _TONGUE, window)
    teeth = np.clip(coverage(window.y - upper_edge) + coverage(lower_edge - window.y), 0, 1) * bell(window.x**2, 0.16)
    lit = (0.35 + 0.65 * smoothstep(-0.01, 0.07, window.y - lips.upper_in)) * (0.35 + 0.65 * bell(window.x, 0.30))
    gaps = 1 - 0.22 * np.clip(-3 * np.cos(2 * np.pi * window.x / 0.105) - 2, 0, 1)
    surface.paint(opening * teeth, as_color(_TEETH) * lit * gaps, window)
    surface.clear(opening, window)


# ------------------------------------------------------------------------------------------------------------- eyes
@dataclass(frozen=True)
class _Eye:
    """One eye in its window.

    Args:
        side: -1 for the left of the picture, 1 for the right.
        points: (6, 2) landmarks.
        upper: (1, w) y of the upper lid in each column.
        lower: (1, w) y of the lower lid.
        across: (1, w) position between the corners, from -1 to 1.
    """

    side: int
    points: Array
    upper: Array
    lower: Array
    across: Array

    @property
    def outward(self) -> Array:
        """-1 at the inner corner, 1 at the outer one."""
        return self.side * self.across


def paint_eyes(surface: Surface, face: Face) -> None:
    """Paint both eyes with their lids and lashes."""
    for part, side in _EYES:
        points = face.points[part]
        window = face.canvas.window(points, 0.24)
        middle, half = (points[0, 0] + points[3, 0]) / 2, (points[3, 0] - points[0, 0]) / 2
        upper, lower = curve_through(points[[0, 1, 2, 3]]), curve_through(points[[3, 4, 5, 0]])
        eye = _Eye(side, points, upper(window.x), lower(window.x), (window.x - middle) / half)
        _shape_lids(surface, face, window, eye)
        _paint_eyeball(surface, face, window, eye)
        _paint_lashes(surface, face, window, eye)


def _shape_lids(surface: Surface, face: Face, window: Window, eye: _Eye) -> None:
    """Shape the fold of the upper lid, the lower lid with its bulge (AU7), and the bag below it (AU6, age)."""
    identity = face.identity
    arc = np.sqrt(1 - (eye.across / 1.15).clip(-1, 1) ** 2)
    height = max(0.0, 0.085 + 0.03 * identity.shape.lid_fold) * arc
    fold = bell(window.y - eye.upper + height, 0.020) * arc * smoothstep(-1.6, -0.4, identity.shape.lid_fold)
    surface.tint(0.45 * fold, (0.50, 0.36, 0.32), window)
    below = window.y - eye.lower
    roll = 0.012 * bell(below - 0.03, 0.03) + 0.055 * face.au(7, eye.side) * bell(below - 0.048, 0.034)
    bag = (0.030 * face.au(6, eye.side) + 0.025 * identity.age) * bell(below - 0.11, 0.06)
    surface.detail[window.index] += (roll + bag) * arc - 0.018 * fold


def _paint_eyeball(surface: Surface, face: Face, window: Window, eye: _Eye) -> None:
    """Paint sclera, iris, pupil and reflections, in the shadow of the upper lid."""
    coverage, points = face.canvas.coverage, eye.points
    corners = coverage(points[0, 0] - window.x) * coverage(window.x - points[3, 0])
    opening = coverage(eye.upper - window.y) * coverage(window.y - eye.lower) * corners
    middle_x, middle_y = (points[0] + points[3]) / 2
    x, y = window.x - middle_x - face.expression.gaze[0], window.y - middle_y + 0.012 - face.expression.gaze[1]
    reddened = bell(eye.outward + 0.93, 0.16) * as_color((0.25, 0.55, 0.55))
    rounded = 1 - 0.35 * eye.across**2 * as_color((0.6, 1.0, 1.0))
    color = np.broadcast_to(as_color(_SCLERA) * rounded * (1 - reddened), (3, *opening.shape)).copy()
    _paint_iris(color, face, x, y)
    color *= 0.40 + 0.60 * smoothstep(-0.01, 0.075, window.y - eye.upper)
    surface.paint(opening, color, window)
    surface.clear(opening, window)
    shine = bell(x - 0.032, 0.020) * bell(y + 0.036, 0.022) + 0.18 * bell(x + 0.035, 0.030) * bell(y - 0.040, 0.025)
    surface.glint[window.index] += 0.85 * shine * opening


def _paint_iris(color: Array, face: Face, x: Array, y: Array) -> None:
    """Paint the iris with rays and a dark rim, and the pupil, centred at x = y = 0, into `color` (3, h, w)."""
    radius, angle = vector_length(x, y), np.arctan2(y, x)
    rays = 0.8 + 0.25 * np.cos(9 * angle + 1.0) * np.cos(5 * angle) + 0.5 * smoothstep(0.2, 0.9, y / _IRIS_RADIUS)
    rim = 1 - 0.72 * smoothstep(0.72, 1.0, radius / _IRIS_RADIUS)
    iris = 1.25 * as_color(srgb_to_linear(face.identity.iris_color)) * rays * rim
    color += face.canvas.coverage(radius - _IRIS_RADIUS) * (iris - color)
    color *= 1 - 0.97 * face.canvas.coverage(radius - _PUPIL_RADIUS)


def _paint_lashes(surface: Surface, face: Face, window: Window, eye: _Eye) -> None:
    """Paint a dark line along the upper lid and past the outer corner, and a faint line along the lower lid."""
    lashes = face.identity.lashes
    ends = smoothstep(-1.05, -0.7, eye.outward) * smoothstep(1.05 + 0.2 * lashes, 0.9, eye.outward)
    thickness = (0.012 + 0.016 * lashes) * (0.7 + 0.5 * eye.outward.clip(-1, 1))
    upper = bell(window.y - eye.upper + 0.4 * thickness, np.maximum(thickness, 0.006))
    surface.tint((0.60 + 0.35 * lashes) * upper * ends, (0.10, 0.07, 0.06), window)
    surface.tint((0.25 + 0.3 * lashes) * bell(window.y - eye.lower, 0.012) * ends, (0.35, 0.22, 0.20), window)


# ------------------------------------------------------------------------------------------------ brows and glasses
def paint_brows(surface: Surface, face: Face) -> None:
    """Paint hair along the five points of each brow, thick near the nose and thin near the temple."""
    identity = face.identity
    for part, side in _BROWS:
        points = face.points[part]
        window = face.canvas.window(points, 0.12)
        along = (side * window.x - (side * points[:, 0]).min()) / np.ptp(points[:, 0])  # 0 at the nose, 1 outside
        taper = np.interp(along, [-0.10, 0.0, 0.12, 0.55, 1.0, 1.06], [0.3, 0.75, 1.0, 0.9, 0.30, 0.05])
        half = 0.052 * (1 + 0.22 * identity.shape.brow_thickness) * taper
        distance = np.abs(window.y - curve_through(points)(window.x) - 0.01) / half
        hairs = interpolate_periodic(
            face.noise(3 + side).standard_normal(512), 38 * side * window.x + 30 * window.y + 100
        )
        ends = smoothstep(-0.12, 0.04, along) * smoothstep(1.10, 0.98, along)
        body = (np.clip(1.25 - distance, 0, 1) ** 0.8 * ends).astype(np.float32)
        surface.paint(np.clip(body * (0.85 + 0.16 * hairs), 0, 0.95), srgb_to_linear(identity.brow_color), window)
        surface.detail[window.index] += 0.010 * body * (0.6 + 0.5 * hairs)
        surface.gloss[window.index] *= 1 - 0.8 * body


def paint_glasses(surface: Surface, face: Face) -> None:
    """Paint a frame with round to square lenses, its bridge and its temples."""
    roundness = face.identity.glasses
    if roundness <= 0:
        return
    canvas = face.canvas
    frame, lens = np.zeros(canvas.shape, np.float32), np.zeros(canvas.shape, np.float32)
    radius_x, radius_y, power = 0.36, 0.255 + 0.07 * roundness, 6 - 4 * roundness
    for part, side in _EYES:
        x, y = face.neutral[part].mean(axis=0) + np.array([side * 0.02, 0.04], np.float32)
        off_x, off_y = np.abs(canvas.x - x) / radius_x, np.abs(canvas.y - y) / radius_y
        distance = ((off_x**power + off_y**power) ** (1 / power) - 1) * radius_y
        lens = np.maximum(lens, canvas.coverage(distance))
        beside = (side * (canvas.x - x) > 0.93 * radius_x) & (face.outline < 0.05)
        temple = canvas.coverage(np.abs(canvas.y - y + 0.06) - 0.022) * beside
        frame = np.maximum(frame, np.maximum(temple, canvas.coverage(np.abs(distance) - 0.020)))
    bridge = canvas.coverage(np.abs(canvas.y - face.points[27, 1] - 0.02 + 0.6 * canvas.x**2) - 0.018)
    frame = np.maximum(frame, bridge * (np.abs(canvas.x) < 0.15) * (1 - lens))
    surface.tint(lens, (0.90, 0.92, 0.93))
    surface.glint += 0.05 * lens * (0.4 + bell(canvas.x + 0.7 * canvas.y - np.round(canvas.x), 0.05))
    surface.paint(frame, srgb_to_linear(face.identity.frame_color))
    surface.clear(frame)
    surface.detail += 0.03 * frame
    surface.gloss += 1.2 * frame
