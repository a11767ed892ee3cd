"""What cannot be read as a picture is one clear error that names it, says what is wrong and what to do."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from mf2.image_processing_mf2 import MF2ImageProcessor, MF2ImageProcessorPil
from mf2.images_mf2 import MIN_SIDE, read_image, split_images

BACKENDS = pytest.mark.parametrize("processor_class", [MF2ImageProcessor, MF2ImageProcessorPil])


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


PHOTO = noise(40, 48, 3)
JPEG = encoded(Image.fromarray(PHOTO), "JPEG", quality=95)


# ------------------------------------------------------------------------------------------------------ bad files
@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", r"empty \(0 bytes\).*fetch it again"),
        (b"this is no picture at all", "cannot be opened as an image.*convert it"),
        (JPEG[: len(JPEG) // 2], "damaged.*fetch it again"),
        (encoded(Image.fromarray(PHOTO))[:200], "damaged.*fetch it again"),
        (JPEG[:10], "cannot be opened|damaged"),
        (encoded(Image.new("RGB", (1, 1))), rf"1×1 pixels; each side must have at least {MIN_SIDE}"),
        (encoded(Image.new("RGB", (500, 3))), "500×3 pixels; each side"),
    ],
)
@BACKENDS
def test_a_bad_file_is_named(processor_class, content, complaint, tmp_path):
    good, bad = tmp_path / "good.png", tmp_path / "bad.jpg"
    good.write_bytes(encoded(Image.fromarray(PHOTO)))
    bad.write_bytes(content)
    with pytest.raises(ValueError, match=complaint) as caught:
        processor_class()([good, bad])
    assert str(caught.value).startswith(f"image 1 ({bad})")
    with pytest.raises(ValueError, match=complaint):
        read_image(content, "row 7")


@pytest.mark.parametrize("cut", range(0, len(JPEG), 97))
def test_no_cut_of_a_file_escapes_as_another_error(cut):
    try:
        assert read_image(JPEG[:cut]).shape == PHOTO.shape
    except ValueError as error:
        assert "the image is" in str(error) or "the image cannot" in str(error)


@pytest.mark.parametrize("seed", range(40))
def test_no_flipped_bytes_escape_as_another_error(seed):
    rng = np.random.default_rng(seed)
    damaged = bytearray(encoded(Image.fromarray(PHOTO)) if seed % 2 else JPEG)
    for position in rng.integers(0, len(damaged), 12):
        damaged[position] = rng.integers(256)
    try:
        assert read_image(bytes(damaged)).ndim == 3
    except ValueError as error:
        assert "the image" in str(error)


def test_a_missing_file_and_a_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"image 0 \(.*nowhere.jpg\) does not exist"):
        MF2ImageProcessor()(str(tmp_path / "nowhere.jpg"))
    with pytest.raises(ValueError, match="cannot be opened as an image"):
        MF2ImageProcessor()(tmp_path)


def test_a_huge_picture_is_refused_before_it_is_decoded(monkeypatch):
    wide = encoded(Image.new("L", (3000, 2000)))
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("the picture was decoded"))
    with pytest.raises(ValueError, match=r"3000×2000 = 6000000 pixels; at most 1000000 are accepted.*max_pixels"):
        MF2ImageProcessor(max_pixels=10**6)(wide)


def test_a_decompression_bomb_is_a_value_error(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(ValueError, match=r"cannot be opened as an image.*decompression bomb"):
        read_image(encoded(Image.new("L", (100, 100))))


def test_the_bound_on_pixels_can_be_raised():
    image = Image.new("RGB", (60, 40))
    with pytest.raises(ValueError, match="at most 2000"):
        MF2ImageProcessor()(image, max_pixels=2000)
    assert MF2ImageProcessor()(image, max_pixels=2400)["pixel_values"].shape == (1, 3, 224, 224)


def test_a_lazily_opened_damaged_picture_is_named(tmp_path):
    path = tmp_path / "half.jpg"
    path.write_bytes(JPEG[: len(JPEG) // 2])
    with pytest.raises(ValueError, match=r"image 0 \(.*half.jpg\) is damaged"):
        MF2ImageProcessor()(Image.open(path))


# ----------------------------------------------------------------------------------------------------- bad arrays
@pytest.mark.parametrize(
    ("array", "complaint"),
    [
        (np.zeros((20, 20, 2), np.uint8), r"shape \(20, 20, 2\); expected .*C of 1, 3 or 4"),
        (np.zeros((5, 20, 20), np.uint8), r"shape \(5, 20, 20\)"),
        (np.zeros(20, np.uint8), r"shape \(20,\)"),
        (np.zeros((0, 0, 3), np.uint8), "0×0 pixels"),
        (np.full((20, 20, 3), np.nan, np.float32), r"values from nan to nan.*expected \[0, 1\] or \[0, 255\]"),
        (np.linspace(-1, 1, 1200).reshape(20, 20, 3), "values from -1.0 to 1.0.*do not normalise it before"),
        (np.full((20, 20, 3), 256.5), "values from 256.5"),
        (np.full((20, 20), 70_000, np.int32), r"values from 70000.*\[0, 65535\]"),
        (np.full((20, 20), -3, np.int64), "values from -3"),
    ],
)
@pytest.mark.parametrize("as_tensor", [False, True])
def test_bad_arrays_and_tensors(array, complaint, as_tensor):
    with pytest.raises(ValueError, match=complaint) as caught:
        MF2ImageProcessor()([torch.from_numpy(array) if as_tensor else array])
    assert str(caught.value).startswith("image 0 ")


def test_things_that_are_no_pictures():
    with pytest.raises(ValueError, match="the list is empty"):
        split_images([])
    with pytest.raises(ValueError, match="image 1 is a set"):
        MF2ImageProcessor()([PHOTO, {1, 2}])
    with pytest.raises(ValueError, match=r"shape \(40, 48, 3\)"):
        MF2ImageProcessor()(PHOTO, input_data_format="channels_first")


# ------------------------------------------------------------------------------------------------- wrong options
@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"landmarks": "detekt"}, "'detekt'; give 'detect', 'mean_face'"),
        ({"face": "first"}, "'first'; it must be 'largest' or 'all'"),
        ({"landmarks": np.zeros((2, 68, 2))}, "2 sets of landmarks for 1 images"),
        ({"landmarks": [None, None, None]}, "3 sets of landmarks for 1 images"),
        ({"landmarks": []}, "0 sets of landmarks for 1 images"),
        ({"landmarks": [np.zeros((5, 2))]}, r"landmarks of image 0 cannot be used: .*shape \(1, 5, 2\)"),
        ({"landmarks": [np.full((68, 2), 9.0)]}, "landmarks of image 0 cannot be used: .*0 px apart"),
        ({"landmarks": [["a", "b"]]}, "landmarks of image 0 cannot be used"),
        ({"size": {"shortest_edge": 224}}, "give height and width"),
        ({"do_center_crop": True, "crop_size": 224}, "has no effect here"),
        ({"au_ids": [3]}, "AU 3 has no region rule"),
        ({"au_region_size": 2.0}, "region_size is 2.0"),
        ({"eye_centers": [0.3, 0.7]}, "image left first"),
        ({"landmark_detector": "nobody", "landmarks": "detect"}, "No landmark detector is called 'nobody'"),
    ],
)
def test_wrong_options_say_what_is_possible(options, complaint):
    with pytest.raises(ValueError, match=complaint):
        MF2ImageProcessor()(PHOTO, **options)


def test_a_misspelt_option_is_refused():
    with pytest.raises(TypeError, match="landmark_px"):
        MF2ImageProcessor()(PHOTO, landmark_px=None)
