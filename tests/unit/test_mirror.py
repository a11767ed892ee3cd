"""A face and its mirror image: emotions, and AUs on request, are averaged in evaluation, live and stored."""

import numpy as np
import pytest
import torch
from peft import get_peft_model
from small_adapters import AUS, make_images, make_labels, small_model

from mf2.labels_mf2 import AU_IDS
from mf2.modeling_mf2 import MF2Model
from mf2.peft_dfn import DFNConfig
from mf2.processing_mf2 import Augmentation, MF2ImageProcessor
from mf2.regions_mf2 import mean_face
from mf2.tower_mf2 import mirror_faces

MIRROR = {"mirror_emotions": True, "readout_grids": [2]}
OFF = pytest.mark.parametrize("off", [{}, {"use_emo_vl": False}, {"use_au_vl": False}])


def mirrored(images, au_ids=AUS):
    return dict(zip(images, mirror_faces(*images.values(), au_ids), strict=True))


def test_it_is_the_mirror_image_that_the_processor_makes():
    """Boxes of a vertical pair of centres stay in their order, those side by side change places."""
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 255, (60, 60, 3), dtype=np.uint8)
    landmarks = mean_face((60, 60)) + rng.normal(0, 1, (68, 2))
    processor = MF2ImageProcessor(size={"height": 32, "width": 32}, au_ids=list(AU_IDS))
    always = Augmentation(crop_scale=(1.0, 1.0), flip=1.0, brightness=0, contrast=0, saturation=0)
    plain = processor([picture], landmarks=[landmarks], return_tensors="pt")
    flipped = processor([picture], landmarks=[landmarks], augment=always, return_tensors="pt")
    pixels, boxes = mirror_faces(plain["pixel_values"], plain["au_boxes"], AU_IDS)
    torch.testing.assert_close(pixels, flipped["pixel_values"], rtol=0, atol=1e-4)
    torch.testing.assert_close(boxes, flipped["au_boxes"], rtol=0, atol=1e-5)


@torch.no_grad()
@OFF
def test_the_emotion_is_the_average_and_the_aus_are_those_of_the_face(off):
    images, alone, model = make_images(), small_model(readout_grids=[2], **off), small_model(**MIRROR, **off)
    face, mirror, both = alone(**images), alone(**mirrored(images)), model(**images)
    assert (face.emotion_logits - mirror.emotion_logits).abs().max() > 1e-3
    torch.testing.assert_close(both.emotion_logits, (face.emotion_logits + mirror.emotion_logits) / 2)
    torch.testing.assert_close(both.au_logits, face.au_logits)
    torch.testing.assert_close(model(**mirrored(images)).emotion_logits, both.emotion_logits)


@torch.no_grad()
@OFF
def test_aus_are_averaged_on_request(off):
    images, alone = make_images(), small_model(readout_grids=[2], **off)
    model = small_model(**MIRROR, mirror_aus=True, **off)
    face, mirror, both = alone(**images), alone(**mirrored(images)), model(**images)
    assert (face.au_logits - mirror.au_logits).abs().max() > 1e-3
    torch.testing.assert_close(both.au_logits, (face.au_logits + mirror.au_logits) / 2)
    torch.testing.assert_close(both.emotion_logits, (face.emotion_logits + mirror.emotion_logits) / 2)


def test_aus_alone_are_not_averaged():
    with pytest.raises(ValueError, match="mirror_aus is True but mirror_emotions is False"):
        small_model(mirror_aus=True)


@torch.no_grad()
def test_stored_features_of_both_give_what_the_picture_gives():
    model, images = small_model(**MIRROR), make_images()

    def stored(images):
        of = model.sample_vision(**images)
        names = ("vision_tokens", "region_features", "region_places", "readout_logits")
        return dict(zip(names, (of.tokens, of.regions, of.places, model.readout(of.face)), strict=True))

    seen = model(**stored(images), mirrored=stored(mirrored(images)))
    torch.testing.assert_close(seen.emotion_logits, model(**images).emotion_logits)


def test_training_sees_faces_as_they_are():
    model, alone = small_model(**MIRROR).train(), small_model(readout_grids=[2]).train()
    losses = []
    for of in (model, alone):
        torch.manual_seed(0)  # of the dropout
        losses.append(of(**make_images(), **make_labels()).losses["emotion"])
    assert torch.equal(*losses)


def test_it_is_saved(tmp_path):
    model = small_model(**MIRROR)
    model.save_pretrained(tmp_path)
    loaded = MF2Model.from_pretrained(tmp_path).eval()
    assert loaded.config.mirror_emotions
    torch.testing.assert_close(loaded(**make_images()).emotion_logits, model(**make_images()).emotion_logits)


@torch.no_grad()
@pytest.mark.parametrize("aus", [False, True])
def test_an_untrained_adapter_answers_as_its_base(aus):
    images = make_images()
    expected = small_model(**MIRROR, mirror_aus=aus)(**images)
    model = get_peft_model(small_model(**MIRROR, mirror_aus=aus), DFNConfig(r=4, readout=False)).eval()
    seen = model(**images)
    assert torch.equal(seen.emotion_logits, expected.emotion_logits)
    assert torch.equal(seen.au_logits, expected.au_logits)
    together = model.get_base_model().forward_adapters(["default", "base"], **images)
    for seen in together.values():
        torch.testing.assert_close(seen.emotion_logits, expected.emotion_logits)
        torch.testing.assert_close(seen.au_logits, expected.au_logits)


@torch.no_grad()
def test_an_adapter_with_more_regions_asks_the_base_of_its_own():
    config = DFNConfig(r=4, au_ids=[20, 12], readout=False)
    model = get_peft_model(small_model(**MIRROR), config).eval()
    regions = model.label_space.region_au_ids
    images = make_images(len(regions))
    own = {"pixel_values": images["pixel_values"], "au_boxes": images["au_boxes"][:, [regions.index(a) for a in AUS]]}
    expected = small_model(**MIRROR)(**own).emotion_logits
    torch.testing.assert_close(model(**images).emotion_logits, expected)


@torch.no_grad()
def test_an_adapter_that_does_not_start_there_does_without():
    model = get_peft_model(small_model(**MIRROR), DFNConfig(r=4, au_ids=[20], start="nothing")).eval()
    assert model(**make_images(1)).emotion_logits.isfinite().all()
