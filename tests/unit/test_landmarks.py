"""Landmark detectors: the registry, the built-in one on its package's own code, and its errors."""

import sys
import urllib.error

import numpy as np
import pytest
import torch

from mf2 import landmarks_mf2
from mf2.labels_mf2 import MEAN_FACE_68
from mf2.landmarks_mf2 import DetectedFace, FaceAlignmentDetector, LandmarkDetector, load_detector, register_detector


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
    with pytest.raises(ValueError, match=r"'dlib'; known are face-alignment.*register_detector"):
        load_detector("dlib")
    with pytest.raises(TypeError, match="no landmark detector"):
        load_detector(object())


# -------------------------------------------------------------------------------------------------- face-alignment
def test_missing_package_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "face_alignment", None)
    with pytest.raises(ImportError, match="pip install face-alignment"):
        FaceAlignmentDetector()


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
