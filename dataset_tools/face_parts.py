"""The parts of a face, painted one over the other: relief, skin, beard, lips, wrinkles, mouth, eyes, brows, glasses.

Each function paints one part onto a `Surface`. Where a part is follows from the 68 points, so that the points are
exact by construction; `intensities` (12 values in [0, 1], in the order of `AU_IDS`) drive what AUs show in texture.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.interpolate import CubicSpline, PchipInterpolator
from scipy.ndimage import gaussian_filter, zoom

from ..labels_mf2 import AU_IDS, FLIP_68
from .face_canvas import POLAR_CENTER_Y, Array, Canvas, Surface, bezier, curve_through, smoothstep, srgb_to_linear
from .face_model import LEFT_EYE, RIGHT_EYE, WRINKLES, Anchor, Identity, face_points, neutral_points

# sRGB, from the lightest to the darkest skin
_SKIN_TONES = np.array(
    [(250, 219, 202), (240, 197, 170), (226, 174, 140), (200, 144, 108), (160, 106, 76), (112, 72, 52), (72, 46, 36)]
)
_TEETH, _MOUTH_DARK, _TONGUE = (0.74, 0.70, 0.62), (0.035, 0.012, 0.012), (0.36, 0.10, 0.10)


@dataclass(frozen=True)
class Face:
    """One face in one expression, as all parts see it."""

    canvas: Canvas
    identity: Identity
    intensities: Array
    gaze: tuple[float, float] = (0.0, 0.0)

    @cached_property
    def points(self) -> Array:
        """(68, 2) points of the expression in face space."""
        return face_points(self.identity, self.intensities)

    @cached_property
    def rest(self) -> Array:
        """(68, 2) points of the same face at rest."""
        return neutral_points(self.identity)

    @cached_property
    def skin(self) -> Array:
        """(3,) linear colour of the skin."""
        return skin_color(self.identity)

    @cached_property
    def outline(self) -> Array:
        """(H, W) signed distance to the outline of the head without hair, negative inside."""
        angle, radius = outline_table(self.points)
        return self.canvas.rho - np.interp(self.canvas.theta, angle, radius).astype(np.float32)

    def au(self, au_id: int) -> float:
        """The intensity of an AU."""
        return float(self.intensities[AU_IDS.index(au_id)])

    def noise(self, name: int) -> np.random.Generator:
        """Random numbers that belong to the person; `name` tells the parts apart."""
        return np.random.default_rng((self.identity.texture_seed, name))


def skin_color(identity: Identity) -> Array:
    """(3,) linear colour: a tone between the lightest and the darkest, shifted towards rosy or olive."""
    position = identity.melanin * (len(_SKIN_TONES) - 1)
    tone = np.array([np.interp(position, np.arange(len(_SKIN_TONES)), channel) for channel in _SKIN_TONES.T]) / 255
    return srgb_to_linear(tone) * np.array(
        [1.0, 1.06 - 0.12 * identity.undertone, 1.0 - 0.10 * (identity.undertone - 0.5)]
    )


def outline_table(points: Array) -> tuple[Array, Array]:
    """Angle -> radius of the head's outline: through the jaw's 17 points and over the skull."""
    width = float(points[16, 0] - points[0, 0]) / 2
    skull = np.array(
        [(1.0, -0.42), (0.85, -0.92), (0.47, -1.28), (0.0, -1.40), (-0.47, -1.28), (-0.85, -0.92), (-1.0, -0.42)]
    )
    contour = np.concatenate([points[:17], skull * [width, 1.0]])
    angle = np.arctan2(contour[:, 0], POLAR_CENTER_Y - contour[:, 1])
    radius = np.hypot(contour[:, 0], contour[:, 1] - POLAR_CENTER_Y)
    order = np.argsort(angle)
    angle, radius = angle[order], radius[order]
    closed = CubicSpline(np.append(angle, angle[0] + 2 * np.pi), np.append(radius, radius[0]), bc_type="periodic")
    table = np.linspace(-np.pi, np.pi, 361)
    return table, closed(table)


# ----------------------------------------------------------------------------------------------------------- relief
def shape_relief(surface: Surface, face: Face) -> None:
    """The head's form: dome, nose, eye sockets, cheeks, the mound of the mouth, chin."""
    canvas, points, identity = face.canvas, face.points, face.identity
    dome = np.sqrt((canvas.x / 1.34) ** 2 + ((canvas.y - 0.2) / 1.95) ** 2).clip(0, 1.15)
    form = 1.05 * (1 - dome**2.6)
    form += nose_relief(canvas, points, identity)
    mouth_y, chin_y = float(points[[48, 54, 62], 1].mean()), float(points[8, 1])
    brow_ridge = 0.02 + 0.04 * identity.masculinity
    cheeks = 0.05 + 0.025 * identity.shape.cheeks
    raised = 0.09 * face.au(6) + 0.07 * face.au(12)
    bumps = [
        (0.0, mouth_y - 0.02, 0.50, 0.30, 0.13),
        (0.0, mouth_y + 0.27 * (chin_y - mouth_y), 0.30, 0.07, -0.035),
        (0.0, chin_y - 0.20, 0.28, 0.17, 0.10),
        (0.0, points[51, 1] - 0.10, 0.045, 0.10, -0.018),
    ]
    for side in (-1, 1):
        eye = points[LEFT_EYE if side < 0 else RIGHT_EYE].mean(axis=0)
        brow = points[19 if side < 0 else 24]
        bumps += [
            (eye[0], eye[1] - 0.05, 0.31, 0.19, -0.16),
            (eye[0], eye[1], 0.20, 0.13, 0.085),
            (brow[0], brow[1] + 0.02, 0.32, 0.10, brow_ridge),
            (side * 0.70, 0.52, 0.33, 0.30, cheeks),
            (side * 0.64, 0.40, 0.30, 0.17, raised),
            (side * 0.62, 1.05, 0.22, 0.30, -0.03 * identity.age - 0.015),
            (side * 1.02, -0.45, 0.20, 0.35, -0.06),
        ]
    for x, y, radius_x, radius_y, height in bumps:
        form += height * canvas.bump(x, y, radius_x, radius_y)
    surface.form += form


