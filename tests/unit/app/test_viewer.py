"""What the page shows of a picture, without Gradio: faces, sentences, maps, the HTML of them, and what goes wrong."""

import base64
import csv
import io
import json
import pickle
import re

import numpy as np
import pytest
from PIL import Image

from mf2.analysis.engine import AnalyzeOptions, analyze
from mf2.analysis.face_arguments import FaceSearch
from mf2.app import viewer as viewer_module
from mf2.app.examples import find_examples
from mf2.app.handlers import PictureHandlers
from mf2.app.limits import find_limits, render_limits
from mf2.app.rendering import Shown, describe_sentence, render_message, render_shown
from mf2.app.viewer import Sentence, choose_faces
from mf2.caption_meaning_mf2 import CaptionFlags
from mf2.landmarks_mf2 import faces_from_landmarks


def finish(updates):
    *_, last = updates
    return last


# -------------------------------------------------------------------------------------------------------------- seeing
def test_a_picture_is_one_face_where_no_detector_is(viewer, picture):
    seen = viewer.see_file(picture)
    (face,) = seen.faces
    assert viewer.detector is None and not face.row["landmarks_found"]
    assert {"AU1", "AU12", "emotion", "emotion_Happiness"} <= face.row.keys()
    assert face.regions_px[""].shape == (12, 2, 4, 2)
    assert seen.seconds.keys() == {"faces", "model"} and seen.image.shape == (48, 48, 3)


def test_the_faces_of_drawn_examples_are_known(viewer, examples):
    (face,) = viewer.see_file(examples.pictures[0]).faces
    assert face.row["landmarks_found"]
    known = next(iter(examples.landmarks.values()))[0]
    np.testing.assert_allclose(np.reshape(face.row["landmarks"], (68, 2)), known, rtol=1e-5)


def test_the_rows_are_those_of_an_analysis(viewer, picture):
    """The page and `mf2 analyze` give one answer."""
    (face,) = viewer.see_file(picture).faces
    model = viewer.recognizer.model.name_or_path
    analyze(
        [picture], picture.parent / "run", AnalyzeOptions(model, faces=FaceSearch("mean_face"), formats=("jsonl",))
    )
    row = json.loads((picture.parent / "run" / "faces.jsonl").read_text())
    assert {code: row[code] for code in ("AU1", "AU12")} == pytest.approx(
        {code: face.row[code] for code in ("AU1", "AU12")}, abs=1e-6
    )


def test_a_detector_that_sees_nothing_is_told(viewer, picture, monkeypatch):
    monkeypatch.setattr(viewer, "_find", lambda frames: [[] for _ in frames])
    with pytest.raises(ValueError, match="No face was found"):
        viewer.see_file(picture)
    assert viewer.see_frame(np.zeros((40, 40, 3), np.uint8)).faces == ()


def test_at_most_so_many_faces_are_looked_at(viewer, picture, monkeypatch, examples):
    points = next(iter(examples.landmarks.values()))
    many = faces_from_landmarks(np.concatenate([points * 0.5 + shift for shift in range(30)]))
    monkeypatch.setattr(viewer, "_find", lambda frames: [many for _ in frames])
    assert len(viewer.see_file(picture).faces) == viewer_module.MAX_FACES


def test_without_a_detector_that_is_ready_faces_are_crops():
    assert choose_faces(FaceSearch(), "face-alignment") == (FaceSearch("mean_face"), None)
    named = FaceSearch(backend="mediapipe")
    assert choose_faces(named, "face-alignment") == (named, "mediapipe")  # its absence is an error, later
    with pytest.raises(ValueError, match=r"points\.csv"):
        choose_faces(FaceSearch("points.csv"), "face-alignment")


def test_what_a_visitor_holds_can_travel_to_another_process(viewer, picture):
    """As ZeroGPU has it."""
    shown = pickle.loads(pickle.dumps(Shown(viewer.see_file(picture))))
    assert len(shown.picture.faces) == 1


# ------------------------------------------------------------------------------------------------------------ handlers
def test_sentences_come_one_by_one(viewer, picture):
    handlers = PictureHandlers(viewer)
    updates = list(handlers.see(str(picture), [""]))
    assert len(updates) == 1 + len(viewer.kinds)
    assert [page.count('class="sentence"') for page, _ in updates] == list(range(len(updates)))
    assert [page.count('class="waiting"') for page, _ in updates] == list(range(len(updates) - 1, -1, -1))
    assert updates[-1][1].sentences.keys() == {0}


