"""Preprocessing of faces with NumPy and Pillow, equivalent to `MF2ImageProcessorPil` in evaluation."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from ..labels_mf2 import NUM_LANDMARKS
from ..regions_mf2 import align_faces, au_boxes_from_landmarks, check_landmarks, cover_matrix
from ..sampling_mf2 import sample_pil, shrink_source
from .description import FileDescription


def prepare_faces(
    pictures: Sequence[np.ndarray],
    landmarks: Sequence[ArrayLike | None],
    description: FileDescription,
    au_ids: Sequence[int],
) -> dict[str, np.ndarray]:
    """Align, resize and normalise faces, and compute their AU boxes.

    Args:
        pictures: `(height, width, 3)` uint8 RGB, of any sizes.
        landmarks: for each picture `(faces, 68, 2)` in pixels, or None to treat its centre as a face crop with the
            boxes of the mean face.
        description: settings of the preprocessing.
        au_ids: A AUs whose boxes are computed, in order.
    Returns:
        For all N faces `pixel_values` `(N, 3, H, W)` and `au_boxes` `(N, A, 2, 4)`, float32, and `align_matrix`
        `(N, 2, 3)` from pixels of the picture to pixels of `pixel_values`.
    Raises:
        ValueError: the landmarks are invalid.
    """
    size = (description.image_size[0], description.image_size[1])
    no_face = np.full((1, NUM_LANDMARKS, 2), np.nan)
    rows = [no_face if points is None else check_landmarks(points) for points in landmarks]
    picture_idx = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
    covers = np.stack([cover_matrix(picture.shape[:2], size) for picture in pictures])[picture_idx]
    matrices, points, _ = align_faces(
        np.concatenate(rows), covers, size, description.eye_centers, description.do_align
    )
    pixels = np.stack(
        [
            sample_pil(*shrink_source(pictures[int(idx)], matrix, size), size)
            for idx, matrix in zip(picture_idx, matrices, strict=True)
        ]
    )
    mean, std = (
        np.array(values, dtype=np.float32)[:, None, None] for values in (description.image_mean, description.image_std)
    )
    pixels *= np.float32(description.rescale_factor)
    pixels -= mean
    pixels /= std
    return {
        "pixel_values": pixels,
        "au_boxes": au_boxes_from_landmarks(points, size, au_ids, description.au_region_size),
        "align_matrix": matrices[:, :2].astype(np.float32),
    }
