"""Alignment and AU regions: the published rules, and regions that stay on the same skin when the image changes."""

import csv
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mf2.labels_mf2 import ACTION_UNITS, AU_IDS, EYE_CENTERS, FLIP_68, MEAN_FACE_68
from mf2.regions_mf2 import (
    affine,
    alignment_matrix,
    apply_matrix,
    au_boxes_from_landmarks,
    au_centers_from_landmarks,
    check_landmarks,
    cover_matrix,
    eye_centers,
    mean_face,
)

ALL_AUS = tuple(ACTION_UNITS)
SIZE = (224, 224)


def make_face(seed: int, jitter: float = 4.0) -> np.ndarray:
    """A face of nobody: the mean face in 224 px with every point moved at random. `(68, 2)`."""
    return mean_face(SIZE) + np.random.default_rng(seed).normal(0, jitter, (68, 2))


def similarity(angle: float, scale: float, shift: tuple[float, float]) -> np.ndarray:
    turn = scale * np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    return affine(turn, shift)


def mirrored(landmarks: np.ndarray, width: float) -> np.ndarray:
    """The landmarks of the mirror image."""
    return (landmarks * (-1, 1) + (width, 0))[list(FLIP_68)]


faces = st.integers(0, 10_000).map(make_face)
similarities = st.builds(
    similarity,
    angle=st.floats(-math.pi, math.pi),
    scale=st.floats(0.2, 8),
    shift=st.tuples(st.floats(-300, 300), st.floats(-300, 300)),
)


# -------------------------------------------------------------------------------------------------- the slow reference
def reference_centers(landmarks: np.ndarray, au_id: int) -> list[tuple[float, float]]:
    """One AU of one face, step by step: turn the face upright, apply the printed rule, turn back."""
    left, right = landmarks[36:42].mean(0), landmarks[42:48].mean(0)
    angle = math.atan2(right[1] - left[1], right[0] - left[0])
    upright = [_turned(point, -angle) for point in landmarks]
    ruler = abs(upright[39][0] - upright[42][0])
    centers = []
    for landmark, offset in ACTION_UNITS[au_id].centers:
        x, y = upright[landmark]
        centers.append(_turned((x, y + offset * ruler), angle))
    return centers


def _turned(point, angle: float) -> tuple[float, float]:
    x, y = point
    return x * math.cos(angle) - y * math.sin(angle), x * math.sin(angle) + y * math.cos(angle)


@given(face=faces, change=similarities)
@settings(max_examples=60, deadline=None)
def test_centers_equal_the_rule_applied_step_by_step(face, change):
    landmarks = apply_matrix(face, change)
    fast = au_centers_from_landmarks(landmarks, ALL_AUS)
    for au_id, pair in zip(ALL_AUS, fast, strict=True):
        slow = reference_centers(landmarks, au_id)
        slow = slow[::-1] if au_id in (17, 26) else slow  # their rule names the image-right point first
        np.testing.assert_allclose(pair, slow, atol=1e-6)


def test_published_table_on_an_upright_face():
    """The printed numbers, typed again: a slip in the table of the vocabulary fails here."""
    face = mean_face((100, 100))
    ruler = face[42, 0] - face[39, 0]
    expected = {
        1: ((21, -1 / 2), (22, -1 / 2)),
        2: ((18, -1 / 3), (25, -1 / 3)),
        4: ((19, 1 / 3), (24, 1 / 3)),
        6: ((41, 1), (46, 1)),
        7: ((38, 0), (43, 0)),
        10: ((61, 0), (63, 0)),
        12: ((48, 0), (54, 0)),
        15: ((48, 0), (54, 0)),
        23: ((51, 0), (57, 0)),
        24: ((51, 0), (57, 0)),
        25: ((51, 0), (57, 0)),
        26: ((58, 1 / 2), (56, 1 / 2)),
    }
    assert tuple(expected) == AU_IDS
    centers = au_centers_from_landmarks(face)
    for au_id, pair in zip(AU_IDS, centers, strict=True):
        for (landmark, offset), center in zip(expected[au_id], pair, strict=True):
            np.testing.assert_allclose(center, face[landmark] + (0, offset * ruler), atol=1e-9)


