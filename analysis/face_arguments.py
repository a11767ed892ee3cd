"""The options that say where the faces of pictures and videos are; of every command that looks at faces. No torch."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass, fields

MEAN_FACE = "mean_face"
DETECT = "detect"
SMALL_FACES = ("pictures", "always", "never")


@dataclass(frozen=True)
class FaceSearch:
    """Where faces are; see `add_face_arguments`.

    Args:
        landmarks: `detect`, `mean_face`, or a file of points, see `dataset_tools.landmark_files`.
        backend: a registered detector, or `module:factory`; None takes the checkpoint's, see `choose_detector`.
        model_file: of the detector; None takes what `find_model_file` finds.
        min_face_score: detected faces with a lower score are left out, in [0, 1].
        min_face_size: so are those whose box is narrower or lower, in pixels.
        small_faces: what is also searched in tiles: large `pictures`, `always` frames of videos too, `never`.
        first_frame: number of a video's first frame in a file of points: 0, 1, or None to tell from the file.
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
        """Of parsed arguments."""
        return cls(**{field.name: getattr(args, field.name) for field in fields(cls)})

    @property
    def is_file(self) -> bool:
        """Whether the points come from a file."""
        return self.landmarks not in (DETECT, MEAN_FACE)


def add_face_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `FaceSearch`, in a group of their own."""
    add = parser.add_argument_group("where the faces are").add_argument
    add(
        "--landmarks",
        default=DETECT,
        metavar="detect|mean_face|FILE",
        help="find faces; take every picture as a face crop; or read points from a CSV (video, frame, x0, y0, …, or "
        "OpenFace's) or npz [detect]",
    )
    add("--backend", help="detector: its name, or module:factory of your own; see `mf2 detectors` [the checkpoint's]")
    add("--model_file", metavar="FILE", help="model of the detector, where it reads one; see `mf2 detectors`")
    add(
        "--min_face_score",
        type=_between(0, 1),
        default=0.0,
        metavar="S",
        help="leave out detected faces with a lower score, 0 to 1 [0]",
    )
    add(
        "--min_face_size",
        type=_between(0, float("inf")),
        default=0.0,
        metavar="PX",
        help="leave out detected faces whose box is narrower or lower, in pixels [0]",
    )
    add(
        "--small_faces",
        choices=SMALL_FACES,
        default=SMALL_FACES[0],
        help="search in enlarged tiles as well: pictures above 480 pixels; always, which is frames of videos too; or "
        "never. With mediapipe a tile takes 3 ms: 0.1 s for 640x480, at most 0.5 s for larger ones [pictures]",
    )
    add(
        "--first_frame",
        type=int,
        choices=(0, 1),
        help="number of a video's first frame in the file of points [told from the file]",
    )


def _between(low: float, high: float) -> Callable[[str], float]:
    """A parser of numbers in a range."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not low <= value <= high or value == float("inf"):
            raise argparse.ArgumentTypeError(f"{text!r} is no number from {low:g}" + (f" to {high:g}" * (high == 1)))
        return value

    return parse
