"""Where faces come from: what a detector is asked, which faces are kept, and whose points a file gives."""

import argparse
import hashlib
from pathlib import Path

import numpy as np
import pytest
from blob_faces import draw_frame, write_video
from PIL import Image

from mf2.analysis import faces
from mf2.analysis.face_arguments import FaceSearch, add_face_arguments
from mf2.analysis.faces import describe_finder, make_finder
from mf2.analysis.media import Frame, Source, find_sources, read_frames
from mf2.labels_mf2 import MEAN_FACE_68
from mf2.landmarks_mf2 import BoxDetector, DetectedFace

POINTS = np.array(MEAN_FACE_68, np.float32) * 40


def face(side: float, score: float) -> DetectedFace:
    return DetectedFace((0.0, 0.0, side, side * 1.2), np.array(MEAN_FACE_68, np.float32) * side, score)


class TwoFaces(BoxDetector):
    """A large face and a small one, which is seen in tiles only; `asked` says how each picture was searched."""

    name = package = "two_faces"
    reach = 0.1

    def __init__(self):
        self.asked = []

    def detect(self, images, in_tiles=False):
        self.asked += [in_tiles] * len(images)
        return [[face(100, 0.9), *([face(20, 0.6)] if in_tiles else [])] for _ in images]

    def _find_boxes(self, image):
        raise NotImplementedError

    def _find_landmarks(self, image, boxes):
        raise NotImplementedError

    @classmethod
    def model_files(cls, model_file):
        return {}


def frames_of(*are_moving: bool) -> list[Frame]:
    source = Source(Path("x"), "x", False)
    return [Frame(source, 0, idx, 0.0, np.zeros((9, 9, 3)), is_moving=moving) for idx, moving in enumerate(are_moving)]


def find_with(detector, monkeypatch, **options):
    monkeypatch.setattr(faces, "load_backend", lambda *args: detector)
    monkeypatch.setattr(faces, "choose_backend", lambda preferred, name, model_file: "any")
    return make_finder(FaceSearch(**options), "any", None, [])


# --------------------------------------------------------------------------------------------------------- detection
@pytest.mark.parametrize(
    ("small_faces", "asked"),
    [("pictures", [True, False, True]), ("always", [True] * 3), ("never", [False] * 3)],
)
def test_pictures_are_searched_in_tiles_and_frames_of_videos_are_not(monkeypatch, small_faces, asked):
    detector = TwoFaces()
    found = find_with(detector, monkeypatch, small_faces=small_faces)(frames_of(False, True, False))
    assert [len(each) for each in found] == [1 + tiled for tiled in asked], "in the order of the frames"
    assert sorted(detector.asked) == sorted(asked)


def test_faces_of_a_low_score_or_a_small_size_are_left_out(monkeypatch):
    frames = frames_of(False)
    for options, sides in (
        ({}, [100, 20]),
        ({"min_face_score": 0.7}, [100]),
        ({"min_face_size": 20}, [100, 20]),
        ({"min_face_size": 21}, [100]),
        ({"min_face_score": 0.95}, []),
    ):
        (found,) = find_with(TwoFaces(), monkeypatch, **options)(frames)
        assert [each.side_px for each in found] == pytest.approx(sides), options


def test_a_detector_of_ones_own_gets_the_pictures_as_they_are(monkeypatch):
    class Plain:
        name = "plain"

        def detect(self, images):
            return [[face(50, 0.8)] for _ in images]

    found = find_with(Plain(), monkeypatch, small_faces="always")(frames_of(False, True))
    assert [len(each) for each in found] == [1, 1]


@pytest.mark.parametrize("words", [["--min_face_score", "1.5"], ["--min_face_size=-3"], ["--min_face_size", "nan"]])
def test_limits_out_of_range_are_refused(words, capsys):
    parser = argparse.ArgumentParser()
    add_face_arguments(parser)
    with pytest.raises(SystemExit):
        parser.parse_args(words)
    assert "is no number from 0" in capsys.readouterr().err
    search = FaceSearch.from_args(parser.parse_args(["--min_face_score", "0.4", "--small_faces", "never"]))
    assert search == FaceSearch(min_face_score=0.4, small_faces="never")