def nose_relief(canvas: Canvas, points: Array, identity: Identity) -> Array:
    """Bridge, tip and wings of the nose."""
    root, base = float(points[27, 1]), float(points[33, 1])
    along = (canvas.y[:, 0] - root) / (base - root)
    depth = 1 + 0.13 * identity.shape.nose_depth
    knots = [-0.40, -0.12, 0.0, 0.30, 0.60, 0.80, 0.92, 1.02, 1.12, 1.25]
    height = PchipInterpolator(knots, [0.0, 0.05, 0.08, 0.16, 0.27, 0.36, 0.35, 0.17, 0.03, 0.0])
    along = along.clip(knots[0], knots[-1])
    half_width = float(points[35, 0] - points[31, 0]) / 2
    width = half_width * np.interp(along, [-0.3, 0.2, 0.7, 1.0], [0.75, 0.50, 0.62, 0.75])
    ridge = depth * height(along)[:, None] * np.exp(-((canvas.x / width[:, None]) ** 2))
    for wing in (31, 35):
        x, y = points[wing]
        ridge += 0.13 * canvas.bump(x * 0.93, y - 0.045, 0.095, 0.085)
    return ridge.astype(np.float32)


# ------------------------------------------------------------------------------------------------------------- skin
def paint_skin(surface: Surface, face: Face) -> None:
    """Colour of the bare head with its ears: redder cheeks, nose and ears, shaded sockets, blotches and freckles."""
    canvas, points, identity = face.canvas, face.points, face.identity
    surface.alpha = np.maximum(canvas.coverage(face.outline), _ears(surface, face))
    surface.albedo[:] = face.skin
    fair = 1 - 0.6 * identity.melanin
    flush = 0.55 * canvas.bump(0.0, points[30, 1] + 0.05, 0.20, 0.17)
    for side in (-1, 1):
        flush += 0.75 * canvas.bump(side * 0.72, 0.55, 0.33, 0.26) + 0.8 * canvas.bump(side * 1.2, 0.3, 0.15, 0.4)
    surface.tint(flush * identity.redness * fair, (1.02, 0.70, 0.66))
    sockets = sum(
        canvas.bump(points[eye, 0].mean(), points[eye, 1].mean() + 0.04, 0.34, 0.20) for eye in (LEFT_EYE, RIGHT_EYE)
    )
    surface.tint(sockets * (0.25 + 0.35 * identity.age), (0.82, 0.70, 0.70))
    rng = face.noise(1)
    coarse = zoom(rng.standard_normal((14, 12)), (canvas.shape[0] / 14, canvas.shape[1] / 12), order=1)
    fine = gaussian_filter(rng.standard_normal(canvas.shape).astype(np.float32), 0.7)
    surface.albedo *= (1 + 0.035 * _fit(coarse, canvas.shape) + 0.030 * fine)[..., None]
    surface.detail += (0.0012 + 0.0012 * identity.age) * fine
    surface.gloss += identity.gloss * (
        0.35 + 0.8 * canvas.bump(0, 0.35, 0.22, 0.4) + 0.4 * canvas.bump(0, -0.6, 0.5, 0.25)
    )
    if identity.freckles > 0:
        spots = smoothstep(1.0, 1.8, 1.6 * fine) * canvas.bump(0.0, 0.42, 0.85, 0.32)
        surface.tint(identity.freckles * spots, (0.62, 0.45, 0.36))


