"""Intervals over videos against a slow reference that really repeats the rows of the drawn videos."""

import time

import numpy as np
import pytest

from mf2.evaluation import bootstrap
from mf2.evaluation.bootstrap import (
    Resampler,
    au_average_precision_samples,
    au_f1_samples,
    confidence_interval,
    emotion_samples,
)
from mf2.evaluation.metrics import au_metrics, emotion_metrics
from mf2.labels_mf2 import AU_IDS, EMOTIONS

CODES = [f"AU{au_id}" for au_id in AU_IDS]
THRESHOLDS = np.linspace(0.3, 0.7, 12)


@pytest.fixture
def rows():
    rng = np.random.default_rng(0)
    labels = rng.choice([-1, 0, 1], size=(240, 12), p=[0.2, 0.5, 0.3])
    emotion = rng.integers(0, 8, 240)
    emotion[::9] = -100
    return {
        "videos": rng.integers(0, 9, 240).astype(str),
        "probs": rng.random((240, 12)).round(2),
        "labels": labels,
        "scores": rng.random((240, 8)),
        "emotion": emotion,
    }


def drawn_rows(videos, num_resamples, seed):
    """Row numbers of each resample, by the draws that the resampler documents."""
    rng, names = np.random.default_rng(seed), np.unique(videos)
    for _ in range(num_resamples):
        chosen = rng.integers(len(names), size=len(names))
        yield np.concatenate([np.flatnonzero(videos == names[index]) for index in chosen])


def test_au_samples_equal_the_scores_of_the_repeated_rows(rows):
    probs, labels = rows["probs"], rows["labels"]
    resampler = Resampler(rows["videos"], num_resamples=20, seed=3)
    f1 = au_f1_samples(resampler, probs, labels, THRESHOLDS)
    precision = au_average_precision_samples(resampler, probs, labels)
    for number, drawn in enumerate(drawn_rows(rows["videos"], 20, 3)):
        expected = au_metrics(probs[drawn], labels[drawn], CODES, THRESHOLDS)["per_au"]
        np.testing.assert_allclose(f1[number], [expected[code]["f1"] for code in CODES])
        np.testing.assert_allclose(precision[number], [expected[code]["average_precision"] for code in CODES])


def test_emotion_samples_equal_the_scores_of_the_repeated_rows(rows):
    samples = emotion_samples(Resampler(rows["videos"], 20, 3), rows["scores"], rows["emotion"])
    for number, drawn in enumerate(drawn_rows(rows["videos"], 20, 3)):
        expected = emotion_metrics(rows["scores"][drawn], rows["emotion"][drawn], EMOTIONS)
        for name in ("top1", "macro_f1", "uar"):
            assert samples[name][number] == pytest.approx(expected[name]), name
        np.testing.assert_allclose(samples["f1"][number], [one["f1"] for one in expected["per_class"].values()])


def test_average_precision_in_bins_stays_close_where_probabilities_are_many(monkeypatch):
    rng = np.random.default_rng(0)
    labels = rng.random((4000, 1)) < 0.3
    probs = np.clip(rng.random((4000, 1)) + 0.3 * labels, 0, 1)
    resampler = Resampler(np.arange(4000) % 50, 50)
    binned = au_average_precision_samples(resampler, probs, labels.astype(int))
    monkeypatch.setattr(bootstrap, "NUM_SCORE_BINS", 10**6)
    exact = au_average_precision_samples(resampler, probs, labels.astype(int))
    assert np.abs(binned - exact).max() < 0.002 < exact.std()


def test_a_resample_without_positives_is_left_out_and_an_au_without_any_is_zero():
    probs, labels = np.ones((3, 2)), np.array([[1, 0], [0, 0], [0, 0]])
    samples = au_f1_samples(Resampler(["a", "b", "c"], 200), probs, labels)
    missing = np.isnan(samples[:, 0])
    assert 0 < missing.mean() < 1 and (samples[~missing, 0] > 0).all()
    assert (samples[:, 1] == 0).all()


def test_frames_of_one_video_add_no_certainty(rows):
    """Repeating every frame must not narrow an interval over videos; resampling frames would."""
    videos, probs, labels = rows["videos"], rows["probs"], rows["labels"]
    once, thrice = (
        confidence_interval(
            au_f1_samples(Resampler(np.tile(videos, n)), np.tile(probs, (n, 1)), np.tile(labels, (n, 1))).mean(1)
        )
        for n in (1, 3)
    )
    assert once == pytest.approx(thrice)


def test_the_seed_decides(rows):
    def f1_of(seed):
        return au_f1_samples(Resampler(rows["videos"], 50, seed), rows["probs"], rows["labels"])

    np.testing.assert_array_equal(f1_of(0), f1_of(0))
    assert (f1_of(0) != f1_of(1)).any()


def test_the_interval_covers_the_true_rate_about_as_often_as_it_says():
    """120 samples of 30 videos from a known rate: the 95 % interval holds it in about 95 % of them."""
    rng, hits = np.random.default_rng(0), 0
    for _ in range(120):
        of_video = rng.beta(6, 4, 30).repeat(20)
        right = rng.random(600) < of_video
        samples = emotion_samples(
            Resampler(np.repeat(np.arange(30), 20), 300), np.eye(2)[right.astype(int)], np.ones(600, int)
        )
        low, high = confidence_interval(samples["top1"])
        hits += low <= 0.6 <= high
    assert 0.86 <= hits / 120 <= 1.0


def test_undefined_samples_have_no_interval():
    assert confidence_interval(np.full(10, np.nan)) is None
    assert confidence_interval(np.array([np.nan, 1.0, 1.0])) == [1.0, 1.0]


def test_fifty_thousand_frames_take_seconds():
    rng = np.random.default_rng(0)
    labels = rng.choice([0, 1], size=(50_000, 12))
    probs, videos = rng.random((50_000, 12)).astype(np.float32), rng.integers(0, 151, 50_000)
    start = time.process_time()
    resampler = Resampler(videos, 1000)
    au_f1_samples(resampler, probs, labels)
    au_average_precision_samples(resampler, probs, labels)
    assert time.process_time() - start < 10