def test_a_click_on_a_bar_draws_a_map_and_writes_nothing_again(viewer, picture):
    handlers = PictureHandlers(viewer)
    _, shown = finish(handlers.see(str(picture), [""]))
    page, again = finish(handlers.choose(shown, [""], {"code": "AU12", "face": None}))
    assert again.map.code == "AU12" and 'class="map"' in page and "Lip Corner Puller" in page
    assert again.sentences == shown.sentences


@pytest.mark.parametrize("target", [{"code": "AU99"}, {"face": "7"}, {"code": None, "face": None}, {}])
def test_a_click_on_what_is_not_there_changes_nothing(viewer, picture, target):
    handlers = PictureHandlers(viewer)
    _, shown = finish(handlers.see(str(picture), [""]))
    _, again = finish(handlers.choose(shown, [""], target))
    assert again.face == 0 and again.map is None


def broken_files(folder):
    whole = io.BytesIO()
    Image.new("RGB", (60, 60), "red").save(whole, "JPEG")
    files = {
        "empty.png": b"",
        "text.jpg": b"this is no picture",
        "half.jpg": whole.getvalue()[:300],
        "page.svg": b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>",
    }
    for name, content in files.items():
        (folder / name).write_bytes(content)
        yield folder / name


def test_a_broken_picture_is_one_line(viewer, tmp_path):
    for file in broken_files(tmp_path):
        ((page, shown),) = PictureHandlers(viewer).see(str(file), [""])
        assert shown is None and page.count('role="alert"') == 1, file
        assert "<script>" not in page and str(tmp_path) not in page, page


def test_nothing_chosen_is_an_invitation(viewer):
    ((page, shown),) = PictureHandlers(viewer).see(None, [""])
    assert shown is None and 'role="status"' in page


# ---------------------------------------------------------------------------------------------------------------- HTML
def test_a_bar_has_its_threshold_and_is_active_from_there(viewer, picture):
    seen = viewer.see_file(picture)
    page = render_shown(Shown(seen), viewer.label_spaces, [""])
    space = viewer.label_spaces[""]
    for code, threshold in zip(space.au_codes, space.thresholds, strict=True):
        attributes = rf'class="bar" data-code="{code}" data-prefix="" style="(.*?)"'
        bar = re.search(rf'<li class="au([^"]*)">\s*<button type=button {attributes}', page)
        prob = seen.faces[0].row[code]
        assert ("active" in bar[1]) == (prob >= threshold)
        assert f"--share: {round(prob, 4)}; --threshold: {round(threshold, 4)}" in bar[2]
    assert page.count("<polygon") == 2 * len(space.au_ids)


def test_the_table_holds_every_face(viewer, picture):
    _, shown = finish(PictureHandlers(viewer).see(str(picture), [""]))
    page = render_shown(shown, viewer.label_spaces, [""])
    uri = re.search(r'href="data:text/csv;base64,([^"]+)" download="faces.csv"', page)
    (row,) = csv.DictReader(io.StringIO(base64.b64decode(uri[1]).decode()))
    assert float(row["AU12"]) == pytest.approx(shown.picture.faces[0].row["AU12"])
    assert row["source"] == picture.name and row["caption_emotion"]


def test_what_is_not_supported_is_marked_where_it_stands():
    text = "The face shows anger. It is visible in the lowered brows\nand AU12 (Lip Corner Puller)."
    lines = describe_sentence(Sentence("key_au", text, CaptionFlags(["AU4", "AU12"], ["Anger"])))["lines"]
    assert [[text for text, is_flagged in line if is_flagged] for line in lines] == [
        ["anger", "lowered brows"],
        ["AU12 (Lip Corner Puller)"],
    ]
    assert ["".join(text for text, _ in line) for line in lines] == text.split("\n")


def test_text_from_outside_is_escaped():
    assert "<b>" not in render_message("<b>bold</b>")


# -------------------------------------------------------------------------------------------------------------- limits
def test_the_limits_are_those_of_the_card(model, tmp_path):
    assert "prohibited in the EU" in render_limits(str(model))  # without a card, those of every card
    (tmp_path / "README.md").write_text(
        "---\na: b\n---\n# X\n## Intended use and limits\n\nOnly *here*.\n\n## More\n\nNo."
    )
    assert render_limits(str(tmp_path)).strip() == "<p>Only <em>here</em>.</p>"
    assert find_limits("# none") == ""


def test_examples_are_the_pictures_of_a_folder(tmp_path, picture):
    (tmp_path / "notes.txt").write_text("x")
    assert find_examples(tmp_path).pictures == (picture,)
    (tmp_path / "none").mkdir()
    with pytest.raises(FileNotFoundError):
        find_examples(tmp_path / "none")
