"""Landmark detectors: the registry, the built-in one on its package's own code, and its errors."""

import hashlib
import importlib.machinery
import re
import sys
import urllib.error
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from mf2 import landmarks_mf2
from mf2.head_pose_mf2 import head_poses
from mf2.labels_mf2 import MEAN_FACE_68
from mf2.landmarks_mf2 import (
    FACE_MESH_TO_68,
    DetectedFace,
    FaceAlignmentDetector,
    LandmarkDetector,
    MediaPipeDetector,
    choose_detector,
    describe_detector,
    detector_names,
    detector_needs,
    detectors_folder,
    find_detector,
    find_model_file,
    is_ready,
    load_detector,
    register_detector,
)


class StubDetector:
    name = "stub"

    def __init__(self, device=None):
        self.device = device

    def detect(self, images):
        return [[] for _ in images]


@pytest.fixture
def clean_registry(monkeypatch):
    monkeypatch.setattr(landmarks_mf2, "_FACTORIES", dict(landmarks_mf2._FACTORIES))
    monkeypatch.setattr(landmarks_mf2, "_LOADED", {})


# -------------------------------------------------------------------------------------------------------- registry
def test_a_registered_detector_is_built_once_for_each_device(clean_registry):
    register_detector("stub", StubDetector)
    first = load_detector("stub", "cpu")
    assert first.device == "cpu"
    assert load_detector("stub", "cpu") is first
    assert load_detector("stub", "cuda:1") is not first


def test_a_model_file_reaches_its_detector(clean_registry):
    register_detector("stub", lambda device, model_file=None: SimpleNamespace(name=model_file, detect=None))
    first = load_detector("stub", "cpu", "one.task")
    assert first.name == "one.task" and load_detector("stub", "cpu", "one.task") is first
    assert load_detector("stub", "cpu", "two.task").name == "two.task" and "stub" in detector_names()


def test_registering_again_replaces_what_was_built(clean_registry):
    register_detector("stub", StubDetector)
    first = load_detector("stub")
    register_detector("stub", StubDetector)
    assert load_detector("stub") is not first


def test_a_detector_is_taken_as_it_is():
    detector = StubDetector()
    assert isinstance(detector, LandmarkDetector)
    assert load_detector(detector) is detector


def test_unknown_names_and_things_that_detect_nothing_are_refused(clean_registry):
    with pytest.raises(ValueError, match=r"'dlib'; known are face-alignment, mediapipe.*register_detector"):
        load_detector("dlib")
    with pytest.raises(ValueError, match=r"face-alignment takes no model file; leave out fan\.onnx"):
        load_detector("face-alignment", model_file="fan.onnx")
    with pytest.raises(TypeError, match="no landmark detector"):
        load_detector(object())


# -------------------------------------------------------------------------------------------------- face-alignment
def test_missing_package_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "face_alignment", None)
    with pytest.raises(ImportError, match="pip install face-alignment"):
        FaceAlignmentDetector()


def test_what_to_do_without_a_detector_is_the_callers_to_say(monkeypatch):
    monkeypatch.setitem(sys.modules, "face_alignment", None)
    with pytest.raises(ImportError, match=r"pip install face-alignment[^$]*pass landmarks=<array"):
        load_detector("face-alignment", "cpu")
    with pytest.raises(ImportError, match="pip install face-alignment") as caught:
        load_detector("face-alignment", "cpu", instead="Or give --landmarks FILE.")
    assert str(caught.value).endswith("Or give --landmarks FILE.") and "landmarks=" not in str(caught.value)


def test_missing_weights_say_which_file_goes_where(monkeypatch, tmp_path):
    pytest.importorskip("face_alignment")

    def no_network(*args, **kwargs):
        raise urllib.error.URLError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "urlopen", no_network)
    with pytest.raises(OSError, match="no network") as caught:
        FaceAlignmentDetector(device="cpu")
    folder = tmp_path / "hub" / "checkpoints"
    for name in ("2DFAN4-11f355bf06.pth.tar", "s3fd-619a316812.pth"):
        assert str(folder / name) in str(caught.value)
        assert f"https://www.adrianbulat.com/downloads/python-fan/{name}" in str(caught.value)


