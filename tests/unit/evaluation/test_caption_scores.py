"""Scores of written captions: which AUs they name, against labels and against the recognisers."""

import numpy as np
import pytest
from tiny_mf2 import make_tiny

from mf2.dataset_tools.captions import template_captions
from mf2.dataset_tools.captions.rules import estimate_tokens
from mf2.evaluation.caption_scores import FaceState, caption_kinds, named_aus, score_captions
from mf2.evaluation.predictions import Predictions
from mf2.labels_mf2 import AU_IDS, EMOTIONS, LabelSpace

SPACE = LabelSpace()
ACTIVE = (6, 12)
HAPPINESS = EMOTIONS.index("Happiness")


def faces(num_rows, recognised=ACTIVE, labelled=ACTIVE):
    """Faces that are labelled and recognised as happy, with these AUs."""
    return Predictions(
        au_probs=np.tile([float(au_id in recognised) for au_id in AU_IDS], (num_rows, 1)),
        au_labels=np.tile([int(au_id in labelled) for au_id in AU_IDS], (num_rows, 1)),
        emotion_probs=np.tile(np.eye(8)[HAPPINESS], (num_rows, 1)),
        emotion_labels=np.full(num_rows, HAPPINESS),
        **dict.fromkeys(("video_ids", "group_ids", "frames"), np.arange(num_rows)),
        file_names=np.array([f"{index}.jpg" for index in range(num_rows)]),
    )


@pytest.fixture
def written():
    """Template captions of a happy face, which the validator takes."""
    captions = template_captions("face", list(ACTIVE), "Happiness", seed=0)
    return {"emotion": captions.emotion, "key_au": captions.key_au, "au": captions.au}


def score_one(kind, caption, **states):
    return score_captions({kind: [caption]}, faces(1, **states), SPACE, estimate_tokens)[kind]


@pytest.mark.parametrize("kind", ["emotion", "key_au", "au"])
def test_a_caption_by_the_rules_is_valid_and_agrees(kind, written):
    found = score_one(kind, written[kind])
    assert found["valid_by_labels"] == found["valid_by_output"] == 1.0
    agreement = None if kind == "emotion" else 1.0
    assert found["aus_agree_with_labels"] == found["aus_agree_with_output"] == agreement
    assert found["num_captions"] == 1 and found["too_long"] == 0 and found["examples"] == []
    assert found["mean_tokens"] == estimate_tokens(written[kind])


def test_labels_and_output_are_told_apart(written):
    found = score_one("au", written["au"], recognised=(6, 12, 25))
    assert (found["aus_agree_with_labels"], found["aus_agree_with_output"]) == (1.0, 0.0)
    assert (found["valid_by_labels"], found["valid_by_output"]) == (1.0, 0.0)
    found = score_one("au", written["au"], labelled=(12,))
    assert (found["aus_agree_with_labels"], found["aus_agree_with_output"]) == (0.0, 1.0)
    assert "AU6" in found["examples"][0]["violations"][0]


def test_a_key_au_caption_may_leave_active_aus_out_but_not_add_any(written):
    caption = "This face is happy. The key action unit is AU12 (Lip Corner Puller)."
    assert named_aus("key_au", caption) == {12}
    assert score_one("key_au", caption)["aus_agree_with_labels"] == 1.0
    assert score_one("key_au", caption, labelled=(6,))["aus_agree_with_labels"] == 0.0
    assert score_one("key_au", "This face is happy.")["aus_agree_with_labels"] == 0.0


def test_what_is_unlabelled_is_right_either_way(written):
    known = FaceState({12: True}, None)
    assert known.allows("au", named_aus("au", written["au"]))
    assert known.violations("au", written["au"], {6, 12}, estimate_tokens) == []
    assert FaceState({}, None).allows("au", {6}) is None
    assert FaceState({6: False, 12: True}, None).allows("au", {6, 12}) is False


def test_a_long_or_empty_caption_is_counted():
    found = score_one("emotion", "The person looks happy. " + "The brows are raised. " * 20)
    assert found["too_long"] == 1.0 and found["valid_by_labels"] == 0.0
    assert score_one("emotion", "")["examples"][0]["violations"] == ["The caption is empty."]


def test_shares_run_over_the_captions(written):
    captions = {"au": [written["au"], written["au"], "nothing", "nothing"]}
    found = score_captions(captions, faces(4), SPACE, estimate_tokens)["au"]
    assert found["aus_agree_with_labels"] == found["valid_by_labels"] == 0.5
    assert [example["file_name"] for example in found["examples"]] == ["2.jpg", "3.jpg"]


@pytest.mark.parametrize(
    ("fields", "kinds"),
    [
        ({"emo_text": "random"}, ("emotion", "key_au", "au")),
        ({"emo_text": "key_au"}, ("key_au", "au")),
        ({"use_emo_vl": False}, ("au",)),
        ({"use_au_vl": False}, ("emotion",)),
    ],
)
def test_the_kinds_are_those_that_were_learned(fields, kinds):
    assert caption_kinds(make_tiny(**fields)[0].config) == kinds
