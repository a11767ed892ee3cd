"""The offline captions: deterministic, varied, and valid by the same rules as a model's."""

import itertools
import random

import pytest

from mf2.caption_phrases_mf2 import AU_PHRASES, EMOTION_PHRASES
from mf2.dataset_tools.captions import parse_au_caption, template_captions, validate_caption
from mf2.dataset_tools.captions.rules import MAX_TOKENS, estimate_tokens
from mf2.dataset_tools.captions.template import select_key_aus
from mf2.labels_mf2 import ACTION_UNITS, AU_IDS, EMOTIONS, NO_ACTIVE_AU_CAPTION


def random_labels(count: int):
    rng = random.Random(0)
    return [(rng.sample(AU_IDS, rng.randint(0, 12)), rng.choice(EMOTIONS)) for _ in range(count)]


def test_the_tables_cover_every_au_and_emotion():
    assert set(AU_PHRASES) == set(ACTION_UNITS)
    assert set(EMOTION_PHRASES) == set(EMOTIONS)
    assert all(6 <= len(set(phrases.movements)) <= 8 for phrases in AU_PHRASES.values())


def test_every_caption_follows_the_rules():
    for number, (aus, emotion) in enumerate(random_labels(1500)):
        captions = template_captions(f"video/{number:05d}.jpg", aus, emotion)
        for kind, text in (("au", captions.au), ("emotion", captions.emotion), ("key_au", captions.key_au)):
            assert validate_caption(kind, text, aus, emotion) == [], text


@pytest.mark.parametrize("emotion", EMOTIONS)
def test_every_pair_of_aus_is_valid_in_every_emotion(emotion):
    for aus in itertools.combinations(ACTION_UNITS, 2):
        captions = template_captions("image", aus, emotion)
        assert validate_caption("key_au", captions.key_au, aus, emotion) == []
        assert validate_caption("emotion", captions.emotion, aus, emotion) == []


def test_even_all_twelve_aus_fit_the_token_limit_with_short_lines_from_seven_on():
    for count in range(1, 13):
        caption = template_captions("image", AU_IDS[:count], None).au
        assert estimate_tokens(caption) <= MAX_TOKENS["au"]
        assert list(parse_au_caption(caption)) == list(AU_IDS[:count])
        if count >= 7:
            assert max(len(line.split()) for line in caption.splitlines()) <= 18


def test_the_same_name_and_seed_give_the_same_text_and_others_vary_it():
    captions = template_captions("a.jpg", [6, 12], "Happiness")
    assert captions == template_captions("a.jpg", [12, 6, 6], "Happiness")
    assert captions == template_captions("a.jpg", (6, 12), "Happiness", seed=0)
    many = [template_captions(f"{n}.jpg", [6, 12], "Happiness") for n in range(200)]
    assert len({c.au for c in many}) > 100
    assert len({c.emotion for c in many}) > 30
    assert {template_captions("a.jpg", [6, 12], "Happiness", seed=s).au for s in range(9)} != {captions.au}


def test_without_active_aus_and_without_an_emotion():
    captions = template_captions("a.jpg", [], "Neutral")
    assert captions.au == NO_ACTIVE_AU_CAPTION
    assert validate_caption("key_au", captions.key_au, [], "Neutral") == []
    unlabelled = template_captions("a.jpg", [4], None)
    assert (unlabelled.emotion, unlabelled.key_au) == (None, None)


def test_key_aus_are_those_of_the_prototype_else_the_first_two():
    assert select_key_aus([1, 6, 12], "Happiness") == [6, 12]
    assert select_key_aus([1, 4, 7], "Happiness") == [1, 4]
    assert select_key_aus([25], "Neutral") == [25]


def test_unknown_labels_are_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="AU 3 "):
        template_captions("a.jpg", [3], None)
    with pytest.raises(ValueError, match=r"'Joy'.*Happiness"):
        template_captions("a.jpg", [6], "Joy")
