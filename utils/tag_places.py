"""Where the tags of boxes go in a picture, so that no tag covers another."""

from collections.abc import Iterator, Sequence

Box = tuple[float, float, float, float]
"""x1, y1, x2, y2."""
Size = tuple[float, float]
"""Width and height."""


def place_tags(
    boxes: Sequence[Box], tag_sizes: Sequence[Sequence[Size]], picture: Size
) -> list[tuple[int, Box] | None]:
    """A place for a tag of each box.

    Beside its box and off the other boxes, if that is possible; else over another box; else anywhere, the nearest
    first. A tag comes in several sizes, a longer text before a shorter one, and the first that fits is taken.

    Args:
        boxes: what the tags belong to.
        tag_sizes: for each box the sizes of its tag, the preferred one first.
        picture: width and height.
    Returns:
        For each box which of its sizes was taken, and where that tag is; None where no tag has room.
    """
    placed: list[tuple[int, Box] | None] = []
    taken: list[Box] = []
    for idx, (box, sizes) in enumerate(zip(boxes, tag_sizes, strict=True)):
        others = [other for number, other in enumerate(boxes) if number != idx]
        found = _first_free(box, sizes, picture, taken, others)
        placed.append(found)
        if found:
            taken.append(found[1])
    return placed


def _first_free(
    box: Box, sizes: Sequence[Size], picture: Size, taken: Sequence[Box], others: Sequence[Box]
) -> tuple[int, Box] | None:
    for avoided in ([*taken, *others], taken):
        for number, size in enumerate(sizes):
            for tag in _beside(box, size, picture):
                if not any(overlap(tag, each) for each in avoided):
                    return number, tag
    free = [tag for tag in _anywhere(sizes[-1], picture) if not any(overlap(tag, each) for each in taken)]
    return (len(sizes) - 1, min(free, key=lambda tag: _distance(tag, box))) if free else None


def overlap(first: Box, second: Box) -> bool:
    """Whether two boxes share more than an edge."""
    return first[0] < second[2] and second[0] < first[2] and first[1] < second[3] and second[1] < first[3]


def _beside(box: Box, size: Size, picture: Size) -> Iterator[Box]:
    """Above the box and below it, from its left and up to its right edge, then in it; moved into the picture."""
    width, height = size
    x1, y1, x2, y2 = box
    for y in (y1 - height, y2, y1, y2 - height):
        for x in (x1, x2 - width, (x1 + x2 - width) / 2):
            yield _moved_in(x, y, size, picture)


def _moved_in(x: float, y: float, size: Size, picture: Size) -> Box:
    x, y = (max(0.0, min(place, whole - part)) for place, part, whole in zip((x, y), size, picture, strict=True))
    return x, y, x + size[0], y + size[1]


def _anywhere(size: Size, picture: Size) -> Iterator[Box]:
    width, height = size
    for row in range(int(picture[1] // height)):
        for column in range(int(picture[0] // width)):
            yield column * width, row * height, (column + 1) * width, (row + 1) * height


def _distance(first: Box, second: Box) -> float:
    """Squared, between the middles."""
    across, down = (first[i] + first[i + 2] - second[i] - second[i + 2] for i in (0, 1))
    return across**2 + down**2