def _fit(values: np.ndarray, shape: tuple[int, int]) -> Array:
    out = np.zeros(shape, np.float32)
    rows, columns = min(shape[0], values.shape[0]), min(shape[1], values.shape[1])
    out[:rows, :columns] = values[:rows, :columns]
    return out


def _ears(surface: Surface, face: Face) -> Array:
    """Coverage of both ears; their relief is a rim around a hollow."""
    canvas, points = face.canvas, face.points
    covered = np.zeros(canvas.shape, np.float32)
    for jaw, side in ((0, -1), (16, 1)):
        x, y = points[jaw, 0] + side * 0.055, points[jaw, 1] + 0.18
        radius = np.sqrt(((canvas.x - x + side * 0.10 * (canvas.y - y)) / 0.125) ** 2 + ((canvas.y - y) / 0.33) ** 2)
        covered = np.maximum(covered, canvas.coverage((radius - 1) * 0.13))
        outside = smoothstep(-0.02, 0.03, face.outline)
        surface.detail += outside * (
            0.05 * np.exp(-(((radius - 0.85) / 0.16) ** 2)) - 0.04 * np.exp(-((radius / 0.55) ** 2))
        )
        surface.form -= 0.10 * np.exp(-(radius**2)) * outside
    return covered


def paint_beard(surface: Surface, face: Face) -> None:
    """Stubble to full beard: below a line from ear to mouth, and over the upper lip."""
    amount = face.identity.beard
    if amount <= 0:
        return
    canvas, points = face.canvas, face.points
    knots = np.abs(points[[33, 31, 48, 3, 1], 0])
    line = [points[33, 1] + 0.10, points[31, 1] + 0.15, points[48, 1] - 0.10, 0.78, 0.25]
    edge = np.interp(np.abs(canvas.x[0]), np.sort(knots), np.array(line)[np.argsort(knots)]).astype(np.float32)
    strands = face.noise(2).standard_normal(canvas.shape).astype(np.float32)
    strands = gaussian_filter(strands, (1.2, 0.45))
    mask = smoothstep(-0.06, 0.10, canvas.y - edge + 0.05 * strands) * smoothstep(0.10, -0.05, face.outline)
    density = np.clip(amount * 1.1 + 0.35 * strands * min(1.0, 2 * amount), 0, 0.96)
    surface.paint(mask * density, srgb_to_linear(face.identity.brow_color) * 1.1)
    surface.detail += mask * amount * 0.012 * strands
    surface.gloss *= 1 - 0.7 * mask * amount


# --------------------------------------------------------------------------------------------------------- wrinkles
def paint_wrinkles(surface: Surface, face: Face) -> None:
    """The creases that AUs raise and age leaves, and the fixed creases around the wings of the nose."""
    step = 0.7 / face.canvas.pixels_per_unit
    for wrinkle in WRINKLES:
        depth = wrinkle.depth(face.intensities, face.identity)
        if depth < 0.03:
            continue
        for side in (-1.0, 1.0) if wrinkle.mirrored else (-1.0,):
            path = bezier(*(_place(anchor, face.points, side) for anchor in wrinkle.path), step=step)
            surface.crease(path, wrinkle.width, depth)
    for side in (-1.0, 1.0):
        wing = (
            _place((31, outward, down), face.points, side)
            for outward, down in ((-0.01, -0.14), (0.09, -0.06), (0.02, 0.04))
        )
        surface.crease(bezier(*wing, step=step), 0.032, 0.75)


