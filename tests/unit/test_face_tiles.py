"""Tiles cover a picture, small faces are found in them, and each face comes once."""

import numpy as np
import pytest
import scipy.ndimage

from mf2.face_tiles_mf2 import MAX_LEVELS, find_in_tiles, merge_boxes, tile_sides, tiles_of

REACH = 0.2


def paint(size: tuple[int, int], faces: list[tuple[int, int, int]]) -> np.ndarray:
    """A black picture with white squares, x, y and side of each."""
    picture = np.zeros((*size, 3), np.uint8)
    for x, y, side in faces:
        picture[y : y + side, x : x + side] = 255
    return picture


def find_squares(image: np.ndarray) -> np.ndarray:
    """A detector of white squares, blind to less than `REACH` of the picture; their scores are their shares."""
    labelled, _ = scipy.ndimage.label(image[..., 0])
    boxes = [(x.start, y.start, x.stop, y.stop) for y, x in scipy.ndimage.find_objects(labelled)]
    shares = [max(x2 - x1, y2 - y1) / max(image.shape[:2]) for x1, y1, x2, y2 in boxes]
    found = [(*box, min(share, 1.0)) for box, share in zip(boxes, shares, strict=True) if share >= REACH]
    return np.array(found, dtype=float).reshape(-1, 5)


@pytest.mark.parametrize("size", [(480, 640), (3000, 4000), (700, 90), (481, 481)])
def test_tiles_cover_the_picture_and_overlap(size):
    for side in tile_sides(size, REACH):
        covered = np.zeros(size, int)
        for x, y, width, height in tiles_of(size, side):
            assert width == min(side, size[1]) and height == min(side, size[0])
            covered[y : y + height, x : x + width] += 1
        assert covered.min() == 1 and covered.shape == size


def test_levels_end_where_faces_are_large_enough():
    assert tile_sides((300, 400), REACH) == []  # a small picture
    assert tile_sides((480, 640), REACH) == [320, 160]
    assert tile_sides((480, 640), 0.01) == []  # a detector that finds them in the whole picture
    assert len(tile_sides((30_000, 40_000), REACH)) == MAX_LEVELS


@pytest.mark.parametrize("place", [(0, 0), (300, 222), (592, 432), (150, 431)])
def test_a_small_face_is_found_wherever_it_is(place):
    picture = paint((480, 640), [(*place, 48)])
    assert len(find_squares(picture)) == 0
    (found,) = find_in_tiles(find_squares, picture, tile_sides((480, 640), REACH))
    assert found[:4].tolist() == [*place, place[0] + 48, place[1] + 48]


def test_a_face_that_a_tile_cuts_is_taken_from_where_it_is_whole():
    """The cut ones would score better: they fill more of their tile."""
    picture = paint((600, 800), [(300, 200, 200)])
    (found,) = find_in_tiles(find_squares, picture, tile_sides((600, 800), REACH))
    assert found[:4].tolist() == [300, 200, 500, 400]


def test_two_neighbours_stay_two():
    picture = paint((480, 640), [(100, 100, 40), (180, 100, 40)])
    found = find_in_tiles(find_squares, picture, [160, 80])
    assert sorted(row[:2] for row in found.tolist()) == [[100, 100], [180, 100]]


def test_of_one_face_the_best_box_is_kept_and_parts_are_none():
    face, same, part, other = (
        (100, 100, 200, 200, 0.7),
        (110, 105, 205, 210, 0.9),
        (120, 150, 160, 180, 0.99),  # a mouth
        (210, 100, 300, 190, 0.5),
    )
    kept = merge_boxes(np.array([face, same, part, other]))
    assert kept.tolist() == [list(same), list(other)]
    assert merge_boxes(np.zeros((0, 5))).shape == (0, 5)
