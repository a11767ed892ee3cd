"""Valence and arousal of generated faces: the formula, their ceiling, and that nothing else depends on them."""

import json

import numpy as np
import pytest

from mf2.dataset_tools.synthetic import affect, au_prior
from mf2.dataset_tools.synthetic.synth import SynthConfig, image_affect, image_aus, image_emotion, make_row, synthesize
from mf2.labels_mf2 import EMOTIONS

CONFIG = SynthConfig(num_train=8, num_eval=8, frames_per_identity=4, seed=3, image_size=48)


def drawn(config, split, number):
    """(N,) emotions, (N, 12) AUs, (N, 12) intensities and (N, 2) valence and arousal of the first faces."""
    emotions = [image_emotion(config, split, index) for index in range(number)]
    aus, intensities = zip(*(image_aus(config, split, index) for index in range(number)), strict=True)
    labels = [image_affect(config, split, index) for index in range(number)]
    return np.array(emotions), np.array(aus), np.array(intensities), np.array(labels)


def test_the_labels_follow_the_formula():
    emotions, aus, intensities, labels = drawn(CONFIG, "train", 400)
    likelihood = np.exp(au_prior.log_likelihood(aus))
    rest = []
    for emotion, active, intensity, of_face, label in zip(emotions, aus, intensities, likelihood, labels, strict=True):
        strength = intensity[active == 1].mean() if active.any() else 0.0
        weights = 0.5 * of_face / of_face.sum() + 0.5 * np.eye(len(EMOTIONS))[emotion]
        rest.append(label - strength * weights @ affect.POINTS)
    assert np.abs(np.mean(rest, axis=0)).max() < 0.02
    assert np.std(rest, axis=0) == pytest.approx([affect.NOISE] * 2, rel=0.1)
    assert np.abs(labels).max() <= 1


def test_happy_faces_are_positive_and_sad_ones_passive():
    emotions, _, _, labels = drawn(CONFIG, "train", 800)
    means = {name: labels[emotions == index].mean(axis=0) for index, name in enumerate(EMOTIONS)}
    assert means["Happiness"][0] > 0.4 and means["Sadness"][0] < -0.3 and means["Sadness"][1] < -0.1
    assert np.abs(means["Neutral"]).max() < 0.05 and means["Surprise"][1] > 0.35


def test_no_guess_from_the_aus_correlates_more_than_the_ceiling():
    """A regression on everything that the ceiling knows, fitted and scored on the same faces, stays below it."""
    _, aus, intensities, labels = drawn(CONFIG, "train", 3000)
    ceiling = affect.affect_ceiling(aus, intensities, labels)
    inputs = np.column_stack([aus, intensities * aus, affect.emotion_posterior(aus), np.ones(len(aus))])
    fitted = inputs @ np.linalg.lstsq(inputs, labels, rcond=None)[0]
    for i, name in enumerate(("valence", "arousal")):
        assert 0.7 < np.corrcoef(fitted[:, i], labels[:, i])[0, 1] < ceiling[name] < 0.97


def test_nothing_else_of_a_face_depends_on_its_affect(monkeypatch):
    row = make_row(CONFIG, "train", 5)
    monkeypatch.setattr(affect, "NOISE", 0.4)
    other = make_row(CONFIG, "train", 5)
    for name in ("valence", "arousal"):
        assert row.pop(name) != other.pop(name)
    np.testing.assert_array_equal(row.pop("landmarks"), other.pop("landmarks"))
    assert row == other


def test_the_manifest_tells_the_ceiling(tmp_path):
    folder = synthesize(tmp_path / "d", CONFIG, show_progress=False)
    manifest = json.loads((folder / "manifest.json").read_text())
    _, aus, intensities, labels = drawn(CONFIG, "validation", CONFIG.num_eval)
    assert manifest["affect_ceiling"]["validation"] == {
        name: round(value, 4) for name, value in affect.affect_ceiling(aus, intensities, labels).items()
    }