def _place(anchor: Anchor, points: Array, side: float) -> tuple[float, float]:
    landmark, outward, down = anchor
    x, y = points[landmark if side < 0 else FLIP_68[landmark]]
    return float(x + side * outward), float(y + down)


# ------------------------------------------------------------------------------------------------------------ mouth
def paint_mouth(surface: Surface, face: Face) -> None:
    """Lips between the outer and the inner points; behind them, where they part, teeth, tongue and the dark."""
    points = face.points
    window = face.canvas.window(points[48:68], 0.12)
    x = window.x
    upper_out, lower_out = curve_through(points[48:55])(x), curve_through(points[[54, 55, 56, 57, 58, 59, 48]])(x)
    upper_in, lower_in = curve_through(points[60:65])(x), curve_through(points[[64, 65, 66, 67, 60]])(x)
    between = (x >= points[60, 0]) & (x <= points[64, 0])
    seam = (points[48, 1] + points[54, 1]) / 2
    upper_in, lower_in = np.where(between, upper_in, seam), np.where(between, np.maximum(lower_in, upper_in), seam)
    corners = face.canvas.coverage(points[48, 0] - x) * face.canvas.coverage(x - points[54, 0])
    lips = face.canvas.coverage(upper_out - window.y) * face.canvas.coverage(window.y - lower_out) * corners
    _paint_lips(surface, face, window, lips, (upper_out, upper_in, lower_in, lower_out))
    gap = np.clip((lower_in - upper_in) * face.canvas.pixels_per_unit, 0, 1) * between
    opening = face.canvas.coverage(upper_in - window.y) * face.canvas.coverage(window.y - lower_in) * gap
    _paint_cavity(surface, face, window, opening, upper_in)
    line = np.exp(-(((window.y - upper_in) / (0.016 + 0.008 * face.au(24))) ** 2)) * corners * (1 - gap)
    surface.tint(0.85 * line, (0.30, 0.16, 0.15), window)
    surface.detail[window.index] -= 0.012 * line


def _paint_lips(surface: Surface, face: Face, window, lips: Array, curves: tuple[Array, Array, Array, Array]) -> None:
    """Rounded, coloured lips. AU23 reddens them and draws upright creases, AU24 takes their colour and flattens them."""
    upper_out, upper_in, lower_in, lower_out = curves
    identity, tightened, pressed = face.identity, face.au(23), face.au(24)
    red = (
        srgb_to_linear(identity.lip_color)
        * (0.35 + 0.65 * face.skin / face.skin.max())
        * (1 - 0.45 * identity.melanin)
    )
    color = red * (1 + tightened * np.array([0.02, -0.38, -0.34], np.float32))
    color = color + pressed * 0.75 * (1.08 * face.skin - color)
    surface.paint(lips * (0.45 + 0.50 * identity.lip_strength), color, window)
    upper = ((window.y - upper_out) / np.maximum(upper_in - upper_out, 0.02)).clip(0, 1)
    lower = ((window.y - lower_in) / np.maximum(lower_out - lower_in, 0.02)).clip(0, 1)
    roundness = 0.035 * np.sin(np.pi * upper).clip(0) ** 0.8 + 0.055 * np.sin(np.pi * lower).clip(0) ** 0.8
    surface.detail[window.index] += lips * roundness * (1 - 0.7 * pressed)
    surface.gloss[window.index] += lips * (0.5 + 0.8 * identity.lip_strength * (1 - pressed))
    _crease_lips(surface, face, window, lips, tightened)
    _bulge_lips(surface, face, window, curves, pressed)


