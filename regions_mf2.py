"""Geometry of faces: alignment by the eyes, and the regions of the action units. NumPy only.

Coordinates are continuous: x to the right, y down, and an image spans [0, width] × [0, height], so that the centre of
its first pixel is (0.5, 0.5). Sizes are (height, width). Matrices are homogeneous and map column vectors (x, y, 1).

Points (x, y) are also represented as complex numbers x + iy: a similarity transform is z ↦ a·z + b, and i·u is the
direction "down" of a face whose eye line has the direction of the unit vector u.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike

from .labels_mf2 import AU_IDS, EYE_CENTERS, FLIP_68, MEAN_FACE_68, NUM_LANDMARKS, get_action_unit

LEFT_EYE, RIGHT_EYE = slice(36, 42), slice(42, 48)
INNER_EYE_CORNERS = (39, 42)
MIN_EYE_DISTANCE_PX = 1.0


# ------------------------------------------------------------------------------------------------------- matrices
def apply_matrix(points: ArrayLike, matrix: ArrayLike) -> np.ndarray:
    """Apply an affine map to points.

    Args:
        points: `(..., points, 2)`.
        matrix: `(..., 2, 3)` or `(..., 3, 3)` with the last row 0 0 1; leading dimensions broadcast.
    Returns:
        `(..., points, 2)` float.
    """
    points, matrix = np.asarray(points, dtype=np.float64), np.asarray(matrix, dtype=np.float64)
    linear, shift = matrix[..., :2, :2], matrix[..., None, :2, 2]
    return points @ np.swapaxes(linear, -1, -2) + shift


def affine(linear: ArrayLike, shift: ArrayLike) -> np.ndarray:
    """The homogeneous `(3, 3)` matrix of x ↦ linear·x + shift."""
    matrix = np.eye(3)
    matrix[:2, :2], matrix[:2, 2] = linear, shift
    return matrix


def cover_matrix(image_size: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    """The undistorted resize with which the centre of an image fills the target.

    Args:
        image_size: height and width of the image.
        size: height and width of the target.
    Returns:
        `(3, 3)` float, image pixels to target pixels.
    """
    (image_h, image_w), (target_h, target_w) = image_size, size
    scale = max(target_h / image_h, target_w / image_w)
    shift = ((target_w - scale * image_w) / 2, (target_h - scale * image_h) / 2)
    return affine(np.eye(2) * scale, shift)


# ------------------------------------------------------------------------------------------------------ alignment
def check_landmarks(landmarks_px: ArrayLike) -> np.ndarray:
    """Check landmarks and return them as a `(..., 68, 2)` float array.

    Raises:
        ValueError: another shape, values that are not finite, or coinciding eyes.
    """
    landmarks_px = np.asarray(landmarks_px, dtype=np.float64)
    if landmarks_px.shape[-2:] != (NUM_LANDMARKS, 2):
        raise ValueError(
            f"Landmarks have the shape {landmarks_px.shape}; expected (..., {NUM_LANDMARKS}, 2): "
            "x and y of the iBUG-68 points in pixels."
        )
    if not np.isfinite(landmarks_px).all():
        raise ValueError("Landmarks contain values that are not finite; pass None for a face without landmarks.")
    _eye_line(eye_centers(landmarks_px))
    return landmarks_px


def eye_centers(landmarks_px: np.ndarray) -> np.ndarray:
    """`(..., 68, 2)` landmarks -> `(..., 2, 2)` means of the points of each eye, image left first."""
    eyes = (landmarks_px[..., eye, :].mean(axis=-2) for eye in (LEFT_EYE, RIGHT_EYE))
    return np.stack(tuple(eyes), axis=-2)


def _to_complex(points: np.ndarray) -> np.ndarray:
    return points[..., 0] + 1j * points[..., 1]


def _eye_line(eyes_px: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both eye centres as complex numbers: the image-left one, and the vector from it to the other."""
    eyes = _to_complex(eyes_px)
    line = eyes[..., 1] - eyes[..., 0]
    shortest = np.abs(line).min(initial=np.inf)
    if shortest < MIN_EYE_DISTANCE_PX:
        raise ValueError(
            f"The eye centres are {shortest:.3g} px apart, less than {MIN_EYE_DISTANCE_PX:g} px: these landmarks are "
            "no face. Landmarks are in pixels, not in fractions of the image; pass None for a face without them."
        )
    return eyes[..., 0], line


