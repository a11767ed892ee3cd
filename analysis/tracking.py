"""Which face of a frame is which of the frames before."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

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
    matches = zip(*linear_sum_assignment(overlaps, maximize=True), strict=True)
    return {int(column): tracks[row] for row, column in matches if overlaps[row, column] >= MIN_IOU}


def intersection_over_union(boxes: Sequence[Box], others: Sequence[Box]) -> np.ndarray:
    """`(boxes, others)` float: how much of both boxes together is covered by both."""
    a = np.asarray(boxes, dtype=np.float64).reshape(-1, 1, 4)
    b = np.asarray(others, dtype=np.float64).reshape(1, -1, 4)
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    shared = sides.clip(min=0).prod(axis=-1)
    areas = [(box[..., 2:] - box[..., :2]).prod(axis=-1) for box in (a, b)]
    return shared / np.maximum(areas[0] + areas[1] - shared, 1e-12)
