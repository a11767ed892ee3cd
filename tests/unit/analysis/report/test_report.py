"""The report: what it counts, that nothing in it asks the network or runs what came from outside."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from mf2.analysis.report.command import write_report
from mf2.analysis.report.page import find_peaks, flatten, render_card, shorten
from mf2.analysis.report.views import MAX_POINTS, find_readings, find_views
from mf2.analysis.thumbnails import crop_face

AUS, EMOTIONS = ("AU1", "AU12"), ("Neutral", "Happiness")
THRESHOLDS = {"AU1": 0.5, "AU12": 0.8}


def face(source: str, frame: int, au1: float, au12: float, happiness: float, face_id: int = 0, **fields) -> dict:
    emotion = EMOTIONS[int(happiness > 0.5)]
    box = dict(zip(("x0", "y0", "x1", "y1"), (8.0, 8.0, 40.0, 40.0), strict=True))
    probs = {"AU1": au1, "AU12": au12, "emotion_Neutral": 1 - happiness, "emotion_Happiness": happiness}
    where = {"source": source, "frame": frame, "time_s": frame / 10, "face": face_id, "status": "ok", "error": None}
    return where | box | probs | {"emotion": emotion} | fields


def missing(source: str, frame: int, status: str, error: str | None = None) -> dict:
    return {"source": source, "frame": frame, "time_s": frame / 10, "face": -1, "status": status, "error": error}


def write_run(folder: Path, rows: list[dict], **manifest) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_parquet(folder / "faces.parquet")
    (folder / "manifest.json").write_text(json.dumps({"model": None, "thresholds": THRESHOLDS} | manifest))
    return folder


def video_rows(num_frames: int, source: str = "film.mp4") -> list[dict]:
    """AU12 active in the second half, the face gone in frames 4 to 7."""
    rows = [face(source, n, 0.1, 0.9 if n >= num_frames // 2 else 0.2, 0.7) for n in range(num_frames)]
    return [missing(source, n, "no_face") if 4 <= n < 8 else row for n, row in enumerate(rows)]


# -------------------------------------------------------------------------------------------------------------- views
def test_a_face_of_a_video_has_a_timeline_with_gaps_where_it_was_not_seen():
    (view,) = find_views(pd.DataFrame(video_rows(20)), THRESHOLDS).views
    assert view.title == "film.mp4 · face 0"
    assert view.timeline["times"] == pytest.approx(np.arange(20) / 10)
    assert view.timeline["aus"][1] == [0.2] * 4 + [None] * 4 + [0.2] * 2 + [0.9] * 10


def test_a_face_seen_in_every_third_frame_has_no_gaps():
    rows = [face("film.mp4", frame, 0.1, 0.2, 0.7) for frame in range(0, 60, 3)]
    (view,) = find_views(pd.DataFrame(rows), THRESHOLDS).views
    assert view.timeline["aus"][0] == [0.1] * 20


def test_a_long_video_is_binned_and_its_shortest_movement_stays():
    rows = [face("film.mp4", n, 0.1, 0.95 if n == 7777 else 0.1, n % 2) for n in range(10_000)]
    (view,) = find_views(pd.DataFrame(rows), THRESHOLDS).views
    assert len(view.timeline["times"]) <= MAX_POINTS
    assert view.timeline["frames_per_point"] == 9
    assert max(view.timeline["aus"][1]) == 0.95
    both = np.array(view.timeline["emotions"]).sum(0)
    np.testing.assert_allclose(both, 1, atol=2e-4)


def test_every_face_of_a_video_has_its_own_view_and_pictures_share_one():
    rows = [face("film.mp4", n, 0.1, 0.2, 0.7, face_id=n % 2) for n in range(6)]
    rows += [face(f"{n}.jpg", 0, 0.1, 0.2, 0.7) for n in range(3)]
    titles = [view.title for view in find_views(pd.DataFrame(rows), THRESHOLDS).views]
    assert titles == ["film.mp4 · face 0", "film.mp4 · face 1", "3 faces in pictures"]


def test_summaries_use_each_aus_own_threshold():
    rows = [face("a.jpg", 0, 0.6, 0.6, 0.9), face("b.jpg", 0, 0.4, 0.85, 0.2)]
    (view,) = find_views(pd.DataFrame(rows), THRESHOLDS).views
    assert [item.share for item in view.aus] == [0.5, 0.5]
    assert [item.peak_row for item in view.aus] == [0, 1]
    assert [item.mean for item in view.aus] == pytest.approx([0.5, 0.725])
    assert {item.signal.name: item.share for item in view.emotions} == {"Neutral": 0.5, "Happiness": 0.5}


def test_adapters_are_readings_of_their_own():
    columns = ["AU1", "emotion_Neutral", "disfa.AU1", "disfa.AU25"]
    first, second = find_readings(columns, {"AU1": 0.3, "disfa.AU25": 0.7})
    assert (first.adapter, [s.threshold for s in first.aus], len(first.emotions)) == ("", [0.3], 1)
    assert (second.adapter, [s.threshold for s in second.aus]) == ("disfa", [0.5, 0.7])


def test_counts_tell_frames_without_a_face_from_errors():
    rows = [*video_rows(20), missing("gone.jpg", 0, "error", "the picture is empty (0 bytes).")]
    findings = find_views(pd.DataFrame(rows), THRESHOLDS)
    assert findings.counts == {"sources": 2, "frames": 21, "faces": 16, "no_face": 4, "errors": 1}
    assert [problem["error"] for problem in findings.problems] == ["the picture is empty (0 bytes)."]


def test_sources_of_one_name_are_told_apart():
    rows = [face("in/a/1.jpg", 0, 0.1, 0.2, 0.7), face("in/b/1.jpg", 0, 0.1, 0.2, 0.7)]
    rows += [missing("in/b/gone.jpg", 0, "error", "it is empty"), *video_rows(20, "in/b/film.mp4")]
    findings = find_views(pd.DataFrame(rows), THRESHOLDS)
    assert [source["name"] for source in findings.sources] == ["a/1.jpg", "b/1.jpg", "gone.jpg", "film.mp4"]
    assert [problem["name"] for problem in findings.problems] == ["gone.jpg"]
    assert findings.views[0].title == "film.mp4 · face 0"


def test_peaks_at_one_face_are_one_card():
    rows = [face("a.jpg", 0, 0.9, 0.95, 0.9), face("b.jpg", 0, 0.4, 0.2, 0.2)]
    (view,) = find_views(pd.DataFrame(rows), THRESHOLDS).views
    peaks = [(row["source"], [item.signal.code for item in items]) for row, items in find_peaks(view)]
    assert peaks == [("a.jpg", ["AU12", "Happiness", "AU1"]), ("b.jpg", ["Neutral"])]


def test_sentences_are_checked_and_the_flagged_ones_marked(tmp_path):
    said = {"caption_key_au": "AU1 (Inner Brow Raiser) and AU12 (Lip Corner Puller) are decisive."}
    rows = [face("a.jpg", 0, 0.9, 0.9, 0.9, **said), face("b.jpg", 0, 0.2, 0.95, 0.2, **said)]
    (check,) = find_views(pd.DataFrame(rows), THRESHOLDS).captions.values()
    assert (check.captions, check.flagged, check.by_au) == (2, 1, {"AU1": 1})
    page = write_report(write_run(tmp_path / "run", rows)).read_text()
    assert page.count("[AU1 below the threshold]</b>") == 1


# --------------------------------------------------------------------------------------------------------------- page
def test_what_comes_from_outside_is_escaped(tmp_path):
    bad = '</script><script>alert("1")</script><img src=x onerror=alert(2)>'
    rows = [face(f"{bad}.mp4", n, 0.9, 0.9, 0.9, caption_emotion=bad) for n in range(3)]
    rows += [missing(f"{bad}.jpg", 0, "error", bad)]
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "README.md").write_text(f"---\nlicense: other\n---\n# Card {bad}\n[x](javascript:alert(3))")
    folder = write_run(tmp_path / "run", rows, model=str(tmp_path / "model"), settings={bad: bad})
    page = write_report(folder, title=bad).read_text()
    assert page.count("<script") == 2  # the timelines and the page's own
    assert "<img src=x" not in page
    assert 'href="javascript' not in page
    assert "Card &lt;/script&gt;" in page
    assert "license: other" not in page


def test_nothing_is_requested(tmp_path):
    Image.fromarray(np.full((48, 48, 3), 120, np.uint8)).save(tmp_path / "a.png")
    card = tmp_path / "README.md"
    card.write_text("![a picture](https://example.org/picture.png)\n\n[a link](https://example.org)")
    folder = write_run(tmp_path / "run", [face(str(tmp_path / "a.png"), 0, 0.9, 0.9, 0.9)], model=str(tmp_path))
    page = write_report(folder).read_text()
    sources = re.findall(r'\b(?:src|poster|srcset)="([^"]*)"', page)
    assert sources
    assert all(source.startswith("data:image/jpeg;base64,") for source in sources)
    assert re.findall(r"<(?:link|iframe|object|embed)[^>]*>", page) == ['<link rel="icon" href="data:,">']
    assert "default-src 'none'" in page
    assert not re.search(r"@import|url\(", page)
    assert "[a picture]" in page


def test_a_picture_that_is_gone_leaves_the_report_whole(tmp_path):
    page = write_report(write_run(tmp_path / "run", [face("gone.jpg", 0, 0.9, 0.9, 0.9)])).read_text()
    assert "no picture" in page


def test_the_faces_of_a_group_picture_are_numbered(tmp_path):
    rows = [face("group.jpg", 0, 0.9, 0.9, 0.9, face_id=number) for number in range(2)]
    page = write_report(write_run(tmp_path / "run", [*rows, face("one.jpg", 0, 0.9, 0.9, 0.9)])).read_text()
    named = re.findall(r'class="named" data-value="([^"]*jpg[^"]*)"', page)
    assert named[:3] == ["group.jpg · 0", "group.jpg · 1", "one.jpg"]


@pytest.mark.parametrize("name", ["faces.csv", "faces.jsonl"])
def test_other_tables_give_the_same_page(tmp_path, name):
    folder = write_run(tmp_path / "run", [face("gone.jpg", 0, 0.9, 0.9, 0.9), missing("film.mp4", 1, "no_face")])
    page = write_report(folder).read_text()
    table = pd.read_parquet(folder / "faces.parquet")
    (folder / "faces.parquet").unlink()
    if name == "faces.csv":
        table.to_csv(folder / name, index=False)
    else:
        table.to_json(folder / name, orient="records", lines=True)
    assert write_report(folder).read_text() == page


def test_a_run_without_any_face_has_a_report(tmp_path):
    page = write_report(write_run(tmp_path / "run", [missing("a.jpg", 0, "error", "it is empty")])).read_text()
    assert "it is empty" in page


def test_a_folder_without_an_analysis_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no analysis: manifest.json .*`mf2 analyze"):
        write_report(tmp_path)


# -------------------------------------------------------------------------------------------------------------- parts
def test_a_card_of_a_model_that_is_nowhere_is_none(tmp_path):
    assert render_card(str(tmp_path / "nothing")) is None
    assert render_card("a name / that is no repository") is None
    assert render_card(None) is None


def test_settings_are_flat_lines():
    assert list(flatten({"a": {"b": [1, 0.123456]}, "c": None})) == [("a.b", "1, 0.1235"), ("c", "None")]
    ((_, text),) = flatten({"sources": [f"{n}.jpg" for n in range(5000)]})
    assert text.endswith("11.jpg, and 4,988 more")


def test_long_names_keep_their_end():
    assert shorten("a" * 20 + "0001.jpg", 12) == "aaaa…001.jpg"
    assert shorten("short.jpg", 12) == "short.jpg"


def test_a_crop_is_the_face_with_a_margin_inside_the_picture():
    image = np.zeros((100, 200, 3), np.uint8)
    image[40:60, 90:110] = 255
    crop = np.asarray(crop_face(image, [90.0, 40.0, 110.0, 60.0], 34).convert("L"))
    assert crop[7:27, 7:27].mean() > 250
    assert crop[:6].mean() < 5
    assert np.asarray(crop_face(image, [float("nan")] * 4, 10)).shape == (10, 10, 3)
    assert crop_face(image, [-5.0, -5.0, 20.0, 20.0], 10).size == (10, 10)


# --------------------------------------------------------------------------------------------- valence and arousal
def affective_rows(num_frames: int, source: str = "film.mp4") -> list[dict]:
    rows = video_rows(num_frames, source)
    return [row | {"valence": index / 10, "arousal": -0.5} for index, row in enumerate(rows)]


def test_valence_and_arousal_are_lanes_and_a_way_through_the_plane(tmp_path):
    rows = affective_rows(4)
    (view,) = find_views(pd.DataFrame(rows), THRESHOLDS).views
    valence, arousal = view.affect
    assert (valence.lowest, valence.highest) == (0.0, pytest.approx(0.3)) and arousal.mean == -0.5
    assert view.timeline["affect"] == [[0.0, 0.1, 0.2, 0.3], [-0.5] * 4]
    page = write_report(write_run(tmp_path / "run", rows)).read_text()
    assert page.count('class="lane affect"') == 2 and 'class="plane"' in page and "−0.50" in page


def test_valence_and_arousal_of_pictures_are_dots_and_columns(tmp_path):
    rows = [face(f"{name}.jpg", 0, 0.1, 0.2, 0.9, valence=0.25, arousal=0.75) for name in "ab"]
    page = write_report(write_run(tmp_path / "run", rows)).read_text()
    assert page.count('class="spot" cx="0.25" cy="-0.75"') == 2 and page.count(">+0.25</td>") >= 2


def test_without_valence_and_arousal_there_is_no_plane(tmp_path):
    page = write_report(write_run(tmp_path / "run", video_rows(3))).read_text()
    assert 'class="plane"' not in page and 'class="lane affect"' not in page


def test_an_adapters_valence_and_arousal_are_its_own():
    readings = list(find_readings(["AU1", "more.valence", "more.arousal"], {}))
    assert [(reading.adapter, len(reading.affect)) for reading in readings] == [("", 0), ("more", 2)]
