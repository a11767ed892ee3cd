"""What captions state, and when an unfinished one is on a wrong track."""

import pytest

from mf2.caption_meaning_mf2 import (
    AT_REST,
    REST_PHRASES,
    RecognisedState,
    begun_statements,
    denied_aus,
    named_emotions,
    names_au_twice,
)
from mf2.caption_phrases_mf2 import NO_KEY_AU_SENTENCE, REST_SENTENCES
from mf2.dataset_tools.captions import template_captions
from mf2.labels_mf2 import ACTION_UNITS, EMOTIONS, NO_ACTIVE_AU_CAPTION

SMILE = RecognisedState(frozenset({"AU6", "AU12"}), "Happiness")
AT_EASE = RecognisedState(frozenset(), "Neutral")


@pytest.mark.parametrize("sentence", [*REST_SENTENCES, NO_KEY_AU_SENTENCE, NO_ACTIVE_AU_CAPTION])
def test_a_face_at_rest_has_no_active_au(sentence):
    assert sum(phrase in sentence.lower() for phrase in REST_PHRASES) == 1
    assert denied_aus(sentence) == sorted(ACTION_UNITS)
    assert SMILE.wrongly_denied_aus(sentence) == ["AU6", "AU12"]
    assert SMILE.contradictions("emotion", sentence) == 1 and AT_EASE.contradictions("emotion", sentence) == 0


def test_an_inactive_au_is_denied_by_its_sentence():
    assert denied_aus("The lip corners are not pulled up.") == [12] and denied_aus("The cheeks are raised.") == []
    assert SMILE.wrongly_denied_aus("The lip corners are not pulled up. The brows are not lowered.") == ["AU12"]
    assert RecognisedState(None, None).wrongly_denied_aus("The face is nearly still.") == []


def test_a_closing_sentence_is_about_its_emotion():
    text = "The person looks happy. Together, the features look full of grief."
    assert named_emotions(text) == ["Happiness", "Sadness"] and SMILE.rival_emotions("emotion", text) == ["Sadness"]


@pytest.mark.parametrize(
    ("text", "statements"),
    [
        ("It shows in the upturned", {"AU12"}),
        ("It shows in the raised", {"AU1", "AU6", "AU10", "AU17"}),
        ("It shows in the raised cheeks and", set()),
        ("The key action unit is AU20 (lip s", {"AU20"}),
        ("It shows in the raised upper lip", {"AU10"}),
        ("The person looks hard", {"Other"}),
        ("The facial", {AT_REST}),
        ("The nose is wrinkled, which lifts the middle of the lip", {None}),
    ],
)
def test_the_end_of_a_caption_may_begin_a_statement(text, statements):
    assert begun_statements(text) == statements


@pytest.mark.parametrize(
    ("text", "is_misled"),
    [
        ("The person looks", False),
        ("The person looks happy. It shows in the raised", False),
        ("The person looks happy. It shows in the raised inner", True),
        ("The person looks happy. It shows in the lowered", True),
        ("The person looks happy. The facial", True),
        ("The person looks happy. Together, the features look", False),
        ("The person looks happy. Together, the features look full", True),
        ("The person looks sad", True),
        ("The person looks hard", True),
    ],
)
def test_what_can_only_end_wrong_is_a_wrong_track(text, is_misled):
    assert SMILE.is_misled("emotion", text) is is_misled


def test_supported_captions_are_on_no_wrong_track_at_any_place():
    """Otherwise they would never be found."""
    for seed in range(40):
        emotion, active = EMOTIONS[seed % len(EMOTIONS)], sorted({1, 2, 4, 6, 12, 25} - {seed % 7})[: seed % 4]
        state = RecognisedState(frozenset(ACTION_UNITS[au_id].code for au_id in active), emotion)
        captions = template_captions(f"face {seed}", active, emotion)
        for kind in ("emotion", "key_au", "au"):
            words = getattr(captions, kind).split()
            for end in range(1, len(words) + 1):
                text = " ".join(words[:end])
                assert not state.is_misled(kind, text) and not names_au_twice(text), (state, text)


@pytest.mark.parametrize(
    ("text", "is_repeated"),
    [
        ("The key action units are AU6 (Cheek Raiser) and AU6", True),
        ("The key action units are AU1 (Inner Brow Raiser) and AU12", False),
        ("Signs such as the raised cheeks and raised cheeks", True),
        ("Signs such as the raised cheeks and raised cheeks. The person looks happy.", True),
        ("It shows in the raised cheeks. The raised cheeks are typical of happiness.", False),
    ],
)
def test_a_list_may_name_an_au_once(text, is_repeated):
    assert names_au_twice(text) is is_repeated