def test_damaged_weights_are_named(monkeypatch, tmp_path):
    pytest.importorskip("face_alignment")
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    (folder / "s3fd-619a316812.pth").write_bytes(b"half a download")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(OSError, match="again, if they are damaged"):
        FaceAlignmentDetector(device="cpu")


class HeatmapNet(torch.nn.Module):
    """Stands in for FAN: heat maps that peak at the mean face, whatever it is shown."""

    def __init__(self, *args):
        super().__init__()

    def load_state_dict(self, weights):
        pass

    def forward(self, images):
        heatmaps = torch.zeros(len(images), 68, 64, 64)
        for point, (x, y) in enumerate((np.array(MEAN_FACE_68) * 64).astype(int)):
            heatmaps[:, point, y, x] = 1
        return heatmaps


@pytest.fixture
def face_alignment_detector(monkeypatch):
    """The detector on face-alignment's own code, its two networks replaced and numba's compiler left out."""
    pytest.importorskip("face_alignment")
    from face_alignment import api, utils
    from face_alignment.detection.sfd import sfd_detector

    for name in ("transform_np", "_get_preds_fromhm"):
        monkeypatch.setattr(utils, name, getattr(utils, name).py_func)
    monkeypatch.setattr(sfd_detector, "load_state_dict_from_url", lambda url: {})
    monkeypatch.setattr(sfd_detector, "s3fd", HeatmapNet)
    monkeypatch.setattr(api, "load_file_from_url", lambda url: url)
    monkeypatch.setattr(api, "FAN", HeatmapNet)
    monkeypatch.setattr(torch, "load", lambda *args, **kwargs: {})
    return FaceAlignmentDetector(device="cpu", max_side=200)


def test_faces_of_pictures_in_pixels_of_the_full_picture(face_alignment_detector, monkeypatch):
    searched = []

    def find_one_box(image):
        searched.append(image.shape)
        return [np.array([40.0, 30.0, 100.0, 110.0, 0.9])] if image.any() else []

    monkeypatch.setattr(face_alignment_detector._model.face_detector, "detect_from_image", find_one_box)
    picture = np.full((300, 400, 3), 128, dtype=np.uint8)
    (face,), none = face_alignment_detector.detect([picture, np.zeros((100, 120, 3), dtype=np.uint8)])

    assert none == []
    assert searched == [(150, 200, 3), (100, 120, 3)]
    assert isinstance(face, DetectedFace) and face.score == pytest.approx(0.9)
    assert face.box_xyxy_px == (80, 60, 200, 220)
    assert face.landmarks_px.shape == (68, 2) and face.landmarks_px.dtype == np.float32
    # FAN looks at a square about the box: its centre is moved up by 12 % of the height, its side 200 / 195 of w + h.
    side = 200 * (120 + 160) / 195
    corner = np.array((140, 140 - 0.12 * 160)) - side / 2
    np.testing.assert_allclose(face.landmarks_px, corner + np.array(MEAN_FACE_68) * side, atol=side / 64 + 1)


# -------------------------------------------------------------------------------------------------------- mediapipe
MESH = np.random.default_rng(0).uniform(0.2, 0.8, (478, 2))
BOXES = [(20, 10, 60, 60, 0.9), (120, 20, 40, 40, 0.6)]
"""x, y, width, height and score of the faces of a bright picture."""


class StubFaceDetector:
    """Stands in for FaceDetector: two boxes in a bright picture, none in a black one."""

    def __init__(self, options):
        self.options = options

    def detect(self, picture):
        boxes = BOXES if picture.data.any() else []
        detections = [
            SimpleNamespace(
                bounding_box=SimpleNamespace(origin_x=x, origin_y=y, width=width, height=height),
                categories=[SimpleNamespace(score=score)],
            )
            for x, y, width, height, score in boxes
        ]
        return SimpleNamespace(detections=detections)


class StubLandmarker:
    """Stands in for FaceLandmarker: a mesh in the middle of what it is shown, and one in a corner."""

    def __init__(self, options):
        self.options = options
        self.shown = []

    def detect(self, picture):
        self.shown.append(picture.data.shape)
        meshes = [MESH * 0.05, MESH]
        return SimpleNamespace(face_landmarks=[[SimpleNamespace(x=x, y=y, z=0.0) for x, y in mesh] for mesh in meshes])


