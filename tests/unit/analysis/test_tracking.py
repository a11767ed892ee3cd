"""Face ids that stay: through movement, crossing sizes, short gaps, and from where an earlier run ended."""

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from mf2.analysis.tracking import MAX_GAP_S, MIN_IOU, FaceTracker, best_pairs, intersection_over_union


def shifted(box, dx, dy=0):
    return (box[0] + dx, box[1] + dy, box[2] + dx, box[3] + dy)


A, B = (0.0, 0.0, 10.0, 10.0), (40.0, 0.0, 50.0, 10.0)


def test_overlaps_by_hand():
    found = intersection_over_union([A, B], [A, shifted(A, 5), B, (20.0, 0.0, 30.0, 10.0)])
    assert found == pytest.approx(np.array([[1, 50 / 150, 0, 0], [0, 0, 1, 0]]))
    assert intersection_over_union([], [A]).shape == (0, 1)


def test_ids_follow_moving_faces_in_any_order():
    tracker = FaceTracker()
    assert tracker.update([A, B], 0.0) == [0, 1]
    for step in range(1, 15):
        assert tracker.update([shifted(B, -step), shifted(A, step)], step / 25) == [1, 0]
    assert tracker.update([], 2.0) == []


def test_a_frame_is_matched_as_a_whole():
    """The best partner of one face is the only partner of another: the sum decides, not who comes first."""
    tracker = FaceTracker()
    tracker.update([A, shifted(A, 6)], 0.0)
    assert tracker.update([shifted(A, 3), shifted(A, -4)], 0.04) == [1, 0]


def test_a_short_gap_keeps_the_id_and_a_long_one_does_not():
    tracker = FaceTracker()
    tracker.update([A, B], 0.0)
    assert tracker.update([B], MAX_GAP_S / 2) == [1]
    assert tracker.update([A, B], MAX_GAP_S) == [0, 1]
    assert tracker.update([B], 2 * MAX_GAP_S) == [1]
    assert tracker.update([A, B], 2.5 * MAX_GAP_S) == [2, 1], "an id is never given again"


def test_a_face_elsewhere_is_another():
    tracker = FaceTracker()
    tracker.update([A], 0.0)
    assert intersection_over_union([A], [shifted(A, 7)])[0, 0] < MIN_IOU
    assert tracker.update([shifted(A, 7)], 0.04) == [1]


def test_a_tracker_goes_on_from_its_tracks():
    """As `RunFolder.resume_tracker` makes it from rows; ids of faces long gone are not given again either."""
    first, whole = FaceTracker(), FaceTracker()
    frames = [([A, B], 0.0), ([B], 0.5), ([B], 1.6), ([A, B], 1.7), ([shifted(B, 1), A], 1.8)]
    expected = [whole.update(boxes, time_s) for boxes, time_s in frames]
    found = [first.update(boxes, time_s) for boxes, time_s in frames[:3]]
    again = FaceTracker(first.tracks)
    assert found + [again.update(boxes, time_s) for boxes, time_s in frames[3:]] == expected


@pytest.mark.parametrize("seed", range(4))
def test_pairs_have_the_largest_sum(seed):
    rng = np.random.default_rng(seed)
    for _ in range(50):
        weights = rng.random(rng.integers(0, 7, 2)) * (rng.random() < 0.8)
        weights[rng.random(weights.shape) < rng.random()] = 0
        pairs = best_pairs(weights)
        rows, columns = zip(*pairs, strict=True) if pairs else ((), ())
        assert len(set(rows)) == len(rows) and len(set(columns)) == len(columns)
        best = weights[linear_sum_assignment(weights, maximize=True)].sum()
        assert sum(weights[pair] for pair in pairs) == pytest.approx(best)
