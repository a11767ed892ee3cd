"""The caption rules, each with text that breaks it and text that must not be mistaken for breaking it."""

import pytest

from mf2.dataset_tools.captions import parse_au_caption, validate_caption
from mf2.labels_mf2 import NO_ACTIVE_AU_CAPTION, render_au_caption

# Fig. 7 of the paper, its headings put right, as plain text.
SURPRISE_AUS = (1, 2, 25, 26)
SURPRISE_EMOTION = (
    "The person in the image appears to be displaying an expression of surprise. The wide-open eyes and "
    "slightly parted lips suggest a reaction to something unexpected or astonishing. The raised eyebrows also "
    "contribute to the look of surprise, indicating that the person is reacting to something unforeseen or "
    "shocking."
)
SURPRISE_AU = (
    "1.AU1 (Inner Brow Raiser): The inner parts of the eyebrows are raised, which can indicate surprise or "
    "fear.\n"
    "2.AU2 (Outer Brow Raiser): The outer parts of the eyebrows are also raised, further contributing to an "
    "expression of surprise or shock.\n"
    "3.AU25 (Lips Part): The lips are parted, which often accompanies expressions of surprise, shock, or "
    "amazement.\n"
    "4.AU26 (Jaw Drop): The jaw is dropped, which is another indicator of surprise or amazement."
)
SURPRISE_KEY = (
    "The person in the image appears to be experiencing surprise. The wide-open eyes and the open mouth are "
    "indicative of this emotion. The action units (AUs) that played a decisive role in this emotional "
    "judgment include AU1 (Inner Brow Raiser), AU2 (Outer Brow Raiser), AU25 (Lips Part), and AU26 (Jaw "
    "Drop). These AUs collectively contribute to the expression of surprise by raising the eyebrows and "
    "opening the mouth."
)
HAPPINESS_AUS = (6, 7, 10, 12, 25)
HAPPINESS_EMOTION = (
    "The person in the image appears to be experiencing happiness. The expression is characterized by a "
    "genuine smile, with the corners of the mouth turned upwards. The eyes are also slightly squinted, which "
    "is often associated with a true, joyful smile. The overall facial expression suggests a positive, "
    "pleasant emotion."
)
HAPPINESS_AU = (
    "1.AU6 (Cheek Raiser): The cheeks are raised, which is commonly associated with a smile.\n"
    "2.AU7 (Lid Tightener): The lower eyelids appear to be tightened, which is often seen in genuine smiles "
    "or expressions of happiness.\n"
    "3.AU10 (Upper Lip Raiser): The upper lip is slightly raised, which can occur during smiling or laughing.\n"
    "4.AU12 (Lip Corner Puller): The corners of the mouth are pulled upwards, indicating a smile.\n"
    "5.AU25 (Lips Part): The lips are slightly parted, which can happen during speaking or smiling."
)
HAPPINESS_KEY = (
    "The person in the image appears to be happy. This is indicated by the following action units (AUs) from "
    "the active list: AU6 (Cheek Raiser), AU12 (Lip Corner Puller) These AUs are responsible for the raised "
    "cheeks and the pulled corners of the lips, which are classic indicators of a genuine smile, reflecting "
    "happiness."
)
GOOD_AU = "1. AU6 (Cheek Raiser): The cheeks are raised.\n2. AU12 (Lip Corner Puller): A smile."


@pytest.mark.parametrize(
    ("kind", "text", "aus", "emotion"),
    [
        ("emotion", SURPRISE_EMOTION, SURPRISE_AUS, "Surprise"),
        ("au", SURPRISE_AU, SURPRISE_AUS, "Surprise"),
        ("key_au", SURPRISE_KEY, SURPRISE_AUS, "Surprise"),
        ("emotion", HAPPINESS_EMOTION, HAPPINESS_AUS, "Happiness"),
        ("au", HAPPINESS_AU, HAPPINESS_AUS, "Happiness"),
        ("key_au", HAPPINESS_KEY, HAPPINESS_AUS, "Happiness"),
    ],
)
def test_the_examples_of_the_paper_are_valid(kind, text, aus, emotion):
    assert validate_caption(kind, text, aus, emotion) == []


def test_the_bold_heads_of_the_paper_are_markdown_until_they_are_rendered_anew():
    bold = SURPRISE_AU.replace("1.AU1 (Inner Brow Raiser):", "**1.AU1 (Inner Brow Raiser)**:")
    assert validate_caption("au", bold, SURPRISE_AUS, None) == ["The caption must be plain text without markdown."]
    assert validate_caption("au", render_au_caption(parse_au_caption(bold)), SURPRISE_AUS, None) == []


@pytest.mark.parametrize(
    ("text", "aus", "says"),
    [
        (GOOD_AU, [6, 12, 25], "without a line of their own: AU25"),
        (GOOD_AU, [6], "not active: AU12"),
        (GOOD_AU + "\n3. AU6 (Cheek Raiser): Again.", [6, 12], "more than one line: AU6"),
        (GOOD_AU.replace("Cheek Raiser", "Cheek Riser"), [6, 12], "AU6 is called 'Cheek Riser'"),
        (GOOD_AU.replace("A smile.", ""), [6, 12], "without a sentence: AU12"),
        (GOOD_AU.replace("A smile.", "Up, with AU25."), [6, 12], "mention AUs that are not active: AU25"),
        (GOOD_AU.replace("A smile.", "Up, with AU6 (Cheek Lift)."), [6, 12], "AU6 is called 'Cheek Lift'"),
        (GOOD_AU, [], "No AU is active"),
        ("The cheeks are raised.", [6], "without a line of their own: AU6"),
        ("  ", [6], "empty"),
    ],
)
def test_an_au_caption_has_each_active_au_once_and_nothing_else(text, aus, says):
    assert any(says in violation for violation in validate_caption("au", text, aus, None))