@pytest.fixture
def stub_mediapipe(monkeypatch, tmp_path):
    """A bundle's file; MediaPipe's tasks are stubs."""
    vision = SimpleNamespace(
        FaceDetectorOptions=SimpleNamespace,
        FaceDetector=SimpleNamespace(create_from_options=StubFaceDetector),
        FaceLandmarkerOptions=SimpleNamespace,
        FaceLandmarker=SimpleNamespace(create_from_options=StubLandmarker),
    )
    package = SimpleNamespace(
        tasks=SimpleNamespace(vision=vision, BaseOptions=SimpleNamespace),
        Image=SimpleNamespace,
        ImageFormat=SimpleNamespace(SRGB="srgb"),
        __spec__=importlib.machinery.ModuleSpec("mediapipe", None),
    )
    monkeypatch.setitem(sys.modules, "mediapipe", package)
    with zipfile.ZipFile(tmp_path / "face.task", "w") as bundle:
        bundle.writestr("face_detector.tflite", b"boxes")
    return tmp_path / "face.task"


def test_a_face_mesh_becomes_68_points_in_pixels(stub_mediapipe):
    detector = MediaPipeDetector(model_file=stub_mediapipe, min_confidence=0.4)
    assert detector._detector.options.base_options.model_asset_buffer == b"boxes"
    assert detector._detector.options.min_detection_confidence == 0.4
    assert detector._landmarker.options.base_options.model_asset_path == str(stub_mediapipe)
    bright = np.full((100, 200, 3), 200, dtype=np.uint8)
    (near, far), none = detector.detect([bright[:, ::-1], np.zeros((50, 60, 3), dtype=np.uint8)])
    assert none == [] and (near.score, far.score) == (0.9, 0.6)
    # Of the first box and its surroundings, x from -10 to 110 and y from -20 to 100, the picture's part is looked at.
    pixels = MESH * (110, 100)
    np.testing.assert_allclose(near.landmarks_px, pixels[list(FACE_MESH_TO_68)], rtol=1e-6)
    np.testing.assert_allclose(near.box_xyxy_px, (*pixels.min(axis=0), *pixels.max(axis=0)), rtol=1e-6)
    pixels = MESH * 80 + (100, 0)
    np.testing.assert_allclose(far.landmarks_px, pixels[list(FACE_MESH_TO_68)], rtol=1e-5)
    assert detector._landmarker.shown == [(100, 110, 3), (80, 80, 3)]
    assert near.landmarks_px.dtype == np.float32 and near.side_px < 100


def test_a_box_without_a_mesh_over_it_is_no_face(stub_mediapipe, monkeypatch):
    monkeypatch.setattr(StubLandmarker, "detect", lambda self, picture: SimpleNamespace(face_landmarks=[]))
    bright = np.full((100, 200, 3), 200, dtype=np.uint8)
    assert MediaPipeDetector(model_file=stub_mediapipe).detect([bright]) == [[]]


def test_the_best_faces_are_kept_where_there_are_too_many(stub_mediapipe, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "BOXES", BOXES[::-1])
    bright = np.full((100, 200, 3), 200, dtype=np.uint8)
    ((face,),) = MediaPipeDetector(model_file=stub_mediapipe, max_faces=1).detect([bright])
    assert face.score == 0.9


