"""Pictures and settings as users of transformers bring them: the base class's meaning, or one clear error."""

import base64
import io
import logging

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_mf2 import SIDE, make_tiny
from transformers import ViTImageProcessor, pipeline
from transformers.image_utils import ChannelDimension

import mf2
from mf2 import landmarks_mf2
from mf2.labels_mf2 import MEAN_FACE_68
from mf2.landmarks_mf2 import DetectedFace
from mf2.pipeline_mf2 import FacialStatePipeline

BACKENDS = pytest.mark.parametrize("processor_class", [mf2.MF2ImageProcessor, mf2.MF2ImageProcessorPil])
SIZE = {"height": SIDE, "width": SIDE}


@pytest.fixture
def picture() -> np.ndarray:
    """A picture of the processed size, so that nothing is resampled."""
    return np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)


def png(picture: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return buffer.getvalue()


# ---------------------------------------------------------------------------------------------------------- settings
@BACKENDS
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"do_rescale": False, "unit": True},
        {"do_normalize": False},
        {"do_rescale": False, "do_normalize": False, "unit": True},
        {"do_rescale": False, "do_normalize": False},
        {"rescale_factor": 1 / 100},
        {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.2, 0.3, 0.4]},
        {"do_resize": False},
        {"input_data_format": "channels_first"},
        {"input_data_format": ChannelDimension.FIRST},
    ],
)
def test_settings_mean_what_they_mean_in_the_base_class(processor_class, settings, picture):
    """The same tensor and arguments give what transformers' own processor of that size gives."""
    settings = dict(settings)
    tensor = torch.from_numpy(picture).permute(2, 0, 1)
    image = tensor / 255 if settings.pop("unit", False) else tensor
    theirs = ViTImageProcessor(size=SIZE, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    expected = theirs(images=image, return_tensors="pt", **settings)["pixel_values"]
    ours = processor_class(size=SIZE)(images=image, return_tensors="pt", **settings)["pixel_values"]
    torch.testing.assert_close(ours, expected, atol=1e-4, rtol=1e-4, check_dtype=False)


@BACKENDS
def test_rows_of_one_call_keep_their_own_scale(processor_class, picture):
    tensor = torch.from_numpy(picture).permute(2, 0, 1)
    mixed = processor_class(size=SIZE)([tensor / 255, tensor], do_rescale=False, do_normalize=False)["pixel_values"]
    torch.testing.assert_close(mixed[0] * 255, mixed[1], atol=1e-3, rtol=1e-4)


@BACKENDS
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"do_rescale": False}, r"do_rescale is False, but the values of image 0 go to 255.*do_normalize=False"),
        ({"do_resize": False, "size": {"height": 16, "width": 16}}, "do_resize is False, but image 0 is 32×32.*16×16"),
        ({"data_format": "channels_last"}, "data_format is channels_last: pixel_values are channels first"),
        ({"resample": 0}, "resample is 0: .*bilinear"),
        ({"do_convert_rgb": False}, "do_convert_rgb is False: the model reads RGB"),
        ({"return_tensors": "tf"}, "return_tensors"),
        ({"do_center_crop": True, "crop_size": {"height": 8, "width": 8}}, "no effect here"),
    ],
)
def test_settings_without_meaning_are_refused(processor_class, settings, message, picture):
    with pytest.raises(ValueError, match=message):
        processor_class(size=SIZE)(images=Image.fromarray(picture), **settings)


