"""Where heads are turned to, in closed form, from 68 landmarks."""

import numpy as np

from .labels_mf2 import EYE_CENTERS, MEAN_FACE_68

# What moves least with an expression: nose bridge, nostrils and eye corners. How far each lies in front of the outer
# eye corners, in distances between the eye centres, as in an average adult head.
_DEPTHS = {
    **{27: 0.38, 28: 0.50, 29: 0.63, 30: 0.69},
    **{31: 0.33, 32: 0.43, 33: 0.46, 34: 0.43, 35: 0.33},
    **{36: 0.0, 39: 0.09, 42: 0.09, 45: 0.0},
}
_RIGID_POINTS = list(_DEPTHS)


def _rigid_head() -> np.ndarray:
    """`(13, 3)`: x to the right of the picture, y down, z to the viewer; centred, in eye distances."""
    points = np.array(MEAN_FACE_68)[_RIGID_POINTS] / (EYE_CENTERS[1][0] - EYE_CENTERS[0][0])
    head = np.column_stack([points, list(_DEPTHS.values())])
    return head - head.mean(axis=0)


_RIGID_HEAD_INVERSE = np.linalg.pinv(_rigid_head())


def head_pose(landmarks_px: np.ndarray, image_size: tuple[int, int] | None = None) -> tuple[float, float, float]:
    """Where a head is turned to, see `head_poses`.

    Args:
        landmarks_px: `(68, 2)` points in pixels.
        image_size: height and width of the picture; None for a face crop, where the ray's direction is not known.
    Returns:
        pitch, yaw and roll in degrees.
    Raises:
        ValueError: not `(68, 2)` finite points, or all in one place or on one line.
    """
    points = np.asarray(landmarks_px, dtype=np.float64)
    if points.shape != (len(MEAN_FACE_68), 2) or not np.isfinite(points).all():
        raise ValueError(f"The landmarks have shape {points.shape}; give (68, 2) finite pixels of one face.")
    pitch, yaw, roll = head_poses(points[None], None if image_size is None else np.array([image_size]))[0].tolist()
    if not np.isfinite(pitch):
        raise ValueError("The landmarks lie on one line or in one place; there is no head to see in them.")
    return pitch, yaw, roll


def head_poses(landmarks_px: np.ndarray, image_sizes: np.ndarray | None = None) -> np.ndarray:
    """Where heads are turned to, in closed form: the rotation that best carries an average head to a face's points.

    The head is seen in a scaled parallel projection along the ray through it, which needs no camera and holds for
    faces that are small beside their distance. The ray's own direction is taken from a camera whose focal length is
    the longer side of the picture, a field of view of about 53°.

    Args:
        landmarks_px: `(faces, 68, 2)` finite points in pixels.
        image_sizes: `(faces, 2)`, height and width of each face's picture; None for face crops, where the ray's
            direction is not known.
    Returns:
        `(faces, 3)` pitch, yaw and roll in degrees: down, to the right of the picture and clockwise are positive. The
        head is turned by yaw first, then by pitch, then by roll. NaN where the points lie on one line.
    """
    seen = np.asarray(landmarks_px, dtype=np.float64)[:, _RIGID_POINTS]
    middles = seen.mean(axis=1)
    projections = (_RIGID_HEAD_INVERSE @ (seen - middles[:, None])).swapaxes(1, 2)  # (faces, 2, 3), scale × rotation
    left, scales, right = np.linalg.svd(projections, full_matrices=False)
    across, down = (left @ right).swapaxes(0, 1)
    rotations = np.stack([across, down, np.cross(across, down)], axis=1)
    if image_sizes is not None:
        rotations = _turns_from_rays(middles, image_sizes) @ rotations
    pitch = np.arcsin(np.clip(-rotations[:, 2, 1], -1, 1))
    yaw = np.arctan2(-rotations[:, 2, 0], rotations[:, 2, 2])
    roll = np.arctan2(-rotations[:, 0, 1], rotations[:, 1, 1])
    poses = np.degrees(np.stack([pitch, yaw, roll], axis=1))
    poses[scales[:, 1] <= 1e-9 * np.maximum(1.0, np.abs(middles).max(axis=1))] = np.nan
    return poses


def _turns_from_rays(points_px: np.ndarray, image_sizes: np.ndarray) -> np.ndarray:
    """`(faces, 3, 3)` turns from the frame of the ray through each point, `(faces, 2)`, to that of the camera.

    A head that faces along the camera's axis looks turned away from the picture's middle, by the ray's angle.
    """
    heights_widths = np.asarray(image_sizes, dtype=np.float64)
    places = (points_px - heights_widths[:, ::-1] / 2) / heights_widths.max(axis=1, keepdims=True)
    rays = np.column_stack([places, np.ones(len(places))])
    rays /= np.linalg.norm(rays, axis=1, keepdims=True)
    # The shortest turn of the axis (0, 0, 1) to (-x, -y, 1): Rodrigues' formula without its angle.
    turns = np.zeros((len(rays), 3, 3))
    turns[:, :2, 2], turns[:, 2, :2] = -rays[:, :2], rays[:, :2]
    return np.eye(3) + turns + turns @ turns / (1 + rays[:, 2, None, None])