def alignment_matrix(points_px: ArrayLike, size: tuple[int, int], template: ArrayLike = EYE_CENTERS) -> np.ndarray:
    """The similarity transform (rotation, scale, shift) that maps the two eye centres to those of the template.

    Args:
        points_px: `(..., 68, 2)` landmarks or `(..., 2, 2)` eye centres, in pixels of the image.
        size: height and width of the aligned image.
        template: `(2, 2)`, x and y of the two eye centres as fractions of the width and height, image left first.
    Returns:
        `(..., 3, 3)` float, image pixels to aligned pixels.
    Raises:
        ValueError: invalid landmarks, or coinciding eyes.
    """
    points_px = np.asarray(points_px, dtype=np.float64)
    is_eyes = points_px.shape[-2:] == (2, 2)
    left, line = _eye_line(points_px if is_eyes else eye_centers(check_landmarks(points_px)))
    target_left, target_right = _to_complex(np.asarray(template, dtype=np.float64) * size[::-1])

    a = (target_right - target_left) / line
    b = target_left - a * left
    matrix = np.zeros((*a.shape, 3, 3))
    matrix[..., 0, 0] = matrix[..., 1, 1] = a.real
    matrix[..., 1, 0], matrix[..., 0, 1] = a.imag, -a.imag
    matrix[..., 0, 2], matrix[..., 1, 2] = b.real, b.imag
    matrix[..., 2, 2] = 1
    return matrix


def mean_face(size: tuple[int, int], template: ArrayLike = EYE_CENTERS) -> np.ndarray:
    """The mean face in an aligned image: `(68, 2)` float, pixels of that image."""
    points = np.asarray(MEAN_FACE_68) * max(size)
    return apply_matrix(points, alignment_matrix(points, size, template))


