"""The text form of AU captions: written, read back, and read from what a chat model makes of it."""

import subprocess
import sys

import pytest

from mf2.dataset_tools.captions import inactive_au_sentence, parse_au_caption
from mf2.dataset_tools.captions.text import find_au_entries
from mf2.labels_mf2 import ACTION_UNITS, NO_ACTIVE_AU_CAPTION, render_au_caption

SENTENCES = {12: "The lip corners are pulled up.", 1: "The inner brows are raised.", 26: "The jaw is dropped."}


def test_render_numbers_the_lines_in_the_order_of_the_aus():
    assert render_au_caption(SENTENCES) == (
        "1. AU1 (Inner Brow Raiser): The inner brows are raised.\n"
        "2. AU12 (Lip Corner Puller): The lip corners are pulled up.\n"
        "3. AU26 (Jaw Drop): The jaw is dropped."
    )


def test_what_is_rendered_is_read_back():
    assert parse_au_caption(render_au_caption(SENTENCES)) == SENTENCES


def test_no_sentence_renders_the_fixed_caption_and_parses_to_nothing():
    assert render_au_caption({}) == NO_ACTIVE_AU_CAPTION
    assert parse_au_caption(NO_ACTIVE_AU_CAPTION) == {}


@pytest.mark.parametrize(
    "text",
    [
        "1. AU1 (Inner Brow Raiser): Up.\n2. AU2 (Outer Brow Raiser): Also up.",
        "**1.AU1 (Inner Brow Raiser)**: Up.\n**2.AU2 (Outer Brow Raiser)**: Also up.",
        "1. **AU1 (Inner Brow Raiser):** Up.\n\n2. **AU2 (Outer Brow Raiser):** Also up.",
        "- AU01 - Inner Brow Raiser: Up.\n- AU 02 - Outer Brow Raiser: Also up.",
        "* au 1 (Inner Brow Raiser) : Up.\n* au 2 (Outer Brow Raiser) : Also up.",
        "1) AU1 (Inner Brow Raiser): Up. 2) AU2 (Outer Brow Raiser): Also up.",
        "AU1 (Inner Brow Raiser): Up. AU2 (Outer Brow Raiser): Also up.",
        "Here they are:\nAU1 (Inner Brow Raiser): Up.\n2.\nAU2 (Outer Brow Raiser): Also up.\n\nOverall, a surprise.",
        "AU1 (Inner Brow Raiser): Up.\nAU2 (Outer Brow Raiser): Also up. Overall, the face looks surprised.",
    ],
)
def test_heads_of_many_forms_are_found(text):
    assert parse_au_caption(text) == {1: "Up.", 2: "Also up."}


def test_aus_mentioned_inside_a_sentence_open_no_entry():
    text = "1. AU6 (Cheek Raiser): Raised, together with AU12 (Lip Corner Puller), as AU25: often does."
    assert list(parse_au_caption(text)) == [6]


def test_duplicates_and_unknown_numbers_are_seen_by_the_rules_but_not_by_the_parser():
    text = "AU6 (Cheek Raiser): One.\nAU6 (Cheek Raiser): Two.\nAU99 (Ear Wiggler): Three."
    assert [entry.au_id for entry in find_au_entries(text)] == [6, 6, 99]
    assert parse_au_caption(text) == {6: "One."}


def test_every_au_has_its_own_inactive_sentence():
    sentences = {inactive_au_sentence(au_id) for au_id in ACTION_UNITS}
    # AU10 and AU12 differ from their neighbours; no two AUs may share a sentence, or in-batch pairs become ambiguous.
    assert len(sentences) == len(ACTION_UNITS)
    with pytest.raises(ValueError, match="AU 3 "):
        inactive_au_sentence(3)


def test_reading_captions_imports_no_client():
    code = "import sys; from mf2.dataset_tools.captions import validate_caption; sys.exit('openai' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0
