"""A parametric face: who it is, where its 68 points lie, and what each action unit (AU) does to it.

Face space: the origin lies midway between the eyes, the unit is the eye distance of the average face, x runs to the
right of the picture, y down and z to the viewer. The tables below describe the half of the face on the left of the
picture and are mirrored; their shifts are pairs (outward, down), outward meaning away from the midline.

An AU of intensity 1 (FACS "E") moves the points by its row of `AU_SHIFTS` and draws its rows of `WRINKLES`. AU6, AU7,
AU23 and AU24 show mostly in texture: they move points by less than people differ from each other, and are seen
in crow's feet and the cheek's bulge (6), the lower lid's bulge and crease (7), the vertical creases and the deeper red
of tightened lips (23), the pale lips and the bulges around pressed ones (24). They are drawn in `face_parts`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ..labels_mf2 import AU_IDS, EYE_CENTERS, FLIP_68, MEAN_FACE_68, NUM_LANDMARKS

Array = NDArray[np.float32]

JAW, BROWS, NOSE = slice(0, 17), slice(17, 27), slice(27, 36)
LEFT_EYE, RIGHT_EYE = slice(36, 42), slice(42, 48)
MOUTH, OUTER_LIPS, INNER_LIPS = slice(48, 68), slice(48, 60), slice(60, 68)
_FLIP = np.array(FLIP_68)


# ------------------------------------------------------------------------------------------------------ who it is
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

    `wrinkling` scales the wrinkles that an AU raises, `age` those that stay at rest; `masculinity` shades the brow
    ridge and the jaw. `glasses` is 0 for none, else the frame's roundness. `texture_seed` fixes skin and hair detail.
    """

    shape: Shape = field(default_factory=Shape)
    asymmetry: Array = field(default_factory=lambda: np.zeros((NUM_LANDMARKS, 2), np.float32))
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


# --------------------------------------------------------------------------------------------- the 68 points at rest
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
    """The mean face in face space, made symmetric, with the lips closed."""
    (left_x, eyes_y), (right_x, _) = EYE_CENTERS
    points = (np.array(MEAN_FACE_68) - [(left_x + right_x) / 2, eyes_y]) / (right_x - left_x)
    points = (points + points[_FLIP] * [-1, 1]) / 2
    points[MOUTH] = _from_left_half(_CLOSED_MOUTH)[MOUTH]
    return points.astype(np.float32)


AVERAGE_FACE: Array = _average_face()
"""(68, 2) points of the average face at rest, in face space."""


def _shape_jaw(points: Array, shape: Shape) -> None:
    down = np.clip(points[JAW, 1] / 1.77, 0, 1)
    points[JAW, 0] *= 0.93 * (1 + 0.040 * shape.face_width + 0.045 * shape.jaw_width * down)
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
    """`side` is -1 for the eye on the left of the picture."""
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
    """(68, 2) points of a face at rest, in face space."""
    points = AVERAGE_FACE.copy()
    shape = identity.shape
    _shape_jaw(points, shape)
    _shape_brows(points, shape)
    _shape_eye(points, shape, LEFT_EYE, -1.0)
    _shape_eye(points, shape, RIGHT_EYE, 1.0)
    _shape_nose(points, shape)
    _shape_mouth(points, shape)
    return points + identity.asymmetry