def _crease_lips(surface: Surface, face: Face, window, lips: Array, tightened: float) -> None:
    """Upright creases across and around the lips, fanning out from the middle."""
    reach = np.abs(window.y - face.points[62, 1])
    fan = window.x / (0.42 + 0.25 * reach)
    around = np.exp(-((reach / 0.22) ** 2)) * np.exp(-((window.x / 0.36) ** 2))
    stripes = np.cos(2 * np.pi * 5.5 * fan)
    depth = 0.15 * lips * (1 - tightened) + tightened * (0.9 * lips + 0.8 * around * (1 - lips))
    surface.detail[window.index] += 0.010 * depth * stripes
    surface.tint(0.50 * depth * np.clip(-stripes, 0, 1) * tightened, (0.50, 0.36, 0.34), window)


def _bulge_lips(surface: Surface, face: Face, window, curves: tuple[Array, ...], pressed: float) -> None:
    """The skin that pressed lips push out above and below them."""
    if pressed <= 0:
        return
    above, below = curves[0] - 0.05 - window.y, window.y - curves[3] - 0.05
    middle = np.exp(-((window.x / 0.34) ** 2))
    surface.detail[window.index] += (
        0.045 * pressed * middle * (np.exp(-((above / 0.06) ** 2)) + np.exp(-((below / 0.06) ** 2)))
    )


def _paint_cavity(surface: Surface, face: Face, window, opening: Array, upper_in: Array) -> None:
    """Upper teeth hang from the skull, lower teeth and tongue go with the jaw."""
    canvas, rest = face.canvas, face.rest
    surface.paint(opening, _MOUTH_DARK, window)
    bow = 0.30 * window.x**2
    edge = rest[62, 1] + 0.030 - bow
    jaw = face.points[8, 1] - rest[8, 1]
    tongue = opening * smoothstep(0.0, 0.12, window.y - (edge + 0.10 + 0.45 * jaw)) * np.exp(-((window.x / 0.24) ** 4))
    surface.paint(0.8 * tongue, _TONGUE, window)
    teeth = canvas.coverage(window.y - edge) + canvas.coverage(edge + 0.035 + 0.75 * jaw + bow - window.y)
    arch = np.exp(-((window.x / 0.40) ** 4))
    shade = (0.35 + 0.65 * smoothstep(-0.01, 0.07, window.y - upper_in)) * (
        0.35 + 0.65 * np.exp(-((window.x / 0.30) ** 2))
    )
    gaps = 1 - 0.22 * np.clip(np.cos(2 * np.pi * window.x / 0.105 + np.pi) * 3 - 2, 0, 1)
    surface.paint(opening * np.clip(teeth, 0, 1) * arch, np.array(_TEETH) * (shade * gaps)[..., None], window)
    surface.detail[window.index] *= 1 - opening
    surface.gloss[window.index] *= 1 - opening


def paint_nostrils(surface: Surface, face: Face) -> None:
    """Two dark openings under the tip of the nose."""
    canvas, points = face.canvas, face.points
    half_width = float(points[35, 0] - points[31, 0]) / 2
    for side in (-1, 1):
        x, y = side * 0.46 * half_width + points[33, 0], points[32, 1] + 0.006
        slant = canvas.y - y - side * 0.28 * (canvas.x - x)
        hole = np.exp(-((((canvas.x - x) / (0.26 * half_width)) ** 2 + (slant / 0.030) ** 2) ** 1.5))
        surface.tint(0.9 * hole, (0.16, 0.09, 0.08))
        surface.gloss *= 1 - hole


# ------------------------------------------------------------------------------------------------------------- eyes
def paint_eyes(surface: Surface, face: Face) -> None:
    """Both eyes with their lids."""
    for eye, side in ((LEFT_EYE, -1), (RIGHT_EYE, 1)):
        points = face.points[eye]
        window = face.canvas.window(points, 0.24)
        upper = curve_through(points[[0, 1, 2, 3]])(window.x)
        lower = curve_through(points[[3, 4, 5, 0]])(window.x)
        _shape_lids(surface, face, window, points, upper, lower)
        _paint_eyeball(surface, face, window, points, upper, lower, side)
        _paint_lashes(surface, face, window, points, upper, lower, side)


