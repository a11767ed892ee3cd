"""Metrics against scikit-learn on random data, the trivial baselines, and the masking of unlabelled entries."""

import numpy as np
import pytest
from sklearn import metrics as sk

from mf2.evaluation.metrics import (
    THRESHOLD_BOUNDS,
    au_metrics,
    average_precision,
    emotion_metrics,
    f1_score,
    scalar_metrics,
    tune_thresholds,
)
from mf2.labels_mf2 import AU_IDS, EMOTIONS

CODES = [f"AU{au_id}" for au_id in AU_IDS]


@pytest.fixture
def aus():
    rng = np.random.default_rng(0)
    probs = rng.random((200, 12)).round(2)  # rounded: ties
    labels = rng.choice([-1, 0, 1], size=(200, 12), p=[0.2, 0.6, 0.2])
    return probs, labels


@pytest.fixture
def emotions():
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 8, 300)
    labels[::7] = -100
    return rng.normal(size=(300, 8)), labels


def test_au_scores_equal_scikit_learn_on_the_labelled_entries(aus):
    probs, labels = aus
    result = au_metrics(probs, labels, CODES, 0.3)
    expected_f1 = []
    for index, code in enumerate(CODES):
        rows = labels[:, index] != -1
        truth, predicted = labels[rows, index], probs[rows, index] >= 0.3
        found = result["per_au"][code]
        assert found["f1"] == pytest.approx(sk.f1_score(truth, predicted))
        assert found["precision"] == pytest.approx(sk.precision_score(truth, predicted))
        assert found["recall"] == pytest.approx(sk.recall_score(truth, predicted))
        assert found["average_precision"] == pytest.approx(sk.average_precision_score(truth, probs[rows, index]))
        assert found["f1_all_positive"] == pytest.approx(sk.f1_score(truth, np.ones_like(truth)))
        assert found["num_labelled"] == rows.sum()
        expected_f1.append(found["f1"])
    assert result["f1"] == pytest.approx(np.mean(expected_f1))


def test_unlabelled_entries_change_nothing(aus):
    probs, labels = aus
    more_probs = np.concatenate([probs, np.ones((50, 12))])
    more_labels = np.concatenate([labels, np.full((50, 12), -1)])
    assert au_metrics(more_probs, more_labels, CODES) == au_metrics(probs, labels, CODES)


def test_an_au_without_labels_is_named_and_in_no_mean(aus):
    probs, labels = aus
    labels[:, 5] = -1
    result = au_metrics(probs, labels, CODES)
    assert result["unlabelled"] == ["AU10"] and "AU10" not in result["per_au"]
    others = np.delete(np.arange(12), 5)
    without = au_metrics(probs[:, others], labels[:, others], [CODES[index] for index in others])
    assert result["f1"] == without["f1"]


def test_an_au_without_positives_scores_zero_as_in_scikit_learn():
    assert f1_score(np.array([False, False]), np.array([False, False])) == 0.0
    assert average_precision(np.array([0.2, 0.4]), np.array([False, False])) is None


def test_no_label_at_all_gives_no_score():
    result = au_metrics(np.zeros((4, 12)), np.full((4, 12), -1), CODES)
    assert result["f1"] is None and result["unlabelled"] == CODES
    emotion = emotion_metrics(np.zeros((4, 8)), np.full(4, -100), EMOTIONS)
    assert emotion == {"num_labelled": 0}
    assert scalar_metrics(result, emotion) == {}


def test_emotion_scores_equal_scikit_learn(emotions):
    scores, labels = emotions
    result = emotion_metrics(scores, labels, EMOTIONS)
    rows = labels != -100
    truth, predicted = labels[rows], scores[rows].argmax(1)
    assert result["top1"] == pytest.approx(sk.accuracy_score(truth, predicted))
    assert result["macro_f1"] == pytest.approx(sk.f1_score(truth, predicted, average="macro"))
    assert result["uar"] == pytest.approx(sk.balanced_accuracy_score(truth, predicted))
    assert result["confusion"] == sk.confusion_matrix(truth, predicted, labels=range(8)).tolist()
    precision, recall, f1, support = sk.precision_recall_fscore_support(truth, predicted, labels=range(8))
    for index, name in enumerate(EMOTIONS):
        found = result["per_class"][name]
        assert [found["precision"], found["recall"], found["f1"]] == pytest.approx(
            [precision[index], recall[index], f1[index]]
        )
        assert found["support"] == support[index]
    majority = np.bincount(truth).argmax()
    constant = np.full_like(truth, majority)
    assert result["majority_top1"] == pytest.approx(sk.accuracy_score(truth, constant))
    assert result["majority_macro_f1"] == pytest.approx(sk.f1_score(truth, constant, average="macro"))


def test_one_vs_rest_accuracy_is_the_mean_of_eight_binary_accuracies(emotions):
    scores, labels = emotions
    result = emotion_metrics(scores, labels, EMOTIONS)
    rows = labels != -100
    truth, predicted = np.eye(8)[labels[rows]], np.eye(8)[scores[rows].argmax(1)]
    assert result["paper_compatible_accuracy"] == pytest.approx((truth == predicted).mean())


def test_trivial_baselines_of_eight_balanced_classes():
    labels = np.repeat(np.arange(8), 10)
    result = emotion_metrics(np.tile(np.eye(8)[0], (80, 1)), labels, EMOTIONS)
    assert result["paper_compatible_accuracy_never"] == 0.875
    assert result["paper_compatible_accuracy_constant"] == pytest.approx(0.78125)
    assert result["paper_compatible_accuracy"] == pytest.approx(0.78125)


def test_macro_scores_run_over_the_classes_that_are_there():
    labels = np.array([0, 0, 4, 4])
    result = emotion_metrics(np.eye(8)[[0, 0, 4, 0]], labels, EMOTIONS)
    assert result["uar"] == 0.75
    assert result["macro_f1"] == pytest.approx(sk.f1_score(labels, [0, 0, 4, 0], average="macro"))


# --------------------------------------------------------------------------------------------------------- thresholds
def test_tuned_thresholds_are_the_best_of_a_full_search(aus):
    probs, labels = aus
    thresholds = tune_thresholds(probs, labels)
    for index, threshold in enumerate(thresholds):
        rows = labels[:, index] != -1
        truth, scores = labels[rows, index] == 1, probs[rows, index]
        best = max(f1_score(scores >= t, truth) for t in np.arange(0.02, 0.981, 0.005))
        assert f1_score(scores >= threshold, truth) == pytest.approx(best)


def test_a_separable_au_gets_a_threshold_between_its_classes():
    probs = np.array([[0.1], [0.2], [0.3], [0.35], [0.4]])
    assert tune_thresholds(probs, np.array([[0], [0], [0], [1], [1]])) == [pytest.approx(0.325)]


def test_of_equal_thresholds_the_middle_is_taken():
    probs = np.array([[0.1], [0.9]])
    assert tune_thresholds(probs, np.array([[0], [1]])) == [0.5]


def test_thresholds_stay_inside_their_bounds_and_default_to_the_middle():
    probs = np.array([[0.001, 0.4], [0.03, 0.6]])
    low, unlabelled = tune_thresholds(probs, np.array([[0, -1], [1, -1]]))
    assert low == THRESHOLD_BOUNDS[0]
    assert unlabelled == 0.5