def test_batch_equals_single_faces():
    batch = np.stack([make_face(seed) for seed in range(6)]).reshape(2, 3, 68, 2)
    boxes = au_boxes_from_landmarks(batch, SIZE, ALL_AUS)
    assert boxes.shape == (2, 3, len(ALL_AUS), 2, 4) and boxes.dtype == np.float32
    for index in np.ndindex(2, 3):
        np.testing.assert_array_equal(boxes[index], au_boxes_from_landmarks(batch[index], SIZE, ALL_AUS))


# ---------------------------------------------------------------------------------------- regions follow the picture
@given(face=faces, change=similarities)
@settings(max_examples=60, deadline=None)
def test_centers_turn_grow_and_move_with_the_face(face, change):
    before, after = (au_centers_from_landmarks(points, ALL_AUS) for points in (face, apply_matrix(face, change)))
    np.testing.assert_allclose(after, apply_matrix(before, change), atol=1e-6)


@given(face=faces)
@settings(max_examples=40, deadline=None)
def test_mirror_image_swaps_left_and_right_and_keeps_upper_and_lower(face):
    before = au_centers_from_landmarks(face, ALL_AUS)
    after = au_centers_from_landmarks(mirrored(face, 224), ALL_AUS)
    for au_id, old, new in zip(ALL_AUS, before, after, strict=True):
        is_vertical_pair = au_id in (23, 24, 25)
        expected = old if is_vertical_pair else old[::-1]
        np.testing.assert_allclose(new, expected * (-1, 1) + (224, 0), atol=1e-6)


def test_pairs_are_ordered_image_left_or_upper_first():
    for au_id, (first, second) in zip(ALL_AUS, au_centers_from_landmarks(mean_face(SIZE), ALL_AUS), strict=True):
        axis = 1 if au_id in (23, 24, 25) else 0
        assert first[axis] < second[axis], f"AU{au_id}"


@given(face=faces, change=similarities, region_size=st.floats(0.01, 1))
@settings(max_examples=60, deadline=None)
def test_boxes_keep_their_size_and_lie_in_the_image(face, change, region_size):
    boxes = au_boxes_from_landmarks(apply_matrix(face, change), SIZE, ALL_AUS, region_size)
    assert boxes.min() >= 0 and boxes.max() <= 1
    np.testing.assert_allclose(boxes[..., 2:] - boxes[..., :2], region_size, atol=1e-6)


def test_clamping_moves_only_what_would_stick_out():
    face = mean_face(SIZE) + np.array((0, 60))  # the chin leaves the image, the brows do not
    boxes = au_boxes_from_landmarks(face, SIZE)
    middles = (boxes[..., :2] + boxes[..., 2:]) / 2 * 224
    centers = au_centers_from_landmarks(face)
    inside = (centers[..., 1] < 224 * 0.93)[..., None]
    assert 0 < inside.mean() < 1
    np.testing.assert_allclose(np.where(inside, middles - centers, 0), 0, atol=1e-4)
    np.testing.assert_allclose(boxes[..., 3][~inside[..., 0]], 1, atol=1e-6)


def test_boxes_of_an_image_that_is_not_square():
    boxes = au_boxes_from_landmarks(mean_face((100, 100)) + np.array((50, 0)), (100, 200), [12])
    width_height = boxes[..., 2:] - boxes[..., :2]
    np.testing.assert_allclose(width_height, 0.14, atol=1e-6)
    middle_x = (boxes[0, :, 0] + boxes[0, :, 2]) / 2
    np.testing.assert_allclose(middle_x.mean(), 0.5, atol=1e-6)


# ------------------------------------------------------------------------------------------------------- alignment
@given(face=faces, change=similarities, template=st.sampled_from([EYE_CENTERS, ((0.4, 0.5), (0.55, 0.48))]))
@settings(max_examples=60, deadline=None)
def test_alignment_puts_the_eyes_at_the_template_and_is_a_similarity(face, change, template):
    landmarks = apply_matrix(face, change)
    size = (160, 120)
    matrix = alignment_matrix(landmarks, size, template)
    np.testing.assert_allclose(
        eye_centers(apply_matrix(landmarks, matrix)), np.array(template) * (120, 160), atol=1e-6
    )
    linear = matrix[:2, :2]
    scale = np.linalg.det(linear)
    assert scale > 0
    np.testing.assert_allclose(linear @ linear.T, scale * np.eye(2), atol=1e-9 * max(1, scale))
    np.testing.assert_allclose(alignment_matrix(eye_centers(landmarks), size, template), matrix, atol=1e-9)


