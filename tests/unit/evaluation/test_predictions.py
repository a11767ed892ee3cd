"""Predictions of models and of other systems: what is read, what is matched, and what is refused."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from mf2.evaluation.external_predictions import ExternalPredictions
from mf2.evaluation.predictions import Predictions, align_emotions, predictions_from_logits
from mf2.evaluation.protocols import load_protocol, subsample
from mf2.labels_mf2 import EMOTIONS, LabelSpace

AUS = (1, 12)


@pytest.fixture
def split(mfa_folder):
    return load_protocol(str(mfa_folder), "train", "mfa", AUS)


@pytest.fixture
def table(split):
    """Another system's predictions for every frame of the split, and for one that it does not have."""
    rows = {
        "video": [*split.rows["video_id"], "elsewhere"],
        "frame": [*split.rows["frame"], 1],
        "AU1": 0.75,
        "AU12": 0,
        "emotion": "Happiness",
    }
    return pd.DataFrame(rows)


def write(table, tmp_path):
    file = tmp_path / "other.csv"
    table.to_csv(file, index=False)
    return file


@pytest.mark.parametrize("one", ["AU01", "au_1", "AU01_c"])
def test_aus_are_read_however_they_are_spelt(table, tmp_path, one, split):
    found = ExternalPredictions.read(write(table.rename(columns={"AU1": one}), tmp_path))
    assert found.label_space.au_ids == AUS and (found.match(split).au_probs == [0.75, 0]).all()


def test_semicolons_and_decimal_commas(table, tmp_path, split):
    file = tmp_path / "other.csv"
    table.to_csv(file, index=False, sep=";", decimal=",")
    assert (ExternalPredictions.read(file).match(split).au_probs == [0.75, 0]).all()


def test_what_is_an_intensity_or_not_known_is_said(table, tmp_path, caplog):
    found = ExternalPredictions.read(write(table.rename(columns={"AU1": "AU01_r"}).assign(AU43=1), tmp_path))
    assert found.label_space.au_ids == AUS
    assert "AU01_r are intensities by their names" in caplog.text and "AU43 are not used" in caplog.text


# ----------------------------------------------------------------------------------------------------------- a model
def test_logits_become_probabilities_beside_their_labels(split):
    space = LabelSpace(AUS)
    found = predictions_from_logits(split, space, np.full((len(split.rows), 2), 0.0), np.zeros((len(split.rows), 8)))
    assert (found.au_probs == 0.5).all() and found.emotion_probs == pytest.approx(1 / 8)
    np.testing.assert_array_equal(found.au_labels, split.labels.aus)
    assert list(found.video_ids) == list(split.rows["video_id"])


def test_logits_of_other_aus_are_refused(split):
    with pytest.raises(ValueError, match=r"shape \(8, 3\) for AU labels \(8, 2\)"):
        predictions_from_logits(split, LabelSpace(AUS), np.zeros((8, 3)), None)


def test_a_head_that_is_not_there_has_no_columns(split):
    found = predictions_from_logits(split, LabelSpace(AUS, ()), np.zeros((len(split.rows), 2)), None)
    assert found.emotion_probs.shape == (len(split.rows), 0) and (found.emotion_labels == -100).all()


def test_an_au_that_the_data_set_lacks_is_unlabelled(mfa_folder):
    split = load_protocol(str(mfa_folder), "train", "mfa", (1, 9))
    assert (split.labels.aus[:, 1] == -1).all() and (split.labels.aus[:, 0] >= 0).all()


def test_rows_are_taken_evenly_and_described_anew(split):
    taken = subsample(split, 3)
    assert list(taken.rows["frame"]) == [split.rows["frame"][index] for index in (0, 4, 7)]
    assert taken.description["rows"] == len(taken.labels.emotion) == 3
    assert subsample(split, 100) is split


