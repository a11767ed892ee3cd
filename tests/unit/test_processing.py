"""The processor: pictures in, aligned pixels, landmarks and boxes out; captions to ids and back; results by name."""

import json
import re
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers import AutoImageProcessor, AutoTokenizer, BertTokenizer

from mf2 import MF2ImageProcessor, MF2ImageProcessorPil, MF2Processor, processing_mf2
from mf2.dataset_tools import captions
from mf2.image_processing_mf2 import (
    Augmentation,
    AugmentationSample,
    jitter_colors,
    sample_pil,
    sample_torch,
    shrink_source,
)
from mf2.images_mf2 import read_image
from mf2.labels_mf2 import AU_IDS, EMOTIONS, FLIP_68, NO_ACTIVE_AU_CAPTION, LabelSpace, render_au_caption
from mf2.landmarks_mf2 import DetectedFace
from mf2.processing_mf2 import load_tokenizer, restore_case
from mf2.regions_mf2 import affine, apply_matrix, au_boxes_from_landmarks, mean_face

pytestmark = pytest.mark.dependencies

BACKENDS = pytest.mark.parametrize("processor_class", [MF2ImageProcessor, MF2ImageProcessorPil])
SIZE = {"height": 64, "width": 64}


def smooth_image(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Blurred noise, `(height, width, 3)` uint8: what a small change of sampling changes little."""
    small = np.random.default_rng(seed).integers(0, 256, (height // 8 + 2, width // 8 + 2, 3), dtype=np.uint8)
    return np.array(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def face_in(height: int, width: int, seed: int = 0, side: float = 0.7) -> np.ndarray:
    """Landmarks of a slightly turned, deformed mean face within an image of that size, `(68, 2)` pixels."""
    rng = np.random.default_rng(seed)
    extent = side * min(height, width)
    points = mean_face((100, 100)) / 100 * extent + rng.normal(0, extent / 50, (68, 2))
    cos, sin = np.cos(rng.uniform(-0.4, 0.4)), np.sin(rng.uniform(-0.4, 0.4))
    turn = affine([[cos, -sin], [sin, cos]], (0, 0))
    points = apply_matrix(points - extent / 2, turn)
    return points + np.array((width / 2, height / 2))


def to_image(pixel_values: torch.Tensor) -> np.ndarray:
    """Normalised `(…, 3, H, W)` back to [0, 255]."""
    return (pixel_values.numpy() * 0.5 + 0.5) * 255


# ---------------------------------------------------------------------------------------------------------- outputs
@BACKENDS
def test_shapes_types_and_names(processor_class):
    images = [smooth_image(80, 100), smooth_image(120, 70)]
    batch = processor_class(size=SIZE)(images, landmarks=[face_in(80, 100), None], return_au_crops=True)
    expected = {
        "pixel_values": ((2, 3, 64, 64), torch.float32),
        "au_boxes": ((2, 12, 2, 4), torch.float32),
        "au_ids": ((2, 12), torch.int64),
        "align_matrix": ((2, 2, 3), torch.float32),
        "landmarks_px": ((2, 68, 2), torch.float32),
        "landmarks_found": ((2,), torch.bool),
        "image_index": ((2,), torch.int64),
        "au_crops": ((2, 12, 2, 3, 9, 9), torch.float32),
    }
    assert {name: (tuple(value.shape), value.dtype) for name, value in batch.items()} == expected
    assert batch["landmarks_found"].tolist() == [True, False]
    assert batch["image_index"].tolist() == [0, 1]


@BACKENDS
def test_numpy_on_request(processor_class):
    batch = processor_class(size=SIZE)(smooth_image(80, 100), return_tensors="np")
    assert all(isinstance(value, np.ndarray) for value in batch.values())


@BACKENDS
def test_without_landmarks_the_picture_is_a_face_crop(processor_class):
    image = smooth_image(64, 96)
    batch = processor_class(size=SIZE)(image)
    np.testing.assert_allclose(to_image(batch["pixel_values"][0]).transpose(1, 2, 0), image[:, 16:80], atol=0.01)
    np.testing.assert_allclose(batch["landmarks_px"][0], mean_face((64, 64)), atol=1e-4)
    np.testing.assert_array_equal(batch["au_boxes"][0], au_boxes_from_landmarks(mean_face((64, 64)), (64, 64)))
    np.testing.assert_allclose(batch["align_matrix"][0], [[1, 0, -16], [0, 1, 0]], atol=1e-6)


def test_settings_of_a_call_do_not_stay():
    processor = MF2ImageProcessor(size=SIZE)
    batch = processor(smooth_image(64, 64), size=32, au_ids=[12, 9], do_normalize=False, do_rescale=False)
    assert batch["pixel_values"].shape == (1, 3, 32, 32) and batch["au_boxes"].shape == (1, 2, 2, 4)
    assert batch["pixel_values"].max() > 100
    assert processor(smooth_image(64, 64))["au_boxes"].shape == (1, 12, 2, 4)


@BACKENDS
def test_alignment_off_resizes_and_still_uses_the_landmarks(processor_class):
    image, landmarks = smooth_image(128, 128), face_in(128, 128)
    batch = processor_class(size=SIZE, do_align=False)(image, landmarks=landmarks)
    np.testing.assert_allclose(batch["landmarks_px"][0], landmarks / 2, atol=1e-4)
    np.testing.assert_array_equal(batch["au_boxes"][0], au_boxes_from_landmarks(landmarks / 2, (64, 64)))


def test_au_crops_are_the_pixels_of_the_boxes():
    batch = MF2ImageProcessor(size=SIZE, au_region_size=0.25)(smooth_image(64, 64), return_au_crops=True)
    for au, centre in np.ndindex(12, 2):
        x1, y1, *_ = (batch["au_boxes"][0, au, centre] * 64).numpy()
        crop = batch["au_crops"][0, au, centre].permute(1, 2, 0).numpy()
        assert crop.shape == (16, 16, 3)
        expected = bilinear_reference(batch["pixel_values"][0].permute(1, 2, 0).numpy(), x1, y1, 16)
        np.testing.assert_allclose(crop, expected, atol=1e-4)


def bilinear_reference(image: np.ndarray, left: float, top: float, side: int) -> np.ndarray:
    """`side × side` bilinear samples, one pixel apart, of the square whose corner is at (left, top)."""
    crop = np.zeros((side, side, image.shape[-1]))
    for row, column in np.ndindex(side, side):
        y, x = (np.clip(v, 0, 63) for v in (top + row, left + column))
        y0, x0 = min(int(y), 62), min(int(x), 62)
        fy, fx = y - y0, x - x0
        upper = image[y0, x0] * (1 - fx) + image[y0, x0 + 1] * fx
        lower = image[y0 + 1, x0] * (1 - fx) + image[y0 + 1, x0 + 1] * fx
        crop[row, column] = upper * (1 - fy) + lower * fy
    return crop


# ---------------------------------------------------------------------------------------------------------- sampling
def sample_reference(image: np.ndarray, matrix: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bilinear sampling pixel by pixel, black outside: `(height, width, 3)` float."""
    height, width = image.shape[:2]
    inverse, result = np.linalg.inv(matrix), np.zeros((*size, 3))
    for row, column in np.ndindex(*size):
        x, y, _ = inverse @ (column + 0.5, row + 0.5, 1)
        if not (0 <= x <= width and 0 <= y <= height):
            continue
        x, y = np.clip(x - 0.5, 0, width - 1), np.clip(y - 0.5, 0, height - 1)
        x0, y0 = min(int(x), width - 2), min(int(y), height - 2)
        weights = np.outer((1 - (y - y0), y - y0), (1 - (x - x0), x - x0))
        result[row, column] = (weights[..., None] * image[y0 : y0 + 2, x0 : x0 + 2]).sum((0, 1))
    return result


@pytest.mark.parametrize("seed", range(4))
def test_both_samplers_equal_pixel_by_pixel_bilinear_sampling(seed):
    rng = np.random.default_rng(seed)
    image = smooth_image(30, 37, seed)
    matrix = affine(np.eye(2) + rng.normal(0, 0.3, (2, 2)), rng.uniform(-6, 6, 2))
    expected = sample_reference(image, matrix, (24, 28))
    assert (expected == 0).all(axis=-1).any(), "a part of the target must lie outside of the picture"
    for sampled in (sample_torch(image[None], matrix[None], (24, 28))[0].numpy(), sample_pil(image, matrix, (24, 28))):
        np.testing.assert_allclose(sampled.transpose(1, 2, 0), expected, atol=0.02)


@given(
    seed=st.integers(0, 1000),
    sizes=st.lists(st.tuples(st.integers(20, 300), st.integers(20, 300)), min_size=1, max_size=3),
)
@settings(max_examples=25, deadline=None)
def test_backends_agree(seed, sizes):
    images = [smooth_image(*size, seed) for size in sizes]
    options = {
        "landmarks": [face_in(*size, seed) for size in sizes],
        "augment": Augmentation(rotation_deg=15),
        "augment_seeds": [seed + row for row in range(len(images))],
    }
    torch_batch, pil_batch = (cls(size=SIZE)(images, **options) for cls in (MF2ImageProcessor, MF2ImageProcessorPil))
    for name in ("au_boxes", "align_matrix", "landmarks_px", "landmarks_found", "image_index"):
        torch.testing.assert_close(torch_batch[name], pil_batch[name], rtol=0, atol=0)
    difference = np.abs(to_image(torch_batch["pixel_values"]) - to_image(pil_batch["pixel_values"]))
    assert np.quantile(difference, 0.99) < 0.05  # a pixel on the very edge of a picture may be black in one only


@BACKENDS
@pytest.mark.parametrize("side", [100, 150, 640, 1000])
def test_shrinking_averages_instead_of_skipping_pixels(processor_class, side):
    """Stripes of one pixel must become grey, whatever the factor; skipped pixels would leave moiré."""
    stripes = np.zeros((side, side, 3), np.uint8)
    stripes[:, ::2] = 255
    factor = side / 64
    pixels = to_image(processor_class(size=SIZE)(stripes)["pixel_values"])
    assert abs(pixels.mean() - 127.5) < 3
    if factor > 2:
        assert pixels.std() < 20


@given(scale=st.floats(0.05, 3), angle=st.floats(-3.1, 3.1))
@settings(max_examples=60, deadline=None)
def test_a_shrunk_source_shows_the_same_places(scale, angle):
    """A picture whose colours are its coordinates: samples must tell where they come from, averaged or not."""
    height, width = 640, 510
    ys, xs = np.mgrid[:height, :width] + 0.5
    image = np.rint(np.dstack((xs / 2, ys / 3, xs * 0))).astype(np.uint8)
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = affine(turn, np.array((16, 16)) - turn @ (255, 320))
    source, source_matrix = shrink_source(image, matrix, (32, 32))
    assert np.sqrt(np.linalg.det(source_matrix[:2, :2])) > 0.66
    assert source.size <= image.size

    target = np.mgrid[:32, :32][::-1].reshape(2, -1).T + 0.5
    origin = apply_matrix(target, np.linalg.inv(matrix))
    margin = 2 / scale
    is_inside = ((origin > margin) & (origin < np.array((width, height)) - margin)).all(axis=1)
    shown = sample_torch(np.stack([source]), source_matrix[None], (32, 32))[0].flatten(1).T.numpy()
    np.testing.assert_allclose(shown[is_inside, :2], origin[is_inside] / (2, 3), atol=1.1)


# -------------------------------------------------------------------------------- the picture, its points, its boxes
def draw_dots(height: int, width: int, centers: np.ndarray, radius: float) -> np.ndarray:
    """A black image with a soft dot in red, green and blue at three centres."""
    ys, xs = np.mgrid[:height, :width] + 0.5
    distance = ((xs[..., None] - centers[:, 0]) ** 2 + (ys[..., None] - centers[:, 1]) ** 2) / radius**2
    return np.rint(255 * np.exp(-distance / 2)).astype(np.uint8)


@BACKENDS
@given(seed=st.integers(0, 10_000), height=st.integers(90, 260), width=st.integers(90, 260))
@settings(max_examples=20, deadline=None)
def test_dots_at_landmarks_are_where_landmarks_px_says(processor_class, seed, height, width):
    landmarks = face_in(height, width, seed)
    points = [39, 48, 33]  # inner eye corner, mouth corner, below the nose
    image = draw_dots(height, width, landmarks[points], radius=min(height, width) / 40)
    augmentation = Augmentation(crop_scale=(0.6, 1), rotation_deg=25, brightness=0, contrast=0, saturation=0)
    batch = processor_class(size={"height": 112, "width": 112})(
        image, landmarks=landmarks, augment=augmentation, augment_seeds=[seed]
    )
    is_flipped = torch.det(batch["align_matrix"][0, :, :2]) < 0
    shown = [FLIP_68.index(point) for point in points] if is_flipped else points
    expected = batch["landmarks_px"][0, shown].numpy()
    pixels = to_image(batch["pixel_values"][0])
    ys, xs = np.mgrid[:112, :112] + 0.5
    for channel, (x, y) in zip(pixels, expected, strict=True):
        if not (20 < x < 92 and 20 < y < 92):
            continue  # cut off by the crop
        found = np.array([(channel * xs).sum(), (channel * ys).sum()]) / channel.sum()
        np.testing.assert_allclose(found, (x, y), atol=0.35)


@BACKENDS
def test_points_and_boxes_go_through_the_returned_matrix(processor_class):
    images, landmarks = [smooth_image(90, 120)] * 8, [face_in(90, 120, seed) for seed in range(8)]
    batch = processor_class(size=SIZE)(images, landmarks=landmarks, augment=Augmentation(), augment_seeds=range(8))
    matrices = batch["align_matrix"].numpy()
    is_flipped = np.linalg.det(matrices[:, :, :2]) < 0
    assert 0 < is_flipped.sum() < 8
    for row in range(8):
        points = apply_matrix(landmarks[row], matrices[row])
        points = points[list(FLIP_68)] if is_flipped[row] else points
        np.testing.assert_allclose(batch["landmarks_px"][row], points, atol=1e-3)
        np.testing.assert_allclose(batch["au_boxes"][row], au_boxes_from_landmarks(points, (64, 64)), atol=1e-5)


@BACKENDS
@pytest.mark.parametrize("quarter_turns", [1, 2, 3])
def test_a_turned_picture_of_a_face_gives_the_same_batch(processor_class, quarter_turns):
    image, landmarks = smooth_image(90, 120), face_in(90, 120)
    turned, points = image, landmarks
    for _ in range(quarter_turns):  # counter-clockwise: (x, y) -> (y, width - x)
        points = np.stack((points[:, 1], turned.shape[1] - points[:, 0]), axis=1)
        turned = np.rot90(turned)
    straight = processor_class(size=SIZE)(image, landmarks=landmarks)
    other = processor_class(size=SIZE)(turned, landmarks=points)
    for name, tolerance in (("au_boxes", 1e-6), ("landmarks_px", 1e-3), ("pixel_values", 1.1 / 127.5)):
        torch.testing.assert_close(other[name], straight[name], rtol=0, atol=tolerance)


@BACKENDS
def test_an_enlarged_picture_of_a_face_gives_the_same_batch(processor_class):
    image, landmarks = smooth_image(90, 120), face_in(90, 120)
    enlarged = image.repeat(4, axis=0).repeat(4, axis=1)
    processor = processor_class(size={"height": 48, "width": 48})
    small, large = (processor([im], landmarks=[p]) for im, p in ((image, landmarks), (enlarged, landmarks * 4)))
    torch.testing.assert_close(large["au_boxes"], small["au_boxes"], rtol=0, atol=1e-6)
    assert (large["pixel_values"] - small["pixel_values"]).abs().mean() < 3 / 127.5


@BACKENDS
def test_a_mirror_image_swaps_left_and_right_boxes(processor_class):
    image, landmarks = smooth_image(96, 96), face_in(96, 96)
    flip = AugmentationSample(flip=True)
    plain = processor_class(size=SIZE)(image, landmarks=landmarks)
    always = Augmentation(crop_scale=(1, 1), flip=1.0, brightness=0, contrast=0, saturation=0)
    mirrored = processor_class(size=SIZE)(image, landmarks=landmarks, augment=always)
    torch.testing.assert_close(mirrored["pixel_values"], plain["pixel_values"].flip(-1), rtol=0, atol=1.1 / 127.5)
    swapped = apply_matrix(plain["landmarks_px"].numpy()[0], flip.matrix((64, 64)))[list(FLIP_68)]
    np.testing.assert_allclose(mirrored["landmarks_px"][0], swapped, atol=1e-4)
    for au_id, box, old in zip(AU_IDS, mirrored["au_boxes"][0], plain["au_boxes"][0], strict=True):
        expected = old if au_id in (23, 24, 25) else old.flip(0)
        expected = torch.stack((1 - expected[:, 2], expected[:, 1], 1 - expected[:, 0], expected[:, 3]), dim=-1)
        torch.testing.assert_close(box, expected, rtol=0, atol=1e-5)


# ------------------------------------------------------------------------------------------------------ augmentation
@BACKENDS
def test_augmentation_is_a_function_of_the_seed_alone(processor_class):
    images, landmarks = [smooth_image(80, 80, seed) for seed in range(4)], [face_in(80, 80, s) for s in range(4)]
    processor = processor_class(size=SIZE)
    seeds = [11, 2**63, 13, 14]
    batch = processor(images, landmarks=landmarks, augment=Augmentation(), augment_seeds=seeds)
    for row in (2, 0, 3, 1):
        alone = processor(images[row], landmarks=landmarks[row], augment=Augmentation(), augment_seeds=[seeds[row]])
        for name in ("pixel_values", "au_boxes", "landmarks_px", "align_matrix"):
            torch.testing.assert_close(alone[name][0], batch[name][row], rtol=0, atol=1e-6)
    other = processor(images, landmarks=landmarks, augment=Augmentation(), augment_seeds=[1, 2, 3, 4])
    assert (other["align_matrix"] != batch["align_matrix"]).flatten(1).any(dim=1).all()


def test_without_seeds_every_call_differs_and_the_number_of_seeds_is_checked():
    image, processor = smooth_image(64, 64), MF2ImageProcessor(size=SIZE)
    first, second = (processor(image, augment=Augmentation())["align_matrix"] for _ in range(2))
    assert not torch.equal(first, second)
    with pytest.raises(ValueError, match="1 augment_seeds for 2 images"):
        processor([image, image], augment=Augmentation(), augment_seeds=[1])


@given(seed=st.integers(0, 2**64 - 1), low=st.floats(0.05, 1), rotation=st.floats(0, 180))
@settings(max_examples=100, deadline=None)
def test_crops_lie_inside_and_keep_proportions(seed, low, rotation):
    augmentation = Augmentation(crop_scale=(low, 1), rotation_deg=rotation)
    sample = augmentation.sample(np.random.default_rng(seed))
    assert low - 1e-9 <= sample.crop_side**2 <= 1 + 1e-9
    assert min(sample.crop_xy) >= 0 and max(sample.crop_xy) + sample.crop_side <= 1 + 1e-9
    linear = sample.matrix((64, 64))[:2, :2]
    np.testing.assert_allclose(linear @ linear.T, np.eye(2) / sample.crop_side**2, atol=1e-9 / low)
    assert (np.linalg.det(linear) < 0) == sample.flip


def test_an_augmentation_that_changes_nothing():
    image, landmarks = smooth_image(80, 80), face_in(80, 80)
    nothing = Augmentation(crop_scale=(1, 1), flip=0, brightness=0, contrast=0, saturation=0)
    processor = MF2ImageProcessor(size=SIZE)
    plain, augmented = (processor(image, landmarks=landmarks, augment=augment) for augment in (None, nothing))
    for name, value in plain.items():
        torch.testing.assert_close(augmented[name], value, rtol=0, atol=1e-5)


def test_colours_equal_blending_step_by_step():
    pixels = torch.rand(3, 3, 8, 8) * 120 + 60  # far enough from 0 and 255 not to be clamped
    samples = [
        AugmentationSample(brightness=b, contrast=c, saturation=s)
        for b, c, s in np.random.default_rng(0).uniform(0.8, 1.2, (3, 3))
    ]
    luma = torch.tensor([0.299, 0.587, 0.114])
    for row, sample in enumerate(samples):
        image = pixels[row] * sample.brightness
        gray = (image * luma[:, None, None]).sum(0)
        image = sample.contrast * image + (1 - sample.contrast) * gray.mean()
        gray = (image * luma[:, None, None]).sum(0)
        image = sample.saturation * image + (1 - sample.saturation) * gray
        torch.testing.assert_close(jitter_colors(pixels, samples)[row], image, rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    "options",
    [{"crop_scale": (0, 1)}, {"crop_scale": (0.9, 0.8)}, {"flip": 1.5}, {"rotation_deg": -1}, {"brightness": 2}],
)
def test_impossible_augmentations_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        Augmentation(**options)


# ------------------------------------------------------------------------------------------------ given and detected
class FakeDetector:
    """Finds as many faces in a picture as its top left pixel says, the last of them the largest."""

    name = "fake"

    def detect(self, images):
        return [[self._face(image, 0.3 + 0.2 * n) for n in range(image[0, 0, 0])] for image in images]

    def _face(self, image, side):
        points = face_in(*image.shape[:2], seed=int(100 * side), side=side).astype(np.float32)
        return DetectedFace((*points.min(0), *points.max(0)), points, 0.9)


@pytest.fixture
def crowd():
    """Pictures with 2, 0 and 1 faces, for `FakeDetector`."""
    images = [smooth_image(100, 140, seed).copy() for seed in range(3)]
    for image, num_faces in zip(images, (2, 0, 1), strict=True):
        image[0, 0] = num_faces
    return images


@BACKENDS
def test_the_largest_face_or_all(processor_class, crowd, caplog):
    processor, detector = processor_class(size=SIZE), FakeDetector()
    largest = processor(crowd, landmarks=detector)
    assert largest["image_index"].tolist() == [0, 1, 2]
    assert largest["landmarks_found"].tolist() == [True, False, True]
    faces = processor(crowd, landmarks=detector, face="all")
    assert faces["image_index"].tolist() == [0, 0, 1, 2]
    assert faces["landmarks_found"].tolist() == [True, True, False, True]
    torch.testing.assert_close(faces["pixel_values"][1], largest["pixel_values"][0])
    augmented = processor(crowd, landmarks=detector, face="all", augment=Augmentation(), augment_seeds=[1, 2, 3])
    assert augmented["pixel_values"].shape[0] == 4


def test_a_picture_without_a_face_is_said(crowd, monkeypatch):
    said = []
    monkeypatch.setattr("mf2.image_processing_mf2.logger.warning", said.append)
    batch = MF2ImageProcessor(size=SIZE)(crowd, landmarks=FakeDetector())
    assert len(said) == 1 and "No face was found in image 1" in said[0]
    np.testing.assert_allclose(batch["landmarks_px"][1], mean_face((64, 64)), atol=1e-4)


def test_landmarks_of_another_picture_are_said(monkeypatch):
    said = []
    monkeypatch.setattr("mf2.image_processing_mf2.logger.warning", said.append)
    image, points = smooth_image(90, 120), face_in(90, 120)
    processor = MF2ImageProcessor(size=SIZE)
    processor([image, image], landmarks=[points, None])
    assert said == []
    processor([image, image], landmarks=[points, points * 4])
    assert len(said) == 1 and "The landmarks of image 1 lie about" in said[0] and "120×90 pixels" in said[0]


def test_detect_runs_the_registered_detector(crowd, monkeypatch):
    monkeypatch.setattr("mf2.landmarks_mf2._FACTORIES", {"fake": lambda device: FakeDetector()})
    monkeypatch.setattr("mf2.landmarks_mf2._LOADED", {})
    processor = MF2ImageProcessor(size=SIZE, landmark_detector="fake")
    detected, direct = (processor(crowd, landmarks=landmarks) for landmarks in ("detect", FakeDetector()))
    torch.testing.assert_close(detected["pixel_values"], direct["pixel_values"])


def test_forms_of_given_landmarks():
    image, points = smooth_image(90, 90), face_in(90, 90)
    processor = MF2ImageProcessor(size=SIZE)
    expected = processor(image, landmarks=points)["au_boxes"]
    assert processor(image)["au_boxes"].ne(expected).any()
    for landmarks in (points[None], [points], points.tolist(), [points.tolist()], torch.from_numpy(points)):
        torch.testing.assert_close(processor(image, landmarks=landmarks)["au_boxes"], expected)
    two = processor([image, image], landmarks=np.stack([points, np.full((68, 2), np.nan)]))
    assert two["landmarks_found"].tolist() == [True, False]
    several = np.stack([points * 0.5, points])
    torch.testing.assert_close(processor(image, landmarks=[several])["au_boxes"], expected)
    assert len(processor(image, landmarks=[several], face="all")["au_boxes"]) == 2


# ---------------------------------------------------------------------------------------------- pictures as they come
RGB = smooth_image(40, 56)


def photo_forms(tmp_path):
    image = Image.fromarray(RGB)
    image.save(tmp_path / "photo.png")
    rotated = image.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # show it turned by 90° clockwise
    rotated.save(tmp_path / "rotated.png", exif=exif)
    return {
        "PIL": image,
        "path": tmp_path / "photo.png",
        "string": str(tmp_path / "photo.png"),
        "bytes": (tmp_path / "photo.png").read_bytes(),
        "EXIF-rotated": tmp_path / "rotated.png",
        "opaque RGBA": image.convert("RGBA"),
        "HWC": RGB,
        "CHW": RGB.transpose(2, 0, 1),
        "float HWC": RGB / np.float32(255),
        "float up to 255": RGB.astype(np.float64),
        "uint16": RGB.astype(np.uint16) * 257,
        "int64": RGB.astype(np.int64),
        "torch CHW": torch.from_numpy(RGB.transpose(2, 0, 1).copy()),
        "torch float": torch.from_numpy(RGB.transpose(2, 0, 1) / 255),
        "RGBA array": np.dstack((RGB, np.full(RGB.shape[:2], 255, np.uint8))),
    }


def test_every_form_of_a_photo_reads_the_same(tmp_path):
    for form, source in photo_forms(tmp_path).items():
        image = read_image(source)
        assert image.dtype == np.uint8 and image.shape == RGB.shape, form
        np.testing.assert_array_equal(image, RGB, err_msg=form)


def test_forms_of_a_grey_picture(tmp_path):
    gray = RGB[..., 0]
    Image.fromarray(gray.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    palette = Image.fromarray(gray // 64 * 64).convert("P")
    forms = (gray, gray[..., None], gray[None], Image.fromarray(gray), tmp_path / "deep.png", gray / 255.0)
    for form in forms:
        np.testing.assert_array_equal(read_image(form), np.dstack([gray] * 3))
    np.testing.assert_array_equal(read_image(palette)[..., 0], gray // 64 * 64)
    np.testing.assert_array_equal(read_image(gray > 99)[..., 1], np.where(gray > 99, 255, 0))
    np.testing.assert_array_equal(read_image(Image.fromarray(gray / np.float32(255)))[..., 2], gray)


def test_transparency_lies_on_white():
    clear = np.zeros((20, 20, 4), np.uint8)
    clear[:, 10:, 3] = 128
    for form in (clear, Image.fromarray(clear), Image.fromarray(clear).convert("LA")):
        image = read_image(form)
        assert (image[:, :10] == 255).all() and (image[:, 10:] == 127).all()


def test_a_batch_of_mixed_forms_and_sizes(tmp_path):
    images = [*photo_forms(tmp_path).values(), smooth_image(200, 90), RGB[..., 0]]
    batch = MF2ImageProcessor(size=SIZE)(images)
    assert batch["pixel_values"].shape == (len(images), 3, 64, 64)
    torch.testing.assert_close(batch["pixel_values"][0], batch["pixel_values"][9])
    arrays = MF2ImageProcessor(size=SIZE)(np.stack([RGB, RGB]))
    torch.testing.assert_close(arrays["pixel_values"][1], batch["pixel_values"][0])


# ------------------------------------------------------------------------------------------------------- the processor
CAPTIONS = [
    captions.template_captions(str(row), active, emotion)
    for row, (active, emotion) in enumerate(
        [([1, 2, 12, 25], "Happiness"), ([4, 7, 23, 24], "Anger"), ([], "Neutral"), ([6, 10, 15, 26], "Sadness")]
    )
]
TEXTS = [text for entry in CAPTIONS for text in (entry.au, entry.emotion, entry.key_au)]


@pytest.fixture(scope="module")
def tokenizer():
    """A BERT tokenizer that knows the words of `TEXTS`, without `[DEC]`."""
    words = sorted({word for text in TEXTS for word in re.findall(r"[a-z]+|\d+|[^\w\s]", text.lower())})
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words, *(f"##{number}" for number in range(30))]
    return BertTokenizer(vocab={piece: index for index, piece in enumerate(pieces)})


@pytest.fixture(scope="module")
def processor(tokenizer):
    return MF2Processor(MF2ImageProcessor(size=SIZE), tokenizer)


def test_a_batch_by_name(processor):
    images, texts = [smooth_image(64, 64)] * 2, [entry.emotion for entry in CAPTIONS[:2]]
    batch = processor(images=images, text=texts, au_text=[entry.au for entry in CAPTIONS[:2]])
    assert set(processor.model_input_names) <= set(batch)
    for prefix in ("", "au_"):
        ids, mask = batch[f"{prefix}input_ids"], batch[f"{prefix}attention_mask"]
        assert ids.dtype == torch.int64 and ids.shape == mask.shape and len(ids) == 2
        assert (ids[:, 0] == processor.tokenizer.cls_token_id).all()
        torch.testing.assert_close(mask, (ids != processor.tokenizer.pad_token_id).long())


def test_sentences_for_each_au(processor):
    rows = [["the lip corners are pulled up.", "no."], ["the jaw is dropped.", "the brows are lowered and drawn."]]
    batch = processor(au_text=rows)
    assert batch["au_input_ids"].shape[:2] == (2, 2) and batch["au_input_ids"].ndim == 3
    flat = processor(text=[sentence for row in rows for sentence in row])
    torch.testing.assert_close(batch["au_input_ids"].flatten(0, 1), flat["input_ids"])
    with pytest.raises(ValueError, match="different numbers of AU sentences"):
        processor(au_text=[["one.", "two."], ["one."]])


def test_lengths_are_bounded_and_settable(processor, tokenizer):
    long_text = "the lip corners are raised " * 60
    batch = processor(text=long_text, au_text=long_text)
    assert batch["input_ids"].shape == (1, 61) and batch["au_input_ids"].shape == (1, 169)
    short = MF2Processor(MF2ImageProcessor(), tokenizer, max_length=10, au_max_length=20)
    assert short(text=long_text)["input_ids"].shape == (1, 10)
    assert short(text="the jaw", padding="max_length")["input_ids"].shape == (1, 10)
    assert short(text=long_text, text_kwargs={"max_length": 30})["input_ids"].shape == (1, 30)


def test_options_reach_the_image_processor_and_misspelt_ones_are_refused(processor):
    batch = processor(smooth_image(64, 64), images_kwargs={"size": {"height": 32, "width": 32}}, au_ids=[9])
    assert batch["pixel_values"].shape[-1] == 32 and batch["au_boxes"].shape[1] == 1
    with pytest.raises(TypeError, match="landmark: no such argument"):
        processor(smooth_image(64, 64), landmark=None)
    with pytest.raises(ValueError, match="Give images, text or au_text"):
        processor()
    with pytest.raises(ValueError, match="the list is empty"):
        processor(text=[])


def test_the_decoder_token_is_added_once(tokenizer, tmp_path):
    before = len(tokenizer)
    processing_mf2.add_decoder_token(processing_mf2.add_decoder_token(tokenizer))
    assert tokenizer.bos_token == "[DEC]" and len(tokenizer) - before <= 1
    tokenizer.save_pretrained(tmp_path)
    assert load_tokenizer(str(tmp_path)).bos_token_id == tokenizer.bos_token_id


def test_the_union_of_label_spaces(processor):
    bp4d, disfa = LabelSpace(au_ids=(1, 14), emotions=()), LabelSpace(au_ids=(9, 1), emotions=())
    both = processor.for_label_spaces(bp4d, disfa)
    assert both.au_ids == [1, 14, 9]
    assert processor.au_ids == list(AU_IDS)
    assert both(smooth_image(64, 64))["au_boxes"].shape == (1, 3, 2, 4)
    emotions_only = processor.for_label_spaces(LabelSpace(au_ids=()))
    assert emotions_only.au_ids == list(AU_IDS), "emotions are read from the regions of the 12 AUs, too"
    with pytest.raises(ValueError, match="AU 3 has no region rule"):
        both.au_ids = [3]


# ----------------------------------------------------------------------------------------------------- back to words
@pytest.mark.parametrize("text", TEXTS)
def test_a_caption_survives_its_way_through_the_tokenizer(processor, text):
    ids = processor(text=text, max_length=512)["input_ids"]
    assert processor.batch_decode(ids) == [text]


@pytest.mark.parametrize(
    ("lower", "expected"),
    [
        ("the face is happy . it ' s a wide - open smile !", "The face is happy. It's a wide-open smile!"),
        ("au12 and au 6 ( cheek raiser ) , not au4 ( smile )", "AU12 and AU6 (Cheek Raiser), not AU4 (smile)"),
        (
            "1. au1 ( inner brow raiser ) : up . 2. au26 ( jaw drop ) : down .",
            "1. AU1 (Inner Brow Raiser): Up.\n2. AU26 (Jaw Drop): Down.",
        ),
        ("", ""),
    ],
)
def test_case_is_restored(lower, expected):
    assert restore_case(lower) == expected
    assert restore_case(expected) == expected


def test_sentences_for_each_au_become_a_numbered_caption(processor):
    sentences = [["The lips are apart.", ""], ["", ""], ["The lips are apart.", "The jaw is dropped."]]
    tokenizer = processor.tokenizer
    ids = processor(au_text=[["the lips are apart.", "the jaw is dropped."]] * 3)["au_input_ids"]
    ids[0, 1] = tokenizer.pad_token_id
    ids[1] = tokenizer.pad_token_id
    ids[1, 0, :2] = torch.tensor([tokenizer.bos_token_id, tokenizer.sep_token_id])
    expected = [
        render_au_caption({au: text for au, text in zip((25, 26), row, strict=True) if text}) for row in sentences
    ]
    decoded = processor.batch_decode(ids, au_ids=[25, 26])
    dropped = processor.decode(ids[2, 1])
    assert decoded == [text.replace("The jaw is dropped.", dropped) for text in expected]
    assert decoded[1] == NO_ACTIVE_AU_CAPTION
    with pytest.raises(ValueError, match="ids of 2 AUs, but 12 au_ids"):
        processor.batch_decode(ids)


def test_facial_states_by_name(processor):
    outputs = SimpleNamespace(au_logits=torch.zeros(2, 12), emotion_logits=torch.zeros(2, 8))
    outputs.au_logits[0, AU_IDS.index(12)] = 3.0
    outputs.au_logits[:, AU_IDS.index(4)] = -3.0
    outputs.emotion_logits[1, EMOTIONS.index("Happiness")] = 2.0
    first, second = processor.post_process_facial_states(outputs, thresholds=0.6)
    assert list(first["aus"]) == [f"AU{au_id}" for au_id in AU_IDS] and list(second["emotions"]) == list(EMOTIONS)
    assert first["active"] == ["AU12"] and first["aus"]["AU12"] == pytest.approx(0.9526, abs=1e-4)
    assert second["active"] == [] and second["emotion"] == "Happiness"
    assert sum(second["emotions"].values()) == pytest.approx(1)
    json.dumps([first, second])


def test_thresholds_of_the_label_space_and_of_the_call(processor):
    space = LabelSpace(au_ids=(9, 12), emotions=("calm", "angry"), thresholds=(0.4, 0.7))
    outputs = SimpleNamespace(au_logits=torch.tensor([[0.0, 0.0]]), emotion_logits=None)

    def active(thresholds=None):
        return processor.post_process_facial_states(outputs, space, thresholds)[0]["active"]

    assert active() == ["AU9"]
    assert active({"AU12": 0.5}) == ["AU9", "AU12"]
    assert active([0.9, 0.1]) == ["AU12"]
    assert active(0.51) == []
    with pytest.raises(ValueError, match="thresholds of AU4, but the AUs are AU9, AU12"):
        active({"AU4": 0.5})
    with pytest.raises(ValueError, match="3 thresholds for 2 AUs"):
        active([0.5] * 3)
    with pytest.raises(ValueError, match="2 AUs, but the label space 12"):
        processor.post_process_facial_states(outputs)


def test_a_recogniser_that_is_off_leaves_its_keys_out(processor):
    outputs = SimpleNamespace(au_logits=None, emotion_logits=torch.zeros(1, 8, dtype=torch.bfloat16))
    (result,) = processor.post_process_facial_states(outputs)
    assert set(result) == {"emotion", "emotions"}


# ---------------------------------------------------------------------------------------------------- save and reload
def test_either_backend_is_found_by_name(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    for backend, expected in (("pil", MF2ImageProcessorPil), ("torchvision", MF2ImageProcessor)):
        assert type(AutoImageProcessor.from_pretrained(tmp_path, backend=backend)) is expected
    entries = json.loads((tmp_path / "processor_config.json").read_text())["image_processor"]["auto_map"]
    module = "image_processing_mf2"
    assert entries["AutoImageProcessor"] == [f"{module}.MF2ImageProcessorPil", f"{module}.MF2ImageProcessor"]
    assert (tmp_path / f"{module}.py").exists() and (tmp_path / "regions_mf2.py").exists()


@BACKENDS
def test_save_and_reload(processor_class, tokenizer, tmp_path):
    settings = {
        "size": SIZE,
        "au_ids": [12, 9],
        "image_mean": [0.1, 0.2, 0.3],
        "eye_centers": [[0.3, 0.4], [0.7, 0.4]],
    }
    MF2Processor(processor_class(**settings), tokenizer, max_length=33).save_pretrained(tmp_path)
    assert not (tmp_path / "preprocessor_config.json").exists()
    loaded = MF2Processor.from_pretrained(tmp_path)
    assert loaded.max_length == 33 and loaded.au_max_length == 169 and loaded.tokenizer.bos_token == "[DEC]"
    assert loaded.image_processor.to_dict() | {"auto_map": None} == (
        MF2ImageProcessor(**settings).to_dict() | {"auto_map": None}
    )
    image = smooth_image(64, 64)
    torch.testing.assert_close(
        loaded(image)["pixel_values"], processor_class(**settings)(image)["pixel_values"], rtol=0, atol=0.05
    )
    assert AutoTokenizer.from_pretrained(tmp_path).bos_token == "[DEC]"


REMOTE_CODE = """
import importlib.util, sys
folder = sys.argv[1]
hidden = {"mf2", "face_alignment", "scipy", "cv2", "torchvision"}
find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name.split(".")[0] in hidden else find_spec(name, *rest)
sys.modules.update(dict.fromkeys(hidden))
import numpy as np
from transformers import AutoProcessor
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
assert type(processor).__module__.startswith("transformers_modules"), type(processor)
assert type(processor.image_processor).__name__ == "MF2ImageProcessorPil", type(processor.image_processor)
image = np.load(folder + "/image.npy")
np.save(folder + "/pixels.npy", processor(image)["pixel_values"])
processor.save_pretrained(folder + "/again")
again = AutoProcessor.from_pretrained(folder + "/again", trust_remote_code=True)
np.testing.assert_array_equal(again(image)["pixel_values"], processor(image)["pixel_values"])
"""


def test_as_remote_code_without_the_package_and_torchvision(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    image = smooth_image(64, 64)
    np.save(tmp_path / "image.npy", image)
    environment = {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PATH": ""}
    command = [sys.executable, "-c", REMOTE_CODE, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=300)
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(np.load(tmp_path / "pixels.npy"), processor(image)["pixel_values"], atol=0.01)