# ----------------------------------------------------------------------------------------------------------- sources
def test_every_source_is_the_same_picture(picture, tmp_path):
    _, processor = make_tiny()
    content, file = png(picture), tmp_path / "face.png"
    file.write_bytes(content)
    expected = processor(picture)["pixel_values"]
    uri = f"data:image/png;base64,{base64.b64encode(content).decode()}"
    undecoded = {"bytes": content, "path": None}
    sources = [io.BytesIO(content), file.open("rb"), uri, undecoded, {"bytes": None, "path": str(file)}]
    for source in sources:
        assert torch.equal(processor(source)["pixel_values"], expected)
    several = [io.BytesIO(content), uri, undecoded]
    assert torch.equal(processor(several)["pixel_values"], expected.repeat(3, 1, 1, 1))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda file: "data:image/png;base64,@@@", r"^image 0 is no data URI"),
        (lambda file: "data:text/plain,hello", "not base64"),
        (lambda file: file.open("r"), r"image 0 \(.*face.png\).*mode 'rb'"),
        (lambda file: {"name": "x"}, "has name; it needs 'bytes' or a 'path'"),
        (lambda file: {"bytes": b"", "path": "gone.png"}, r"image 0 \(gone.png\) is empty"),
        (lambda file: io.BytesIO(b"no picture"), "cannot be opened"),
        (lambda file: 3.5, "list|float"),
    ],
)
def test_what_is_no_picture_is_named(make, message, tmp_path):
    _, processor = make_tiny()
    file = tmp_path / "face.png"
    file.write_text("text")
    with pytest.raises((ValueError, TypeError), match=message):
        processor(make(file))


def test_an_address_is_named_as_one():
    with pytest.raises(FileNotFoundError, match="fetch it first"):
        make_tiny()[1]("https://example.org/face.jpg")


# --------------------------------------------------------------------------------------------------------- landmarks
class Points:
    """A detector that returns that many points for every picture."""

    name = "points"

    def __init__(self, count: int):
        self.count = count

    def detect(self, images):
        face = DetectedFace((0.0, 0.0, 30.0, 30.0), (np.array(MEAN_FACE_68) * SIDE)[: self.count], 1.0)
        return [[face] for _ in images]


@pytest.fixture(scope="module")
def pipe() -> FacialStatePipeline:
    model, processor = make_tiny()
    return FacialStatePipeline(model=model, processor=processor)


def test_landmarks_have_one_vocabulary(pipe, picture):
    """The words, None, points and detectors mean the same in the processor and in the pipeline."""
    processor = pipe.processor
    crop = processor(picture)["pixel_values"]
    assert torch.equal(processor(picture, landmarks="mean_face")["pixel_values"], crop)
    assert torch.equal(processor(picture, landmarks=None)["pixel_values"], crop)
    by_word, by_none = (pipe(picture, landmarks=landmarks) for landmarks in ("mean_face", None))
    assert by_word == by_none and not by_none[0]["landmarks_found"]
    assert pipe([{"image": picture, "landmarks": None}])[0] == by_none
    assert pipe([{"image": picture, "landmarks": "mean_face"}])[0] == by_none
    for use in (processor, pipe):
        with pytest.raises(
            ValueError, match="landmarks is 'guess'; give 'detect', 'mean_face', a detector, 68 points"
        ):
            use(picture, landmarks="guess")


def test_without_a_detector_the_default_is_the_mean_face_said_once(picture, caplog, monkeypatch):
    def missing(device=None):
        raise ImportError("This landmark detector needs the package nowhere.")

    monkeypatch.setitem(landmarks_mf2._FACTORIES, "missing", missing)
    model, processor = make_tiny()
    processor.image_processor.landmark_detector = "missing"
    pipe = pipeline("facial-state-analysis", model=model, processor=processor)
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    monkeypatch.setattr(logging.getLogger("mf2"), "propagate", True, raising=False)
    for _ in range(2):
        (face,) = pipe(picture)
    assert not face["landmarks_found"] and face == pipe(picture, landmarks="mean_face")[0]
    said = [record.message for record in caplog.records if "mean face" in record.message]
    assert len(said) == 1 and "nowhere" in said[0] and "lower" in said[0]
    with pytest.raises(ImportError, match="nowhere"):
        pipe(picture, landmarks="detect")


def test_a_detector_with_other_points_is_an_error(pipe, picture):
    assert pipe(picture, landmarks=Points(68))[0]["landmarks_found"]
    for use in (pipe, pipe.processor):
        with pytest.raises(ValueError, match=r"detector points returned landmarks of the shape \(5, 2\).*\(68, 2\)"):
            use(picture, landmarks=Points(5))