def align_faces(
    landmarks_px: np.ndarray,
    covers: np.ndarray,
    size: tuple[int, int],
    template: ArrayLike = EYE_CENTERS,
    do_align: bool = True,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Compute the transforms from pictures to the aligned images that a model reads.

    Args:
        landmarks_px: `(N, 68, 2)` in the pictures, NaN for faces without landmarks.
        covers: `(N, 3, 3)`, the plain resize of each picture, see `cover_matrix`.
        size: height and width of the aligned image.
        template: as `alignment_matrix`.
        do_align: whether faces with landmarks are aligned; otherwise all pictures are only resized.
    Returns:
        `(N, 3, 3)` matrices into the aligned image, `(N, 68, 2)` landmarks there (those of the mean face for faces
        without landmarks), and `(N,)` bool whether a face has landmarks.
    """
    is_found = ~np.isnan(landmarks_px[:, 0, 0])
    matrices = covers.copy()
    if do_align:
        matrices[is_found] = alignment_matrix(landmarks_px[is_found], size, template)
    target_landmarks = np.tile(mean_face(size, template), (len(landmarks_px), 1, 1))
    target_landmarks[is_found] = apply_matrix(landmarks_px[is_found], matrices[is_found])
    return matrices, target_landmarks, is_found


def visible_box(align_matrix: np.ndarray, size: tuple[int, int], picture_size: tuple[int, int]) -> list[float]:
    """The part of a picture that is visible in the processed image, x0 y0 x1 y1 in pixels of the picture.

    Args:
        align_matrix: `(2, 3)`, pixels of the picture to pixels of the processed image.
        size: height and width of the processed image.
        picture_size: height and width of the picture.
    """
    to_picture = np.linalg.inv(affine(align_matrix[:, :2], align_matrix[:, 2]))
    corners = apply_matrix([(0, 0), (size[1], 0), (0, size[0]), (size[1], size[0])], to_picture)
    corners = corners.clip(0, picture_size[::-1])
    return [*corners.min(axis=0).tolist(), *corners.max(axis=0).tolist()]


# --------------------------------------------------------------------------------------------------- AU regions
@lru_cache(maxsize=64)
def _center_rules(au_ids: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """The table of `labels_mf2` as arrays: landmark indexes and downward offsets in rulers, both `(num_aus, 2)`.

    The two centres of an AU are ordered by their position in an upright face: image left first, or the upper one of a
    vertical pair first.
    """

    def upright_order(center: tuple[int, float]) -> tuple[float, float]:
        x, y = MEAN_FACE_68[center[0]]
        return round(x, 2), y

    pairs = [sorted(get_action_unit(au_id).centers, key=upright_order) for au_id in au_ids]
    rules = np.array(pairs, dtype=np.float64).reshape(len(au_ids), 2, 2)
    return rules[..., 0].astype(np.int64), rules[..., 1]


@lru_cache(maxsize=64)
def mirrored_centers(au_ids: tuple[int, ...]) -> list[list[int]]:
    """For each AU which of its two centres stand in the place of the first and the second in the mirror image.

    Those of a pair side by side change places; those of a vertical pair do not.
    """
    landmark_idx, _ = _center_rules(au_ids)
    return [[1, 0] if FLIP_68[first] == second else [0, 1] for first, second in landmark_idx.tolist()]


def au_centers_from_landmarks(landmarks_px: ArrayLike, au_ids: Sequence[int] = AU_IDS) -> np.ndarray:
    """Compute the two centres of each AU's region by the published rules.

    An offset is perpendicular to the eye line, and its unit is the "ruler": the distance of the inner eye corners
    along the eye line, which is |x39 − x42| of the upright face. So the centres rotate, scale and move with the face.

    Args:
        landmarks_px: `(..., 68, 2)`, pixels; not fractions of a non-square image, which are distorted.
        au_ids: FACS numbers; `labels_mf2.ACTION_UNITS` has their rules.
    Returns:
        `(..., num_aus, 2, 2)` float, x and y in pixels; image left first, or the upper one of a vertical pair.
    Raises:
        ValueError: invalid landmarks, coinciding eyes, or an AU without a rule.
    Source: JAA-Net (arXiv 1803.05588) and EAC-Net, with the centres of `labels_mf2`.
    """
    landmarks_px = check_landmarks(landmarks_px)
    landmark_idx, offset = _center_rules(tuple(au_ids))
    _, line = _eye_line(eye_centers(landmarks_px))
    across = line / np.abs(line)
    points = _to_complex(landmarks_px)
    left_corner, right_corner = (points[..., corner] for corner in INNER_EYE_CORNERS)
    ruler = np.abs(((right_corner - left_corner) * across.conj()).real)

    down = (1j * across * ruler)[..., None, None]
    centers = points[..., landmark_idx] + down * offset
    return np.stack((centers.real, centers.imag), axis=-1)


@lru_cache(maxsize=64)
def nearest_au_indexes(au_ids: tuple[int, ...], known_ids: tuple[int, ...]) -> list[int]:
    """For each AU its index in `known_ids`, or else the index of the known AU whose centres are nearest.

    Distances are measured in the mean face and summed over both centres; of AUs with the same region the first is
    used.
    """
    face = mean_face((1000, 1000))
    known, queried = au_centers_from_landmarks(face, known_ids), au_centers_from_landmarks(face, au_ids)
    distances = np.linalg.norm(queried[:, None] - known[None], axis=-1).sum(-1).round(3)  # (queried, known)
    nearest = distances.argmin(axis=1).tolist()
    return [known_ids.index(a) if a in known_ids else index for a, index in zip(au_ids, nearest, strict=True)]


def au_boxes_from_landmarks(
    landmarks_px: ArrayLike,
    size: tuple[int, int],
    au_ids: Sequence[int] = AU_IDS,
    region_size: float = 0.14,
) -> np.ndarray:
    """Compute the two boxes of each AU, ± 7 % of the image around its two centres by default.

    Centres too close to the border are moved inwards, so that every box has the full size and lies in the image.

    Args:
        landmarks_px: `(..., 68, 2)`, pixels of the (aligned) image.
        size: height and width of that image.
        au_ids: FACS numbers.
        region_size: side of a box as a fraction of the image's height and width, in (0, 1].
    Returns:
        `(..., num_aus, 2, 4)` float32, x1 y1 x2 y2 normalised to [0, 1].
    Raises:
        ValueError: as `au_centers_from_landmarks`, or `region_size` is out of range.
    """
    if not 0 < region_size <= 1:
        raise ValueError(f"region_size is {region_size}; it is a fraction of the image, above 0 and at most 1.")
    half = region_size / 2
    centers = au_centers_from_landmarks(landmarks_px, au_ids) / np.array(size[::-1], dtype=np.float64)
    centers = centers.clip(half, 1 - half)
    return np.concatenate((centers - half, centers + half), axis=-1).astype(np.float32)
