"""Looking for small faces: a picture is also searched in overlapping tiles, and what was found is merged.

A face detector shrinks what it is shown to the size that its network takes, so that a face of a small part of the
picture vanishes. In a tile of half the picture's side the same face is twice as large. Tiles of halved sides follow
until faces of `SMALLEST_FACE_PX` are large enough, three times at the most, so that the cost is bounded: 6, then 30,
then 130 searches of a 4:3 picture besides that of the whole. MediaPipe takes 3 ms of a core for each.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

MIN_TILED_SIDE = 480
"""Pictures whose longer side is shorter, in pixels, are searched as a whole only."""
SMALLEST_FACE_PX = 32
"""Smaller faces are not worth more tiles: too little of an action unit is to be seen."""
MAX_LEVELS = 3
OVERLAP = 0.4
"""Of neighbouring tiles, as a share of their side: a face up to that size is whole in one of them."""
CUT_MARGIN = 0.02
"""A box that comes so close to an inner edge of its tile, as a share of the side, is of a face that is cut."""
SAME_IOU = 0.3
"""From this intersection over union on, two boxes are of one face."""
SAME_INSIDE = 0.6
"""So is a box of which this share lies in another …"""
PART_AREA = 1 / 3
"""… and where it is so much smaller, it is of a part of that face, whatever its score."""

Tile = tuple[int, int, int, int]
"""x, y, width and height in pixels of the picture."""


def tile_sides(size: tuple[int, int], reach: float) -> list[int]:
    """The sides of the tiles in which a picture is searched, in pixels, the largest first; none of a small picture.

    Args:
        size: height and width of the picture.
        reach: the smallest face that the detector finds well, as a share of the longer side of what it is shown.
    """
    side = max(size)
    sides: list[int] = []
    while max(size) > MIN_TILED_SIDE and side * reach > SMALLEST_FACE_PX and len(sides) < MAX_LEVELS:
        side = round(side / 2)
        sides.append(side)
    return sides


def tiles_of(size: tuple[int, int], side: int) -> Iterator[Tile]:
    """Overlapping tiles of at most that side that cover a picture of that height and width evenly."""
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
    """The faces of a picture and of its tiles, each once.

    Args:
        find_boxes: `(height, width, 3)` uint8 to `(faces, 5)`: x1 y1 x2 y2 in its pixels and the score.
        image: the picture.
        sides: of the tiles, see `tile_sides`.
    Returns:
        `(faces, 5)` in pixels of the picture, the best score first.
    """
    found = [find_boxes(image)]
    for side in sides:
        for tile in tiles_of(image.shape[:2], side):
            x, y, width, height = tile
            boxes = find_boxes(image[y : y + height, x : x + width])
            found.append(boxes[_is_whole(boxes, tile, image.shape[:2])] + (x, y, x, y, 0))
    return merge_boxes(np.concatenate(found))


def _is_whole(boxes: np.ndarray, tile: Tile, size: tuple[int, int]) -> np.ndarray:
    """`(faces,)` bool: whether a box of a tile keeps away from those of its edges that are not the picture's."""
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
    """Of boxes of one face that with the best score, but no part of a face: `(N, 5)` to `(M, 5)`, the best first."""
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
