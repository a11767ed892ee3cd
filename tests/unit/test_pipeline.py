"""The pipeline `facial-state-analysis`: every face of a picture, named, whatever form the picture has."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_checkpoint import save_tiny_checkpoint
from transformers import pipeline

import mf2
from mf2.labels_mf2 import MEAN_FACE_68
from mf2.landmarks_mf2 import DetectedFace
from mf2.pipeline_mf2 import FacialStatePipeline

pytestmark = pytest.mark.dependencies

WIDTH, HEIGHT = 120, 80


def face_at(x: float, y: float, side: float) -> np.ndarray:
    """`(68, 2)` points of a face in the square at that corner."""
    return np.array(MEAN_FACE_68) * side + (x, y)


FACES = np.stack([face_at(2, 10, 40), face_at(50, 5, 60)])  # the second is larger


class TwoFaces:
    """Finds `FACES` in every picture that is not black."""

    name = "two-faces"

    def detect(self, images):
        boxes = [(*points.min(axis=0), *points.max(axis=0)) for points in FACES]
        faces = [DetectedFace(box, points, 0.9) for box, points in zip(boxes, FACES, strict=True)]
        return [faces if image.any() else [] for image in images]


@pytest.fixture(scope="module")
def pipe(tmp_path_factory) -> FacialStatePipeline:
    """Of a tiny checkpoint that finds the first six AUs in every face and the others in none."""
    folder = tmp_path_factory.mktemp("model")
    save_tiny_checkpoint(folder)
    model = mf2.MF2ForConditionalGeneration.from_pretrained(folder, au_thresholds=[0.01] * 6 + [0.99] * 6)
    processor = mf2.MF2Processor.from_pretrained(folder)
    return pipeline("facial-state-analysis", model=model, processor=processor, device="cpu")


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    return np.random.default_rng(0).integers(1, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)


def test_all_faces_with_boxes_and_named_probabilities(pipe, picture):
    """The larger face comes first, as in the box; names and order are the label space's."""
    faces = pipe(picture, landmarks=TwoFaces())
    assert [face["face"] for face in faces] == [0, 1]
    for face, points in zip(faces, FACES[::-1], strict=True):
        assert list(face["box"].values()) == pytest.approx([*points.min(axis=0), *points.max(axis=0)])
        assert list(face["au_probs"]) == list(pipe.model.label_space.au_codes)
        assert list(face["emotion_probs"]) == list(pipe.model.label_space.emotions)
        assert sum(face["emotion_probs"].values()) == pytest.approx(1)
        assert face["emotion"] == max(face["emotion_probs"], key=face["emotion_probs"].get)
        assert face["active_aus"] == list(face["au_probs"])[:6], "the checkpoint's thresholds"
        assert face["landmarks_found"] and face["score"] == 0.9
    assert faces[0]["au_probs"] != faces[1]["au_probs"]


def test_the_numbers_are_those_of_model_and_processor(pipe, picture):
    inputs = pipe.processor(images=picture, landmarks=[FACES[::-1]], face="all")
    with torch.no_grad():
        outputs = pipe.model.recognize(pipe.model.encode_branches(inputs["pixel_values"], inputs["au_boxes"]))
    expected = pipe.processor.post_process_facial_states(outputs, pipe.model.label_space)
    for face, state in zip(pipe(picture, landmarks=FACES), expected, strict=True):
        assert face["au_probs"] == pytest.approx(state["aus"], abs=1e-6)
        assert face["emotion_probs"] == pytest.approx(state["emotions"], abs=1e-6)


def test_paths_addresses_and_objects_are_the_same_picture(pipe, picture, tmp_path, monkeypatch):
    file = tmp_path / "face.png"
    Image.fromarray(picture).save(file)
    asked = []

    def load_image(address, timeout=None):
        asked.append((address, timeout))
        return Image.open(file)

    monkeypatch.setattr("mf2.pipeline_mf2.load_image", load_image)
    expected = pipe(picture, landmarks="mean_face")
    for source in (str(file), file, file.read_bytes(), Image.open(file), torch.from_numpy(picture)):
        assert pipe(source, landmarks="mean_face") == expected
    assert pipe("https://example.org/face.png", landmarks="mean_face", timeout=3.0) == expected
    assert asked == [("https://example.org/face.png", 3.0)]


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_a_batch_holds_faces_of_several_pictures(pipe, picture, batch_size):
    """Pictures with two faces, none and two again: batches cut across them and the results come back in place."""
    pictures = [picture, np.zeros_like(picture), picture[:, ::-1].copy()]
    found = pipe(pictures, landmarks=TwoFaces(), batch_size=batch_size)
    assert [len(faces) for faces in found] == [2, 0, 2]
    alone = pipe(pictures[2], landmarks=TwoFaces())
    for ours, theirs in zip(found[2], alone, strict=True):
        assert ours["au_probs"] == pytest.approx(theirs["au_probs"], abs=1e-5)