@given(face=faces, change=similarities)
@settings(max_examples=30, deadline=None)
def test_aligned_face_does_not_depend_on_how_it_stood(face, change):
    aligned = apply_matrix(face, alignment_matrix(face, SIZE))
    moved = apply_matrix(face, change)
    np.testing.assert_allclose(apply_matrix(moved, alignment_matrix(moved, SIZE)), aligned, atol=1e-6)


def test_mean_face_stands_at_the_template():
    np.testing.assert_allclose(mean_face((100, 100)), np.array(MEAN_FACE_68) * 100, atol=1e-9)
    wide = mean_face((100, 200))
    np.testing.assert_allclose(eye_centers(wide), np.array(EYE_CENTERS) * (200, 100), atol=1e-9)


def test_cover_matrix_fills_the_target_about_the_centre():
    matrix = cover_matrix((50, 100), (30, 30))
    np.testing.assert_allclose(apply_matrix([[50, 25], [25, 0], [75, 50]], matrix), [[15, 15], [0, 0], [30, 30]])


def test_apply_matrix_takes_both_matrix_shapes():
    points, matrix = np.random.default_rng(0).normal(size=(4, 5, 2)), similarity(0.3, 2, (1, 2))
    np.testing.assert_array_equal(apply_matrix(points, matrix), apply_matrix(points, matrix[:2]))
    stacked = np.stack([matrix] * 4)
    np.testing.assert_allclose(apply_matrix(points, stacked), apply_matrix(points, matrix))


# ---------------------------------------------------------------------------------------------------------- errors
def test_wrong_landmarks_say_what_is_wrong():
    with pytest.raises(ValueError, match=r"shape \(67, 2\).*68"):
        check_landmarks(np.zeros((67, 2)))
    with pytest.raises(ValueError, match="not finite"):
        check_landmarks(np.full((68, 2), np.nan))
    with pytest.raises(ValueError, match="0 px apart, less than 1 px"):
        alignment_matrix(np.ones((68, 2)), SIZE)
    with pytest.raises(ValueError, match="in pixels, not in fractions"):
        au_boxes_from_landmarks(np.array(MEAN_FACE_68), (1, 1))


@pytest.mark.parametrize("region_size", [0, -0.1, 1.01, float("nan")])
def test_region_size_out_of_range(region_size):
    with pytest.raises(ValueError, match="region_size is"):
        au_boxes_from_landmarks(mean_face(SIZE), SIZE, region_size=region_size)


def test_unknown_au_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"AU 3 has no region rule.*12"):
        au_boxes_from_landmarks(mean_face(SIZE), SIZE, au_ids=[3])


# ------------------------------------------------------------------------------------------------------ real faces
def test_on_real_faces_regions_hold_their_landmarks_and_lie_near_the_mean_face(real_faces):
    with (real_faces / "landmarks.csv").open() as file:
        rows = [row for index, row in enumerate(csv.reader(file)) if index % 20 == 1]
    landmarks = np.array([row[2:138] for row in rows], dtype=float).reshape(-1, 68, 2)
    landmarks = apply_matrix(landmarks, alignment_matrix(landmarks, SIZE))
    boxes = au_boxes_from_landmarks(landmarks, SIZE) * 224
    assert boxes.shape == (len(rows), 12, 2, 4) and len(rows) > 100

    low, high = boxes[:, AU_IDS.index(12), :, :2], boxes[:, AU_IDS.index(12), :, 2:]
    corners = landmarks[:, [48, 54]]
    assert ((low <= corners) & (corners <= high)).all(axis=(1, 2)).mean() > 0.98
    offsets = boxes[..., :2] - au_boxes_from_landmarks(mean_face(SIZE), SIZE)[..., :2] * 224
    assert np.abs(np.median(offsets, axis=0)).max() < 0.08 * 224
