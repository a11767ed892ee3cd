"""The scores of predictions: their intervals, groups and gaps, what is masked, and how they are printed."""

import numpy as np
import pytest

from mf2.evaluation.predictions import Predictions
from mf2.evaluation.scores import evaluate_by_group, evaluate_predictions
from mf2.hub.evaluation_markdown import format_report, format_value, format_with_interval
from mf2.labels_mf2 import AU_IDS, EMOTIONS, LabelSpace

SPACE = LabelSpace(thresholds=(0.4,) * 12)


def make_predictions(num_rows=200, num_videos=10, seed=0):
    """Predictions that are right more often than not."""
    rng = np.random.default_rng(seed)
    au_labels, emotion_labels = rng.integers(0, 2, (num_rows, 12)), rng.integers(0, 8, num_rows)
    scores = rng.random((num_rows, 8)) + 0.5 * np.eye(8)[emotion_labels]
    videos = np.array([f"v{index}" for index in rng.integers(0, num_videos, num_rows)])
    return Predictions(
        au_probs=np.clip(rng.random((num_rows, 12)) * 0.7 + 0.3 * au_labels, 0, 1),
        au_labels=au_labels,
        emotion_probs=scores / scores.sum(1, keepdims=True),
        emotion_labels=emotion_labels,
        video_ids=videos,
        group_ids=videos,
        frames=np.arange(num_rows),
        file_names=videos,
    )


@pytest.fixture
def predictions():
    return make_predictions()


@pytest.fixture
def evaluation(predictions):
    return evaluate_predictions(predictions, SPACE, num_bootstrap=200)


def test_every_score_has_an_interval_around_it(evaluation):
    scores = [evaluation["aus"], evaluation["aus_tuned"], *evaluation["aus"]["per_au"].values()]
    named = [(one, name) for one in scores for name in ("f1", "average_precision")]
    named += [(evaluation["emotion"], name) for name in ("top1", "macro_f1", "uar")]
    named += [(one, "f1") for one in evaluation["emotion"]["per_class"].values()]
    for one, name in named:
        low, high = one[f"{name}_interval"]
        assert low < one[name] < high, name
    assert evaluation["bootstrap"] == {"num_resamples": 200, "num_videos": 10, "level": 0.95, "seed": 0}


def test_thresholds_of_the_label_space_are_the_tuned_ones(evaluation):
    assert {au["threshold"] for au in evaluation["aus_tuned"]["per_au"].values()} == {0.4}
    assert {au["threshold"] for au in evaluation["aus"]["per_au"].values()} == {0.5}


def test_one_video_or_no_resamples_have_no_interval(predictions):
    for options in ({"groups": ["one"] * 200}, {"num_bootstrap": 0}):
        found = evaluate_predictions(predictions, SPACE, **options)
        assert "f1_interval" not in found["aus"] and "top1_interval" not in found["emotion"]
        assert found["bootstrap"]["num_resamples"] == 0 and found["aus"]["f1"] is not None


def test_groups_are_resampled_instead_of_the_videos(predictions, evaluation):
    frames = evaluate_predictions(predictions, SPACE, num_bootstrap=200, groups=np.arange(200))
    assert frames["bootstrap"]["num_videos"] == 200
    assert frames["aus"]["f1"] == evaluation["aus"]["f1"]
    assert frames["aus"]["f1_interval"] != evaluation["aus"]["f1_interval"]


def test_what_is_unlabelled_is_masked_and_named(predictions):
    predictions.au_labels[:, 5] = -1
    predictions.emotion_labels[:] = -100
    found = evaluate_predictions(predictions, SPACE, num_bootstrap=50)
    assert found["aus"]["unlabelled"] == ["AU10"] and "AU10" not in found["aus"]["per_au"]
    assert found["emotion"] == {"num_labelled": 0} and found["calibration"]["emotion"] is None
    assert "AU10" not in found["calibration"]["aus"]["per_au"]


def test_decisions_have_no_calibration(predictions):
    decisions = Predictions(**vars(predictions) | {"au_probs": (predictions.au_probs > 0.5).astype(float)})
    found = evaluate_predictions(decisions, SPACE, num_bootstrap=0)
    assert found["calibration"]["aus"] is None and found["calibration"]["emotion"] is not None
    assert found["aus"]["f1"] == evaluate_predictions(predictions, SPACE, num_bootstrap=0)["aus"]["f1"]


