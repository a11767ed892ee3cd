"""Options for finding faces, shared by all commands that analyse pictures and videos. Does not import torch."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass, fields

MEAN_FACE = "mean_face"
DETECT = "detect"
SMALL_FACES = ("pictures", "always", "never")


@dataclass(frozen=True)
class FaceSearch:
    """How faces are found; see `add_face_arguments`.

    Args:
        landmarks: `detect`, `mean_face`, or a file of points, see `dataset_tools.landmark_files`.
        backend: a registered detector, or `module:factory`; None for the checkpoint's, see `choose_detector`.
        model_file: model file of the detector; None for the one that `find_model_file` finds.
        min_face_score: minimum score of detected faces, in [0, 1].
        min_face_size: minimum width and height of a face's box, in pixels.
        small_faces: what is also searched in tiles: large `pictures`, `always` (frames of videos too), or `never`.
        first_frame: number of a video's first frame in a file of points: 0, 1, or None to infer it.
    """

    landmarks: str = DETECT
    backend: str | None = None
    model_file: str | None = None
    min_face_score: float = 0.0
    min_face_size: float = 0.0
    small_faces: str = "pictures"
    first_frame: int | None = None

    @classmethod
    def from_args(cls, args: argparse.Namespace) -> "FaceSearch":
        """Create it from parsed arguments."""
        return cls(**{field.name: getattr(args, field.name) for field in fields(cls)})

    @property
    def is_file(self) -> bool:
        """Whether the points come from a file."""
        return self.landmarks not in (DETECT, MEAN_FACE)


def add_face_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `FaceSearch` as an argument group."""
    add = parser.add_argument_group("finding faces").add_argument
    add(
        "--landmarks",
        default=DETECT,
        metavar="detect|mean_face|FILE",
        help="detect faces; treat every picture as a face crop; or read points from a CSV (video, frame, x0, y0, …, "
        "or OpenFace's) or npz file [detect]",
    )
    add("--backend", help="name of a detector, or module:factory; see `mf2 detectors` [the checkpoint's]")
    add("--model_file", metavar="FILE", help="model file of the detector, if it needs one; see `mf2 detectors`")
    add(
        "--min_face_score",
        type=_parse_number_between(0, 1),
        default=0.0,
        metavar="S",
        help="ignore detected faces with a lower score, 0 to 1 [0]",
    )
    add(
        "--min_face_size",
        type=_parse_number_between(0, float("inf")),
        default=0.0,
        metavar="PX",
        help="ignore detected faces whose box is smaller, in pixels [0]",
    )
    add(
        "--small_faces",
        choices=SMALL_FACES,
        default=SMALL_FACES[0],
        help="also search in enlarged tiles: in pictures above 480 pixels, always (frames of videos too), or never. "
        "With mediapipe a tile takes 3 ms: 0.1 s for 640x480, at most 0.5 s for larger pictures [pictures]",
    )
    add(
        "--first_frame",
        type=int,
        choices=(0, 1),
        help="number of a video's first frame in the file of points [inferred from the file]",
    )


def _parse_number_between(low: float, high: float) -> Callable[[str], float]:
    """Return an argparse type for numbers in a range."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not low <= value <= high or value == float("inf"):
            raise argparse.ArgumentTypeError(f"{text!r} is no number from {low:g}" + (f" to {high:g}" * (high == 1)))
        return value

    return parse
