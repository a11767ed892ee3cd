"""Which face of a frame is which of the frames before."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Box = tuple[float, float, float, float]

MIN_IOU = 0.2
"""Boxes that overlap less are not the same face."""
MAX_GAP_S = 1.0
"""A face that was not seen for longer comes back as another one."""


@dataclass
class Track:
    """A face: its id, where it was last, x0 y0 x1 y1 in pixels, and when, in seconds."""

    face: int
    box: Box
    time_s: float


class FaceTracker:
    """Gives the faces of a video ids that stay, from the overlap of their boxes.

    The boxes of a frame are matched with those last seen so that the sum of intersections over unions is the largest
    (the assignment of SORT, Bewley et al., 2016, without its motion model: faces move little between frames). Every
    face has an id from its first frame on, which trackers that confirm a track first do not give, and the whole state
    is the last box of each face, so that it can be taken up from rows that were already written.

    Args:
        tracks: faces known already, see `FaceTracker.tracks`.
    """

    def __init__(self, tracks: Sequence[Track] = ()):
        self.tracks = list(tracks)
        self._next_face = max((track.face for track in tracks), default=-1) + 1

    def update(self, boxes: Sequence[Box], time_s: float) -> list[int]:
        """The ids of a frame's faces.

        Args:
            boxes: x0 y0 x1 y1 in pixels, the most prominent first: new ids are given in this order.
            time_s: of the frame; frames come in order.
        """
        known = [track for track in self.tracks if time_s - track.time_s <= MAX_GAP_S]
        track_of = _match(known, boxes) if known else {}
        for place, box in enumerate(boxes):
            if place not in track_of:
                track_of[place] = Track(self._next_face, box, time_s)
                known.append(track_of[place])
                self._next_face += 1
            track_of[place].box, track_of[place].time_s = box, time_s
        self.tracks = known
        return [track_of[place].face for place in range(len(boxes))]


def _match(tracks: Sequence[Track], boxes: Sequence[Box]) -> dict[int, Track]:
    """The track of each box that has one, by the box's place."""
    overlaps = intersection_over_union([track.box for track in tracks], boxes)
    return {column: tracks[row] for row, column in best_pairs(overlaps) if overlaps[row, column] >= MIN_IOU}


def best_pairs(weights: np.ndarray) -> list[tuple[int, int]]:
    """Rows and columns in pairs, each at most once, whose weights have the largest sum.

    Where the best columns of the rows differ, as is usual in a video, they are the answer; else shortest augmenting
    paths find it (the method of SciPy's `linear_sum_assignment`, which alone takes longer to import than all else that
    an analysis needs).

    Args:
        weights: `(rows, columns)` float, none below 0; pairs without a weight may be left out.
    """
    if weights.shape[0] > weights.shape[1]:
        return [(row, column) for column, row in best_pairs(weights.T)]
    positive = np.flatnonzero(weights.max(axis=1, initial=0) > 0)
    best = weights[positive].argmax(axis=1) if len(positive) else positive
    if len(set(best.tolist())) == len(best):
        return list(zip(positive.tolist(), best.tolist(), strict=True))
    return _assign(-weights)


def _assign(costs: np.ndarray) -> list[tuple[int, int]]:
    """For each row of `(rows, columns)` costs, with no more rows than columns, its column; the sum is the least.

    Row by row a shortest augmenting path in reduced costs, with potentials of rows and columns (Jonker and Volgenant,
    Computing 38, 1987). Index 0 stands for no row and no column; the others count from 1.
    """
    num_rows, num_columns = costs.shape
    of_row, of_column = np.zeros(num_rows + 1), np.zeros(num_columns + 1)
    row_of, before = np.zeros(num_columns + 1, int), np.zeros(num_columns + 1, int)
    for row in range(1, num_rows + 1):
        row_of[0], column = row, 0
        distance, is_free = np.full(num_columns + 1, np.inf), np.ones(num_columns + 1, bool)
        while row_of[column]:
            is_free[column] = False
            here = row_of[column]
            reduced = np.concatenate(([np.inf], costs[here - 1] - of_row[here] - of_column[1:]))
            is_nearer = is_free & (reduced < distance)
            distance[is_nearer], before[is_nearer] = reduced[is_nearer], column
            column = int(np.where(is_free, distance, np.inf).argmin())
            step = distance[column]
            of_row[row_of[~is_free]] += step
            of_column[~is_free] -= step
            distance[is_free] -= step
        while column:
            row_of[column] = row_of[before[column]]
            column = before[column]
    return [(int(row_of[column]) - 1, column - 1) for column in range(1, num_columns + 1) if row_of[column]]


def intersection_over_union(boxes: Sequence[Box], others: Sequence[Box]) -> np.ndarray:
    """`(boxes, others)` float: how much of both boxes together is covered by both."""
    a = np.asarray(boxes, dtype=np.float64).reshape(-1, 1, 4)
    b = np.asarray(others, dtype=np.float64).reshape(1, -1, 4)
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    shared = sides.clip(min=0).prod(axis=-1)
    areas = [(box[..., 2:] - box[..., :2]).prod(axis=-1) for box in (a, b)]
    return shared / np.maximum(areas[0] + areas[1] - shared, 1e-12)