def _shape_lids(surface: Surface, face: Face, window, points: Array, upper: Array, lower: Array) -> None:
    """The fold of the upper lid and the lower lid's bulge (AU7) and bag (AU6, age)."""
    identity = face.identity
    middle, half = (points[0, 0] + points[3, 0]) / 2, (points[3, 0] - points[0, 0]) / 2
    across = ((window.x - middle) / (1.15 * half)).clip(-1, 1)
    arc = np.sqrt(1 - across**2)
    height = max(0.0, 0.085 + 0.03 * identity.shape.lid_fold) * arc
    fold = np.exp(-(((window.y - upper + height) / 0.020) ** 2)) * arc
    visible = smoothstep(-1.6, -0.4, identity.shape.lid_fold)
    surface.detail[window.index] -= 0.018 * fold * visible
    surface.tint(0.45 * fold * visible, (0.50, 0.36, 0.32), window)
    below = window.y - lower
    roll = 0.012 * np.exp(-(((below - 0.03) / 0.03) ** 2)) + 0.042 * face.au(7) * np.exp(
        -(((below - 0.045) / 0.032) ** 2)
    )
    bag = (0.030 * face.au(6) + 0.025 * identity.age) * np.exp(-(((below - 0.11) / 0.06) ** 2))
    surface.detail[window.index] += (roll + bag) * arc


def _paint_eyeball(surface: Surface, face: Face, window, points: Array, upper: Array, lower: Array, side: int) -> None:
    """Sclera, iris, pupil and the lid's shadow, where the lids are open."""
    canvas, identity = face.canvas, face.identity
    corners = canvas.coverage(points[0, 0] - window.x) * canvas.coverage(window.x - points[3, 0])
    opening = canvas.coverage(upper - window.y) * canvas.coverage(window.y - lower) * corners
    middle, half = (points[0] + points[3]) / 2, (points[3, 0] - points[0, 0]) / 2
    x, y = window.x - middle[0] - face.gaze[0], window.y - middle[1] + 0.012 - face.gaze[1]
    radius, angle = np.hypot(x, y) / 0.098, np.arctan2(y, x)
    across = (window.x - middle[0]) / half
    white = np.array([0.70, 0.66, 0.63], np.float32) * (1 - 0.35 * across[..., None] ** 2 * [0.6, 1.0, 1.0])
    inner = np.exp(-(((side * across + 0.93) / 0.16) ** 2))
    color = white * (1 - inner[..., None] * [0.25, 0.55, 0.55]) + np.zeros((*opening.shape, 1), np.float32)
    iris = srgb_to_linear(identity.iris_color)
    rays = 1 + 0.25 * np.cos(9 * angle + 1.0) * np.cos(5 * angle) + 0.5 * smoothstep(0.2, 0.9, y / 0.098) - 0.2
    rim = 1 - 0.72 * smoothstep(0.72, 1.0, radius)
    disc = canvas.coverage((radius - 1) * 0.098)[..., None]
    color += disc * (iris * (rays * rim)[..., None] * 1.25 - color)
    color *= 1 - 0.97 * canvas.coverage((radius - 0.42) * 0.098)[..., None]
    color *= 0.40 + 0.60 * smoothstep(-0.01, 0.075, window.y - upper)[..., None]
    surface.paint(opening, color, window)
    surface.detail[window.index] *= 1 - opening
    surface.gloss[window.index] *= 1 - opening
    shine = np.exp(-(((x - 0.032) / 0.020) ** 2 + ((y + 0.036) / 0.022) ** 2)) + 0.18 * np.exp(
        -(((x + 0.035) / 0.03) ** 2 + ((y - 0.04) / 0.025) ** 2)
    )
    surface.glint[window.index] += 0.85 * shine * opening


def _paint_lashes(surface: Surface, face: Face, window, points: Array, upper: Array, lower: Array, side: int) -> None:
    """A dark line along the upper lid that runs out past the outer corner, a faint one along the lower lid."""
    lashes = face.identity.lashes
    middle, half = (points[0, 0] + points[3, 0]) / 2, (points[3, 0] - points[0, 0]) / 2
    across = side * (window.x - middle) / half  # -1 at the inner corner, 1 at the outer one
    ends = smoothstep(-1.05, -0.7, across) * smoothstep(1.05 + 0.2 * lashes, 0.9, across)
    thickness = (0.012 + 0.016 * lashes) * (0.7 + 0.5 * across.clip(-1, 1))
    line = np.exp(-(((window.y - upper + 0.4 * thickness) / np.maximum(thickness, 0.006)) ** 2))
    surface.tint((0.60 + 0.35 * lashes) * line * ends, (0.10, 0.07, 0.06), window)
    line = np.exp(-(((window.y - lower) / 0.012) ** 2))
    surface.tint((0.25 + 0.3 * lashes) * line * ends, (0.35, 0.22, 0.20), window)


