"""The vocabulary of MF²: action units, emotions, label spaces, the form of an AU caption and the 68-point face.

Uses the standard library only, so that the data tools need not import torch or transformers.

Conventions: AU labels are 1 active, 0 not active, -1 unlabelled. Emotion labels are 0..7 in the order of `EMOTIONS`,
-100 unlabelled in a batch and null on disk. Valence and arousal lie in -1..1, NaN unlabelled. Landmarks are the
0-based iBUG-68 points, x to the right and y down.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any


@dataclass(frozen=True)
class ActionUnit:
    """One facial action unit of FACS and the rule that places its region.

    `centers` are two (landmark, offset) pairs: the region's centre lies at that landmark, shifted down by `offset`
    rulers, the ruler being the distance between the inner eye corners (points 39 and 42) of the upright face.
    """

    id: int
    name: str
    muscle: str
    centers: tuple[tuple[int, float], tuple[int, float]]

    @property
    def code(self) -> str:
        """`AU12`, the name of its column and of its output."""
        return f"AU{self.id}"

    @property
    def title(self) -> str:
        """`AU12 (Lip Corner Puller)`, its name in captions."""
        return f"{self.code} ({self.name})"


# Centre rules: JAA-Net (arXiv 1803.05588) and EAC-Net; AC2D covers the 12 AUs of Aff-Wild2. AU5 and AU20 have no
# published rule; theirs (the upper lids, the lip corners) were chosen here.
ACTION_UNITS: dict[int, ActionUnit] = {
    au.id: au
    for au in (
        ActionUnit(1, "Inner Brow Raiser", "frontalis, medial", ((21, -1 / 2), (22, -1 / 2))),
        ActionUnit(2, "Outer Brow Raiser", "frontalis, lateral", ((18, -1 / 3), (25, -1 / 3))),
        ActionUnit(4, "Brow Lowerer", "corrugator, depressor supercilii, procerus", ((19, 1 / 3), (24, 1 / 3))),
        ActionUnit(5, "Upper Lid Raiser", "levator palpebrae superioris", ((37, 0.0), (44, 0.0))),
        ActionUnit(6, "Cheek Raiser", "orbicularis oculi, orbital", ((41, 1.0), (46, 1.0))),
        ActionUnit(7, "Lid Tightener", "orbicularis oculi, palpebral", ((38, 0.0), (43, 0.0))),
        ActionUnit(9, "Nose Wrinkler", "levator labii superioris alaeque nasi", ((32, -1 / 2), (34, -1 / 2))),
        ActionUnit(10, "Upper Lip Raiser", "levator labii superioris", ((61, 0.0), (63, 0.0))),
        ActionUnit(12, "Lip Corner Puller", "zygomaticus major", ((48, 0.0), (54, 0.0))),
        ActionUnit(14, "Dimpler", "buccinator", ((48, 0.0), (54, 0.0))),
        ActionUnit(15, "Lip Corner Depressor", "depressor anguli oris", ((48, 0.0), (54, 0.0))),
        ActionUnit(17, "Chin Raiser", "mentalis", ((56, 1 / 2), (58, 1 / 2))),
        ActionUnit(20, "Lip Stretcher", "risorius", ((48, 0.0), (54, 0.0))),
        ActionUnit(23, "Lip Tightener", "orbicularis oris", ((51, 0.0), (57, 0.0))),
        ActionUnit(24, "Lip Pressor", "orbicularis oris", ((51, 0.0), (57, 0.0))),
        ActionUnit(25, "Lips Part", "depressor labii inferioris", ((51, 0.0), (57, 0.0))),
        ActionUnit(26, "Jaw Drop", "masseter, temporalis, pterygoid", ((56, 1 / 2), (58, 1 / 2))),
    )
}

AU_IDS: tuple[int, ...] = (1, 2, 4, 6, 7, 10, 12, 15, 23, 24, 25, 26)
"""The 12 action units of Aff-Wild2 and MFA, in the order of the model's outputs."""

EMOTIONS: tuple[str, ...] = ("Neutral", "Anger", "Disgust", "Fear", "Happiness", "Sadness", "Surprise", "Other")
"""The eight expressions of Aff-Wild2 and MFA, in label order."""

AFFECT: tuple[str, ...] = ("valence", "arousal")
"""The dimensions of continuous affect: from -1, negative or passive, to 1, positive or active."""

AU_UNLABELLED = -1
EMOTION_UNLABELLED = -100
AFFECT_UNLABELLED = float("nan")

