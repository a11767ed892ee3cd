"""The `evaluate` modules: loaded by path, offline, and equal to scikit-learn on random data."""

import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn import metrics as sk

import mf2

pytestmark = pytest.mark.dependencies

evaluate = pytest.importorskip("evaluate", reason="needs the extra `metrics`")

MODULES = Path(mf2.__file__).parent / "evaluation" / "metric_modules"
NAMES = sorted(path.name for path in MODULES.iterdir() if (path / f"{path.name}.py").is_file())


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    """No Hub, and module copies of this test alone."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("evaluate.config.HF_MODULES_CACHE", tmp_path)
    monkeypatch.syspath_prepend(tmp_path)  # before a cache that other modules are in
    for name in [name for name in sys.modules if name.split(".")[0] == "evaluate_modules"]:
        monkeypatch.delitem(sys.modules, name)  # a copy that another test has left


@pytest.fixture
def aus():
    rng = np.random.default_rng(0)
    return rng.random((150, 5)).round(2), rng.choice([-1, 0, 1], size=(150, 5), p=[0.2, 0.5, 0.3])


@pytest.fixture
def emotions():
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 8, 200)
    labels[::6] = -100
    return rng.integers(0, 8, 200), labels


def load(name):
    return evaluate.load(str(MODULES / name))


def test_there_are_six_and_each_describes_itself():
    assert NAMES == [
        "affect_scores",
        "au_average_precision",
        "au_f1",
        "calibration_error",
        "emotion_scores",
        "paper_compatible_accuracy",
    ]
    for name in NAMES:
        metric = load(name)
        assert metric.name == name and len(metric.description) > 80 and "Returns:" in metric.inputs_description


def test_au_f1(aus):
    probs, labels = aus
    found = load("au_f1").compute(predictions=probs, references=labels, thresholds=[0.3, 0.4, 0.5, 0.6, 0.7])
    expected = []
    for index, threshold in enumerate((0.3, 0.4, 0.5, 0.6, 0.7)):
        rows = labels[:, index] != -1
        expected.append(sk.f1_score(labels[rows, index], probs[rows, index] >= threshold))
        assert found["per_au"][f"AU{index}"] == pytest.approx(expected[-1])
    assert found["f1"] == pytest.approx(np.mean(expected))


def test_au_f1_in_batches_names_what_is_unlabelled(aus):
    probs, labels = aus
    labels[:, 1] = -1
    metric, codes = load("au_f1"), ["AU1", "AU2", "AU4", "AU6", "AU12"]
    for start in range(0, 150, 40):
        metric.add_batch(predictions=probs[start : start + 40], references=labels[start : start + 40])
    found = metric.compute(au_codes=codes)
    assert found["unlabelled"] == ["AU2"] and list(found["per_au"]) == ["AU1", "AU4", "AU6", "AU12"]
    assert found == metric.compute(predictions=probs, references=labels, au_codes=codes)


def test_the_example_of_au_f1_is_true():
    metric = load("au_f1")
    found = metric.compute(
        predictions=[[0.9, 0.2], [0.3, 0.8]], references=[[1, 0], [0, -1]], au_codes=["AU6", "AU12"]
    )
    assert str(found) in metric.inputs_description


def test_au_average_precision(aus):
    probs, labels = aus
    found = load("au_average_precision").compute(predictions=probs, references=labels)
    expected = [
        sk.average_precision_score(labels[rows, index], probs[rows, index])
        for index, rows in enumerate((labels != -1).T)
    ]
    assert list(found["per_au"].values()) == pytest.approx(expected)
    assert found["average_precision"] == pytest.approx(np.mean(expected))
    assert found["prevalence"] == pytest.approx(np.mean([(y[y != -1] == 1).mean() for y in labels.T]))


def test_emotion_scores(emotions):
    predicted, labels = emotions
    found = load("emotion_scores").compute(predictions=predicted, references=labels)
    rows = labels != -100
    assert found["top1"] == pytest.approx(sk.accuracy_score(labels[rows], predicted[rows]))
    assert found["macro_f1"] == pytest.approx(sk.f1_score(labels[rows], predicted[rows], average="macro"))
    assert found["uar"] == pytest.approx(sk.balanced_accuracy_score(labels[rows], predicted[rows]))
    assert found["num_labelled"] == rows.sum()


def test_paper_compatible_accuracy_stands_beside_its_baselines(emotions):
    predicted, labels = emotions
    found = load("paper_compatible_accuracy").compute(predictions=predicted, references=labels)
    rows = labels != -100
    of_classes = [sk.accuracy_score(labels[rows] == index, predicted[rows] == index) for index in range(8)]
    assert found["paper_compatible_accuracy"] == pytest.approx(np.mean(of_classes))
    assert found["paper_compatible_accuracy_never"] == 0.875
    constant = np.bincount(labels[rows]).argmax()
    of_classes = [sk.accuracy_score(labels[rows] == i, np.full(rows.sum(), constant) == i) for i in range(8)]
    assert found["paper_compatible_accuracy_constant"] == pytest.approx(np.mean(of_classes))


def test_calibration_error(aus):
    probs, labels = (part[:, 0] for part in aus)
    found, rows = load("calibration_error").compute(predictions=probs, references=labels), labels != -1
    assert found["brier"] == pytest.approx(sk.brier_score_loss(labels[rows], probs[rows]))
    rate, mean = (np.zeros(15), np.zeros(15))
    bins = np.minimum((probs[rows] * 15).astype(int), 14)
    for index in set(bins):
        rate[index], mean[index] = labels[rows][bins == index].mean(), probs[rows][bins == index].mean()
    counts = np.bincount(bins, minlength=15)
    assert found["ece"] == pytest.approx((np.abs(rate - mean) * counts).sum() / rows.sum())
    assert set(load("calibration_error").compute(predictions=[0.5], references=[-1]).values()) == {None}


def test_affect_scores():
    rng = np.random.default_rng(2)
    labels = rng.uniform(-1, 1, (50, 2)).astype(np.float32)
    values = (0.5 * labels).astype(np.float32)
    labels[::5, 0] = np.nan
    found = load("affect_scores").compute(predictions=values, references=labels)
    known = ~np.isnan(labels[:, 0])
    x, y = values[known, 0], labels[known, 0]
    expected = 2 * np.cov(x, y, bias=True)[0, 1] / (x.var() + y.var() + (x.mean() - y.mean()) ** 2)
    assert found["ccc_valence"] == pytest.approx(expected, abs=1e-5)
    assert found["pcc"] == pytest.approx(1) and found["constant_ccc"] == 0 and found["num_labelled"] == 50