# ------------------------------------------------------------------------------------------------ what an AU moves
AU_SHIFTS: dict[int, dict[int, tuple[float, float]]] = {
    1: {21: (0.0, -0.150), 20: (0.0, -0.130), 19: (0.0, -0.060), 18: (0.0, -0.010), 38: (0.0, -0.012)},
    2: {17: (0.0, -0.100), 18: (0.0, -0.150), 19: (0.0, -0.110), 20: (0.0, -0.035), 37: (0.0, -0.012)},
    4: {
        21: (-0.045, 0.085), 20: (-0.040, 0.090), 19: (-0.030, 0.070), 18: (-0.015, 0.035), 37: (0.0, 0.010),
        38: (0.0, 0.018),
    },
    6: {40: (0.0, -0.012), 41: (0.0, -0.018), 36: (0.0, 0.004)},
    7: {37: (0.0, 0.022), 38: (0.0, 0.020), 40: (0.0, -0.024), 41: (0.0, -0.026)},
    10: {
        31: (0.022, -0.030), 32: (0.0, -0.020), 33: (0.0, -0.010), 49: (0.0, -0.050), 50: (0.010, -0.085),
        51: (0.0, -0.070), 61: (0.0, -0.035), 62: (0.0, -0.038), 66: (0.0, -0.022), 67: (0.0, -0.018),
    },
    12: {
        48: (0.115, -0.115), 60: (0.110, -0.112), 49: (0.070, -0.045), 59: (0.075, -0.045), 50: (0.020, 0.005),
        58: (0.035, -0.004), 51: (0.0, 0.010), 57: (0.0, -0.004), 61: (0.035, -0.012), 67: (0.035, -0.010),
        62: (0.0, 0.008), 66: (0.0, 0.008), 31: (0.018, -0.006),
    },
    15: {
        48: (0.012, 0.090), 60: (0.010, 0.085), 49: (0.0, 0.028), 59: (0.008, 0.045), 61: (0.0, 0.008),
        67: (0.0, 0.008), 58: (0.0, 0.006), 57: (0.0, -0.006),
    },
    23: {
        48: (-0.020, 0.0), 60: (-0.020, 0.0), 49: (-0.010, 0.008), 50: (0.0, 0.010), 51: (0.0, 0.010),
        57: (0.0, -0.014), 58: (-0.005, -0.012), 59: (-0.010, -0.008),
    },
    24: {
        48: (0.006, 0.0), 60: (0.006, 0.0), 49: (0.0, 0.012), 50: (0.0, 0.014), 51: (0.0, 0.014), 57: (0.0, -0.018),
        58: (0.0, -0.016), 59: (0.0, -0.012),
    },
    25: {
        51: (0.0, -0.014), 50: (0.0, -0.012), 62: (0.0, -0.026), 61: (0.0, -0.022), 66: (0.0, 0.062),
        67: (0.0, 0.055), 57: (0.0, 0.040), 58: (0.0, 0.036), 59: (0.0, 0.016),
    },
    26: {
        1: (0.0, 0.010), 2: (0.0, 0.025), 3: (0.0, 0.050), 4: (0.0, 0.100), 5: (-0.005, 0.160), 6: (-0.010, 0.205),
        7: (-0.010, 0.230), 8: (0.0, 0.240), 48: (-0.012, 0.020), 60: (-0.012, 0.020), 57: (0.0, 0.045),
        58: (0.0, 0.040), 59: (0.0, 0.030), 62: (0.0, 0.016), 66: (0.0, 0.016), 61: (0.0, 0.016), 67: (0.0, 0.016),
    },
}  # fmt: skip
"""How far each AU moves the points of the left half at intensity 1: `{au: {point: (outward, down)}}`."""

PARTED_JAW_SHIFTS = {
    66: (0.0, 0.170), 67: (0.0, 0.150), 57: (0.0, 0.150), 58: (0.0, 0.140), 59: (-0.015, 0.085),
    48: (-0.025, 0.030), 60: (-0.025, 0.030),
}  # fmt: skip
"""What AU26 adds where AU25 parts the lips: the jaw carries the lower lip away from the upper one."""

_AU_FIELD = np.stack([_from_left_half(AU_SHIFTS[au_id]) for au_id in AU_IDS])
_PARTED_JAW_FIELD = _from_left_half(PARTED_JAW_SHIFTS)
_LIPS_PART, _JAW_DROP = AU_IDS.index(25), AU_IDS.index(26)


def face_points(identity: Identity, intensities: Array) -> Array:
    """The 68 points of an expression.

    Args:
        intensities: `(12,)` in [0, 1], in the order of `AU_IDS`.
    Returns:
        `(68, 2)` float32 in face space.
    """
    parted = min(1.0, float(intensities[_LIPS_PART]) / 0.5) * intensities[_JAW_DROP]
    shifts = np.tensordot(intensities, _AU_FIELD, 1) + parted * _PARTED_JAW_FIELD
    points = neutral_points(identity) + shifts
    points[[67, 66, 65], 1] = np.maximum(points[[67, 66, 65], 1], points[[61, 62, 63], 1])
    return points.astype(np.float32)


# ------------------------------------------------------------------------------------------------- what it wrinkles
Anchor = tuple[int, float, float]


