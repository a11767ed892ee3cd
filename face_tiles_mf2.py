"""Detection of small faces in overlapping tiles of a picture; the detections of all tiles are merged.

A face detector resizes its input to the size of its network, so that faces which are small relative to the picture are
lost. In a tile of half the side of the picture, the same face is twice as large. Tiles are halved until faces of
`SMALLEST_FACE_PX` are large enough, at most three times, which bounds the cost: 6, 30 and 130 additional detections in
a 4:3 picture. MediaPipe takes 3 ms of a core for each.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

MIN_TILED_SIDE = 480
"""Minimal length of the longer side, in pixels, of pictures that are searched in tiles."""
SMALLEST_FACE_PX = 32
"""Size for which tiles are made; action units are hardly visible in smaller faces."""
MAX_LEVELS = 3
OVERLAP = 0.4
"""Overlap of neighbouring tiles as a fraction of their side; faces up to that size are complete in one of them."""
CUT_MARGIN = 0.02
"""A box within this distance of an inner edge of its tile, as a fraction of the side, counts as cut off."""
SAME_IOU = 0.3
"""Minimal intersection over union of two boxes of the same face."""
SAME_INSIDE = 0.6
"""A box with this fraction of its area in another box is of the same face …"""
PART_AREA = 1 / 3
"""… and if its area is below this fraction of the other, it is a part of that face, regardless of its score."""

Tile = tuple[int, int, int, int]
"""x, y, width and height in pixels of the picture."""


def tile_sides(size: tuple[int, int], reach: float) -> list[int]:
    """The sides of the tiles of a picture in pixels, in descending order; empty for a small picture.

    Args:
        size: height and width of the picture.
        reach: the smallest face that the detector finds reliably, as a fraction of the longer side of its input.
    """
    side = max(size)
    sides: list[int] = []
    while max(size) > MIN_TILED_SIDE and side * reach > SMALLEST_FACE_PX and len(sides) < MAX_LEVELS:
        side = round(side / 2)
        sides.append(side)
    return sides


def tiles_of(size: tuple[int, int], side: int) -> Iterator[Tile]:
    """Yield overlapping tiles of at most that side that cover a picture of that height and width evenly."""
    height, width = size
    for y in _starts(height, side):
        for x in _starts(width, side):
            yield x, y, min(side, width), min(side, height)


def _starts(length: int, side: int) -> list[int]:
    if length <= side:
        return [0]
    count = int(np.ceil((length - side) / (side * (1 - OVERLAP)))) + 1
    return np.linspace(0, length - side, count).round().astype(int).tolist()


def find_in_tiles(
    find_boxes: Callable[[np.ndarray], np.ndarray], image: np.ndarray, sides: Sequence[int]
) -> np.ndarray:
    """Detect faces in a picture and in its tiles, and merge the detections.

    Args:
        find_boxes: `(height, width, 3)` uint8 -> `(faces, 5)`: x1 y1 x2 y2 in pixels of its input, and the score.
        image: the picture.
        sides: sides of the tiles, see `tile_sides`.
    Returns:
        `(faces, 5)` in pixels of the picture, sorted by descending score.
    """
    all_boxes = [find_boxes(image)]
    for side in sides:
        for tile in tiles_of(image.shape[:2], side):
            x, y, width, height = tile
            boxes = find_boxes(image[y : y + height, x : x + width])
            all_boxes.append(boxes[_is_complete(boxes, tile, image.shape[:2])] + (x, y, x, y, 0))
    return merge_boxes(np.concatenate(all_boxes))


def _is_complete(boxes: np.ndarray, tile: Tile, size: tuple[int, int]) -> np.ndarray:
    """`(faces,)` bool: whether a box of a tile has a distance from the inner edges of the tile."""
    x, y, width, height = tile
    margin = CUT_MARGIN * max(width, height)
    x1, y1, x2, y2 = boxes[:, :4].T
    return (
        ((x1 >= margin) | (x == 0))
        & ((y1 >= margin) | (y == 0))
        & ((x2 <= width - margin) | (x + width == size[1]))
        & ((y2 <= height - margin) | (y + height == size[0]))
    )


def merge_boxes(boxes: np.ndarray) -> np.ndarray:
    """Keep the box with the best score of each face, and no boxes of parts of a face.

    Args:
        boxes: `(N, 5)` x1 y1 x2 y2 and score.
    Returns:
        `(M, 5)`, sorted by descending score.
    """
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    low, high = np.maximum(boxes[:, None, :2], boxes[:, :2]), np.minimum(boxes[:, None, 2:4], boxes[:, 2:4])
    shared = (high - low).clip(min=0).prod(axis=-1)  # (N, N)
    inside = shared / areas[:, None]  # of the first in the second
    is_part = ((inside >= SAME_INSIDE) & (areas[:, None] < PART_AREA * areas)).any(axis=1)
    is_same = shared / (areas[:, None] + areas - shared) >= SAME_IOU
    is_same |= np.maximum(inside, inside.T) >= SAME_INSIDE
    kept: list[int] = []
    for row in np.argsort(-boxes[:, 4], kind="stable"):
        if not is_part[row] and not is_same[row, kept].any():
            kept.append(int(row))
    return boxes[kept]
