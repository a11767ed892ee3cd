"""A parametric face: the identity, its 68 points, and how each action unit (AU) moves the points and adds wrinkles.

Face space: the origin lies midway between the eyes, the unit is the eye distance of the average face, x runs to the
right of the picture, y down and z to the viewer. The tables below describe the half of the face on the left of the
picture and are mirrored; their shifts are pairs (outward, down), outward meaning away from the midline.

An AU of intensity 1 (FACS "E") moves the points by its row of `AU_SHIFTS` and adds its `WRINKLES`. AU6, AU7, AU23 and
AU24 are mostly visible in texture, because they move points by less than people differ from each other: crow's feet
and raised cheeks (6), bulge and crease of the lower lid (7), a narrow, darker red between the rolled edges of
tightened lips (23), pale lips between bulges of skin (24). `face_parts` paints them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ...labels_mf2 import AU_IDS, EYE_CENTERS, FLIP_68, MEAN_FACE_68, NUM_LANDMARKS

Array = NDArray[np.floating]

JAW, BROWS, NOSE = slice(0, 17), slice(17, 27), slice(27, 36)
LEFT_EYE, RIGHT_EYE = slice(36, 42), slice(42, 48)
MOUTH, OUTER_LIPS, INNER_LIPS = slice(48, 68), slice(48, 60), slice(60, 68)
_FLIP = np.array(FLIP_68)


# ------------------------------------------------------------------------------------------------------ identity
@dataclass(frozen=True)
class Shape:
    """Proportions in standard deviations of the population; all 0 is the average face."""

    face_width: float = 0.0
    jaw_width: float = 0.0
    jaw_square: float = 0.0
    chin_length: float = 0.0
    eye_spacing: float = 0.0
    eye_width: float = 0.0
    eye_openness: float = 0.0
    eye_tilt: float = 0.0
    lid_fold: float = 0.0
    brow_height: float = 0.0
    brow_tilt: float = 0.0
    brow_arch: float = 0.0
    brow_spacing: float = 0.0
    brow_thickness: float = 0.0
    nose_length: float = 0.0
    nose_width: float = 0.0
    nose_depth: float = 0.0
    mouth_height: float = 0.0
    mouth_width: float = 0.0
    mouth_tilt: float = 0.0
    upper_lip: float = 0.0
    lower_lip: float = 0.0
    cheeks: float = 0.0


@dataclass(frozen=True)
class Identity:
    """One person. Amounts lie in [0, 1] unless said otherwise; colours are sRGB in [0, 1].

    `offsets` (68, 2) are individual offsets of the points in addition to `shape`; `mobility` (12,) scales how far each
    AU moves the points. `wrinkling` scales the wrinkles of active AUs, `age` those of a neutral face; `masculinity`
    sets the height of the brow ridge. `glasses` is 0 for none, else the roundness of the lenses. `texture_seed` is the
    seed of the details of skin and hair.
    """

    shape: Shape = field(default_factory=Shape)
    offsets: Array = field(default_factory=lambda: np.zeros((NUM_LANDMARKS, 2), np.float32))
    mobility: Array = field(default_factory=lambda: np.ones(len(AU_IDS), np.float32))
    masculinity: float = 0.5
    age: float = 0.2
    wrinkling: float = 0.8
    melanin: float = 0.3
    undertone: float = 0.5
    redness: float = 0.4
    freckles: float = 0.0
    gloss: float = 0.4
    hair_style: str = "short"
    hair_part: float = 0.0
    hair_color: tuple[float, float, float] = (0.20, 0.13, 0.09)
    brow_color: tuple[float, float, float] = (0.20, 0.13, 0.09)
    iris_color: tuple[float, float, float] = (0.33, 0.22, 0.13)
    lip_color: tuple[float, float, float] = (0.70, 0.36, 0.34)
    lip_strength: float = 0.6
    lashes: float = 0.4
    beard: float = 0.0
    glasses: float = 0.0
    frame_color: tuple[float, float, float] = (0.08, 0.07, 0.07)
    cloth_color: tuple[float, float, float] = (0.25, 0.30, 0.40)
    texture_seed: int = 0


@dataclass(frozen=True)
class Expression:
    """The facial expression in one frame.

    Args:
        intensities: `(12,)` in [0, 1], in the order of `AU_IDS`.
        asymmetry: fraction by which the half on the left of the picture moves more, and the other half less.
        eye_opening: how far the eyes are open; 1 neutral, 0 closed.
        gaze: shift of the irises in face space.
    Raises:
        ValueError: not 12 intensities, or one out of bounds.
    """

    intensities: Array
    asymmetry: float = 0.0
    eye_opening: float = 1.0
    gaze: tuple[float, float] = (0.0, 0.0)

    def __post_init__(self) -> None:
        values = np.asarray(self.intensities, np.float32)
        if values.shape != (len(AU_IDS),) or not np.all((values >= 0) & (values <= 1)):
            raise ValueError(f"AU intensities must be {len(AU_IDS)} values in [0, 1]; got {values.tolist()}.")
        object.__setattr__(self, "intensities", values)

    def intensity(self, au_id: int, side: float = 0.0) -> float:
        """The intensity of an AU on the left (-1) or right (1) half of the picture, or on the whole face (0)."""
        return float(self.intensities[AU_IDS.index(au_id)]) * (1 - side * self.asymmetry)


# ---------------------------------------------------------------------------------------------- neutral points
_CLOSED_MOUTH = {
    48: (0.425, 1.085), 49: (0.285, 1.015), 50: (0.105, 0.972), 51: (0.0, 0.990), 57: (0.0, 1.255), 58: (0.140, 1.243),
    59: (0.300, 1.185), 60: (0.390, 1.085), 61: (0.140, 1.082), 62: (0.0, 1.090), 66: (0.0, 1.090), 67: (0.140, 1.082),
}  # fmt: skip


def _from_left_half(left: Mapping[int, tuple[float, float]]) -> NDArray[np.float64]:
    """`{point: (outward, down)}` of the left half -> both halves as (68, 2) shifts in x and y; other points 0."""
    out = np.zeros((NUM_LANDMARKS, 2))
    for point, (outward, down) in left.items():
        mirrored = FLIP_68[point]
        if mirrored == point:
            out[point] = 0.0, down
        else:
            out[point], out[mirrored] = (-outward, down), (outward, down)
    return out


def _average_face() -> Array:
    """The mean face in face space, made symmetric, with a slimmer jaw and closed lips."""
    (left_x, eyes_y), (right_x, _) = EYE_CENTERS
    points = (np.array(MEAN_FACE_68) - [(left_x + right_x) / 2, eyes_y]) / (right_x - left_x)
    points = (points + points[_FLIP] * [-1, 1]) / 2
    points[JAW, 0] *= 0.94 - 0.13 * (np.clip(points[JAW, 1], 0, None) / points[8, 1]) ** 1.5
    points[MOUTH] = _from_left_half(_CLOSED_MOUTH)[MOUTH]
    return points.astype(np.float32)


AVERAGE_FACE: Array = _average_face()
"""(68, 2) points of the average neutral face, in face space."""


def _shape_jaw(points: Array, shape: Shape) -> None:
    down = np.clip(points[JAW, 1] / 1.77, 0, 1)
    points[JAW, 0] *= 1 + 0.040 * shape.face_width + 0.045 * shape.jaw_width * down
    corners = np.exp(-(((down - 0.78) / 0.16) ** 2))
    points[JAW] *= (1 + 0.022 * shape.jaw_square * corners)[:, None]
    points[JAW, 1] *= 1 + 0.040 * shape.chin_length * down


def _shape_brows(points: Array, shape: Shape) -> None:
    x = points[BROWS, 0]
    outward = np.abs(x) - 0.55
    arch = 1 - (outward / 0.38) ** 2
    points[BROWS, 1] += (
        -0.030 * shape.brow_height - 0.050 * shape.brow_tilt * outward / 0.38 - 0.020 * shape.brow_arch * arch - 0.01
    )
    points[BROWS, 0] += 0.025 * shape.brow_spacing * np.sign(x)


def _shape_eye(points: Array, shape: Shape, eye: slice, side: float) -> None:
    """Scale and shift one eye; `side` is -1 for the eye on the left of the picture."""
    center = points[eye].mean(axis=0)
    x, y = (points[eye] - center).T
    width, openness = 1.02 + 0.05 * shape.eye_width, 1.22 * (1 + 0.16 * shape.eye_openness)
    points[eye, 0] = center[0] + x * width + side * 0.020 * shape.eye_spacing
    points[eye, 1] = center[1] + y * openness - 0.075 * shape.eye_tilt * x * side


def _shape_nose(points: Array, shape: Shape) -> None:
    root = points[27, 1]
    points[NOSE, 1] = root + (points[NOSE, 1] - root) * (1 + 0.055 * shape.nose_length)
    points[NOSE, 0] *= 0.98 + 0.11 * shape.nose_width


def _shape_mouth(points: Array, shape: Shape) -> None:
    seam = AVERAGE_FACE[62, 1]
    x, y = points[MOUTH].T
    thickness = np.where(y < seam, 0.95 + 0.22 * shape.upper_lip, 0.95 + 0.18 * shape.lower_lip)
    points[MOUTH, 1] = (
        seam + (y - seam) * thickness + 0.040 * shape.mouth_height - 0.035 * shape.mouth_tilt * (np.abs(x) / 0.42) ** 2
    )
    points[MOUTH, 0] = x * (1 + 0.075 * shape.mouth_width)


def neutral_points(identity: Identity) -> Array:
    """(68, 2) points of a neutral face, in face space."""
    points = AVERAGE_FACE.copy()
    shape = identity.shape
    _shape_jaw(points, shape)
    _shape_brows(points, shape)
    _shape_eye(points, shape, LEFT_EYE, -1.0)
    _shape_eye(points, shape, RIGHT_EYE, 1.0)
    _shape_nose(points, shape)
    _shape_mouth(points, shape)
    return points + identity.offsets


# ------------------------------------------------------------------------------------------------ AU displacements
AU_SHIFTS: dict[int, dict[int, tuple[float, float]]] = {
    1: {21: (0.0, -0.125), 20: (0.0, -0.110), 19: (0.0, -0.050), 18: (0.0, -0.008), 38: (0.0, -0.010)},
    2: {17: (0.0, -0.080), 18: (0.0, -0.120), 19: (0.0, -0.090), 20: (0.0, -0.030), 37: (0.0, -0.010)},
    4: {
        21: (-0.035, 0.070), 20: (-0.032, 0.072), 19: (-0.024, 0.055), 18: (-0.012, 0.028), 37: (0.0, 0.008),
        38: (0.0, 0.014),
    },
    6: {40: (0.0, -0.006), 41: (0.0, -0.009)},
    7: {37: (0.0, 0.018), 38: (0.0, 0.016), 40: (0.0, -0.018), 41: (0.0, -0.020)},
    10: {
        31: (0.016, -0.022), 32: (0.0, -0.014), 33: (0.0, -0.008), 49: (0.0, -0.034), 50: (0.006, -0.056),
        51: (0.0, -0.046), 61: (0.0, -0.024), 62: (0.0, -0.026), 66: (0.0, -0.016), 67: (0.0, -0.014),
    },
    12: {
        48: (0.095, -0.090), 60: (0.090, -0.088), 49: (0.058, -0.034), 59: (0.062, -0.034), 50: (0.016, 0.005),
        58: (0.028, -0.003), 51: (0.0, 0.008), 57: (0.0, -0.003), 61: (0.028, -0.010), 67: (0.028, -0.010),
        62: (0.0, 0.006), 66: (0.0, 0.006), 31: (0.012, -0.004),
    },
    15: {
        48: (0.008, 0.078), 60: (0.006, 0.074), 49: (0.0, 0.020), 59: (0.006, 0.034), 61: (0.0, 0.006),
        67: (0.0, 0.006), 58: (0.0, 0.004), 57: (0.0, -0.004),
    },
    23: {
        48: (-0.010, 0.0), 60: (-0.010, 0.0), 49: (-0.005, 0.005), 50: (0.0, 0.006), 51: (0.0, 0.006),
        57: (0.0, -0.008), 58: (-0.003, -0.008), 59: (-0.005, -0.005),
    },
    24: {
        48: (0.004, 0.0), 60: (0.004, 0.0), 49: (0.0, 0.006), 50: (0.0, 0.008), 51: (0.0, 0.008), 57: (0.0, -0.010),
        58: (0.0, -0.009), 59: (0.0, -0.007),
    },
    25: {
        51: (0.0, -0.012), 50: (0.0, -0.010), 62: (0.0, -0.022), 61: (0.0, -0.018), 66: (0.0, 0.055),
        67: (0.0, 0.048), 57: (0.0, 0.034), 58: (0.0, 0.030), 59: (0.0, 0.014),
    },
    26: {
        1: (0.0, 0.008), 2: (0.0, 0.018), 3: (0.0, 0.040), 4: (0.0, 0.080), 5: (-0.005, 0.125), 6: (-0.008, 0.160),
        7: (-0.008, 0.180), 8: (0.0, 0.190), 48: (-0.010, 0.018), 60: (-0.010, 0.018), 57: (0.0, 0.040),
        58: (0.0, 0.036), 59: (0.0, 0.026), 62: (0.0, 0.014), 66: (0.0, 0.014), 61: (0.0, 0.014), 67: (0.0, 0.014),
    },
}  # fmt: skip
"""Displacement of the points of the left half by each AU at intensity 1: `{au: {point: (outward, down)}}`."""

PARTED_JAW_SHIFTS = {
    66: (0.0, 0.170), 67: (0.0, 0.150), 57: (0.0, 0.150), 58: (0.0, 0.140), 59: (-0.015, 0.085),
    48: (-0.025, 0.030), 60: (-0.025, 0.030),
}  # fmt: skip
"""Additional displacement of AU26 with AU25: the jaw moves the lower lip away from the upper one."""

_AU_FIELD = np.stack([_from_left_half(AU_SHIFTS[au_id]) for au_id in AU_IDS])
_PARTED_JAW_FIELD = _from_left_half(PARTED_JAW_SHIFTS)
_LIPS_PART, _JAW_DROP = AU_IDS.index(25), AU_IDS.index(26)
_LEFT_TO_RIGHT = -np.sign(AVERAGE_FACE[:, 0].round(3))  # 1 for the points on the left, -1 right, 0 in the middle
_UPPER_INNER, _LOWER_INNER = [61, 62, 63], [67, 66, 65]
_UPPER_LIDS, _LOWER_LIDS = [37, 38, 43, 44], [41, 40, 47, 46]


def face_points(identity: Identity, expression: Expression) -> Array:
    """(68, 2) float32 points of a face with an expression, in face space."""
    moved = expression.intensities * identity.mobility
    parted = min(1.0, float(moved[_LIPS_PART]) / 0.5) * moved[_JAW_DROP]
    shifts = np.tensordot(moved, _AU_FIELD, 1) + parted * _PARTED_JAW_FIELD
    points = neutral_points(identity)
    for eye in (LEFT_EYE, RIGHT_EYE):
        corners = points[eye][[0, 3], 1].mean()
        points[eye, 1] = corners + (points[eye, 1] - corners) * expression.eye_opening
    points += shifts * (1 + expression.asymmetry * _LEFT_TO_RIGHT[:, None])
    points[_LOWER_INNER, 1] = np.maximum(points[_LOWER_INNER, 1], points[_UPPER_INNER, 1])
    points[_LOWER_LIDS, 1] = np.maximum(points[_LOWER_LIDS, 1], points[_UPPER_LIDS, 1] + 0.01)
    return points.astype(np.float32)


# --------------------------------------------------------------------------------------------------------- wrinkles
Anchor = tuple[int, float, float]


@dataclass(frozen=True)
class Wrinkle:
    """A crease along a quadratic Bézier curve with three anchors (landmark, outward, down).

    Its depth is `base_depth`, plus the value in `aus` of each AU at intensity 1, plus `age_depth` at age 1. `mirrored`
    wrinkles come in pairs; the others cross the midline, and "outward" means left for all of their anchors.
    """

    path: tuple[Anchor, Anchor, Anchor]
    aus: Mapping[int, float]
    age_depth: float = 0.0
    width: float = 0.030
    mirrored: bool = True
    base_depth: float = 0.0

    def depth(self, expression: Expression, identity: Identity, side: float) -> float:
        """The depth of the crease on one half of a face (-1 left, 1 right, 0 across both), from 0 to about 1."""
        from_aus = sum(weight * expression.intensity(au_id, side) for au_id, weight in self.aus.items())
        return min(1.2, self.base_depth + identity.wrinkling * from_aus + identity.age**1.5 * self.age_depth)


WRINKLES: tuple[Wrinkle, ...] = (
    # around the wings of the nose, at any age
    Wrinkle(((31, -0.01, -0.14), (31, 0.09, -0.06), (31, 0.02, 0.04)), {}, 0.0, 0.032, base_depth=0.75),
    # the forehead: horizontal lines over the inner brows, arcs over the outer ones
    Wrinkle(((27, 0.42, -0.53), (27, 0.0, -0.47), (27, -0.42, -0.53)), {1: 0.90}, 0.35, 0.036, mirrored=False),
    Wrinkle(((27, 0.46, -0.66), (27, 0.0, -0.59), (27, -0.46, -0.66)), {1: 0.90}, 0.40, 0.036, mirrored=False),
    Wrinkle(((27, 0.40, -0.78), (27, 0.0, -0.72), (27, -0.40, -0.78)), {1: 0.60}, 0.35, 0.036, mirrored=False),
    Wrinkle(((27, 0.44, -0.52), (27, 0.74, -0.68), (27, 1.00, -0.36)), {2: 1.0}, 0.15, 0.040),
    Wrinkle(((27, 0.44, -0.66), (27, 0.74, -0.83), (27, 1.00, -0.50)), {2: 0.95}, 0.15, 0.040),
    # between the brows
    Wrinkle(((27, 0.110, -0.40), (27, 0.065, -0.26), (27, 0.090, -0.10)), {4: 1.0}, 0.30, 0.034),
    Wrinkle(((27, 0.02, -0.34), (27, 0.0, -0.24), (27, 0.02, -0.14)), {4: 0.55}, 0.10, 0.028, mirrored=False),
    Wrinkle(((27, 0.13, 0.02), (27, 0.0, 0.06), (27, -0.13, 0.02)), {4: 0.55}, 0.10, 0.032, mirrored=False),
    # crow's feet and the furrow under the eye
    Wrinkle(((36, 0.06, -0.05), (36, 0.17, -0.10), (36, 0.29, -0.20)), {6: 0.85}, 0.30, 0.028),
    Wrinkle(((36, 0.08, 0.00), (36, 0.20, -0.01), (36, 0.34, -0.05)), {6: 0.95}, 0.30, 0.028),
    Wrinkle(((36, 0.06, 0.05), (36, 0.18, 0.09), (36, 0.32, 0.10)), {6: 0.85}, 0.25, 0.028),
    Wrinkle(((39, 0.04, 0.12), (41, 0.04, 0.19), (36, 0.06, 0.15)), {6: 0.60}, 0.50, 0.036),
    # the crease of the lower lid
    Wrinkle(((39, -0.02, 0.06), (41, -0.06, 0.105), (36, 0.00, 0.065)), {7: 1.0}, 0.12, 0.030),
    # from the wing of the nose to the corner of the mouth
    Wrinkle(((31, 0.02, -0.20), (31, 0.16, -0.08), (31, 0.24, 0.12)), {10: 1.1, 12: 0.15}, 0.20, 0.048),
    Wrinkle(((31, 0.06, -0.06), (31, 0.26, 0.12), (48, 0.15, -0.02)), {12: 0.90, 10: 0.35}, 0.50, 0.042),
    Wrinkle(((48, 0.065, -0.075), (48, 0.105, 0.0), (48, 0.065, 0.075)), {12: 0.60, 24: 0.25}, 0.10, 0.030),
    # under the corners of the mouth and above the chin
    Wrinkle(((48, 0.02, 0.02), (48, 0.095, 0.11), (48, 0.06, 0.28)), {15: 1.1}, 0.35, 0.046),
    Wrinkle(((57, 0.26, 0.16), (57, 0.0, 0.08), (57, -0.26, 0.16)), {15: 0.7, 24: 0.35}, 0.20, 0.048, mirrored=False),
    # along the edge of the upper lip
    Wrinkle(((49, 0.0, -0.035), (51, 0.0, -0.085), (53, 0.0, -0.035)), {24: 0.60}, 0.05, 0.035, mirrored=False),
)
"""All creases of the face."""