@dataclass(frozen=True)
class Wrinkle:
    """A crease along a quadratic curve through three anchors (landmark, outward, down).

    `aus` gives the depth that each AU at intensity 1 adds, `rest` the depth at age 1 with the face at rest. `mirrored`
    wrinkles come in pairs; the others cross the midline, and "outward" means left for all of their anchors.
    """

    path: tuple[Anchor, Anchor, Anchor]
    aus: Mapping[int, float]
    rest: float = 0.0
    width: float = 0.030
    mirrored: bool = True

    def depth(self, intensities: Array, identity: Identity) -> float:
        """The crease's depth on this face, 0 to about 1."""
        raised = sum(weight * float(intensities[AU_IDS.index(au_id)]) for au_id, weight in self.aus.items())
        return min(1.2, identity.wrinkling * raised + identity.age**1.5 * self.rest)


WRINKLES: tuple[Wrinkle, ...] = (
    # the forehead: level lines over the inner brows, arcs over the outer ones
    Wrinkle(((27, 0.42, -0.53), (27, 0.0, -0.47), (27, -0.42, -0.53)), {1: 0.85}, 0.40, 0.034, mirrored=False),
    Wrinkle(((27, 0.46, -0.66), (27, 0.0, -0.59), (27, -0.46, -0.66)), {1: 0.80}, 0.45, 0.034, mirrored=False),
    Wrinkle(((27, 0.40, -0.78), (27, 0.0, -0.72), (27, -0.40, -0.78)), {1: 0.55}, 0.40, 0.034, mirrored=False),
    Wrinkle(((27, 0.42, -0.55), (27, 0.70, -0.68), (27, 0.96, -0.44)), {2: 0.90}, 0.25, 0.034),
    Wrinkle(((27, 0.42, -0.68), (27, 0.70, -0.82), (27, 0.96, -0.57)), {2: 0.75}, 0.25, 0.034),
    # between the brows
    Wrinkle(((27, 0.110, -0.40), (27, 0.065, -0.26), (27, 0.090, -0.10)), {4: 1.0}, 0.35, 0.032),
    Wrinkle(((27, 0.02, -0.34), (27, 0.0, -0.24), (27, 0.02, -0.14)), {4: 0.55}, 0.10, 0.026, mirrored=False),
    Wrinkle(((27, 0.13, 0.02), (27, 0.0, 0.06), (27, -0.13, 0.02)), {4: 0.55}, 0.10, 0.030, mirrored=False),
    # crow's feet and the furrow under the eye
    Wrinkle(((36, 0.06, -0.05), (36, 0.17, -0.10), (36, 0.29, -0.20)), {6: 0.85}, 0.30, 0.026),
    Wrinkle(((36, 0.08, 0.00), (36, 0.20, -0.01), (36, 0.34, -0.05)), {6: 0.95}, 0.30, 0.026),
    Wrinkle(((36, 0.06, 0.05), (36, 0.18, 0.09), (36, 0.32, 0.10)), {6: 0.85}, 0.25, 0.026),
    Wrinkle(((39, 0.04, 0.12), (41, 0.04, 0.19), (36, 0.06, 0.15)), {6: 0.60}, 0.55, 0.034),
    # the crease of the lower lid
    Wrinkle(((39, -0.01, 0.05), (41, -0.06, 0.085), (36, 0.00, 0.055)), {7: 0.90}, 0.15, 0.024),
    # nose to mouth
    Wrinkle(((31, 0.03, -0.14), (31, 0.15, -0.04), (31, 0.22, 0.12)), {10: 0.95, 12: 0.20}, 0.30, 0.040),
    Wrinkle(((31, 0.06, -0.06), (31, 0.26, 0.12), (48, 0.15, -0.02)), {12: 0.90, 10: 0.35}, 0.55, 0.040),
    Wrinkle(((48, 0.065, -0.075), (48, 0.105, 0.0), (48, 0.065, 0.075)), {12: 0.60, 24: 0.25}, 0.10, 0.030),
    # under the corners of the mouth and above the chin
    Wrinkle(((48, 0.03, 0.03), (48, 0.085, 0.11), (48, 0.06, 0.25)), {15: 0.90}, 0.45, 0.036),
    Wrinkle(
        ((57, 0.26, 0.16), (57, 0.0, 0.075), (57, -0.26, 0.16)), {15: 0.50, 24: 0.35}, 0.20, 0.045, mirrored=False
    ),
    # lips pressed: a line along each lip's edge
    Wrinkle(((49, 0.0, -0.035), (51, 0.0, -0.085), (53, 0.0, -0.035)), {24: 0.60}, 0.05, 0.035, mirrored=False),
)