# ------------------------------------------------------------------------------------------------------------ brows
def paint_brows(surface: Surface, face: Face) -> None:
    """Hair along the five points of each brow, thick at the nose and thin at the temple."""
    identity = face.identity
    color = srgb_to_linear(identity.brow_color)
    thick = 0.052 * (1 + 0.22 * identity.shape.brow_thickness)
    for brow, side in ((slice(17, 22), -1), (slice(22, 27), 1)):
        points = face.points[brow]
        window = face.canvas.window(points, 0.12)
        center = curve_through(points)(window.x)
        along = (side * window.x - min(side * points[[0, -1], 0])) / np.ptp(points[:, 0])
        half = thick * np.interp(along, [-0.10, 0.0, 0.12, 0.55, 1.0, 1.06], [0.3, 0.75, 1.0, 0.9, 0.30, 0.05])
        away = (window.y - center - 0.01) / half
        strands = face.noise(3 + side).standard_normal(512)
        comb = np.interp((side * window.x * 38 + window.y * 30 + 100) % 511, np.arange(512), strands)
        body = (
            np.clip(1.25 - np.abs(away), 0, 1) ** 0.8 * smoothstep(-0.12, 0.04, along) * smoothstep(1.10, 0.98, along)
        )
        density = np.clip(body * (0.85 + 0.16 * comb), 0, 0.95)
        surface.paint(density.astype(np.float32), color, window)
        surface.detail[window.index] += 0.010 * body * (0.6 + 0.5 * comb)
        surface.gloss[window.index] *= 1 - 0.8 * body


# ---------------------------------------------------------------------------------------------------------- glasses
def paint_glasses(surface: Surface, face: Face) -> None:
    """A frame with round to square lenses, a bridge and temples."""
    roundness = face.identity.glasses
    if roundness <= 0:
        return
    canvas, points = face.canvas, face.points
    power = 2 + 4 * (1 - roundness)
    radius_x, radius_y, thickness = 0.36, 0.255 + 0.07 * roundness, 0.020
    frame = np.zeros(canvas.shape, np.float32)
    lens = np.zeros(canvas.shape, np.float32)
    for eye, side in ((LEFT_EYE, -1), (RIGHT_EYE, 1)):
        x, y = face.rest[eye].mean(axis=0) + (side * 0.02, 0.04)
        norm = (np.abs((canvas.x - x) / radius_x) ** power + np.abs((canvas.y - y) / radius_y) ** power) ** (1 / power)
        distance = (norm - 1) * radius_y
        frame = np.maximum(frame, canvas.coverage(np.abs(distance) - thickness))
        lens = np.maximum(lens, canvas.coverage(distance))
        temple = np.abs(canvas.y - y + 0.06) - 0.022
        beyond = (side * (canvas.x - x) > 0.93 * radius_x) & (face.outline < 0.05)
        frame = np.maximum(frame, canvas.coverage(temple) * beyond)
    bridge = np.abs(canvas.y - points[27, 1] - 0.02 + 0.6 * canvas.x**2) - 0.018
    frame = np.maximum(frame, canvas.coverage(bridge) * (np.abs(canvas.x) < 0.15) * (1 - lens))
    sheen = np.exp(-(((canvas.x + canvas.y * 0.7 - np.round(canvas.x) * 1.0) / 0.05) ** 2))
    surface.tint(lens, (0.90, 0.92, 0.93))
    surface.glint += 0.05 * lens * (0.4 + sheen)
    surface.paint(frame, srgb_to_linear(face.identity.frame_color))
    surface.detail = surface.detail * (1 - frame) + 0.03 * frame
    surface.gloss = surface.gloss * (1 - frame) + 1.2 * frame