# ----------------------------------------------------------------------------------------------------------- by group
def test_a_group_is_scored_as_if_it_were_alone(predictions):
    values = np.arange(200) % 2
    found = evaluate_by_group(predictions, SPACE, values, num_bootstrap=100)
    assert list(found["groups"]) == ["0", "1"]
    alone = Predictions(**{name: part[values == 1] for name, part in vars(predictions).items()})
    expected = evaluate_predictions(alone, SPACE, num_bootstrap=0)
    assert found["groups"]["1"]["rows"] == 100
    for task, score in (("aus", "f1"), ("aus_tuned", "f1"), ("emotion", "uar")):
        assert found["groups"]["1"][task][score] == expected[task][score]


def test_a_gap_is_between_the_best_and_the_worst_with_its_interval(predictions):
    values = np.array(["good", "bad"])[np.arange(200) % 2]
    predictions.au_probs[values == "bad"] = 0.1
    gap = evaluate_by_group(predictions, SPACE, values, num_bootstrap=200)["gaps"]["au_f1"]
    assert (gap["best"], gap["worst"]) == ("good", "bad")
    assert 0 < gap["gap_interval"][0] < gap["gap"] < gap["gap_interval"][1]


def test_groups_that_share_their_rows_quality_have_a_gap_around_zero():
    predictions = make_predictions(2000, 100)
    gap = evaluate_by_group(predictions, SPACE, np.arange(2000) % 2, num_bootstrap=200)["gaps"]["emotion_uar"]
    assert gap["gap_interval"][0] < 0 < gap["gap_interval"][1]


def test_rows_without_a_value_are_a_group_and_too_many_values_are_refused(predictions):
    assert "unknown" in evaluate_by_group(predictions, SPACE, [None] * 100 + ["x"] * 100, num_bootstrap=0)["groups"]
    with pytest.raises(ValueError, match="200 values; at most 50"):
        evaluate_by_group(predictions, SPACE, range(200))


def test_one_group_has_no_gap(predictions):
    assert set(evaluate_by_group(predictions, SPACE, ["x"] * 200)["gaps"].values()) == {None}


# -------------------------------------------------------------------------------------------------------------- tables
def report_of(evaluation, **fields):
    data = {"name": "Faces", "split": "validation", "rows": 200, "videos": 10}
    shared = {"data": data, "landmarks": "dataset", "protocol": "mfa", "overlap": {"videos": 10, "seen_videos": 0}}
    return format_report({"model": {"name": "m"}, "evaluation": {**shared, **evaluation, **fields}})


def test_the_report_shows_scores_beside_what_is_trivial(evaluation):
    text = report_of(evaluation)
    f1, emotion = evaluation["aus"]["f1"], evaluation["emotion"]
    assert f"{f1:.3f} [" in text and f"{evaluation['aus']['f1_all_positive']:.3f} (always active)" in text
    assert "paper-compatible accuracy" in text and "0.875 (never)" in text
    assert f"{emotion['majority_top1']:.3f} (majority)" in text
    assert all(f"| {name}" in text for name in (*EMOTIONS, "AU26")) and "seen in training" not in text


def test_the_report_says_what_was_seen_and_what_is_not_labelled(predictions):
    predictions.au_labels[:, AU_IDS.index(26)] = -1
    found = evaluate_predictions(predictions, SPACE, num_bootstrap=0)
    text = report_of(found, overlap={"videos": 10, "seen_videos": 3})
    assert "**3 of these videos were seen in training" in text
    assert "Not labelled here, so not scored: AU26." in text
    assert "is not recorded" in report_of(found, overlap={"videos": 10, "seen_videos": None})


def test_values_are_short():
    assert format_value(None) == "-" and format_value(0.12345) == "0.123"
    assert format_with_interval({"f1": 0.5, "f1_interval": [0.4, 0.6]}, "f1") == "0.500 [0.400, 0.600]"
    assert format_with_interval({"f1": 0.5, "f1_interval": None}, "f1") == "0.500"
