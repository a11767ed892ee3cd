"""Videos, two faces, the search, adapters, the webcam and ZeroGPU."""

import base64
import csv
import io
import re
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny_mf2 import save_tiny

from mf2.analysis.face_arguments import FaceSearch
from mf2.app import zero_gpu
from mf2.app.handlers import OtherHandlers, PictureHandlers
from mf2.app.rendering import Shown, render_live, render_shown
from mf2.app.searching import ExampleSearch
from mf2.app.settings import AppSettings, Limits
from mf2.app.videos import check_video, see_video
from mf2.app.viewer import Viewer
from mf2.utils.videos import find_video_duration


@pytest.fixture
def settings(model):
    return AppSettings(str(model), faces=FaceSearch("mean_face"), limits=Limits(video_s=2, video_fps=5))


@pytest.fixture
def others(viewer, settings, tmp_path):
    return OtherHandlers(viewer, settings, tmp_path / "index")


def write_video(file, num_frames, rate=10):
    """Frames that get brighter."""
    av = pytest.importorskip("av", reason="PyAV is not installed")
    with av.open(str(file), "w") as container:
        stream = container.add_stream("mpeg4", rate=rate)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for number in range(num_frames):
            image = np.full((64, 64, 3), 20 + 5 * number, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return file


# -------------------------------------------------------------------------------------------------------------- videos
def test_a_video_becomes_regions_a_report_and_a_table(others, settings, viewer, tmp_path):
    video = write_video(tmp_path / "clip.mp4", 10)
    seen = see_video(viewer, settings, video)
    assert seen.counts == {"frames": 5, "faces": 5} and seen.note == ""
    assert seen.overlay_uri.startswith("data:video/mp4;base64,") and "clip.mp4 · face 0" in seen.report
    *_, page = others.watch(str(video))
    assert "srcdoc=" in page and 'download="faces.csv"' in page and '<iframe class="report"' in page
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip.mp4"], "nothing stays"


def test_the_length_of_a_video_is_that_of_its_packets(tmp_path):
    assert find_video_duration(write_video(tmp_path / "a.mp4", 15)) == pytest.approx(1.5, abs=0.11)
    with pytest.raises(ValueError, match=r"at most 1 s"):
        check_video(tmp_path / "a.mp4", 1)


@pytest.mark.parametrize(("name", "content"), [("a.mp4", b"no video"), ("b.mp4", b""), ("c.txt", b"text")])
def test_a_broken_video_is_one_line(others, tmp_path, name, content):
    pytest.importorskip("av", reason="PyAV is not installed")
    (tmp_path / name).write_bytes(content)
    *_, page = others.watch(str(tmp_path / name))
    assert page.count('role="alert"') == 1 and str(tmp_path) not in page and name in page


def test_a_video_without_a_face_is_told(others, viewer, tmp_path, monkeypatch):
    monkeypatch.setattr("mf2.analysis.engine.make_finder", lambda *args: lambda frames: [[] for _ in frames])
    *_, page = others.watch(str(write_video(tmp_path / "clip.mp4", 5)))
    assert "No face was found in any of the 3 frames" in page


# ----------------------------------------------------------------------------------------------------------- two faces
def test_a_face_is_like_itself_more_than_like_another(viewer, examples):
    first, second = (viewer.see_file(path).faces[0] for path in examples.pictures[:2])
    assert viewer.compare(first, first) == pytest.approx(1.0, abs=1e-5)
    assert viewer.compare(first, second) == pytest.approx(viewer.compare(second, first), abs=1e-6)
    assert viewer.compare(first, second) < 1


def test_two_faces_are_compared_once_both_are_there(others, examples):
    first, second = map(str, examples.pictures[:2])
    (page,) = others.compare(first, None)
    assert 'role="status"' in page
    (page,) = others.compare(first, second)
    assert page.count('<span class="side left"') == 12 and "likeness to the model" in page


# -------------------------------------------------------------------------------------------------------------- search
def test_the_search_ranks_the_examples(viewer, others, tmp_path):
    search = ExampleSearch(viewer, tmp_path / "other index")
    found = search.find("lips pressed, brows lowered", 2)
    assert [each.score for each in found] == sorted((each.score for each in found), reverse=True) and len(found) == 2
    again = ExampleSearch(viewer, tmp_path / "other index").find("lips pressed, brows lowered", 3)
    assert [each.name for each in again[:2]] == [each.name for each in found]
    (page,) = others.search("lips pressed")
    assert page.count("<li>") == 3
    (page,) = others.search("  ")
    assert 'role="alert"' in page


# ------------------------------------------------------------------------------------------------------------ adapters
@pytest.fixture(scope="module")
def adapted(model, adapters, examples):
    settings = AppSettings(str(model), tuple(map(str, adapters)), faces=FaceSearch("mean_face"))
    return Viewer.load(settings, examples)


def test_adapters_answer_from_one_pass(adapted, viewer, picture, monkeypatch):
    calls = []
    recognize = adapted.recognizer.recognize
    monkeypatch.setattr(adapted.recognizer, "recognize", lambda inputs: calls.append(1) or recognize(inputs))
    (face,) = adapted.see_file(picture).faces
    assert calls == [1] and {"one.AU9", "two.AU6", "AU12"} <= face.row.keys()
    assert face.row["AU12"] == pytest.approx(viewer.see_file(picture).faces[0].row["AU12"], abs=1e-6)
    assert face.regions_px["two."].shape == (2, 2, 4, 2)


def test_the_answers_that_are_asked_for_are_shown(adapted, picture):
    handlers = PictureHandlers(adapted)
    *_, (page, shown) = handlers.see(str(picture), ["", "one."])
    assert page.count('<section class="card reading"') == 2 and 'data-prefix="one."' in page
    assert 'data-prefix="two."' not in page
    assert 'data-prefix="two."' in handlers.render(shown, ["two."])


def test_a_map_of_an_adapter_is_its_own_and_changes_nothing(adapted, picture):
    (face,) = adapted.see_file(picture).faces
    maps = [np.asarray(adapted.draw_map(face, prefix, "AU12")) for prefix in ("", "one.", "")]
    assert np.array_equal(maps[0], maps[2]) and not np.array_equal(maps[0], maps[1])
    (again,) = adapted.see_file(picture).faces
    assert (again.row["AU12"], again.row["one.AU12"]) == (face.row["AU12"], face.row["one.AU12"])
    handlers = PictureHandlers(adapted)
    *_, (_, shown) = handlers.see(str(picture), [""])
    *_, (page, shown) = handlers.choose(shown, ["", "one."], {"code": "AU9", "prefix": "one.", "face": None})
    assert shown.map.prefix == "one." and "(one)" in page


# -------------------------------------------------------------------------------------------------------- webcam, card
def test_a_frame_is_shown_without_sentences(others, viewer, monkeypatch):
    (page,) = others.follow(np.full((60, 80, 3), 120, np.uint8), [""])
    assert page.count('class="bar"') == 12 and "In words" not in page and "<button type=button class" not in page
    monkeypatch.setattr(viewer, "_find", lambda frames: [[] for _ in frames])
    (page,) = others.follow(np.full((60, 80, 3), 120, np.uint8), [""])
    assert "No face in view" in page
    (page,) = others.follow(None, [""])
    assert 'role="status"' in page


def test_on_zero_gpu_the_model_moves_when_it_is_called(model, examples, picture, monkeypatch):
    marked, moved = [], []

    def gpu(duration):
        return lambda function: marked.append(function) or function

    monkeypatch.setenv("SPACES_ZERO_GPU", "true")
    monkeypatch.setitem(sys.modules, "spaces", SimpleNamespace(GPU=gpu))
    viewer = Viewer.load(AppSettings(str(model), faces=FaceSearch("mean_face")), examples)
    assert viewer.recognizer.device == torch.device("cpu") and viewer._device == "cuda"
    monkeypatch.setattr("mf2.app.viewer.choose_device", lambda name: moved.append(name) or torch.device("cpu"))
    *_, (page, _) = PictureHandlers(viewer).see(str(picture), [""])
    assert len(marked) == 2 and set(moved) == {"cuda"} and 'class="bar"' in page
    monkeypatch.setenv("SPACES_ZERO_GPU", "")
    assert zero_gpu.on_gpu(len) is len


# ------------------------------------------------------------------------------------------------- valence and arousal
@pytest.fixture(scope="module")
def affect_viewer(examples, tmp_path_factory):
    checkpoint = save_tiny(tmp_path_factory.mktemp("affect") / "tiny", affect=True)
    return Viewer.load(AppSettings(str(checkpoint), faces=FaceSearch("mean_face")), examples)


def test_valence_and_arousal_stand_with_their_sign(affect_viewer, examples, settings, tmp_path):
    seen = affect_viewer.see_file(examples.pictures[0])
    shown = [f"{seen.faces[0].row[name]:+.2f}".replace("-", "−") for name in ("valence", "arousal")]
    spaces = affect_viewer.label_spaces
    page, live = render_shown(Shown(seen), spaces, [""]), render_live(seen, spaces, [""])
    *_, pair = OtherHandlers(affect_viewer, settings, tmp_path).compare(*map(str, examples.pictures[:2]))
    for html in (page, live, pair):
        assert re.findall(r'class="axis".*?class="value">(.*?)<', html)[:2] == shown
    table = base64.b64decode(re.search(r"data:text/csv;base64,([^\"]+)", page)[1]).decode()
    (row,) = csv.DictReader(io.StringIO(table))
    assert float(row["valence"]) == pytest.approx(seen.faces[0].row["valence"])


def test_without_valence_and_arousal_there_is_no_axis(viewer, picture):
    assert "axis" not in render_shown(Shown(viewer.see_file(picture)), viewer.label_spaces, [""])
