"""Head pose from 68 landmarks, in closed form."""

import numpy as np

from .labels_mf2 import EYE_CENTERS, MEAN_FACE_68

# The points that move least with expressions: nose bridge, nostrils and eye corners -> depth in front of the outer eye
# corners, in units of the distance between the eye centres, for an average adult head.
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
    """Estimate the pose of one head, see `head_poses`.

    Args:
        landmarks_px: `(68, 2)` points in pixels.
        image_size: height and width of the picture; None for a face crop, whose direction from the camera is unknown.
    Returns:
        pitch, yaw and roll in degrees.
    Raises:
        ValueError: not `(68, 2)` finite points, or points that coincide or lie on one line.
    """
    points = np.asarray(landmarks_px, dtype=np.float64)
    if points.shape != (len(MEAN_FACE_68), 2) or not np.isfinite(points).all():
        raise ValueError(f"The landmarks have shape {points.shape}; give (68, 2) finite pixels of one face.")
    pitch, yaw, roll = head_poses(points[None], None if image_size is None else np.array([image_size]))[0].tolist()
    if not np.isfinite(pitch):
        raise ValueError("The landmarks lie on one line or in one place; there is no head to see in them.")
    return pitch, yaw, roll


def head_poses(landmarks_px: np.ndarray, image_sizes: np.ndarray | None = None) -> np.ndarray:
    """Estimate head poses in closed form: the rotation of an average head that best fits the points of a face.

    The model is a scaled orthographic projection along the viewing ray through the head, which needs no camera and is
    accurate for faces that are small relative to their distance. The direction of the ray assumes a focal length equal
    to the longer side of the picture, a field of view of about 53°.

    Args:
        landmarks_px: `(faces, 68, 2)` finite points in pixels.
        image_sizes: `(faces, 2)`, height and width of the picture of each face; None for face crops, for which the
            direction of the ray is unknown.
    Returns:
        `(faces, 3)` pitch, yaw and roll in degrees: down, to the right of the picture and clockwise are positive. The
        head is rotated by yaw first, then by pitch, then by roll. NaN for points on one line.
    """
    points = np.asarray(landmarks_px, dtype=np.float64)[:, _RIGID_POINTS]
    centers = points.mean(axis=1)
    projections = (_RIGID_HEAD_INVERSE @ (points - centers[:, None])).swapaxes(1, 2)  # (faces, 2, 3), scale × rotation
    left, scales, right = np.linalg.svd(projections, full_matrices=False)
    across, down = (left @ right).swapaxes(0, 1)
    rotations = np.stack([across, down, np.cross(across, down)], axis=1)
    if image_sizes is not None:
        rotations = _rotations_from_rays(centers, image_sizes) @ rotations
    pitch = np.arcsin(np.clip(-rotations[:, 2, 1], -1, 1))
    yaw = np.arctan2(-rotations[:, 2, 0], rotations[:, 2, 2])
    roll = np.arctan2(-rotations[:, 0, 1], rotations[:, 1, 1])
    poses = np.degrees(np.stack([pitch, yaw, roll], axis=1))
    poses[scales[:, 1] <= 1e-9 * np.maximum(1.0, np.abs(centers).max(axis=1))] = np.nan
    return poses


def _rotations_from_rays(points_px: np.ndarray, image_sizes: np.ndarray) -> np.ndarray:
    """`(faces, 3, 3)` rotations from the frame of the viewing ray through each point, `(faces, 2)`, to the camera's.

    A head parallel to the camera's axis appears rotated away from the centre of the picture, by the angle of the ray.
    """
    heights_widths = np.asarray(image_sizes, dtype=np.float64)
    positions = (points_px - heights_widths[:, ::-1] / 2) / heights_widths.max(axis=1, keepdims=True)
    rays = np.column_stack([positions, np.ones(len(positions))])
    rays /= np.linalg.norm(rays, axis=1, keepdims=True)
    # The minimal rotation of the axis (0, 0, 1) to (-x, -y, 1), by Rodrigues' formula without its angle.
    skew = np.zeros((len(rays), 3, 3))
    skew[:, :2, 2], skew[:, 2, :2] = -rays[:, :2], rays[:, :2]
    return np.eye(3) + skew + skew @ skew / (1 + rays[:, 2, None, None])