def test_given_landmarks_belong_to_their_pictures(pipe, picture):
    """A list has an entry for each picture; None is a face crop and says so."""
    one, crop = pipe([picture, picture], landmarks=[FACES[0], None])
    assert one[0]["landmarks_found"] and not crop[0]["landmarks_found"]
    assert list(crop[0]["box"].values()) == pytest.approx([20, 0, 100, 80], abs=1e-3), "the square in the middle"
    with pytest.raises(ValueError, match="1 sets of landmarks for 2 images"):
        pipe([picture, picture], landmarks=[FACES[0]])


def test_captions_are_written_on_request(pipe, picture):
    assert "captions" not in pipe(picture, landmarks=FACES)[0]
    alone = pipe(picture, landmarks=FACES, captions=["emotion", "au"])
    batched = pipe([picture], landmarks=[FACES], captions=["emotion", "au"], batch_size=4)[0]
    assert [set(face["captions"]) for face in alone] == [{"emotion", "au"}] * 2
    assert [face["captions"] for face in batched] == [face["captions"] for face in alone]


def test_thresholds_of_a_call_replace_the_checkpoints(pipe, picture):
    (face,) = pipe(picture, landmarks="mean_face", thresholds={"AU1": 0.999, "AU26": 0.001})
    assert "AU1" not in face["active_aus"] and "AU26" in face["active_aus"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"landmarks": "guess"}, "landmarks is 'guess'; give 'detect'"),
        ({"landmarks": "mean_face", "captions": "poem"}, "captions has poem; known are emotion, key_au, au"),
        ({"landmarks": np.zeros((5, 2))}, r"expected \(..., 68, 2\)"),
    ],
)
def test_a_wrong_option_says_what_is_known(pipe, picture, options, message):
    with pytest.raises(ValueError, match=message):
        pipe(picture, **options)


def test_an_unreadable_picture_is_named(pipe, tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"broken\.jpg.*cannot be opened"):
        pipe(str(tmp_path / "broken.jpg"), landmarks="mean_face")


def test_a_saved_pipeline_has_the_whole_processor(pipe, picture, tmp_path):
    pipe.save_pretrained(tmp_path)
    loaded = pipeline("facial-state-analysis", model=str(tmp_path), trust_remote_code=True, device="cpu")
    assert Path(tmp_path, "pipeline_mf2.py").is_file()
    assert loaded(picture, landmarks=FACES) == pipe(picture, landmarks=FACES)


# ------------------------------------------------------------------------------------------- the real FaceLandmarker
def test_detect_takes_its_detector_from_a_call_a_variable_or_the_folder(
    pipe, photographs, face_landmarker, monkeypatch, tmp_path
):
    """A group picture has all its faces, the same whoever names the detector."""
    picture = str(photographs / "groups" / "g1_4faces.jpg")
    named = pipe(picture, landmark_detector="mediapipe", landmark_model_file=str(face_landmarker))
    assert len(named) == 4 and all(0.5 <= face["score"] < 1 and face["landmarks_found"] for face in named)
    assert pipe(picture, landmark_model_file=str(face_landmarker)) == named
    monkeypatch.setenv("MF2_LANDMARK_DETECTOR", "mediapipe")
    monkeypatch.setenv("MF2_FACE_LANDMARKER", str(face_landmarker))
    assert pipe(picture, landmarks="detect") == named
    monkeypatch.delenv("MF2_FACE_LANDMARKER")
    monkeypatch.setenv("MF2_DETECTORS", str(tmp_path))
    (tmp_path / "face_landmarker.task").symlink_to(face_landmarker)
    assert pipe(picture, landmarks="detect") == named


def test_the_processor_takes_the_detector_that_the_pipeline_takes(pipe, photographs, face_landmarker):
    picture = str(photographs / "groups" / "g1_4faces.jpg")
    detection = {"landmark_detector": "mediapipe", "landmark_model_file": str(face_landmarker)}
    batch = pipe.processor(images=picture, landmarks="detect", face="all", **detection)
    assert len(batch["pixel_values"]) == 4 and batch["landmarks_found"].all()
    assert len(pipe.processor(images=picture, landmarks="detect", **detection)["pixel_values"]) == 1
    assert "landmark_model_file" not in pipe.processor.image_processor.to_dict()
