"""Files of landmarks as people have them: which columns are read, and whose frames they are."""

import numpy as np
import pytest

from mf2.dataset_tools import landmark_files
from mf2.dataset_tools.landmark_files import (
    FrameRange,
    list_videos,
    match_videos,
    read_landmarks,
    read_matching_landmarks,
)


@pytest.fixture(autouse=True, params=[True, False], ids=["arrow", "plain"])
def with_arrow(request, monkeypatch):
    """Small installations have no pyarrow, and read the same."""
    if not request.param:
        monkeypatch.setattr(landmark_files.importlib.util, "find_spec", lambda name: None)


POINTS = np.arange(136, dtype=np.float32).reshape(68, 2) + 0.5
NAMES = [f"{axis}{point}" for point in range(68) for axis in "xy"]


class Everything:
    def __contains__(self, key):
        return True


def row(*cells: object, separator: str = ",", points: np.ndarray = POINTS) -> str:
    return separator.join(map(str, (*cells, *points.ravel())))


def check(path, frames=(("clip", 0),)):
    found = read_landmarks(path, Everything())
    assert set(found) == set(frames)
    np.testing.assert_array_equal(found[frames[0]], POINTS)


@pytest.mark.parametrize("quote", ["", '"'])
@pytest.mark.parametrize("video", ["clip", '"clip"'])
def test_cells_may_be_quoted(tmp_path, quote, video):
    path = tmp_path / "points.csv"
    header = ",".join(f"{quote}{name}{quote}" for name in ["video", "frame", *NAMES])
    path.write_text(f"\ufeff{header}\n{row(video, 0)}\n", encoding="utf-8")
    check(path)


def test_quoted_names_may_hold_a_comma(tmp_path):
    path = tmp_path / "points.csv"
    path.write_text(f"video,frame,{','.join(NAMES)}\n{row(chr(34) + 'a, b.mp4' + chr(34), 0)}\n")
    check(path, [("a, b.mp4", 0)])


@pytest.mark.parametrize(("separator", "decimal"), [(";", "."), (";", ","), ("\t", ".")])
def test_other_separators(tmp_path, separator, decimal):
    path = tmp_path / "points.csv"
    cells = row("clip", 0, separator=separator).replace(".", decimal)
    path.write_text(f"{separator.join(['video', 'frame', *NAMES])}\n{cells}\n")
    check(path)


def openface_file(path, frames: dict[int, int]):
    """As FeatureExtraction writes it: all x, then all y, in space too, names after a blank; success by frame."""
    names = [f"{axis}_{point}" for axis in "xyXYZ" for point in range(68)]
    in_space = ["0.0"] * 3 * 68
    lines = [", ".join(["frame", "face_id", "timestamp", "confidence", "success", *names])]
    for frame, success in frames.items():
        lines.append(", ".join(map(str, (frame, 0, 0.04, 0.98, success, *POINTS.T.ravel(), *in_space))))
    path.write_text("\n".join(lines) + "\n")
    return path


def test_what_openface_writes_is_read(tmp_path):
    """Its frames count from 1, and those without success have no face."""
    path = openface_file(tmp_path / "clip.csv", {1: 1, 2: 0, 3: 1})
    check(path, [("clip", 1), ("clip", 3)])
    assert list_videos(path) == {"clip": FrameRange(1, 3, 3, origin=1)}


def test_what_is_missing_is_named(tmp_path):
    path = tmp_path / "points.csv"
    path.write_text("video,frame,x0\nclip,0,1\n")
    with pytest.raises(ValueError, match="lacks the columns y0, x1"):
        list_videos(path)
    path.write_text(f"video,frame,{','.join(NAMES)}\n{row('clip', '')}\n")
    with pytest.raises(ValueError, match="a row has no frame"):
        read_landmarks(path, Everything())


@pytest.mark.parametrize(
    ("name", "in_file", "expected"),
    [
        ("dir/clip.mp4", ["clip.mp4"], "clip.mp4"),
        ("clip.mp4", ["/data/dir/clip.mp4"], "/data/dir/clip.mp4"),
        ("/data/dir/clip.mp4", ["clip"], "clip"),
        ("dir\\clip.mp4", ["dir/clip"], "dir/clip"),
        ("a/clip.mp4", ["a/clip.mp4", "b/clip.mp4", "clip.mp4"], "a/clip.mp4"),
        ("c/clip.mp4", ["a/clip.mp4", "b/clip.mp4", "clip.mp4"], "clip.mp4"),
        ("clip.mp4", ["clip.avi"], None),
        ("a/clip.mp4", ["b/clip.mp4"], None),
        ("clip.v2", ["clip.v2.mp4"], "clip.v2.mp4"),
        ("clip.mp4", ["clip", "clip.mp4"], "clip.mp4"),
    ],
)
def test_names_mean_the_same_with_fewer_folders_or_without_a_suffix(name, in_file, expected):
    assert match_videos([name], in_file) == ({name: expected} if expected else {})


def test_what_may_be_two_things_is_refused():
    with pytest.raises(ValueError, match=r"clip\.mp4 may be a/clip\.mp4 or b/clip\.mp4 of the landmark file"):
        match_videos(["clip.mp4"], ["a/clip.mp4", "b/clip.mp4"])
    with pytest.raises(ValueError, match=r"clip of the landmark file may be a/clip\.mp4 or b/clip\.mp4"):
        match_videos(["a/clip.mp4", "b/clip.mp4"], ["clip"])


def test_a_file_that_matches_nothing_says_what_was_compared(tmp_path):
    path = tmp_path / "points.csv"
    path.write_text(f"video,frame,{','.join(NAMES)}\n{row('other.mp4', 3)}\n{row('other.mp4', 7)}\n")
    with pytest.raises(
        ValueError, match=r"none of the images. It has other\.mp4 \(frames 3 to 7\); wanted: clip frame 3"
    ):
        read_matching_landmarks(path, [("clip", 3)])
    with pytest.raises(ValueError, match=r"wanted: dir/other frame 1"):
        read_matching_landmarks(path, [("dir/other", 1)])
    assert set(read_matching_landmarks(path, [("dir/other", 3), ("dir/other", 4)])) == {("dir/other", 3)}
