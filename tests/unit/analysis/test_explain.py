"""Explanations: a caption that contradicts the probabilities is flagged; saliency lies where a logit comes from."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_mf2 import RESNET, VIT, make_tiny, save_tiny, write_pictures

from mf2.analysis import saliency
from mf2.analysis.caption_check import check_captions, split_by_flags
from mf2.analysis.saliency import au_saliency, draw_saliency
from mf2.caption_meaning_mf2 import flag_caption, named_aus, named_emotions
from mf2.cli import main
from mf2.dataset_tools.captions import template_captions
from mf2.labels_mf2 import AU_IDS, EMOTIONS

THRESHOLDS = {"AU4": 0.5, "AU12": 0.7, "AU25": 0.5}
PROBS = {"AU4": 0.1, "AU12": 0.8, "AU25": 0.4, "emotion": "Happiness"}


# ----------------------------------------------------------------------------------------------------------- captions
@pytest.mark.parametrize(
    ("caption", "aus"),
    [
        ("The key action unit is AU12 (Lip Corner Puller).", [12]),
        ("1. AU1 (Inner Brow Raiser): They rise.\n2. AU 4: They meet.", [1, 4]),
        ("It shows in the lowered brows and raised cheeks.", [4, 6]),
        ("THE INNER BROWS\nARE LIFTED.", [1]),
        ("The inner brows are not raised.", []),
        ("The person is at rest.", []),
    ],
)
def test_aus_are_named_by_code_or_by_phrase(caption, aus):
    assert named_aus(caption) == aus


def unsupported_aus(caption, probs, thresholds):
    return flag_caption("key_au", caption, probs, thresholds).unsupported


@pytest.mark.parametrize(
    ("caption", "emotions"),
    [
        ("The face shows happiness.", ["Happiness"]),
        ("The person looks angry, not sad. It shows in the lowered brows.", ["Anger"]),
        ("The person looks hard to read.", ["Other"]),
        ("The face shows surprise. It has a trace of fear.", ["Fear", "Surprise"]),
        ("The face keeps a neutral position, without anger, fear or disgust.", []),
    ],
)
def test_emotions_are_named_where_they_are_asserted(caption, emotions):
    assert named_emotions(caption) == emotions


def test_every_caption_of_the_data_set_is_understood():
    for seed in range(20):
        active = sorted(np.random.default_rng(seed).choice(AU_IDS, 3, replace=False).tolist())
        captions = template_captions(f"face {seed}", active, "Other")
        assert named_aus(captions.au) == active
        assert set(named_aus(captions.key_au)) <= set(active)
        assert named_aus(captions.emotion) == active
        for emotion in EMOTIONS:
            captions = template_captions(f"face {seed}", active, emotion)
            assert named_emotions(captions.emotion) == named_emotions(captions.key_au) == [emotion]


def test_a_caption_below_the_threshold_is_flagged():
    assert unsupported_aus("The lowered brows, AU12 and the lips, AU25.", PROBS, THRESHOLDS) == ["AU4", "AU25"]
    assert unsupported_aus("AU12 (Lip Corner Puller) is decisive.", PROBS, THRESHOLDS) == []
    assert unsupported_aus("AU12 is decisive.", PROBS, THRESHOLDS | {"AU12": 0.9}) == ["AU12"]


def test_an_au_that_the_model_does_not_know_is_not_supported():
    assert unsupported_aus("AU17 (Chin Raiser) and AU99.", PROBS, THRESHOLDS) == ["AU17", "AU99"]


def test_an_au_that_is_not_recognised_is_not_said_to_be_below_a_threshold():
    flags = flag_caption("au", "AU4 (Brow Lowerer) and AU17 (Chin Raiser).", PROBS, THRESHOLDS)
    assert (flags.unsupported, flags.unknown) == (["AU4", "AU17"], ["AU17"])
    assert str(flags) == "AU4 below the threshold; AU17 not recognised"


def test_another_emotion_than_the_likeliest_is_flagged():
    sad, happy = "The person looks sad. It shows in the upturned lip corners.", "The face shows happiness."
    assert flag_caption("emotion", sad, PROBS, THRESHOLDS).rivals == ["Sadness"]
    assert str(flag_caption("key_au", sad + " AU4.", PROBS, THRESHOLDS)) == (
        "AU4 below the threshold; Sadness not the likeliest"
    )
    assert not flag_caption("emotion", happy, PROBS, THRESHOLDS)
    assert not flag_caption("au", "1. AU12 (Lip Corner Puller): They rise, a sign of sadness.", PROBS, THRESHOLDS)


def test_an_active_au_that_a_caption_denies_is_flagged():
    text = "The face shows happiness. The facial muscles are at rest."
    flags = flag_caption("emotion", text, PROBS, THRESHOLDS)
    assert flags.denied == ["AU12"] and str(flags) == "AU12 active"
    assert [piece for piece, is_flagged in split_by_flags(text, flags) if is_flagged] == ["facial muscles are at rest"]
    assert not flag_caption("emotion", text, PROBS | {"AU12": 0.1}, THRESHOLDS)
    assert check_captions([PROBS | {"caption_au": "The lip corners are not pulled up."}], THRESHOLDS, ["au"])[
        "au"
    ].to_dict()["by_denied_au"] == {"AU12": 1}


@pytest.mark.parametrize("emotion", [None, float("nan"), "Contempt"])
def test_where_no_known_emotion_was_recognised_none_is_a_rival(emotion):
    row = {name: value for name, value in PROBS.items() if name != "emotion"}
    assert not flag_caption("emotion", "The face shows sadness.", row | {"emotion": emotion}, THRESHOLDS)
    assert not flag_caption("emotion", "The face shows sadness.", row, THRESHOLDS)


def test_the_flag_rate_is_over_captions_that_name_something():
    texts = [
        *("AU12 is active.", "AU4 and AU12.", "AU4 (Brow Lowerer) and AU25.", "The face is at rest.", None),
        *("The face shows fear.", "The face shows happiness."),
    ]
    rows = [PROBS | {"caption_key_au": text} for text in texts]
    check = check_captions(rows, THRESHOLDS, ["key_au"])["key_au"]
    assert (check.captions, check.naming, check.flagged) == (6, 5, 3)
    assert check.to_dict()["flag_rate"] == pytest.approx(3 / 5)
    assert check.to_dict()["by_au"] == {"AU4": 2, "AU25": 1} and check.to_dict()["by_emotion"] == {"Fear": 1}
    assert check_captions([], THRESHOLDS, ["emotion"])["emotion"].flag_rate is None


# ----------------------------------------------------------------------------------------------------------- saliency
class LinearReadout(torch.nn.Module):
    """AU 0 reads one patch, AU 1 another, through known weights."""

    weights = torch.zeros(2, 3, 40, 40)
    weights[0, :, 4:12, 4:12] = 1.0
    weights[1, :, 28:36, 20:36] = -2.0
    config = SimpleNamespace(freeze_vision=True)

    def encode_branches(self, pixel_values, au_boxes, mirror):
        return pixel_values

    def recognize(self, views):
        return SimpleNamespace(au_logits=torch.einsum("bchw,achw->ba", views, self.weights))


def test_saliency_lies_where_a_planted_readout_looks():
    maps = au_saliency(LinearReadout(), torch.randn(3, 40, 40), torch.zeros(2, 2, 4), [0, 1], num_samples=2)
    np.testing.assert_allclose(maps.sum(axis=(1, 2)), 1, rtol=1e-5)
    assert maps[0, 2:14, 2:14].sum() > 0.99
    assert maps[1, 26:38, 18:38].sum() > 0.99
    assert LinearReadout.config.freeze_vision is True


def test_saliency_without_blur_is_the_true_one(monkeypatch):
    monkeypatch.setattr(saliency, "BLUR", 0.0)
    maps = au_saliency(LinearReadout(), torch.randn(3, 40, 40), torch.zeros(2, 2, 4), [1, 0], num_samples=1)
    expected = LinearReadout.weights.abs().sum(1).flip(0).numpy()
    np.testing.assert_allclose(maps, expected / expected.sum(axis=(1, 2), keepdims=True), atol=1e-7)


@pytest.mark.parametrize("vision", [RESNET, VIT], ids=["convolutions", "transformer"])
def test_a_frozen_tower_of_either_kind_is_explained(vision, tmp_path, monkeypatch):
    monkeypatch.setattr(saliency, "NOISE", 0.0)
    monkeypatch.setattr(saliency, "BLUR", 0.0)
    model, processor = make_tiny(vision=vision)
    batch = processor(images=write_pictures(tmp_path, 1))
    pixels = batch["pixel_values"].clone().requires_grad_()
    logits = model.recognize(model.encode_branches(pixels, batch["au_boxes"])).au_logits
    expected = torch.autograd.grad(logits[0, 6], pixels)[0][0].abs().sum(0)
    model.config.freeze_vision = True
    model.vision_model.requires_grad_(False)
    maps = au_saliency(model, batch["pixel_values"][0], batch["au_boxes"][0], [6], num_samples=2)
    np.testing.assert_allclose(maps[0], expected / expected.sum(), rtol=1e-3, atol=1e-7)
    assert model.config.freeze_vision is True
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_same_seed_gives_the_same_map(tmp_path):
    model, processor = make_tiny()
    batch = processor(images=write_pictures(tmp_path, 1))
    inputs = (batch["pixel_values"][0], batch["au_boxes"][0], [0, 1])
    first, second = (au_saliency(model, *inputs, num_samples=2) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, au_saliency(model, *inputs, num_samples=2, seed=1))


def test_logits_of_detached_states_are_refused():
    class Detached(LinearReadout):
        def encode_branches(self, pixel_values, au_boxes, mirror):
            return pixel_values.detach()

    with pytest.raises(ValueError, match="reads detached states"):
        au_saliency(Detached(), torch.randn(3, 40, 40), torch.zeros(2, 2, 4), [0])


def test_a_map_is_drawn_where_it_is_strong():
    strength = np.zeros((20, 20), np.float32)
    strength[5:10, 5:10] = 1
    drawn = np.asarray(draw_saliency(np.full((20, 20, 3), 100, np.uint8), strength, 20)).astype(int)
    assert np.abs(drawn[14:, 14:] - 100).max() <= 1
    assert (drawn[7, 7] - 100).max() > 60


# ------------------------------------------------------------------------------------------------------------ command
@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("model") / "tiny")


def test_the_command_explains_a_picture(tmp_path, checkpoint, capsys):
    (picture,) = write_pictures(tmp_path, 1)
    argv = [
        "--model",
        str(checkpoint),
        "--landmarks",
        "mean_face",
        "--device",
        "cpu",
        "--output",
        str(tmp_path / "out"),
    ]
    assert main(["explain", str(picture), *argv]) == 0
    (face,) = json.loads((tmp_path / "out" / "explanation.json").read_text())["faces"]
    assert list(face["aus"]) == list(face["thresholds"]) == list(face["regions_px"])
    assert face["active"] == [code for code, prob in face["aus"].items() if prob >= 0.5]
    for name in ("captions", "unsupported", "rival_emotions", "denied"):
        assert face[name].keys() == {"emotion", "au"}
    assert Image.open(tmp_path / "out" / face["picture"]).width > 600
    assert "face 0: " in capsys.readouterr().out


def test_a_picture_that_cannot_be_read_is_one_line(tmp_path, checkpoint, capsys):
    (tmp_path / "broken.jpg").write_bytes(b"")
    argv = ["--model", str(checkpoint), "--landmarks", "mean_face", "--output", str(tmp_path / "out")]
    assert main(["explain", str(tmp_path / "broken.jpg"), *argv]) == 1
    assert "is empty (0 bytes)" in capsys.readouterr().err
