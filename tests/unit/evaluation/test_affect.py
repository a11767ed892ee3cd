"""Scores of valence and arousal: against sums in a loop, their intervals, their trivial baseline, and ABAW's sum."""

import math
import statistics

import numpy as np
import pytest

from mf2.evaluation.bootstrap import Resampler, affect_samples
from mf2.evaluation.metrics import affect_metrics
from mf2.evaluation.predictions import Predictions
from mf2.evaluation.scores import evaluate_by_group, evaluate_predictions
from mf2.labels_mf2 import LabelSpace

SPACE = LabelSpace((1, 12), ("Neutral", "Anger"), affect=True)


def slow_ccc(values, labels):
    """2 cov / (var + var + squared difference of the means), pair by pair; moments over N."""
    pairs = [(x, y) for x, y in zip(values, labels, strict=True) if not math.isnan(y)]
    mean_x, mean_y = sum(x for x, _ in pairs) / len(pairs), sum(y for _, y in pairs) / len(pairs)
    covariance = variance_x = variance_y = 0.0
    for x, y in pairs:
        covariance += (x - mean_x) * (y - mean_y) / len(pairs)
        variance_x += (x - mean_x) ** 2 / len(pairs)
        variance_y += (y - mean_y) ** 2 / len(pairs)
    return 2 * covariance / (variance_x + variance_y + (mean_x - mean_y) ** 2)


def make_predictions(num_rows=120, num_videos=8, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.uniform(-1, 1, (num_rows, 2)).astype(np.float32)
    values = np.clip(labels * 0.7 + rng.normal(0, 0.2, labels.shape), -1, 1).astype(np.float32)
    labels[::7], labels[3, 0] = np.nan, np.nan
    videos = np.array([f"v{index}" for index in rng.integers(0, num_videos, num_rows)])
    au_labels, emotion_labels = rng.integers(0, 2, (num_rows, 2)), rng.integers(0, 2, num_rows)
    return Predictions(
        au_probs=rng.random((num_rows, 2)),
        au_labels=au_labels,
        emotion_probs=np.eye(2)[rng.integers(0, 2, num_rows)] * 0.8 + 0.1,
        emotion_labels=emotion_labels,
        video_ids=videos,
        group_ids=videos,
        frames=np.arange(num_rows),
        file_names=videos,
        affect=values,
        affect_labels=labels,
    )


def test_scores_equal_sums_in_a_loop():
    found = make_predictions()
    scores = affect_metrics(found.affect, found.affect_labels)
    for i, name in enumerate(("valence", "arousal")):
        values, labels = found.affect[:, i].tolist(), found.affect_labels[:, i].tolist()
        pairs = [(x, y) for x, y in zip(values, labels, strict=True) if not math.isnan(y)]
        one = scores["per_dimension"][name]
        assert one["ccc"] == pytest.approx(slow_ccc(values, labels))
        assert one["pcc"] == pytest.approx(statistics.correlation(*zip(*pairs, strict=True)))
        assert one["rmse"] == pytest.approx(math.sqrt(sum((x - y) ** 2 for x, y in pairs) / len(pairs)))
        assert one["sagr"] == pytest.approx(sum((x > 0) == (y > 0) for x, y in pairs) / len(pairs))
        assert one["num_labelled"] == len(pairs)
        assert one["constant_rmse"] == pytest.approx(statistics.pstdev(y for _, y in pairs))
    assert scores["ccc"] == pytest.approx(np.mean([one["ccc"] for one in scores["per_dimension"].values()]))


def test_a_constant_has_the_scores_of_the_baseline():
    labels = make_predictions().affect_labels
    means = np.broadcast_to(np.nanmean(labels, axis=0), labels.shape)
    scores = affect_metrics(means, labels)
    for name in ("ccc", "pcc", "rmse"):
        assert scores[name] == pytest.approx(scores[f"constant_{name}"], abs=1e-6)


def test_a_shift_costs_concordance_and_no_correlation():
    labels = np.linspace(-0.5, 0.5, 20)[:, None].repeat(2, axis=1)
    scores = affect_metrics(labels + 0.3, labels)
    assert scores["pcc"] == pytest.approx(1) and scores["ccc"] < 0.75


def test_what_nothing_labels_is_not_scored():
    labels = np.full((4, 2), np.nan)
    assert affect_metrics(np.zeros((4, 2)), labels) == {"num_labelled": 0}
    labels[0, 1] = 0.5
    assert list(affect_metrics(np.zeros((4, 2)), labels)["per_dimension"]) == ["arousal"]


def test_samples_equal_the_scores_of_the_repeated_rows():
    found = make_predictions()
    samples = affect_samples(Resampler(found.group_ids, 20, 3), found.affect, found.affect_labels)
    rng, names = np.random.default_rng(3), np.unique(found.group_ids)
    for number in range(20):
        chosen = rng.integers(len(names), size=len(names))
        rows = np.concatenate([np.flatnonzero(found.group_ids == names[index]) for index in chosen])
        expected = affect_metrics(found.affect[rows], found.affect_labels[rows])["per_dimension"]
        for name, values in samples.items():
            np.testing.assert_allclose(values[number], [one[name] for one in expected.values()], atol=1e-5)


def test_every_score_has_an_interval_and_the_sum_is_abaws():
    predictions = make_predictions()
    evaluation = evaluate_predictions(predictions, SPACE, num_bootstrap=100)
    affect = evaluation["affect"]
    for one in (affect, *affect["per_dimension"].values()):
        for name in ("ccc", "rmse", "pcc", "sagr"):
            low, high = one[f"{name}_interval"]
            assert low < one[name] < high
    parts = affect["ccc"], evaluation["emotion"]["macro_f1"], evaluation["aus_tuned"]["f1"]
    assert evaluation["mtl_sum"] == pytest.approx(sum(parts))
    assert "affect" not in evaluate_predictions(predictions, LabelSpace((1, 12), ("Neutral", "Anger")))


def test_groups_are_scored_apart():
    predictions = make_predictions()
    half = np.arange(len(predictions)) % 2
    by_group = evaluate_by_group(predictions, SPACE, half.tolist(), num_bootstrap=0)["groups"]
    for name, group in by_group.items():
        rows = half == int(name)
        assert group["affect"]["ccc"] == pytest.approx(
            affect_metrics(predictions.affect[rows], predictions.affect_labels[rows])["ccc"]
        )


def test_the_table_has_values_and_labels(tmp_path):
    table = make_predictions().to_table(SPACE)
    assert {"valence", "arousal", "valence_label", "arousal_label"} <= set(table)
    assert np.isnan(table["valence_label"][0]) and not np.isnan(table["valence"][0])
