"""Landmark detectors: the registry, the built-in one on its package's own code, and its errors."""

import sys
import urllib.error
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mf2 import landmarks_mf2
from mf2.labels_mf2 import MEAN_FACE_68
from mf2.landmarks_mf2 import (
    FACE_MESH_TO_68,
    DetectedFace,
    FaceAlignmentDetector,
    LandmarkDetector,
    MediaPipeDetector,
    detector_names,
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
MESH = np.random.default_rng(0).uniform(0.2, 0.6, (478, 2))


class StubLandmarker:
    """Stands in for FaceLandmarker: two meshes in a bright picture, none in a black one."""

    def __init__(self, options):
        self.options = options

    def detect(self, picture):
        meshes = [MESH, MESH / 2] if picture.data.any() else []
        return SimpleNamespace(face_landmarks=[[SimpleNamespace(x=x, y=y, z=0.0) for x, y in mesh] for mesh in meshes])


@pytest.fixture
def stub_mediapipe(monkeypatch):
    vision = SimpleNamespace(
        FaceLandmarkerOptions=SimpleNamespace, FaceLandmarker=SimpleNamespace(create_from_options=StubLandmarker)
    )
    package = SimpleNamespace(
        tasks=SimpleNamespace(vision=vision, BaseOptions=SimpleNamespace),
        Image=SimpleNamespace,
        ImageFormat=SimpleNamespace(SRGB="srgb"),
    )
    monkeypatch.setitem(sys.modules, "mediapipe", package)


def test_a_face_mesh_becomes_68_points_in_pixels(stub_mediapipe, tmp_path):
    (tmp_path / "face.task").touch()
    detector = MediaPipeDetector(model_file=tmp_path / "face.task", max_faces=3)
    assert detector._landmarker.options.num_faces == 3
    assert detector._landmarker.options.base_options.model_asset_path == str(tmp_path / "face.task")
    bright = np.full((100, 200, 3), 200, dtype=np.uint8)
    (near, far), none = detector.detect([bright[:, ::-1], np.zeros((50, 60, 3), dtype=np.uint8)])
    assert none == [] and near.score == 1.0
    pixels = MESH * (200, 100)
    np.testing.assert_allclose(near.landmarks_px, pixels[list(FACE_MESH_TO_68)], rtol=1e-6)
    np.testing.assert_allclose(near.box_xyxy_px, (*pixels.min(axis=0), *pixels.max(axis=0)), rtol=1e-6)
    assert near.landmarks_px.dtype == np.float32 and near.area_px == pytest.approx(4 * far.area_px)


def test_a_model_file_that_is_none(monkeypatch, tmp_path):
    with pytest.raises(ValueError, match=r"needs a model_file, a `\.task` file; https://"):
        load_detector("mediapipe")
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