def test_emotions_are_brought_to_the_models_order():
    labels = np.array([0, 1, 2, -100])
    aligned = align_emotions(labels, ["Joy", "Anger", "Awe"], ["Anger", "Joy"])
    assert aligned.tolist() == [1, 0, -100, -100]
    with pytest.raises(ValueError, match="emotions are Awe, the model's Anger"):
        align_emotions(labels, ["Awe"], ["Anger"])


def test_the_table_of_predictions_names_its_columns(split, tmp_path):
    space = LabelSpace(AUS)
    found = predictions_from_logits(
        split, space, np.zeros((len(split.rows), 2)), np.tile(np.eye(8)[4], (len(split.rows), 1))
    )
    emotion_labels = found.emotion_labels.copy()
    emotion_labels[0] = -100
    replace(found, emotion_labels=emotion_labels).save(tmp_path / "p.parquet", space)
    saved = pd.read_parquet(tmp_path / "p.parquet")
    assert {"video_id", "frame", "file_name", "AU1", "AU12_label", "emotion_Happiness"} <= set(saved.columns)
    assert set(saved["emotion"]) == {"Happiness"} and saved["emotion_label"].isna().tolist() == [True] + [False] * 7
    assert saved["AU1"].tolist() == [0.5] * 8 and saved["AU1_label"].tolist() == split.labels.aus[:, 0].tolist()


# --------------------------------------------------------------------------------------------------- another system
def test_a_csv_is_matched_by_video_and_frame_whatever_its_order(table, split, tmp_path):
    table.loc[table["frame"] == 5, "AU1"] = 0.1
    shuffled = ExternalPredictions.read(write(table.sample(frac=1, random_state=0), tmp_path))
    assert shuffled.label_space.au_ids == AUS and shuffled.label_space.emotions == EMOTIONS
    found = shuffled.match(split)
    assert isinstance(found, Predictions)
    expected = np.where(np.array(split.rows["frame"]) == 5, 0.1, 0.75)
    np.testing.assert_allclose(found.au_probs[:, 0], expected)
    assert (found.emotion_probs.argmax(1) == EMOTIONS.index("Happiness")).all()


def test_a_system_without_emotions_or_without_aus_is_read(table, tmp_path):
    no_emotion = ExternalPredictions.read(write(table.drop(columns="emotion"), tmp_path))
    assert no_emotion.label_space.emotions == ()
    no_aus = ExternalPredictions.read(write(table.drop(columns=["AU1", "AU12"]), tmp_path))
    assert no_aus.label_space.au_ids == ()


def test_a_frame_without_prediction_is_refused(table, split, tmp_path):
    system = ExternalPredictions.read(write(table.iloc[2:], tmp_path))
    with pytest.raises(ValueError, match=r"no prediction for 2 of 8 frames, for example v0 frame 0, v1 frame 1"):
        system.match(split)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"AU1": 1.5}, r"line 2: AU1 is .*1\.5.* it must be 0 to 1"),
        ({"AU1": "high"}, r"line 2: AU1 is 'high'"),
        ({"AU12": None}, r"line 2: AU12 is .*nan"),
        ({"emotion": "happy"}, r"line 2: emotion is 'happy'; it must be one of Neutral"),
        ({"score": 1}, "unknown columns score"),
        ({"video": "v0", "frame": 0}, "line 3: v0 frame 0 again"),
        ({"frame": "first"}, "frame is 'first'; it must be a number"),
    ],
)
def test_a_bad_cell_is_named(table, tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        ExternalPredictions.read(write(table.assign(**change), tmp_path))


def test_a_file_that_is_no_table_of_predictions_is_named(table, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no predictions file .*absent\.csv"):
        ExternalPredictions.read(tmp_path / "absent.csv")
    with pytest.raises(ValueError, match="lacks the columns video"):
        ExternalPredictions.read(write(table.drop(columns="video"), tmp_path))
    with pytest.raises(ValueError, match="nothing to score"):
        ExternalPredictions.read(write(table[["video", "frame"]], tmp_path))
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(ValueError, match="is no CSV"):
        ExternalPredictions.read(tmp_path / "empty.csv")