def test_a_model_file_that_is_none(monkeypatch, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.task does not exist"):
        load_detector("mediapipe", model_file="nowhere.task")
    wrong = tmp_path / "wrong.task"
    wrong.write_bytes(b"no bundle")
    monkeypatch.setitem(sys.modules, "mediapipe", None)
    with pytest.raises(ImportError, match="pip install mediapipe"):
        load_detector("mediapipe", model_file=wrong)


def test_mediapipe_itself_refuses_a_wrong_file(tmp_path):
    pytest.importorskip("mediapipe")
    wrong = tmp_path / "wrong.task"
    wrong.write_bytes(b"no bundle")
    with pytest.raises(OSError, match=r"wrong\.task is no FaceLandmarker bundle"):
        load_detector("mediapipe", model_file=wrong)
    with zipfile.ZipFile(wrong, "w") as bundle:
        bundle.writestr("face_detector.tflite", b"no model")
    with pytest.raises(OSError, match=r"wrong\.task is no FaceLandmarker bundle"):
        load_detector("mediapipe", model_file=wrong)


def test_the_vertices_lie_on_the_outlines_that_mediapipe_names():
    vision = pytest.importorskip("mediapipe").tasks.vision
    outlines = {
        "FACE_OVAL": slice(0, 17),
        "RIGHT_EYEBROW": slice(17, 22),
        "LEFT_EYEBROW": slice(22, 27),
        "NOSE": slice(27, 36),
        "RIGHT_EYE": slice(36, 42),
        "LEFT_EYE": slice(42, 48),
        "LIPS": slice(48, 68),
    }
    for name, points in outlines.items():
        connections = getattr(vision.FaceLandmarksConnections, f"FACE_LANDMARKS_{name}")
        outline = {vertex for connection in connections for vertex in (connection.start, connection.end)}
        assert set(FACE_MESH_TO_68[points]) <= outline, name
    assert len(set(FACE_MESH_TO_68)) == 68


# ------------------------------------------------------------------------------------- from "detect" to a detector
def test_a_model_file_is_found_by_argument_variable_and_folder(tmp_path, monkeypatch):
    assert find_model_file("mediapipe") is None and find_model_file("face-alignment") is None
    assert find_model_file("mediapipe", "given.task") == Path("given.task")
    monkeypatch.setenv("MF2_DETECTORS", str(tmp_path))
    (tmp_path / "face_landmarker.task").touch()
    assert find_model_file("mediapipe") == detectors_folder() / "face_landmarker.task"
    (tmp_path / "other.task").touch()
    monkeypatch.setenv("MF2_FACE_LANDMARKER", str(tmp_path / "other.task"))
    assert find_model_file("mediapipe") == tmp_path / "other.task"
    monkeypatch.setenv("MF2_FACE_LANDMARKER", str(tmp_path / "moved.task"))
    with pytest.raises(FileNotFoundError, match=r"MF2_FACE_LANDMARKER names .*moved\.task, which is no file"):
        find_model_file("mediapipe")


def test_the_folder_of_model_files(monkeypatch, tmp_path):
    monkeypatch.delenv("MF2_DETECTORS")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert detectors_folder() == tmp_path / "mf2" / "detectors"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert detectors_folder() == Path.home() / ".cache" / "mf2" / "detectors"


def test_a_model_file_in_the_folder_is_loaded_without_being_named(
    clean_registry, stub_mediapipe, monkeypatch, tmp_path
):
    with pytest.raises(
        OSError, match=r"needs a model_file.*looked for at .*face_landmarker\.task.*MF2_FACE_LANDMARKER"
    ):
        load_detector("mediapipe")
    monkeypatch.setenv("MF2_DETECTORS", str(tmp_path))
    stub_mediapipe.rename(tmp_path / "face_landmarker.task")
    detector = load_detector("mediapipe")
    assert detector._landmarker.options.base_options.model_asset_path == str(tmp_path / "face_landmarker.task")


@pytest.fixture
def only_mediapipe_is_ready(clean_registry, stub_mediapipe, monkeypatch, tmp_path):
    """MediaPipe with its file in the folder, and no face-alignment; the warnings said."""
    monkeypatch.setitem(sys.modules, "face_alignment", None)
    monkeypatch.setenv("MF2_DETECTORS", str(tmp_path))
    stub_mediapipe.rename(tmp_path / "face_landmarker.task")
    said = []
    monkeypatch.setattr(landmarks_mf2, "_warn_once", said.append)
    return said


def test_detect_takes_another_detector_where_the_preferred_is_not_ready(only_mediapipe_is_ready, monkeypatch):
    assert find_detector("face-alignment").name == "mediapipe"
    assert "face-alignment is not ready (the package face_alignment)" in only_mediapipe_is_ready[0]
    assert choose_detector("mediapipe") == "mediapipe" and len(only_mediapipe_is_ready) == 1


def test_what_the_user_names_is_not_replaced(only_mediapipe_is_ready, monkeypatch):
    assert choose_detector("mediapipe", "face-alignment") == "face-alignment"
    with pytest.raises(ImportError, match=r"pip install face-alignment.*`mf2 detectors` shows what is there"):
        find_detector("mediapipe", name="face-alignment")
    monkeypatch.setenv("MF2_LANDMARK_DETECTOR", "face-alignment")
    assert choose_detector("mediapipe") == "face-alignment"
    assert choose_detector("mediapipe", "mediapipe") == "mediapipe"
    assert choose_detector("face-alignment", model_file="some.task") == "mediapipe"  # the one that reads a file
    assert only_mediapipe_is_ready == []


def test_without_any_detector_the_preferred_one_says_what_it_needs(clean_registry, monkeypatch):
    monkeypatch.setitem(sys.modules, "face_alignment", None)
    monkeypatch.setitem(sys.modules, "mediapipe", None)
    with pytest.raises(ImportError, match=r"pip install face-alignment"):
        find_detector("face-alignment", instead="")


def test_needs_say_what_to_put_where(only_mediapipe_is_ready, monkeypatch, tmp_path):
    package, file = detector_needs("mediapipe")
    assert package.is_there and file.is_there and file.name == str(tmp_path / "face_landmarker.task")
    (tmp_path / "face_landmarker.task").unlink()
    assert [need.is_there for need in detector_needs("mediapipe")] == [True, False]
    (package,) = detector_needs("face-alignment")
    assert not package.is_there and package.remedy == "pip install 'mf2-face[landmarks]'"


def test_a_result_says_with_what_it_was_found(clean_registry, tmp_path):
    pytest.importorskip("mediapipe")
    (tmp_path / "x.task").write_bytes(b"model")
    described = describe_detector("mediapipe", tmp_path / "x.task")
    assert described["name"] == "mediapipe"
    assert described["model_sha256"] == {"x.task": hashlib.sha256(b"model").hexdigest()}
    register_detector("stub", StubDetector)
    assert describe_detector("stub") == {"name": "stub"}
    assert is_ready("stub")


# --------------------------------------------------------------------------------------------- the real FaceLandmarker
@pytest.fixture(scope="module")
def real_mediapipe(face_landmarker):
    return MediaPipeDetector(model_file=face_landmarker)


def read(file: Path) -> np.ndarray:
    return np.asarray(Image.open(file).convert("RGB"))


def test_small_faces_of_group_pictures_are_found_in_tiles(real_mediapipe, photographs):
    files = sorted((photographs / "groups").iterdir())
    wanted = [int(re.search(r"_(\d+)faces", file.name)[1]) for file in files]
    pictures = [read(file) for file in files]
    found = [len(faces) for faces in real_mediapipe.detect(pictures, in_tiles=True)]
    as_a_whole = [len(faces) for faces in real_mediapipe.detect(pictures)]
    assert found == wanted
    assert sum(as_a_whole) < sum(wanted) / 4


def test_one_face_is_found_in_pictures_of_one(real_mediapipe, photographs):
    pictures = [read(file) for file in sorted((photographs / "single").iterdir())]
    pictures += [np.asarray(Image.fromarray(picture).resize((700, 700))) for picture in pictures[:12]]
    found = real_mediapipe.detect(pictures, in_tiles=True)
    assert [len(faces) for faces in found] == [1] * len(pictures)
    scores = [face.score for (face,) in found]
    assert 0.5 <= min(scores) < max(scores) < 1


def test_the_mesh_lies_where_another_annotator_has_its_points(real_mediapipe, real_faces):
    """The points of OpenFace: the bridge within 0.055 eye distances, no bias of the head's pitch beyond 2°."""
    table = pd.read_csv(real_faces / "landmarks.csv").iloc[::25]
    names = [f"cropped_aligned/{video}/{frame:05d}.jpg" for video, frame in zip(table.video, table.frame, strict=True)]
    found = real_mediapipe.detect([read(real_faces / name) for name in names])
    rows = [row for row, faces in enumerate(found) if faces]
    assert len(rows) > 0.9 * len(names)
    ours = np.stack([found[row][0].landmarks_px for row in rows])
    theirs = table.iloc[rows, 2:].to_numpy(float).reshape(-1, 68, 2)
    eyes = np.linalg.norm(theirs[:, 36:42].mean(axis=1) - theirs[:, 42:48].mean(axis=1), axis=1)
    errors = np.linalg.norm(ours - theirs, axis=2) / eyes[:, None]
    assert errors[:, 27:31].mean() < 0.055
    assert errors[:, :17].mean() < 0.14
    assert abs((head_poses(ours) - head_poses(theirs))[:, 0].mean()) < 2