def test_what_faces_are_found_with_is_described(tmp_path):
    (tmp_path / "m.task").write_bytes(b"model")
    digest = hashlib.sha256(b"model").hexdigest()
    described = describe_finder(FaceSearch(backend="mediapipe", model_file=str(tmp_path / "m.task")), "face-alignment")
    assert described["name"] == "mediapipe" and "version" in described
    own = describe_finder(FaceSearch(backend="my:detector", model_file=str(tmp_path / "m.task")), "face-alignment")
    assert own == {"name": "my:detector", "version": None, "model_sha256": {"m.task": digest}}
    assert describe_finder(FaceSearch(str(tmp_path / "m.task")), "") == {"name": "m.task", "sha256": digest}
    assert describe_finder(FaceSearch("mean_face"), "") is None


# ------------------------------------------------------------------------------------------------------ given points
def write_points(file: Path, rows: dict[tuple[str, int], float]) -> str:
    """A CSV with the mean face at that x for each video and frame."""
    names = [f"{axis}{point}" for point in range(68) for axis in "xy"]
    lines = [",".join(["video", "frame", *names])]
    for (video, frame), x in rows.items():
        lines.append(",".join(map(str, (video, frame, *np.add(POINTS, (x, 0)).ravel()))))
    file.write_text("\n".join(lines) + "\n")
    return str(file)


def places(search: FaceSearch, *paths: Path) -> list[int | None]:
    """How far the points of each frame were moved; None for a frame without any."""
    sources, _ = find_sources(paths)
    find = make_finder(search, "", None, sources)
    found = find(list(read_frames(enumerate(sources))))
    return [round(float(each[0].landmarks_px[0, 0] - POINTS[0, 0])) if each else None for each in found]


@pytest.fixture
def clip(tmp_path) -> Path:
    (tmp_path / "dir").mkdir()
    return write_video(tmp_path / "dir" / "clip.mp4", [draw_frame([(0, 0, 40, 40)])] * 3)


@pytest.mark.parametrize("video", ["clip", "clip.mp4", "dir/clip.mp4"])
def test_a_video_is_found_under_any_of_its_names(clip, tmp_path, video):
    file = write_points(tmp_path / "p.csv", {(video, frame): frame for frame in range(3)} | {("other", 0): 9})
    assert places(FaceSearch(file), clip) == [0, 1, 2]


def test_frames_that_count_from_one(clip, tmp_path):
    """The last of three frames is called 3; or the user says so; or nothing does."""
    file = write_points(tmp_path / "p.csv", {("clip", frame): frame for frame in (1, 2, 3)})
    assert places(FaceSearch(file), clip) == [1, 2, 3]
    assert places(FaceSearch(file, first_frame=0), clip) == [None, 1, 2]
    file = write_points(tmp_path / "q.csv", {("clip", frame): frame for frame in (1, 2)})
    assert places(FaceSearch(file), clip) == [None, 1, 2]
    assert places(FaceSearch(file, first_frame=1), clip) == [1, 2, None]


def test_numbered_pictures_have_their_own_numbers(tmp_path):
    (tmp_path / "clip").mkdir()
    for number in (1, 2, 12):
        Image.new("RGB", (40, 40)).save(tmp_path / "clip" / f"{number:05d}.png")
    file = write_points(tmp_path / "p.csv", {("clip", number): number for number in (1, 2, 3)})
    assert places(FaceSearch(file), tmp_path / "clip") == [1, 2, None]


def test_a_single_picture_has_its_one_row_whatever_its_number(tmp_path):
    Image.new("RGB", (40, 40)).save(tmp_path / "face.png")
    for number in (0, 1, 7):
        file = write_points(tmp_path / "p.csv", {("face.png", number): 5})
        assert places(FaceSearch(file), tmp_path / "face.png") == [5]


def test_a_file_of_other_videos_is_refused(clip, tmp_path):
    file = write_points(tmp_path / "p.csv", {("walk.mp4", 0): 0, ("run.mp4", 0): 0})
    with pytest.raises(ValueError, match=r"has landmarks of walk\.mp4, run\.mp4, and of none of .*clip\.mp4"):
        places(FaceSearch(file), clip)


def test_two_sources_of_one_name_are_told_apart_or_refused(clip, tmp_path):
    (tmp_path / "other").mkdir()
    other = write_video(tmp_path / "other" / "clip.mp4", [draw_frame([(0, 0, 40, 40)])] * 3)
    file = write_points(tmp_path / "p.csv", {(f"{name}/clip", 0): x for x, name in enumerate(("dir", "other"))})
    assert places(FaceSearch(file), clip, other) == [0, None, None, 1, None, None]
    file = write_points(tmp_path / "q.csv", {("clip", 0): 0})
    with pytest.raises(ValueError, match="clip of the landmark file may be"):
        places(FaceSearch(file), clip, other)