PROTOTYPES: dict[str, tuple[int, ...]] = {
    "Happiness": (6, 12, 25),
    "Sadness": (1, 4, 15),
    "Surprise": (1, 2, 25, 26),
    "Fear": (1, 2, 4, 25, 26),
    "Anger": (4, 7, 23, 24),
    "Disgust": (4, 10, 15),
}
"""FACS prototypes within the 12 AUs, used for priors and warnings, never to change a label."""


def get_action_unit(au_id: int) -> ActionUnit:
    """The AU of that number.

    Raises:
        ValueError: an unknown AU; the known ones are listed.
    """
    if au_id not in ACTION_UNITS:
        raise ValueError(f"AU {au_id} has no region rule; known AUs are {', '.join(map(str, ACTION_UNITS))}.")
    return ACTION_UNITS[au_id]


NO_ACTIVE_AU_CAPTION = "No facial action unit is active; the face is at rest."
"""The AU caption of a face without an active AU."""


def unlabelled_aus(labels: Mapping[int, int | None]) -> tuple[int, ...]:
    """The unlabelled AUs: those of `AU_IDS` and of `labels` without a label of 0 or 1.

    Args:
        labels: AU number -> 1, 0, or -1 or None if unlabelled; a missing AU is unlabelled.
    """
    return tuple(sorted(au_id for au_id in {*AU_IDS, *labels} if labels.get(au_id) not in (0, 1)))


def render_au_caption(sentences: Mapping[int, str]) -> str:
    """Numbered lines `1. AU1 (Inner Brow Raiser): …` in the order of the AU numbers; the fixed caption for none."""
    lines = (
        f"{number}. {get_action_unit(au_id).title}: {' '.join(sentences[au_id].split())}"
        for number, au_id in enumerate(sorted(sentences), start=1)
    )
    return "\n".join(lines) or NO_ACTIVE_AU_CAPTION


@dataclass(frozen=True)
class LabelSpace:
    """What a set of outputs means: the AUs with their decision thresholds and the emotions, in output order.

    `thresholds[i]` in (0, 1) belongs to `au_ids[i]`. Either list may be empty (a task without it). `region_au_ids` are
    the AUs whose regions are looked at, its own among them: just its own by default, or the 12 of MFA where it has
    no AUs. `affect` says whether valence and arousal are outputs, too.
    """

    au_ids: tuple[int, ...] = AU_IDS
    emotions: tuple[str, ...] = EMOTIONS
    thresholds: tuple[float, ...] = field(default=())
    region_au_ids: tuple[int, ...] = field(default=())
    affect: bool = False

    def __post_init__(self) -> None:
        for name in ("au_ids", "emotions"):
            values = tuple(getattr(self, name))
            object.__setattr__(self, name, values)
            if len(set(values)) != len(values):
                raise ValueError(f"{name} has duplicates: {list(values)}.")
        regions = tuple(self.region_au_ids) or self.au_ids or AU_IDS
        object.__setattr__(self, "region_au_ids", regions)
        for au_id in (*self.au_ids, *regions):
            get_action_unit(au_id)
        if unseen := [au_id for au_id in self.au_ids if au_id not in regions]:
            raise ValueError(f"region_au_ids are {list(regions)}, without AU{unseen[0]}, which is one of au_ids.")
        thresholds = tuple(float(t) for t in self.thresholds) or (0.5,) * len(self.au_ids)
        if len(thresholds) != len(self.au_ids):
            raise ValueError(f"{len(thresholds)} thresholds for {len(self.au_ids)} AUs; give one each.")
        for au_id, threshold in zip(self.au_ids, thresholds, strict=True):
            if not 0.0 < threshold < 1.0:
                raise ValueError(f"The threshold of AU{au_id} is {threshold}; it must lie between 0 and 1.")
        object.__setattr__(self, "thresholds", thresholds)

    def looking_at(self, region_au_ids: Sequence[int]) -> "LabelSpace":
        """The same, looking at these regions first, then at those of its other AUs."""
        return replace(self, region_au_ids=tuple(dict.fromkeys([*region_au_ids, *self.au_ids])))

    @property
    def au_codes(self) -> tuple[str, ...]:
        """`("AU1", "AU2", …)`, the names of the outputs."""
        return tuple(ACTION_UNITS[au_id].code for au_id in self.au_ids)

    @property
    def au_names(self) -> tuple[str, ...]:
        """The FACS names, in output order."""
        return tuple(ACTION_UNITS[au_id].name for au_id in self.au_ids)

    @property
    def thresholds_by_code(self) -> dict[str, float]:
        """From which probability each AU is active, by code, in output order."""
        return dict(zip(self.au_codes, self.thresholds, strict=True))

    @property
    def affect_names(self) -> tuple[str, ...]:
        """`("valence", "arousal")`, or nothing without `affect`."""
        return AFFECT if self.affect else ()

    def to_dict(self) -> dict[str, Any]:
        """What the outputs mean, as plain lists, for JSON."""
        return {
            "au_ids": list(self.au_ids),
            "emotions": list(self.emotions),
            "thresholds": list(self.thresholds),
            **({"affect": True} if self.affect else {}),
        }


