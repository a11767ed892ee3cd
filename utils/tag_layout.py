"""Places tags of boxes in a picture without overlaps between tags."""

from collections.abc import Iterator, Sequence

Box = tuple[float, float, float, float]
"""x1, y1, x2, y2."""
Size = tuple[float, float]
"""Width and height."""


def place_tags(
    boxes: Sequence[Box], tag_sizes: Sequence[Sequence[Size]], picture: Size
) -> list[tuple[int, Box] | None]:
    """Place a tag for each box.

    A tag is placed next to its box and outside of other boxes if possible; else over another box; else at the nearest
    free position. A tag has several possible sizes, and the first that fits is used.

    Args:
        boxes: the boxes.
        tag_sizes: the possible sizes of the tag of each box, in order of preference.
        picture: width and height of the picture.
    Returns:
        For each box the index of the used size and the tag's position; None if there is no room.
    """
    placements: list[tuple[int, Box] | None] = []
    occupied: list[Box] = []
    for index, (box, sizes) in enumerate(zip(boxes, tag_sizes, strict=True)):
        others = [other for other_index, other in enumerate(boxes) if other_index != index]
        placement = _find_position(box, sizes, picture, occupied, others)
        placements.append(placement)
        if placement:
            occupied.append(placement[1])
    return placements


def _find_position(
    box: Box, sizes: Sequence[Size], picture: Size, occupied: Sequence[Box], others: Sequence[Box]
) -> tuple[int, Box] | None:
    for avoided in ([*occupied, *others], occupied):
        for index, size in enumerate(sizes):
            for tag in _adjacent_positions(box, size, picture):
                if not any(overlap(tag, other) for other in avoided):
                    return index, tag
    free = [tag for tag in _grid_positions(sizes[-1], picture) if not any(overlap(tag, other) for other in occupied)]
    return (len(sizes) - 1, min(free, key=lambda tag: _squared_distance(tag, box))) if free else None


def overlap(first: Box, second: Box) -> bool:
    """Whether the interiors of two boxes overlap."""
    return first[0] < second[2] and second[0] < first[2] and first[1] < second[3] and second[1] < first[3]


def _adjacent_positions(box: Box, size: Size, picture: Size) -> Iterator[Box]:
    """Positions above, below and inside the box (left-aligned, right-aligned, centred), moved into the picture."""
    width, height = size
    x1, y1, x2, y2 = box
    for y in (y1 - height, y2, y1, y2 - height):
        for x in (x1, x2 - width, (x1 + x2 - width) / 2):
            yield _clamp_to_picture(x, y, size, picture)


def _clamp_to_picture(x: float, y: float, size: Size, picture: Size) -> Box:
    x, y = (max(0.0, min(start, total - length)) for start, length, total in zip((x, y), size, picture, strict=True))
    return x, y, x + size[0], y + size[1]


def _grid_positions(size: Size, picture: Size) -> Iterator[Box]:
    width, height = size
    for row in range(int(picture[1] // height)):
        for column in range(int(picture[0] // width)):
            yield column * width, row * height, (column + 1) * width, (row + 1) * height


def _squared_distance(first: Box, second: Box) -> float:
    """Four times the squared distance between the centres of two boxes."""
    dx, dy = (first[i] + first[i + 2] - second[i] - second[i + 2] for i in (0, 1))
    return dx**2 + dy**2
