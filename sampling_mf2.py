"""Samples pictures by affine maps with NumPy and Pillow, without torch. Coordinates are those of `regions_mf2`."""

import numpy as np
from PIL import Image

from .regions_mf2 import affine, apply_matrix


def shrink_source(image: np.ndarray, matrix: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Reduce a picture to about the target's resolution, so that bilinear sampling does not skip pixels.

    A box filter by the nearest integer factor leaves at most a factor of 1.5 to the bilinear kernel, which then still
    covers every pixel. Large pictures are also cropped to the visible part.

    Args:
        image: `(H, W, 3)` uint8.
        matrix: `(3, 3)`, pixels of the image to pixels of the target.
        size: height and width of the target.
    Returns:
        The smaller image, and the matrix from its pixels to those of the target.
    """
    height, width = image.shape[:2]
    pixels_per_target = 1 / np.sqrt(abs(np.linalg.det(matrix[:2, :2])))
    factor = int(np.clip(round(pixels_per_target), 1, min(height, width)))
    if factor == 1 and height * width <= 4 * size[0] * size[1]:
        return image, matrix

    margin = 2 * factor
    corners = np.array([(0, 0), (size[1], 0), (0, size[0]), (size[1], size[0])])
    visible = apply_matrix(corners, np.linalg.inv(matrix))
    x0, y0 = np.clip(np.floor(visible.min(axis=0)) - margin, 0, (width - 1, height - 1)).astype(int)
    x1, y1 = np.clip(np.ceil(visible.max(axis=0)) + margin, (x0 + 1, y0 + 1), (width, height)).astype(int)
    window = image[y0:y1, x0:x1]
    if factor > 1:
        window = np.asarray(Image.fromarray(window).reduce(factor))
    return window, matrix @ affine(np.eye(2) * factor, (x0, y0))


def sample_pil(image: np.ndarray, matrix: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Sample one picture bilinearly; pixels outside of it are black.

    Channels are sampled one by one in Pillow's float mode, because its 8-bit transforms truncate.

    Args:
        image: `(H, W, 3)` uint8.
        matrix: `(3, 3)`, pixels of the image to pixels of the target.
        size: height and width of the target.
    Returns:
        `(3, height, width)` float32 in [0, 255].
    """
    coefficients = np.linalg.inv(matrix)[:2].ravel().tolist()
    affine_mode, bilinear = Image.Transform.AFFINE, Image.Resampling.BILINEAR
    channels = (channel.convert("F") for channel in Image.fromarray(image).split())
    samples = [channel.transform(size[::-1], affine_mode, coefficients, bilinear) for channel in channels]
    return np.stack([np.asarray(channel) for channel in samples])
