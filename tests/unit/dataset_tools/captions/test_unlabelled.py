"""An unlabelled AU is neither named nor denied, in captions that are written and in those that are checked."""

import json
from dataclasses import replace

import pytest

from mf2.cli.data import main
from mf2.dataset_tools.captions import template_captions, validate_caption
from mf2.dataset_tools.captions.answers import judge_answer
from mf2.dataset_tools.captions.prompting import CaptionJob, CaptionRequest
from mf2.dataset_tools.captions.results import _fixed_captions, template_image_captions
from mf2.dataset_tools.contact_sheet import _active_aus
from mf2.dataset_tools.importer import _template_columns
from mf2.labels_mf2 import AU_IDS, EMOTIONS, NO_ACTIVE_AU_CAPTION, unlabelled_aus

AT_REST = template_captions("image", (), "Happiness")


def test_what_has_no_label_of_0_or_1_is_unlabelled():
    assert unlabelled_aus({}) == AU_IDS
    assert unlabelled_aus(dict.fromkeys(AU_IDS, 0)) == ()
    assert unlabelled_aus(dict.fromkeys(AU_IDS[1:], 1) | {9: None, 17: -1}) == (AU_IDS[0], 9, 17)


@pytest.mark.parametrize("emotion", EMOTIONS)
def test_a_face_of_which_nothing_is_known_to_be_active_is_not_said_to_be_at_rest(emotion):
    for number in range(20):
        captions = template_captions(f"image{number}", (), emotion, unlabelled_aus=(10,))
        assert captions.au is captions.key_au is None
        assert validate_caption("emotion", captions.emotion, (), emotion, unlabelled_aus=(10,)) == []


def test_at_rest_takes_all_aus_labelled_and_none_active():
    assert AT_REST.au == NO_ACTIVE_AU_CAPTION and AT_REST.key_au
    for kind in ("au", "emotion", "key_au"):
        text = getattr(AT_REST, kind)
        assert validate_caption(kind, text, (), "Happiness") == []
        (violation,) = validate_caption(kind, text, (), "Happiness", unlabelled_aus=(10, 23))
        assert "AU10, AU23 are unlabelled" in violation


def test_active_aus_are_named_whatever_else_is_unlabelled():
    with_gaps = template_captions("image", (6, 12), "Happiness", unlabelled_aus=(10, 23))
    assert with_gaps == template_captions("image", (6, 12), "Happiness")


def test_no_sentence_stands_in_for_labels_that_are_not_there():
    job = CaptionJob("image", bytes, (), "Happiness", unlabelled_aus=(10,))
    assert _fixed_captions(job) == {} and set(_fixed_captions(CaptionJob("image", bytes, (), "Happiness"))) == {
        "au",
        "key_au",
    }
    texts = template_image_captions(job).texts
    assert texts["au"] is texts["key_au"] is None and texts["emotion"]


@pytest.mark.parametrize("aus", [{}, {"AU1": -1}, dict.fromkeys((f"AU{au_id}" for au_id in AU_IDS[:-1]), 0)])
def test_imported_rows_with_gaps_have_no_au_caption(aus):
    row = {"dataset": "own", "file_name": "a.jpg", "emotion": EMOTIONS.index("Sadness"), **aus}
    columns = _template_columns(row, EMOTIONS, seed=0)
    assert columns["caption_au"] is columns["caption_key_au"] is None and columns["caption_emotion"]


@pytest.mark.parametrize("gap", ["", "-1", -1, None])
def test_captions_that_were_so_written_are_found(tmp_path, capsys, gap):
    labels = {f"AU{au_id}": 0 for au_id in AU_IDS} | {"AU10": gap}
    captions = {"caption_au": AT_REST.au, "caption_emotion": AT_REST.emotion, "caption_key_au": AT_REST.key_au}
    file = tmp_path / "captions.jsonl"
    file.write_text(json.dumps({"image_id": "a", "emotion": "Happiness", **labels, **captions}))
    assert main(["validate", str(file), "--report", str(tmp_path / "report.json")]) == 1
    assert "AU10 is unlabelled" in capsys.readouterr().out
    file.write_text(json.dumps({"image_id": "a", "emotion": "Happiness", **labels, **captions, "AU10": 0}))
    assert main(["validate", str(file)]) == 0


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        ((0, 0), "no AU"),
        ((1, -1), "1"),
        ((0, -1), "AUs unlabelled in part"),
        ((-1, -1), "AUs unlabelled"),
        ((), "AUs unlabelled"),
    ],
)
def test_a_contact_sheet_denies_no_unlabelled_au(labels, says):
    assert _active_aus(dict(zip(("AU1", "AU2"), labels, strict=False))) == says


def test_a_model_that_says_so_is_told_what_is_not_known():
    request = CaptionRequest("", "image", "emotion", (), "Happiness", b"", unlabelled_aus=(10,))
    raw = json.dumps(completion(json.dumps({"caption": AT_REST.emotion})))
    assert any("AU10 is unlabelled" in violation for violation in judge_answer(request, raw).violations)
    known = judge_answer(replace(request, unlabelled_aus=()), raw)
    assert known.caption == AT_REST.emotion


def completion(content: str) -> dict:
    return {"model": "m", "choices": [{"message": {"content": content}, "finish_reason": "stop"}]}