# ------------------------------------------------------------------------------------------------ the 68-point face
NUM_LANDMARKS = 68

FLIP_68: tuple[int, ...] = (
    *range(16, -1, -1),  # jaw
    *range(26, 16, -1),  # brows
    *range(27, 31),  # nose bridge
    *range(35, 30, -1),  # nostrils
    *(45, 44, 43, 42, 47, 46),  # the eye of the left image half takes the other's points
    *(39, 38, 37, 36, 41, 40),
    *range(54, 47, -1),  # outer lip, upper
    *range(59, 54, -1),  # outer lip, lower
    *range(64, 59, -1),  # inner lip, upper
    *range(67, 64, -1),  # inner lip, lower
)
"""`flipped[i] = mirrored[FLIP_68[i]]`: the point that becomes point i when an image is mirrored."""

# The mean face, eye centres at `EYE_CENTERS` of the unit square. Points 17..67 are the mean shape
# known from dlib's and face-alignment's users; the jaw is a smooth curve around it.
_BROWS_TO_LIPS_X = (
    0.000213, 0.075262, 0.181130, 0.290770, 0.393397, 0.586856, 0.689483, 0.799124, 0.904991, 0.980040, 0.490127,
    0.490127, 0.490127, 0.490127, 0.366880, 0.426036, 0.490127, 0.554217, 0.613373, 0.121737, 0.187122, 0.265825,
    0.334606, 0.260918, 0.182743, 0.645647, 0.714428, 0.793132, 0.858516, 0.797510, 0.719335, 0.254149, 0.340985,
    0.428858, 0.490127, 0.551395, 0.639268, 0.726104, 0.642159, 0.556721, 0.490127, 0.423532, 0.338094, 0.290379,
    0.428096, 0.490127, 0.552157, 0.689874, 0.553364, 0.490127, 0.426890,
)  # fmt: skip
_BROWS_TO_LIPS_Y = (
    0.106454, 0.038915, 0.018748, 0.034489, 0.077391, 0.077391, 0.034489, 0.018748, 0.038915, 0.106454, 0.203352,
    0.307009, 0.409805, 0.515625, 0.587326, 0.609345, 0.628106, 0.609345, 0.587326, 0.216423, 0.178758, 0.179852,
    0.231733, 0.245099, 0.244077, 0.231733, 0.179852, 0.178758, 0.216423, 0.244077, 0.245099, 0.780233, 0.745405,
    0.727388, 0.742578, 0.727388, 0.745405, 0.780233, 0.864805, 0.902192, 0.909281, 0.902192, 0.864805, 0.784792,
    0.778746, 0.785343, 0.778746, 0.784792, 0.824182, 0.831803, 0.824182,
)  # fmt: skip
_JAW_HALF = (
    (-0.118, 0.240), (-0.114, 0.395), (-0.098, 0.550), (-0.070, 0.700), (-0.015, 0.840), (0.078, 0.960),
    (0.195, 1.060), (0.330, 1.130), (0.490127, 1.155),
)  # fmt: skip
EYE_CENTERS = ((0.33, 0.37), (0.67, 0.37))
"""Positions of the two eye centres (image left, image right) in aligned images, as fractions of the target size."""


def _mean_face() -> tuple[tuple[float, float], ...]:
    middle = _JAW_HALF[-1][0]
    jaw = [*_JAW_HALF, *((2 * middle - x, y) for x, y in reversed(_JAW_HALF[:-1]))]
    points = [*jaw, *zip(_BROWS_TO_LIPS_X, _BROWS_TO_LIPS_Y, strict=True)]
    left = [sum(p[axis] for p in points[36:42]) / 6 for axis in (0, 1)]
    right = [sum(p[axis] for p in points[42:48]) / 6 for axis in (0, 1)]
    (left_x, eyes_y), (right_x, _) = EYE_CENTERS
    scale = (right_x - left_x) / (right[0] - left[0])
    eye_y = (left[1] + right[1]) / 2
    return tuple((left_x + (x - left[0]) * scale, eyes_y + (y - eye_y) * scale) for x, y in points)


MEAN_FACE_68: tuple[tuple[float, float], ...] = _mean_face()
"""68 points of the mean face in fractions of an aligned image, used for pictures without landmarks."""
