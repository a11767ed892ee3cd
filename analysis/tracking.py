"""Tracks faces through the frames of a video."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Box = tuple[float, float, float, float]

MIN_IOU = 0.2
"""Minimum intersection over union of the same face in two frames."""
MAX_GAP_S = 1.0
"""A face that is missing for longer gets a new id."""


@dataclass
class Track:
    """A tracked face: its id, last box (x0 y0 x1 y1 in pixels) and the time of that box in seconds."""

    face: int
    box: Box
    time_s: float


class FaceTracker:
    """Assigns persistent ids to the faces of a video, by the overlap of their boxes.

    The boxes of a frame are matched to the last boxes so that the sum of intersections over unions is maximal (the
    assignment of SORT, Bewley et al., 2016, without its motion model, as faces move little between frames). Unlike in
    trackers that confirm a track first, a face has an id from its first frame on. The state is the last box of each
    face, so that tracking can resume from rows that were already written.

    Args:
        tracks: faces already tracked, see `FaceTracker.tracks`.
    """

    def __init__(self, tracks: Sequence[Track] = ()):
        self.tracks = list(tracks)
        self._next_face = max((track.face for track in tracks), default=-1) + 1

    def update(self, boxes: Sequence[Box], time_s: float) -> list[int]:
        """Return the ids of a frame's faces.

        Args:
            boxes: x0 y0 x1 y1 in pixels, the most prominent first; new ids are assigned in this order.
            time_s: time of the frame in seconds; must not decrease.
        """
        active = [track for track in self.tracks if time_s - track.time_s <= MAX_GAP_S]
        tracks = _match(active, boxes) if active else {}
        for index, box in enumerate(boxes):
            if index not in tracks:
                tracks[index] = Track(self._next_face, box, time_s)
                active.append(tracks[index])
                self._next_face += 1
            tracks[index].box, tracks[index].time_s = box, time_s
        self.tracks = active
        return [tracks[index].face for index in range(len(boxes))]


def _match(tracks: Sequence[Track], boxes: Sequence[Box]) -> dict[int, Track]:
    """Index of a box -> its track, for the boxes that have one."""
    overlaps = intersection_over_union([track.box for track in tracks], boxes)
    return {column: tracks[row] for row, column in best_pairs(overlaps) if overlaps[row, column] >= MIN_IOU}


def best_pairs(weights: np.ndarray) -> list[tuple[int, int]]:
    """Pair rows with columns, each at most once, so that the sum of weights is maximal.

    If the rows have different best columns, as is usual in a video, these are the solution; otherwise it is found by
    shortest augmenting paths (the method of SciPy's `linear_sum_assignment`, which is not used because it takes longer
    to import than everything else in an analysis).

    Args:
        weights: `(rows, columns)` float, non-negative; pairs with weight 0 may be omitted.
    """
    if weights.shape[0] > weights.shape[1]:
        return [(row, column) for column, row in best_pairs(weights.T)]
    positive = np.flatnonzero(weights.max(axis=1, initial=0) > 0)
    best = weights[positive].argmax(axis=1) if len(positive) else positive
    if len(set(best.tolist())) == len(best):
        return list(zip(positive.tolist(), best.tolist(), strict=True))
    return _assign(-weights)


def _assign(costs: np.ndarray) -> list[tuple[int, int]]:
    """Assign a column to each row of `(rows, columns)` costs, rows <= columns, so that the sum is minimal.

    Finds a shortest augmenting path in reduced costs row by row, with potentials of rows and columns (Jonker and
    Volgenant, Computing 38, 1987). Index 0 stands for no row or column; rows and columns count from 1.
    """
    num_rows, num_columns = costs.shape
    row_potential, column_potential = np.zeros(num_rows + 1), np.zeros(num_columns + 1)
    assigned_row, previous = np.zeros(num_columns + 1, int), np.zeros(num_columns + 1, int)
    for row in range(1, num_rows + 1):
        assigned_row[0], column = row, 0
        distance, is_free = np.full(num_columns + 1, np.inf), np.ones(num_columns + 1, bool)
        while assigned_row[column]:
            is_free[column] = False
            current = assigned_row[column]
            reduced = np.concatenate(([np.inf], costs[current - 1] - row_potential[current] - column_potential[1:]))
            is_nearer = is_free & (reduced < distance)
            distance[is_nearer], previous[is_nearer] = reduced[is_nearer], column
            column = int(np.where(is_free, distance, np.inf).argmin())
            step = distance[column]
            row_potential[assigned_row[~is_free]] += step
            column_potential[~is_free] -= step
            distance[is_free] -= step
        while column:
            assigned_row[column] = assigned_row[previous[column]]
            column = previous[column]
    return [
        (int(assigned_row[column]) - 1, column - 1) for column in range(1, num_columns + 1) if assigned_row[column]
    ]


def intersection_over_union(boxes: Sequence[Box], others: Sequence[Box]) -> np.ndarray:
    """`(boxes, others)` float: intersection over union of every pair of boxes."""
    a = np.asarray(boxes, dtype=np.float64).reshape(-1, 1, 4)
    b = np.asarray(others, dtype=np.float64).reshape(1, -1, 4)
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    intersection = sides.clip(min=0).prod(axis=-1)
    areas = [(box[..., 2:] - box[..., :2]).prod(axis=-1) for box in (a, b)]
    return intersection / np.maximum(areas[0] + areas[1] - intersection, 1e-12)