def test_without_active_aus_only_the_fixed_caption_is_valid():
    assert validate_caption("au", NO_ACTIVE_AU_CAPTION, [], "Neutral") == []


@pytest.mark.parametrize(
    ("text", "aus", "says"),
    [
        ("The person looks happy. It is a smile.", [6], "names no AU"),
        ("The person looks happy because of AU12 (Lip Corner Puller).", [6], "not active: AU12"),
        ("The person looks happy because of AU6.", [6], "without their FACS name in brackets: AU6"),
        ("The person looks happy because of AU6 (Cheek Lift).", [6], "AU6 is called 'Cheek Lift'"),
        ("The cheeks are up. AU6 (Cheek Raiser) makes the person happy.", [6], "first sentence"),
        ("The person looks happy.\nAU6 (Cheek Raiser) shows it.", [6], "one paragraph"),
    ],
)
def test_a_key_caption_names_a_subset_of_the_active_aus(text, aus, says):
    assert any(says in violation for violation in validate_caption("key_au", text, aus, "Happiness"))


def test_a_key_caption_may_choose_one_and_repeat_its_code_without_the_name():
    text = "The person looks happy. AU6 (Cheek Raiser) is decisive, because AU6 comes with a smile."
    assert validate_caption("key_au", text, [6, 12, 25], "Happiness") == []


@pytest.mark.parametrize(
    ("text", "emotion"),
    [
        ("The person appears happy.", "Happiness"),
        ("Angrily, the person stares ahead.", "Anger"),
        ("The person looks fearful, not surprised.", "Fear"),
        ("The face shows sadness rather than anger. It is still.", "Sadness"),
        ("The person is not happy but sad.", "Sadness"),
        ("The person is not sad and is happy.", "Happiness"),
        ("The person looks sad, without any sign of anger, fear or disgust.", "Sadness"),
        ("The lips are not parted, showing anger.", "Anger"),
        ("The person is neutral. The mouth is in a neutral position.", "Neutral"),
        ("The person looks sad. The mouth rests in a neutral line.", "Sadness"),
        ("The nose is wrinkled in disgust.", "Disgust"),  # "no" is not in "nose"
        ("Nothing hides the happiness of the person.", "Happiness"),
        ("The expression is mixed and hard to read.", "Other"),
        ("The expression shows doubt, not fear.", "Other"),
        ("The person is surprisingly relaxed and neutral.", "Neutral"),
    ],
)
def test_the_emotion_is_asserted_and_its_rivals_are_not(text, emotion):
    assert validate_caption("emotion", text, [], emotion) == []


@pytest.mark.parametrize(
    ("text", "emotion", "says"),
    [
        ("The person is smiling. The person is happy.", "Happiness", "first sentence"),
        ("The person does not look happy.", "Happiness", "first sentence"),
        ("The person isn't sad.", "Sadness", "first sentence"),
        ("There is no sign of fear in the face.", "Fear", "first sentence"),
        ("The person looks unhappy.", "Happiness", "first sentence"),
        ("The person is happy. The eyes look sad.", "Happiness", "another emotion than 'Happiness': sad"),
        ("The person looks afraid and surprised.", "Surprise", "afraid"),
        ("The person is not only angry, but also fearful.", "Anger", "fearful"),
        ("The person looks doubtful and angry.", "Other", "angry"),
        ("The person has a neutral look.", "Other", "neutral"),
        ("The person looks happy because of AU6.", "Happiness", "must not name AU codes"),
    ],
)
def test_a_missing_negated_or_rival_emotion_is_a_violation(text, emotion, says):
    assert any(says in violation for violation in validate_caption("emotion", text, [6], emotion))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("The woman looks happy.", "woman"),
        ("The person looks happy and shows her teeth.", "her"),
        ("The young person looks happy.", "young"),
        ("The 30-year-old looks happy.", "old"),
        ("The Asian person looks happy.", "asian"),
        ("The person, a famous actor, looks happy.", "actor, famous"),
        ("The person looks happy, but I can’t identify anyone.", "Disclaimers"),
        ("As an AI, I see a happy face.", "Disclaimers"),
        ("The person looks **happy**.", "markdown"),
        ("# Caption\nThe person looks happy.", "markdown"),
        ("- The person looks happy.", "markdown"),
        ("1. The person looks happy.", "numbered list"),
        ("La persona en la imagen parece happy.", "English"),
        ("Die Person in dem Bild ist happy und wirkt froh.", "English"),
        ("这个人看起来 happy.", "English"),
    ],
)
def test_personal_words_disclaimers_markdown_and_other_languages_are_violations(text, says):
    assert any(says in violation for violation in validate_caption("emotion", text, [], "Happiness"))


@pytest.mark.parametrize("text", ["The whites of the eyes show, and the skin of the cheeks creases: a happy face."])
def test_harmless_words_are_not_mistaken_for_personal_ones(text):
    assert validate_caption("emotion", text, [], "Happiness") == []


def test_the_token_limit_uses_the_given_counter_and_shows_both_numbers():
    text = "The person looks happy."
    assert validate_caption("emotion", text, [], "Happiness", count_tokens=lambda _: 61) == []
    (violation,) = validate_caption("emotion", text, [], "Happiness", count_tokens=lambda _: 62)
    assert "62 tokens" in violation and "61" in violation


@pytest.mark.parametrize("arguments", [("mood", "Text.", [], None), ("emotion", "Text.", [], "Joy")])
def test_unknown_kinds_and_emotions_are_refused(arguments):
    with pytest.raises(ValueError, match="Unknown"):
        validate_caption(*arguments)
